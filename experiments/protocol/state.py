"""What to run next: facts folded into a state, one observation at a time, so that a decision costs O(log slots).

`State` holds nothing that is not a function of the plan and of what it was told. `next_actions` is the same thing in
one pure call. Work is handed out in planned order: whatever stands first in the plan and can be run now.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum, auto

from experiments.protocol.actions import Action, Confirm, Continue, Decision, Fact, Facts, Pause, Select, Start, Stop
from experiments.protocol.asha import Race, finite
from experiments.slots import Scalar, Slot, Stage, Status
from experiments.space.plan import Group, Plan
from experiments.space.sampling import Told, known_before


class Phase(Enum):
    """Where a slot stands between protocol and executor."""

    BLOCKED = auto()  # its hyperparameters are not known yet
    READY = auto()  # can be run as soon as a worker is free
    RUNNING = auto()
    HELD = auto()  # has reported and keeps its worker until it is told what to do
    PAUSED = auto()  # waits for lower-numbered draws without a worker
    DONE = auto()


class State:
    """The protocol of one plan: `observe` facts, ask for `next_actions`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.order: list[Slot] = list(plan.slots())
        self._index = {slot: index for index, slot in enumerate(self.order)}
        self._phase: dict[Slot, Phase] = dict.fromkeys(self.order, Phase.BLOCKED)
        self._params: dict[Slot, Mapping[str, Scalar]] = {}
        self._status: dict[Slot, Status] = {}
        self._early: dict[Slot, Fact] = {}
        self._begun: set[Slot] = set()
        self._heap: list[int] = []
        self._held: set[Slot] = set()
        self._outbox: list[Action] = []
        self._decisions: list[Decision] = []
        self._written: dict[Slot, int] = {}
        self._races: dict[Group, Race] = {}
        self._selected: dict[Group, Select] = {}
        self._confirms: dict[Group, list[Slot]] = {}
        self._left = len(self.order)
        for slot in self.order:
            self._enter(slot)

    # ---- telling -----------------------------------------------------------------------------------------------

    def observe(self, fact: Fact) -> None:
        """Take in a fact: progress, an ending, or what a ledger knows. Repeating one changes nothing, and a fact about
        other hyperparameters than the slot's is none."""
        slot = fact.slot
        phase = self._phase.get(slot)
        if phase is None or phase is Phase.DONE:
            return
        params = self._params.get(slot)
        if params is None:  # told before its hyperparameters are known: kept until they are
            self._early[slot] = fact
            return
        if fact.params and dict(fact.params) != dict(params):
            return
        if slot.stage is Stage.CONFIRM:
            if fact.status is not None:
                self._end(slot, fact.status)
            return
        group = self.plan.group(slot)
        race = self._races[group]
        if fact.status is not None:
            self._set(slot, Phase.PAUSED)
        elif phase is Phase.RUNNING and len(finite(fact.curve)) >= self.until(slot):
            self._set(slot, Phase.HELD)
        elif phase is Phase.READY and fact.curve and slot not in self._begun:
            self._begun.add(slot)
            self._set(slot, Phase.PAUSED)
        decided = race.report(slot.draw, fact.curve, fact.status)
        for number in {*decided, slot.draw}:
            self._settle(race, number)
        if decided:
            if race.finished:
                self._select(group, race)
            else:
                self._open_batches(race)

    def lost(self, slot: Slot) -> None:
        """The worker of a running slot is gone: it goes back to those that can be started."""
        if self._phase[slot] in (Phase.RUNNING, Phase.HELD):
            self._begun.discard(slot)
            self._set(slot, Phase.PAUSED)
            if slot.stage is Stage.CONFIRM:
                self._ready(slot)
            else:
                group = self.plan.group(slot)
                self._settle(self._races[group], slot.draw)

    def assume_running(self, slot: Slot) -> None:
        """A worker trains this slot at this moment, towards `until(slot)`."""
        if self._phase.get(slot) not in (None, Phase.DONE):
            self._begun.add(slot)
            self._set(slot, Phase.RUNNING)

    # ---- asking ------------------------------------------------------------------------------------------------

    def next_actions(self, free: int) -> list[Action]:
        """What to do now, with `free` workers that hold no slot. Endings and selections first, then work in order.

        A worker freed by a `Pause` or `Stop` in the answer is given work by the next call: ask until there is no more.
        """
        actions = sorted(self._outbox, key=lambda action: (isinstance(action, Select), self._place(action)))
        self._outbox = []
        for slot in sorted(self._held, key=self._index.__getitem__):
            self._held.discard(slot)
            race = self._races[self.plan.group(slot)]
            if self._goes_on(race, slot.draw):
                self._phase[slot] = Phase.RUNNING
                actions.append(Continue(slot, self.until(slot)))
            else:
                self._phase[slot] = Phase.PAUSED
                actions.append(Pause(slot, race.rungs[race.draws[slot.draw].passed]))
        while free > 0 and self._heap:
            slot = self.order[heapq.heappop(self._heap)]
            if self._phase[slot] is not Phase.READY:
                continue
            free -= 1
            self._phase[slot] = Phase.RUNNING
            actions.append(self._work(slot))
            self._begun.add(slot)
        return actions

    @property
    def finished(self) -> bool:
        """Has every slot ended?"""
        return self._left == 0

    def until(self, slot: Slot) -> int:
        """The epoch after which a slot reports: its next rung, or its full budget."""
        epochs = self.plan.epochs(self.plan.cell_of(slot))
        if slot.stage is Stage.CONFIRM:
            return epochs
        race = self._races[self.plan.group(slot)]
        passed = race.draws[slot.draw].passed
        return race.rungs[passed] if passed < len(race.rungs) else epochs

    def status(self, slot: Slot) -> Status:
        """How a slot ended; `missing` while it has not."""
        return self._status.get(slot, Status.MISSING)

    def params(self, slot: Slot) -> Mapping[str, Scalar] | None:
        """A slot's hyperparameters, or None while they are not known (a confirm slot's before its draws)."""
        return self._params.get(slot)

    def selected(self, group: Group) -> Select | None:
        return self._selected.get(group)

    def decisions(self) -> list[Decision]:
        """The prunings, survivals and selections since the last call: each is handed out once, for the ledger."""
        found, self._decisions = self._decisions, []
        return found

    def all_decisions(self) -> Iterator[Decision]:
        """Every decision so far, in an order that depends on the plan alone."""
        for group in sorted(self._races):
            race = self._races[group]
            for draw in race.draws:
                yield from draw.judged
            if group in self._selected:
                yield self._selected[group]

    def pending(self) -> Iterator[Slot]:
        """Slots whose hyperparameters are known and which have not ended, in order: what a ledger can be asked for."""
        return (slot for slot in self.order if slot in self._params and self._phase[slot] is not Phase.DONE)

    # ---- inside ------------------------------------------------------------------------------------------------

    def _enter(self, slot: Slot) -> None:
        cell, plan = self.plan.cell_of(slot), self.plan
        if cell.skip is not None:
            self._end(slot, Status.SKIPPED)
            self._outbox.append(Stop(slot, Status.SKIPPED, cell.skip))
            return
        group = plan.group(slot)
        if slot.stage is Stage.TUNE:
            if group not in self._races:
                draws = plan.draws(group)
                sign = 1.0 if plan.direction == "max" else -1.0
                exempt = [plan.exempt(draw) for draw in draws]
                self._races[group] = Race(draws, exempt, plan.rungs(cell), plan.tuning.eta, sign)
            if known_before(plan.tuning, slot.draw) == 0:
                self._params[slot] = plan.params(slot)
                self._ready(slot)
        elif plan.draws(group):
            self._confirms.setdefault(group, []).append(slot)
        else:
            self._params[slot] = plan.params(slot)
            self._ready(slot)

    def _place(self, action: Action) -> int:
        return self._index[action.winner if isinstance(action, Select) else action.slot]

    def _ready(self, slot: Slot) -> None:
        self._phase[slot] = Phase.READY
        heapq.heappush(self._heap, self._index[slot])

    def _set(self, slot: Slot, phase: Phase) -> None:
        self._phase[slot] = phase
        if phase is Phase.HELD:
            self._held.add(slot)
        else:
            self._held.discard(slot)

    def _end(self, slot: Slot, status: Status) -> None:
        self._held.discard(slot)
        self._phase[slot] = Phase.DONE
        self._status[slot] = status
        self._left -= 1

    def _goes_on(self, race: Race, number: int) -> bool:
        """Has everything up to where this draw's curve ends been decided in its favour?"""
        draw = race.draws[number]
        return draw.passed == len(race.rungs) or len(draw.curve) < race.rungs[draw.passed]

    def _settle(self, race: Race, number: int) -> None:
        """Bring a draw's phase in line with what its race has decided."""
        draw = race.draws[number]
        slot = draw.slot
        if self._phase[slot] is Phase.DONE:
            return
        self._decisions += draw.judged[self._written.get(slot, 0) :]
        self._written[slot] = len(draw.judged)
        if draw.final is not None:
            self._end(slot, draw.final)
            if draw.final is Status.PRUNED:
                last = draw.judged[-1]
                reason = f"pruned at epoch {last.rung}: {last.value:.6g} against {last.cutoff:.6g}"
                self._outbox.append(Stop(slot, Status.PRUNED, reason, last.rung, last.value, last.cutoff, last.against))
        elif self._phase[slot] is Phase.PAUSED and self._goes_on(race, number):
            self._ready(slot)

    def _open_batches(self, race: Race) -> None:
        """An adaptive sampler proposes a batch once every draw before it has ended."""
        if self.plan.tuning.sampler != "tpe":
            return
        ended = next((n for n, draw in enumerate(race.draws) if draw.final is None), len(race.draws))
        for number in range(ended, len(race.draws)):
            slot = race.draws[number].slot
            if slot in self._params:
                continue
            if known_before(self.plan.tuning, number) > ended:
                break
            history = [self._told(race, other) for other in range(ended)]
            self._settle_params(slot, self.plan.params(slot, history))

    def _told(self, race: Race, number: int) -> Told:
        draw = race.draws[number]
        assert draw.final is not None
        value = race.best(number) if draw.final is Status.COMPLETE else None
        return Told(self._params[draw.slot], draw.final, value, {j.rung: j.value for j in draw.judged})

    def _select(self, group: Group, race: Race) -> None:
        winner = race.winner()
        if winner is None:
            for slot in self._confirms.get(group, ()):
                self._end(slot, Status.SKIPPED)
                reason = f"no draw of {group} completed, so there is nothing to confirm"
                self._outbox.append(Stop(slot, Status.SKIPPED, reason))
            return
        among = tuple(number for number, draw in enumerate(race.draws) if draw.final is Status.COMPLETE)
        slot = race.draws[winner].slot
        select = Select(group, slot, race.best(winner), among, self._params[slot])
        self._selected[group] = select
        self._decisions.append(select)
        self._outbox.append(select)
        for confirm in self._confirms.get(group, ()):
            self._settle_params(confirm, select.params)

    def _settle_params(self, slot: Slot, params: Mapping[str, Scalar]) -> None:
        self._params[slot] = params
        self._ready(slot)
        if slot in self._early:
            self.observe(self._early.pop(slot))

    def _work(self, slot: Slot) -> Action:
        if slot.stage is Stage.CONFIRM:
            return Confirm(slot, self._params[slot], self.until(slot))
        if slot in self._begun:
            return Continue(slot, self.until(slot))
        return Start(slot, self._params[slot], self.until(slot))


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


def replay_ledger(plan: Plan, look_up: Callable[[Slot, Mapping[str, Scalar]], Fact | None]) -> State:
    """A state that has been told all that a ledger knows: asks it for each slot once its hyperparameters are known."""
    state, asked = State(plan), set[Slot]()
    while True:
        batch = [slot for slot in state.pending() if slot not in asked]
        if not batch:
            return state
        for slot in batch:
            asked.add(slot)
            params = state.params(slot)
            assert params is not None
            fact = look_up(slot, params)
            if fact is not None:
                state.observe(fact)
