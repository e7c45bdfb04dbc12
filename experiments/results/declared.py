"""What was declared, kept with the ledger: appended before a run computes anything, and never changed.

    ledger/_declared/<digest>.json                    named by the digest of its own content
    ledger/_declared/<digest>.lost                    put there by a person: this one is known to be lost
    ledger/_declared/<space>/<time>-<unique>.json     of the first version, whose order rests on times alone

A declaration holds the plan as plain data, the digests of all declarations that nobody had followed yet (a chain, in
which two drivers may append at once), and which cells had confirm results when it was made. What came before what is
told by these two and by no clock. A file that was changed, removed or cannot be read is an error. What it means for
claims: `experiments.results.standing`.

`space.yaml` is the space as run, with how its claims stand:

    format, space, options, document    what the user wrote, includes merged
    metric, baseline, factors, studies, folds, resplit, root_seed, alpha, tuning, resources, keep
    conditions, corpora, cells          each cell: corpus, name, levels, skip, tuning, hypers, recipe
    contrasts                           each with all its fields, `declared` (time) and `post_hoc`
    declared                            metric: {declared, post_hoc}; first_result: time or null;
                                        second_look: {studies_before, draws_before} or null;
                                        family: {declared, ever}: units; marks, history: lines;
                                        others: {spaces, contrasts} of other questions about these corpora;
                                        hidden: cells of this one with results on record that are left out here
    notices
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from experiments.results.accepted import by_other_code, recipes_and_codes
from experiments.results.identity import recipe_text, resolve_equal
from experiments.results.standing import (
    Data,
    Declaration,
    Old,
    Standing,
    ancestors,
    base_of,
    cell_keys,
    in_order,
    meaning,
    newest,
    standing,
)
from experiments.slots import Slot, Stage, Status
from experiments.space.text import counted
from mer.errors import UserError
from mer.faults import visit
from mer.storage import Store
from mer.yaml_text import dump_yaml

if TYPE_CHECKING:
    from experiments.results.ledger import Ledger
    from experiments.results.snapshot import Snapshot
    from experiments.space.plan import Plan

FOLDER = "ledger/_declared"
FORMAT = 2


@dataclass(frozen=True)
class Chain:
    """All declarations of a results folder, each after those that it names.

    old    of the first version: space, id and content
    lost   those that a person has declared lost
    """

    declarations: tuple[Declaration, ...] = ()
    old: tuple[tuple[str, str, Old, str], ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """What a new declaration has to name."""
        named = {name for one in self.declarations for name in one.previous}
        return tuple(sorted({one.id for one in newest(self.declarations)} | ({old[1] for old in self.old} - named)))

    @functools.cached_property
    def forgotten(self) -> frozenset[str]:
        """The declarations of spaces that were forgotten since (`mer gc --forget`)."""
        by_id = {one.id: one for one in self.declarations}
        found = set()
        for one in self.declarations:
            if one.forgets:
                found |= {i for i in ancestors(one, by_id) if i in by_id and by_id[i].plan.get("space") == one.forgets}
        return frozenset(found)

    def plans(self) -> list[Data]:
        return [one.plan for one in self.declarations if one.plan]

    def in_use(self) -> list[Data]:
        """The plans whose trials are needed."""
        return [one.plan for one in self.declarations if one.plan and one.id not in self.forgotten]

    def of_space(self, space: str) -> list[Declaration]:
        return [one for one in self.declarations if one.plan and one.plan["space"] == space]


# ---- reading -------------------------------------------------------------------------------------------------


def read_chain(store: Store, snapshot: Snapshot | None = None) -> Chain:
    """Every declaration of a results folder; an error for one that cannot be trusted or is missing.

    snapshot   the ledger's: declarations that its trials name must be there
    """
    found: dict[str, Declaration] = {}
    lost = []
    for name in _listed(store, FOLDER):
        stem, _, ending = name.rpartition(".")
        if ending == "lost":
            lost.append(stem)
        elif ending == "json":
            found[stem] = _one(store, stem)
        else:
            raise _damaged(store, f"{FOLDER}/{name}", "its name is no digest")
    old = []
    for space in store.folders(FOLDER):
        if store.folders(f"{FOLDER}/{space}"):
            raise _damaged(store, f"{FOLDER}/{space}", "a folder in which no folders belong")
        for name in _listed(store, f"{FOLDER}/{space}"):
            if name.endswith(".lost"):
                lost.append(f"{space}/{name.removesuffix('.lost')}")
                continue
            data = _read(store, f"{FOLDER}/{space}/{name}")
            known, sizes = _parsed(store, f"{FOLDER}/{space}/{name}", data, _first_version)
            old.append((space, _digest(data), known, sizes))
    known = {*lost, *(one[1] for one in old)}
    wanted = [(name, _names(one)) for one in found.values() for name in one.previous]
    if snapshot is not None:
        named = sorted(name for name in pc.unique(snapshot.table["declaration"]).to_pylist() if name)
        wanted += [(name, "trials on record were run under it") for name in named]
    while wanted:
        name, why = wanted.pop()
        if name in found or name in known:
            continue
        try:  # a listing may be behind
            found[name] = _one(store, name)
        except FileNotFoundError:
            raise _gone(store, name, why) from None
        wanted += [(before, _names(found[name])) for before in found[name].previous]
    return Chain(tuple(in_order(found.values())), tuple(old), tuple(sorted(lost)))


def _names(one: Declaration) -> str:
    return f"a later declaration ({one.id}.json) names it"


def _one(store: Store, name: str) -> Declaration:
    data = _read(store, f"{FOLDER}/{name}.json")
    if _digest(data) != name:
        raise _damaged(store, f"{FOLDER}/{name}.json", "the content does not match the name")
    found: Declaration = _parsed(store, f"{FOLDER}/{name}.json", data, _declaration)
    return found


def _listed(store: Store, folder: str) -> list[str]:
    try:
        return [entry.name for entry in store.list(folder)]
    except NotADirectoryError:
        raise _damaged(store, folder, "not a folder") from None


def _read(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(store, name, f"cannot be read: {error.strerror or error}") from None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _parsed(store: Store, name: str, data: bytes, parse: Any) -> Any:
    try:
        return parse(json.loads(data), _digest(data))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(store, name, f"not a declaration ({type(error).__name__}: {str(error)[:80]})") from None


def _declaration(content: Any, name: str) -> Declaration:
    if content["format"] > FORMAT:
        raise ValueError(f"format {content['format']}: written by a newer version of mer; update mer here")
    plan, previous = dict(content["plan"]), tuple(map(str, content["previous"]))
    if plan:
        meaning(plan)
    confirmed = {str(c): {str(k): int(n) for k, n in found.items()} for c, found in content["confirmed"].items()}
    return Declaration(name, plan, previous, confirmed, str(content["time"]), str(content.get("forgets", "")))


def _first_version(content: Any, name: str) -> tuple[Old, str]:
    corpora = str(content.get("corpora") or "{}")
    if not isinstance(json.loads(corpora), dict):
        raise ValueError("corpora")
    contrasts = frozenset(map(str, content["contrasts"]))
    old = Old(contrasts, str(content["metric"]), int(content["studies"]), int(content["draws"]), str(content["time"]))
    return old, corpora


def _damaged(store: Store, name: str, what: str) -> UserError:
    stem = name.rpartition("/")[2].rpartition(".")[0] or name
    return UserError(
        f"this is no declaration that can be trusted: {what}",
        where=store.path(name),
        hint="What was declared decides which claims hold. Restore the file from a backup of the results folder. If it "
        f"is lost for good, move it away and put an empty file {stem}.lost in its place: every claim will then say "
        "so. What does not belong there, move away.",
    )


def _gone(store: Store, name: str, why: str) -> UserError:
    return UserError(
        f"this declaration is gone; {why}",
        where=store.path(f"{FOLDER}/{name}.json"),
        hint="Restore the file from a backup of the results folder, or copy ledger/_declared from where the trials "
        f"came. If it is lost for good, put an empty file {name}.lost in its place: every claim will then say so.",
    )


# ---- declaring -----------------------------------------------------------------------------------------------


def declare(plan: Plan, ledger: Ledger, now: datetime | None = None) -> Plan:
    """Record what a plan declares, before anything is computed; the plan, which then knows its declaration's id.

    What its space declared last is not written again.
    """
    snapshot = ledger.refresh()
    chain = read_chain(ledger.store, snapshot)
    data = plan_data(plan)
    meant = meaning(data)
    for known in newest(chain.of_space(plan.space)):
        if meaning(known.plan) == meant and known.id not in chain.forgotten:
            return dataclasses.replace(plan, declaration=known.id)
    return dataclasses.replace(plan, declaration=append(ledger.store, chain, snapshot, data, now))


def append(
    store: Store, chain: Chain, snapshot: Snapshot, data: Data, now: datetime | None = None, forgets: str = ""
) -> str:
    """Write a declaration after all that are there; its id. `forgets`: a space whose results are to be removed."""
    results = confirmed(snapshot, [*chain.plans(), *([data] if data else [])])
    content = {
        "format": FORMAT,
        "time": (now or datetime.now(UTC)).isoformat(timespec="microseconds"),
        "unique": uuid.uuid4().hex[:12],
        "previous": list(chain.heads),
        "confirmed": results,
        "plan": data,
        **({"forgets": forgets} if forgets else {}),
    }
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False).encode()
    visit("declared.before")
    store.put(f"{FOLDER}/{_digest(text)}.json", text)
    return _digest(text)


def confirmed(snapshot: Snapshot, plans: Iterable[Data]) -> dict[str, dict[str, int]]:
    """How many confirm results are on record of each cell that was ever declared."""
    cells = Cells(plans)
    found: dict[str, dict[str, int]] = {}
    for row in _results(snapshot).select(["corpus", "recipe"]).to_pylist():
        for base in cells.bases(row["recipe"]):
            here = found.setdefault(row["corpus"], {})
            here[base] = here.get(base, 0) + 1
    return found


def _results(snapshot: Snapshot) -> pa.Table:
    """The trials whose test scores are on record."""
    table = snapshot.effective
    return table.filter(
        pc.and_(pc.equal(table["stage"], Stage.CONFIRM.value), pc.equal(table["status"], Status.COMPLETE.value))
    )


class Cells:
    """The declared cells that a trial on record may fill, by its recipe without what is tuned."""

    def __init__(self, plans: Iterable[Data]) -> None:
        self.plans = list(plans)
        self.known = {cell["base"] for plan in self.plans for cell in plan["cells"] if "base" in cell}
        self.tuned = sorted(
            {
                tuple(sorted(hyper["path"] for hyper in cell["hypers"]))
                for plan in self.plans
                for cell in plan["cells"]
                if "base" in cell
            }
        )

    def bases(self, recipe: str) -> list[str]:
        content = json.loads(recipe)
        found = (base_of(content, tuned) for tuned in self.tuned)
        return [base for base in found if base in self.known]


def plan_data(plan: Plan) -> dict[str, Any]:
    """What a plan declares, as plain data: all that its trials and its claims depend on."""
    cells = []
    for cell in plan.cells:
        found: dict[str, Any] = {"corpus": cell.corpus, "name": cell.name, "levels": cell.levels, "skip": cell.skip}
        if cell.skip is None:
            recipe = json.loads(recipe_text(plan.recipe(Slot(cell.corpus, cell.name, 0, 0, Stage.CONFIRM), {})))
            hypers = [dataclasses.asdict(hyper) for hyper in plan.hypers.get((cell.corpus, cell.name), ())]
            found |= {"recipe": recipe, "hypers": hypers, "epochs": plan.epochs(cell)}
            found |= cell_keys(recipe, _plain(hypers))
        cells.append(found)
    data: dict[str, Any] = _plain(
        {
            "space": plan.space,
            "options": plan.options,
            "metric": plan.metric,
            "studies": plan.studies,
            "folds": dataclasses.asdict(plan.folds),
            "resplit": plan.resplit,
            "root_seed": plan.root_seed,
            "alpha": plan.alpha,
            "tuning": dataclasses.asdict(plan.tuning),
            "conditions": [dataclasses.asdict(condition) for condition in plan.conditions],
            "corpora": {
                name: {
                    "fingerprint": ref.fingerprint,
                    "utterances": ref.utterances,
                    "labels": ref.labels,
                    "sizes": ref.sizes,
                }
                for name, ref in plan.corpora.items()
            },
            "contrasts": [dataclasses.asdict(contrast) for contrast in plan.contrasts],
            "cells": cells,
        }
    )
    return data


def changed_corpora(plan: Plan, store: Store) -> list[str]:
    """A notice for each corpus that was another one when this space ran before, saying what is known to differ."""
    chain = read_chain(store)
    known = [json.loads(sizes) for space, _, _, sizes in chain.old if space == plan.space]
    known += [
        {name: [ref["fingerprint"], ref["sizes"]] for name, ref in one.plan["corpora"].items()}
        for one in chain.of_space(plan.space)
    ]
    notices = []
    for name, ref in plan.corpora.items():
        others = [found[name] for found in known if name in found and found[name][0] != ref.fingerprint]
        if not others:
            continue
        old, now = others[-1][1], dict(ref.sizes)
        sizes = [f"{split} {old.get(split)} -> {now.get(split)}" for split in now if old.get(split) != now.get(split)]
        what = f"utterances: {', '.join(sizes)}" if sizes else "as many utterances as before, with other content"
        notices.append(
            f"corpus {name} has changed since an earlier run of this space ({what}). "
            "The earlier trials stay in the ledger and are not mixed in."
        )
    return notices


def standing_of(
    plan: Plan,
    chain: Chain,
    snapshot: Snapshot,
    first_result: str | None,
    equal_code: Mapping[str, str] = MappingProxyType({}),
) -> Standing:
    """How a plan's claims stand. A plan that was never declared stands as if it were declared now.

    equal_code   what `mer accept-code` has recorded
    """
    mine = next((one for one in chain.declarations if one.id == plan.declaration), None)
    data = plan_data(plan)
    if mine is None:
        meant = meaning(data)
        same = [one for one in chain.of_space(plan.space) if meaning(one.plan) == meant]
        mine = same[-1] if same else Declaration("", data, chain.heads, confirmed(snapshot, [*chain.plans(), data]))
    mine = dataclasses.replace(mine, plan=data)  # means the same, but may be written in another order
    old = [
        dataclasses.replace(known, late=first_result is not None and known.time > first_result)
        for space, _, known, _ in sorted(chain.old, key=lambda one: one[2].time)
        if space == plan.space
    ]
    ran = {name for name in pc.unique(snapshot.table["declaration"]).to_pylist() if name}
    found = standing(mine, chain.declarations, old, ran)
    lost = [f"a declaration was lost: {name}" for name in chain.lost]
    return dataclasses.replace(found, marks=(*lost, *found.marks, *_other_code(plan, data, snapshot, equal_code)))


def _other_code(plan: Plan, data: Data, snapshot: Snapshot, equal: Mapping[str, str]) -> list[str]:
    """A mark where results of a plan's cells were seen that other code had made: they were run again after a look."""
    cells, table = Cells([data]), _results(snapshot)
    table = table.filter(pc.is_in(table["corpus"], pa.array(list(plan.corpora), pa.string())))
    rows = [row for row in recipes_and_codes(table) if cells.bases(row["recipe"])]
    found = [{**row, "code": resolve_equal(row["code"], equal)} for row in rows]
    count = by_other_code(found, equal, None)  # what these recipes name, the plan names
    what = f"{counted(count, 'confirm result')} of these cells made by other code had been seen"
    return [f"source code: {what}"] if count else []


# ---- space.yaml ----------------------------------------------------------------------------------------------


def before_look(found: Standing, first_result: str | None) -> tuple[int, int] | None:
    """Studies and draws that were declared before the first result; None if there is none yet, or nothing was."""
    if first_result is None or found.studies is None or found.draws is None:
        return None
    return found.studies, found.draws


def is_second_look(plan: Plan, slot: Slot, before: tuple[int, int] | None) -> bool:
    """Was this slot added after the first test score? A confirm slot is, too, if its winner had further draws."""
    if before is None:
        return False
    studies, draws = before
    if slot.study >= studies:
        return True
    if slot.stage is Stage.TUNE:
        return slot.draw >= draws
    return len(plan.draws(plan.group(slot))) > draws if plan.cell_of(slot).skip is None else False


def space_document(plan: Plan, found: Standing, first_result: str | None) -> dict[str, Any]:
    """`space.yaml` as plain data."""
    contrasts = [
        {**dataclasses.asdict(contrast), "declared": time, "post_hoc": late}
        for contrast, time, late in zip(plan.contrasts, found.times, found.post_hoc, strict=True)
    ]
    before = before_look(found, first_result)
    looked = None
    if before is not None and (plan.studies > before[0] or plan.tuning.draws > before[1]):
        looked = {"studies_before": before[0], "draws_before": before[1]}
    document: dict[str, Any] = _plain(
        {
            "format": 1,
            "space": plan.space,
            "options": plan.options,
            "metric": plan.metric,
            "baseline": plan.baseline,
            "factors": plan.factors,
            "studies": plan.studies,
            "folds": dataclasses.asdict(plan.folds),
            "resplit": plan.resplit,
            "root_seed": plan.root_seed,
            "alpha": plan.alpha,
            "tuning": dataclasses.asdict(plan.tuning),
            "resources": dataclasses.asdict(plan.resources),
            "keep": plan.keep,
            "conditions": [dataclasses.asdict(condition) for condition in plan.conditions],
            "corpora": {name: {**dataclasses.asdict(ref), "folder": None} for name, ref in plan.corpora.items()},
            "contrasts": contrasts,
            "declared": {
                "metric": {"declared": found.metric_time, "post_hoc": found.metric_post_hoc},
                "first_result": first_result,
                "second_look": looked,
                "family": {"declared": found.declared, "ever": found.ever},
                "marks": found.marks,
                "history": found.history,
                "others": {"spaces": found.others, "contrasts": found.other_units},
                "hidden": found.hidden,
            },
            "cells": [
                {
                    "corpus": cell.corpus,
                    "name": cell.name,
                    "levels": cell.levels,
                    "skip": cell.skip,
                    "tuning": cell.tuning,
                    "hypers": [dataclasses.asdict(hyper) for hyper in plan.hypers.get((cell.corpus, cell.name), ())],
                    "recipe": cell.recipe,
                }
                for cell in plan.cells
            ],
            "notices": list(plan.notices),
            "document": plan.document,
        }
    )
    return document


def space_yaml(document: Mapping[str, Any]) -> bytes:
    return dump_yaml(dict(document)).encode()


def _plain(value: Any) -> Any:
    """Mappings, lists and scalars of YAML alone."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
