"""What nothing refers to any more: trials, checkpoints, resume states.

In use is every trial that some declaration of this results folder names: those of all spaces, and of each the largest
plan that it ever had. What is removed is known to be needed by none:

    trials        of a space that is forgotten by name and that no other space names; and those of other code, where
                  today's code has ended the same trial
    checkpoints   of trials that are not on record (a crash), or are removed
    states        of trials and bundles that have ended

Nothing younger than a grace period is removed, by the store's own clock, and nothing while a driver is at work. A
declaration or a driver that cannot be read is an error: what it needs is not known.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.results.declared import Cells, Chain, append, read_chain
from experiments.results.identity import Identifier
from experiments.results.lease import Lease
from experiments.results.ledger import FOLDER, Ledger, existing
from experiments.results.standing import Data
from experiments.slots import Status
from mer.errors import UserError, unknown
from mer.names import MASKS
from mer.storage import Store

DAY_S = 86400.0
ENDED = frozenset({Status.COMPLETE.value, Status.PRUNED.value, Status.DIVERGED.value})
COLUMNS = (
    "trial",
    "space",
    "cell",
    "status",
    "corpus",
    "data",
    "study",
    "fold",
    "stage",
    "root",
    "recipe",
    "code",
    "ended",
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Garbage:
    """What would be removed, and what for. `kept`: trials that stay; `young`: would go, were they older."""

    trials: frozenset[str] = frozenset()
    checkpoints: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    bytes: int = 0
    kept: int = 0
    young: int = 0
    spaces: tuple[str, ...] = ()
    described: tuple[str, ...] = ()


def find_garbage(results: str, grace_s: float = DAY_S, forget: Sequence[str] = ()) -> Garbage:
    """What may be removed. Nothing is written, but a probe that asks the store for the time."""
    ledger = existing(results)
    store, snapshot = ledger.store, ledger.refresh()
    chain = read_chain(store, snapshot)
    rows: list[Row] = snapshot.effective.select(COLUMNS).to_pylist()
    _check_forgotten(chain, rows, forget)
    unused = _forgotten(chain, rows, forget) | _superseded(rows, ledger.equal_code())
    oldest = _now(store) - int(grace_s * 1e9)
    young = unused & _written_after(ledger, oldest)
    unused -= young
    kept = snapshot.rows.keys() - unused
    checkpoints = {name: store.tree(f"checkpoints/{name}") for name in store.folders("checkpoints") if name not in kept}
    old = {name: files for name, files in checkpoints.items() if all(file.modified <= oldest for file in files)}
    states = [e for e in store.list("_state") if e.name in _over(rows) and e.modified <= oldest]
    described = Counter(f"{r['space']} | {r['cell']} | {r['status']}" for r in rows if r["trial"] in unused)
    return Garbage(
        trials=frozenset(unused),
        checkpoints=tuple(old),
        states=tuple(entry.name for entry in states),
        bytes=sum(file.size for files in old.values() for file in files) + sum(entry.size for entry in states),
        kept=len(kept),
        young=len(young) + len(checkpoints) - len(old),
        spaces=tuple(sorted({plan["space"] for plan in chain.in_use()} - set(forget))),
        described=tuple(f"{count} x {text}" for text, count in described.most_common(20)),
    )


def collect(results: str, grace_s: float = DAY_S, forget: Sequence[str] = ()) -> Garbage:
    """Remove it, while no driver is at work; what was removed. That a space is forgotten is put on record first.

    The ledger's files are replaced before they are removed: a crash on the way loses nothing else.
    """
    ledger = existing(results)
    store = ledger.store
    lease = Lease(store, "mer gc")
    try:
        driver = lease.take()
        if driver is not None:
            raise UserError(
                f"a run is at work here ({driver}): what it needs is not on record yet",
                where=store.root,
                hint="Run gc when it has ended, or end it with Ctrl-C: it goes on later where it ended.",
            )
        garbage = find_garbage(results, grace_s, forget)
        for space in forget:
            snapshot = ledger.refresh()
            append(store, read_chain(store, snapshot), snapshot, {}, forgets=space)
        ledger.rewrite_without(set(garbage.trials))
        for name in garbage.checkpoints:
            store.remove_tree(f"checkpoints/{name}")
        for name in garbage.states:
            store.remove(f"_state/{name}")
    finally:
        lease.give_back()
    return garbage


def _check_forgotten(chain: Chain, rows: Iterable[Row], forget: Sequence[str]) -> None:
    """Refuse to forget a space that is not there, or what a space needs whose plan is not on record."""
    planned = {plan["space"] for plan in chain.plans()}
    earlier = {space for space, *_ in chain.old} | {row["space"] for row in rows if row["space"]}
    for name in forget:
        if name not in planned | earlier:
            raise unknown("space", name, planned | earlier, "--forget")
    blind = sorted(earlier - planned - set(forget))
    if forget and blind:
        raise UserError(
            f"what space {blind[0]!r} needs is not on record: an earlier version of mer ran it",
            where="--forget",
            hint="Run it once more, which computes nothing that is there (mer run --space "
            f"{blind[0]}), or forget it too: --forget {blind[0]}.",
        )


def _forgotten(chain: Chain, rows: Iterable[Row], forget: Sequence[str]) -> set[str]:
    """The trials of forgotten spaces that no other space names."""
    if not forget and not chain.forgotten:
        return set()
    used = Named(plan for plan in chain.in_use() if plan["space"] not in forget)
    gone = Named(
        one.plan
        for one in chain.declarations
        if one.plan and (one.id in chain.forgotten or one.plan["space"] in forget)
    )
    return {row["trial"] for row in rows if not used(row) and (row["space"] in forget or gone(row))}


class Named:
    """Does any of some plans name a trial on record, whatever draw it was and whatever code made it?"""

    def __init__(self, plans: Iterable[Data]) -> None:
        self.cells = Cells(plans)
        self.slots: dict[tuple[str, str, int, str], tuple[int, int]] = {}
        for plan in self.cells.plans:
            folds = plan["folds"]
            split = f"+{folds['by']}/{folds['count']}" if folds["by"] else ""
            split += "+resplit" if plan["resplit"] else ""
            for cell in plan["cells"]:
                if "base" not in cell:
                    continue
                data = plan["corpora"][cell["corpus"]]["fingerprint"] + split
                key = (cell["corpus"], cell["base"], plan["root_seed"], data)
                studies, count = self.slots.get(key, (0, 0))
                self.slots[key] = (max(studies, plan["studies"]), max(count, folds["count"]))

    def __call__(self, row: Row) -> bool:
        for base in self.cells.bases(row["recipe"]):
            studies, folds = self.slots.get((row["corpus"], base, row["root"], row["data"].partition(MASKS)[0]), (0, 0))
            if row["study"] < studies and row["fold"] < folds:
                return True
        return False


def _superseded(rows: Iterable[Row], equal: Mapping[str, str]) -> set[str]:
    """Trials of other code than today's, where today's code has ended the same trial since."""
    same: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("recipe", "corpus", "data", "study", "fold", "stage", "root"))
        same.setdefault(key, []).append(row)
    several = [found for found in same.values() if len({row["code"] for row in found}) > 1]
    if not several:
        return set()
    from mer.recipe import Recipe

    today, found = Identifier(equal), set()
    for group in several:
        code = today.code(Recipe.model_validate(json.loads(group[0]["recipe"]), strict=False))
        since = [row["ended"] for row in group if row["code"] == code and row["status"] in ENDED and row["ended"]]
        if since:  # gc from an older checkout is not to take what newer code has made
            newest = max(since)
            found |= {r["trial"] for r in group if r["code"] != code and r["ended"] and r["ended"] < newest}
    return found


def _over(rows: Iterable[Row]) -> set[str]:
    """The items whose states nobody goes on from: trials that have ended, bundles of which all members have."""
    found = set()
    members: Counter[tuple[str, int]] = Counter()
    for row in rows:
        if row["status"] not in ENDED:
            continue
        found.add(row["trial"])
        bundle = json.loads(row["recipe"]).get("bundle")
        if bundle:
            members[bundle["layout"], bundle["size"]] += 1
    return found | {f"bundle-{layout}" for (layout, size), count in members.items() if count >= size}


def _now(store: Store) -> int:
    """The time by the store's own clock, ns."""
    name = f"now-{uuid.uuid4().hex[:12]}"
    store.put(f"_probe/{name}", b"")
    try:
        return max(entry.modified for entry in store.list("_probe") if entry.name == name)
    finally:
        store.remove(f"_probe/{name}")


def _written_after(ledger: Ledger, oldest: int) -> set[str]:
    """Trials in parts of the ledger that were written after a time."""
    new = {entry.name for entry in ledger.store.list(FOLDER) if entry.modified > oldest}
    return {trial for name, trials in ledger.holdings() for trial in trials if name in new}
