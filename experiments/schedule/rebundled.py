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

    Of a confirm slot whose draws are run again it is not known which of them wins: any counts.
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
    today, count = Identifier(names.equal_code), 0
    for slot in missing:
        unit = state.unit(slot)
        if unit is not None and names.trial(slot, unit) in snapshot:
            continue  # runs again for another reason: a new condition, a record that goes no further
        found = [row for params in _params(state, slot) for row in recorded.get(names.unbundled(slot, params), ())]
        with contextlib.suppress(UserError):  # of a level from outside
            count += any(today.code(read_recipe(row["recipe"], "ledger")) == row["code"] for row in found)
    return count


def _params(state: State, slot: Slot) -> Iterator[Mapping[str, Scalar]]:
    """The hyperparameters that a slot has, or may come to have."""
    known = state.params(slot)
    if known is not None:
        yield known
    elif slot.stage is Stage.CONFIRM:
        for draw in state.plan.draws(state.plan.group(slot)):
            yield from _params(state, draw)
