"""Which recorded trials a plan runs again, because it trains them in another bundle than they are on record in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

from experiments.protocol.state import State
from experiments.results.identity import Identifier, canonical, digest
from experiments.results.snapshot import Snapshot
from experiments.schedule.naming import Names
from experiments.slots import Scalar, Slot, Stage, Status
from mer.errors import UserError
from mer.recipe import read_recipe

ENDED = {Status.COMPLETE.value, Status.PRUNED.value, Status.DIVERGED.value}
IDENTITY = ("data", "corpus", "study", "fold", "stage", "root")
"""What names a trial beside recipe and code, as columns of the ledger."""


def rebundled(names: Names, state: State, snapshot: Snapshot) -> int:
    """How many slots have ended in another bundle, or alone, by today's code, and are run again.

    Of a confirm slot whose draws are run again for this it is not known which of them wins: any counts. Where a draw is
    missing for another reason (its record is lost) the slot may come to the very trial that is on record, unless its
    bundle has other members than then.
    """
    missing = [slot for slot in state.order if state.status(slot) is Status.MISSING]
    if not missing or not len(snapshot):
        return 0
    columns = ["trial", "status", "recipe", "code", *IDENTITY]
    recorded: dict[tuple[object, ...], list[Mapping[str, str]]] = {}
    for row in snapshot.effective.select(columns).to_pylist():
        if row["status"] in ENDED:
            recipe = json.loads(row["recipe"])
            recipe.pop("bundle", None)
            key = (digest(canonical(recipe)), *(row[name] for name in IDENTITY))
            recorded.setdefault(key, []).append(row)
    today, again = Identifier(names.equal_code), set[Slot]()
    for slot in sorted(missing, key=lambda slot: slot.stage is Stage.CONFIRM):
        unit = state.unit(slot)
        if unit is not None and names.trial(slot, unit) in snapshot:
            continue  # runs again for another reason: a new condition, a record that goes no further
        found = [row for params in _params(state, slot) for row in recorded.get(names.unbundled(slot, params), ())]
        if unit is None and again.isdisjoint(_draws(state, slot)):
            found = [row for row in found if _members(row) != len(state.planned(slot))]
        with contextlib.suppress(UserError):  # of a level from outside
            if any(today.code(read_recipe(row["recipe"], "ledger")) == row["code"] for row in found):
                again.add(slot)
    return len(again)


def _members(row: Mapping[str, str]) -> int:
    """How many trials were trained in one step with a recorded one, itself included."""
    return int((json.loads(row["recipe"]).get("bundle") or {"size": 1})["size"])


def _draws(state: State, slot: Slot) -> Iterator[Slot]:
    """The draws that decide with which hyperparameters the unit of a confirm slot is trained."""
    for member in state.planned(slot):
        yield from state.plan.draws(state.plan.group(member))


def _params(state: State, slot: Slot) -> Iterator[Mapping[str, Scalar]]:
    """The hyperparameters that a slot has, or may come to have."""
    known = state.params(slot)
    if known is not None:
        yield known
    elif slot.stage is Stage.CONFIRM:
        for draw in state.plan.draws(state.plan.group(slot)):
            yield from _params(state, draw)
