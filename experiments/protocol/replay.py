"""The protocol in one call: what to do, or where a plan stands, from nothing but the plan and what is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from experiments.protocol.actions import Action, Fact, Facts, Unit
from experiments.protocol.state import State
from experiments.slots import Slot
from experiments.space.plan import Plan


def next_actions(plan: Plan, facts: Facts, free_slots: int, running: Collection[Slot] = ()) -> list[Action]:
    """What to do now, from nothing but the plan and the facts. `running`: slots that train at this moment.

    An executor that asks often keeps a `State` instead, which answers the same without starting over.
    """
    state = replay(plan, facts.values())
    for slot in running:
        state.assume_running(slot)
    return state.next_actions(free_slots)


def replay(plan: Plan, facts: Iterable[Fact]) -> State:
    """A state that has been told these facts, in whatever order they come."""
    state = State(plan)
    for fact in facts:
        state.observe(fact)
    return state


def replay_ledger(plan: Plan, look_up: Callable[[Slot, Unit], Fact | None]) -> State:
    """A state that has been told all that a ledger knows: asks it for each slot once its trial is known."""
    state, asked = State(plan), set[Slot]()
    while True:
        batch = [slot for slot in state.pending() if slot not in asked]
        if not batch:
            return state
        for slot in batch:
            asked.add(slot)
            unit = state.unit(slot)
            assert unit is not None
            fact = look_up(slot, unit)
            if fact is not None:
                state.observe(fact)
