"""`mer accept-code`: declare a refactoring equal, after a sample of recorded trials has come out the same.

A trial is named by the code that made it. After a change that cannot change a number, recorded trials would count no
more. This trains a sample of them again with today's code and compares curves, and scores and predictions under every
condition, bit for bit; only then is the new code's digest recorded as equal to the old one's. Confirmed trials come
first, since the others were scored under no condition.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.results import accepted, identity
from experiments.results.declared import read_chain
from experiments.results.identity import TrialKey, condition_key, resolve_equal
from experiments.results.ledger import Ledger
from experiments.results.records import EpochRow
from experiments.schedule.work import MakeWork, Spec, Work
from experiments.slots import Slot, Stage, Status
from experiments.space.plan import COMPLETE, Condition, CorpusRef
from mer.errors import UserError, unknown
from mer.recipe import read_recipe
from mer.streams import derive

Row = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """Recorded trials whose code is not today's: old digest, new digest, and how many there are."""

    old: str
    new: str
    trials: tuple[str, ...]


def changes(ledger: Ledger, allow_outside: Collection[str] = ()) -> list[Change]:
    """Every pair of digests that differs between the ledger and the source as it is, complete trials only.

    `allow_outside`: levels of none of this project's tables that the ledger may name (`mer.recipe.read_recipe`).
    """
    equal = ledger.equal_code()
    found: dict[tuple[str, str], list[str]] = {}
    today: dict[str, str] = {}
    for row in ledger.refresh().effective.select(["trial", "status", "recipe", "code"]).to_pylist():
        if row["status"] != Status.COMPLETE.value:
            continue
        if row["recipe"] not in today:
            recipe = read_recipe(row["recipe"], f"trial {row['trial']}", allow_outside)
            today[row["recipe"]] = identity.recipe_code(recipe)
        new = today[row["recipe"]]
        if resolve_equal(new, equal) != row["code"]:
            found.setdefault((row["code"], new), []).append(row["trial"])
    return [Change(old, new, tuple(trials)) for (old, new), trials in sorted(found.items())]


def accept(
    ledger: Ledger,
    change: Change,
    corpora: Sequence[CorpusRef],
    make_work: MakeWork,
    sample: int = 3,
    allow_outside: Collection[str] = (),
) -> list[str]:
    """Prove a change on a sample of its trials and record it. Returns the trials that proved it; raises otherwise."""
    stages = dict(zip(*(ledger.refresh().effective[name].to_pylist() for name in ("trial", "stage")), strict=True))
    order = sorted(change.trials, key=lambda trial: (stages[trial] != Stage.CONFIRM, derive("accept", trial)))
    bundles = _bundles(ledger)
    chosen = [trial for trial in order if bundles.get(trial, (trial,))][: max(1, sample)]
    if not chosen:
        raise UserError(
            "none of these trials can be trained again: of each one's bundle some members are not on record",
            hint="Run the space that made them to its end first.",
        )
    wanted = {other for trial in chosen for other in bundles.get(trial, (trial,))}
    rows = {row["trial"]: row for table in ledger.predictions(wanted) for row in table.to_pylist()}
    conditions = _conditions(ledger, corpora, allow_outside)
    for trial in chosen:
        members = [rows[other] for other in bundles.get(trial, (trial,))]
        specs = [_spec(row, corpora, conditions, allow_outside) for row in members]
        difference = compare(trial, specs, members, make_work)
        if difference is not None:
            raise UserError(
                f"the code is not equal: trial {trial} ({rows[trial]['cell']}) came out otherwise: {difference}",
                hint="Run the space again: its trials will be run anew with the new code.",
            )
    accepted.write(ledger.store, change.old, change.new, dict.fromkeys(chosen, "curve, scores and predictions"))
    return chosen


def _bundles(ledger: Ledger) -> dict[str, tuple[str, ...]]:
    """Trial of a bundle to all its members in their order; () where they are not all on record."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for row in ledger.refresh().effective.select(["trial", "recipe", "code"]).to_pylist():
        bundle = json.loads(row["recipe"]).get("bundle")
        if bundle is not None:
            key = (bundle["layout"], row["code"])
            found.setdefault(key, {})[bundle["index"]] = row["trial"]
            sizes[key] = bundle["size"]
    return {
        trial: tuple(members[number] for number in sorted(members)) if len(members) == sizes[key] else ()
        for key, members in found.items()
        for trial in members.values()
    }


def find_change(known: Sequence[Change], old: str, new: str) -> Change:
    for change in known:
        if change.old.startswith(old) and change.new.startswith(new):
            return change
    pairs = [f"{change.old} {change.new}" for change in known]
    raise unknown("pair of code digests", f"{old} {new}", pairs)


def compare(trial: str, specs: Sequence[Spec], rows: Sequence[Row], make_work: MakeWork) -> str | None:
    """Train a recorded trial again, with the rest of its bundle if it has one; what differs, or None."""
    number = next(index for index, row in enumerate(rows) if row["trial"] == trial)
    row, work = rows[number], make_work(tuple(specs))
    try:
        recorded = [(r["epoch"], r["split"], r["metric"], r["value"]) for r in row["curve"]]
        curve = [(r.epoch, r.split, r.metric, r.value) for r in _trained(work, rows)[number]]
        for mine, theirs in zip(curve, recorded, strict=False):
            if mine != theirs:
                return f"epoch {theirs[0]}, {theirs[1]} {theirs[2]}: {theirs[3]!r} on record, {mine[3]!r} now"
        if len(curve) != len(recorded):
            return f"{len(recorded)} numbers on record, {len(curve)} now"
        finished = work.finish(number)
        scored = [condition.name for condition in specs[number].conditions]
        scores = {(s.condition, s.metric): s.value for s in finished.scores}
        said = {(p.condition, p.utterance): p.prediction for p in finished.predictions}
        for name in scored:
            if _under(name, scores) != {s["metric"]: s["value"] for s in row["scores"] if s["condition"] == name}:
                return f"test scores differ, {name}"
            recorded_rows = [p for p in row["predictions"] or () if p["condition"] == name]
            if _under(name, said) != {p["utterance"]: p["prediction"] for p in recorded_rows}:
                return f"predictions differ, {name}"
        return None
    finally:
        work.close()


def _trained(work: Work, rows: Sequence[Row]) -> list[list[EpochRow]]:
    """Each member's epochs; those that were pruned leave the bundle where they left it then."""
    found: list[list[EpochRow]] = [[] for _ in rows]
    while not all(work.ended):
        for number, epoch in enumerate(work.epoch()):
            if epoch is not None:
                found[number] += epoch.rows
        for number, row in enumerate(rows):
            if row["status"] == Status.PRUNED.value and work.epochs_done >= row["rung"]:
                work.stop(number)
    return found


def _under(condition: str, found: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    return {of: value for (name, of), value in found.items() if name == condition}


def _conditions(ledger: Ledger, corpora: Sequence[CorpusRef], allow_outside: Collection[str]) -> dict[str, Condition]:
    """Every condition that was declared here, by what the ledger calls it; of those from outside the allowed ones."""
    declared = [COMPLETE]
    for plan in read_chain(ledger.store, ledger.refresh()).plans():
        declared += [Condition(str(one["name"]), dict(one["missing"])) for one in plan["conditions"]]
    found = {}
    for one in declared:
        protocol = str(one.missing.get("protocol", ""))
        if ":" in protocol and protocol not in allow_outside:
            continue
        for ref in corpora:
            with contextlib.suppress(UserError, ValueError):  # its file of masks is gone, or is another corpus's
                name = condition_key(one, ref.folder)
                found[name] = Condition(name, one.missing)
    return found


def _spec(
    row: Row, corpora: Sequence[CorpusRef], known: Mapping[str, Condition], allow_outside: Collection[str]
) -> Spec:
    corpus = next((ref for ref in corpora if ref.fingerprint == row["data"]), None)
    if corpus is None:
        names = ", ".join(f"{ref.name} ({ref.fingerprint[:8]})" for ref in corpora)
        raise UserError(
            f"trial {row['trial']} was trained on corpus {row['corpus']} with fingerprint {row['data'][:8]}, "
            f"which is not among {names or 'the corpora given'}",
            hint="Give its folder with --data. Trials on resplits or folds cannot be used as proof.",
        )
    recipe = read_recipe(row["recipe"], f"trial {row['trial']}", allow_outside)
    scored = dict.fromkeys(score["condition"] for score in row["scores"] or ())
    key = TrialKey(
        row["recipe_digest"], row["code"], row["data"], row["corpus"], row["study"], row["fold"], row["stage"],
        row["root"], row["identity"],
    )  # fmt: skip
    draw = -1 if row["draw"] is None else row["draw"]
    slot = Slot(row["corpus"], row["cell"] or "", row["study"], row["fold"], Stage(row["stage"]), draw)
    return Spec(
        key=key,
        recipe=row["recipe"],
        slot=slot,
        space=row["space"] or "",
        epochs=recipe.training.epochs,
        metric=recipe.training.metric,
        corpus=corpus,
        conditions=tuple(known[name] for name in scored if name in known),
        keep="none",
    )
