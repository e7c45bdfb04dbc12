"""What to run next: facts folded into a state, one observation at a time, so that a decision costs O(log slots).

`State` holds nothing that is not a function of the plan and of what it was told; `experiments.protocol.replay` is the
same thing in one pure call. Work is handed out in planned order: whatever stands first in the plan and can be run now.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from experiments.protocol.actions import (
    Action,
    Confirm,
    Continue,
    Decision,
    Fact,
    Pause,
    Select,
    Start,
    Stop,
    Unit,
)
from experiments.protocol.asha import Draw, Race
from experiments.slots import Scalar, Slot, Stage, Status
from experiments.space.plan import Group, Plan
from experiments.space.sampling import Told, known_before
from experiments.space.units import units
from mer.metrics import metric


class Phase(Enum):
    """Where a unit of slots stands between protocol and executor."""

    BLOCKED = auto()  # its hyperparameters are not known yet
    READY = auto()  # can be run as soon as a worker is free
    RUNNING = auto()
    HELD = auto()  # has reported and keeps its worker until it is told what to do
    PAUSED = auto()  # waits for lower-numbered draws without a worker
    DONE = auto()


@dataclass
class _Unit:
    """A unit as it goes: `slots` as planned; `made` once it is known which of them are run, and with what."""

    number: int
    slots: tuple[Slot, ...]
    phase: Phase = Phase.BLOCKED
    made: Unit | None = None
    until: int = 0
    begun: bool = False


class State:
    """The protocol of one plan: `observe` facts, ask for `next_actions`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.order: list[Slot] = list(plan.slots())
        self._index = {slot: index for index, slot in enumerate(self.order)}
        planned = sorted(units(plan), key=lambda found: self._index[found[0]])
        self._units = [_Unit(number, found) for number, found in enumerate(planned)]
        self._unit_of = {slot: unit for unit in self._units for slot in unit.slots}
        self._params: dict[Slot, Mapping[str, Scalar]] = {}
        self._status: dict[Slot, Status] = {}
        self._early: dict[Slot, Fact] = {}
        self._heap: list[int] = []
        self._held: set[int] = set()
        self._outbox: list[Action] = []
        self._decisions: list[Decision] = []
        self._written: dict[Slot, int] = {}
        self._races: dict[Group, Race] = {}
        self._selected: dict[Group, Select] = {}
        self._confirms: dict[Group, list[Slot]] = {}
        for slot in self.order:
            self._enter(slot)
        for unit in self._units:
            self._open(unit)

    # ---- telling -----------------------------------------------------------------------------------------------

    def observe(self, fact: Fact) -> None:
        """Take in a fact: progress, an ending, or what a ledger knows. Repeating one changes nothing, and a fact about
        other hyperparameters than the slot's is none."""
        slot = fact.slot
        unit = self._unit_of.get(slot)
        if unit is None or slot in self._status:
            return
        if unit.phase is Phase.BLOCKED:  # told before its hyperparameters are known: kept until they are
            self._early[slot] = fact
            return
        if fact.params and dict(fact.params) != dict(self._params[slot]):
            return
        if slot.stage is Stage.CONFIRM:
            if fact.status is not None:
                self._end(slot, fact.status)
                self._settle(unit)
            return
        group = self.plan.group(slot)
        race = self._races[group]
        decided = race.report(slot.draw, fact.curve, fact.status)
        touched = {self._unit_of[race.draws[number].slot].number for number in decided}
        for number in decided:
            self._note(race, number)
        if fact.status is None and fact.curve and unit.phase is Phase.READY:
            unit.begun = True
        elif fact.status is Status.PRUNED and unit.phase in (Phase.RUNNING, Phase.HELD) and slot not in self._status:
            self._held.discard(unit.number)
            unit.phase = Phase.PAUSED  # a record that goes no further, of a draw that shall
        for number in sorted({*touched, unit.number}):
            self._settle(self._units[number])
        if decided:
            if race.finished:
                self._select(group, race)
            else:
                self._open_batches(race)

    def lost(self, slot: Slot) -> None:
        """The worker of a slot's unit is gone: the unit goes back to those that can be started."""
        unit = self._unit_of[slot]
        if unit.phase in (Phase.RUNNING, Phase.HELD):
            unit.begun = False
            self._held.discard(unit.number)
            unit.phase = Phase.PAUSED
            self._settle(unit)

    def assume_running(self, slot: Slot) -> None:
        """A worker trains this slot's unit at this moment, towards `until(slot)`."""
        unit = self._unit_of.get(slot)
        if unit is not None and unit.phase not in (Phase.BLOCKED, Phase.DONE):
            self._held.discard(unit.number)
            self._run(unit)

    # ---- asking ------------------------------------------------------------------------------------------------

    def next_actions(self, free: int) -> list[Action]:
        """What to do now, with `free` workers that hold no slot. Endings and selections first, then work in order.

        A worker freed by a `Pause` or `Stop` in the answer is given work by the next call: ask until there is no more.
        """
        actions = sorted(self._outbox, key=lambda action: (isinstance(action, Select), self._place(action)))
        self._outbox = []
        for number in sorted(self._held):
            unit = self._units[number]
            assert unit.made is not None
            self._held.discard(number)
            if self._goes_on(unit):
                self._run(unit)
                actions.append(Continue(unit.made, unit.until))
            else:
                unit.phase = Phase.PAUSED
                actions.append(Pause(unit.made, self._target(unit)))
        while free > 0 and self._heap:
            unit = self._units[heapq.heappop(self._heap)]
            if unit.phase is not Phase.READY:
                continue
            free -= 1
            actions.append(self._work(unit))
        return actions

    @property
    def finished(self) -> bool:
        """Has every slot ended?"""
        return self.left == 0

    @property
    def left(self) -> int:
        """Slots that have not ended."""
        return len(self.order) - len(self._status)

    def until(self, slot: Slot) -> int:
        """The epoch after which a slot reports: its next rung, or its full budget."""
        if slot.stage is Stage.CONFIRM:
            return self.plan.epochs(self.plan.cell_of(slot))
        race = self._races[self.plan.group(slot)]
        passed = race.draws[slot.draw].passed
        return race.rungs[passed] if passed < len(race.rungs) else self.plan.epochs(self.plan.cell_of(slot))

    def status(self, slot: Slot) -> Status:
        """How a slot ended; `missing` while it has not."""
        return self._status.get(slot, Status.MISSING)

    def params(self, slot: Slot) -> Mapping[str, Scalar] | None:
        """A slot's hyperparameters, or None while they are not known (a confirm slot's before its draws)."""
        return self._params.get(slot)

    def unit(self, slot: Slot) -> Unit | None:
        """What a slot is run with; None while that is not known, or where it is not run at all."""
        made = self._unit_of[slot].made
        return made if made is not None and slot in made.slots else None

    def planned(self, slot: Slot) -> tuple[Slot, ...]:
        """The slots that a plan trains in one unit with this one."""
        return self._unit_of[slot].slots

    def ended_units(self) -> Iterator[Unit]:
        """The units of which every slot has ended."""
        return (unit.made for unit in self._units if unit.made is not None and not self._live(unit))

    def pruned_at(self, slot: Slot) -> int | None:
        """The epoch at which a draw was pruned; None if it was not."""
        if self.status(slot) is not Status.PRUNED:
            return None
        return self._races[self.plan.group(slot)].draws[slot.draw].judged[-1].rung

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
        """Slots whose trial is known and which have not ended, in order: what a ledger can be asked for."""
        return (slot for slot in self.order if slot not in self._status and self._unit_of[slot].made is not None)

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
                sign = metric(plan.metric).sign
                exempt = [plan.exempt(draw) for draw in draws]
                self._races[group] = Race(draws, exempt, plan.rungs(cell), plan.tuning.eta, sign)
            if known_before(plan.tuning, slot.draw) == 0:
                self._params[slot] = plan.params(slot)
        elif plan.draws(group):
            self._confirms.setdefault(group, []).append(slot)
        else:
            self._params[slot] = plan.params(slot)

    def _open(self, unit: _Unit) -> None:
        """A unit can be run once the hyperparameters of all its slots are known, but for those that are skipped."""
        if unit.phase is not Phase.BLOCKED:
            return
        slots = tuple(slot for slot in unit.slots if slot not in self._status)
        if not slots:
            unit.phase = Phase.DONE
        elif all(slot in self._params for slot in slots):
            unit.made = Unit(slots, tuple(self._params[slot] for slot in slots), self._judges(slots))
            unit.phase = Phase.PAUSED
            self._settle(unit)
            for slot in slots:
                if slot in self._early:
                    self.observe(self._early.pop(slot))

    def _judges(self, slots: tuple[Slot, ...]) -> tuple[tuple[Slot, Mapping[str, Scalar]], ...]:
        """Draws of other units that decide how far those of a bundle go."""
        if len(slots) == 1 or slots[0].stage is Stage.CONFIRM:
            return ()
        found: dict[Slot, Mapping[str, Scalar]] = {}
        for slot in slots:
            race = self._races[self.plan.group(slot)]
            if race.rungs:
                found |= {draw.slot: self._params[draw.slot] for draw in race.draws[: slot.draw]}
        return tuple((slot, found[slot]) for slot in sorted(found) if slot not in slots)

    def _place(self, action: Action) -> int:
        if isinstance(action, Select):
            return self._index[action.winner]
        return self._index[action.slot if isinstance(action, Stop) else action.unit.slot]

    def _ready(self, unit: _Unit) -> None:
        unit.phase = Phase.READY
        heapq.heappush(self._heap, unit.number)

    def _run(self, unit: _Unit) -> None:
        unit.phase, unit.begun, unit.until = Phase.RUNNING, True, self._target(unit)

    def _end(self, slot: Slot, status: Status) -> None:
        self._status[slot] = status

    def _live(self, unit: _Unit) -> list[Slot]:
        return [slot for slot in unit.slots if slot not in self._status]

    def _draw(self, slot: Slot) -> Draw:
        return self._races[self.plan.group(slot)].draws[slot.draw]

    def _training(self, unit: _Unit) -> list[Slot]:
        """The slots of a unit that could be trained on: draws that have ended may still wait to be judged."""
        live = self._live(unit)
        return live if live[0].stage is Stage.CONFIRM else [slot for slot in live if self._draw(slot).reported is None]

    def _target(self, unit: _Unit) -> int:
        """The next epoch at which something is decided about one of a unit's slots."""
        return min(self.until(slot) for slot in self._training(unit))

    def _reached(self, slot: Slot, epoch: int) -> bool:
        return slot.stage is Stage.TUNE and len(self._draw(slot).curve) >= epoch

    def _goes_on(self, unit: _Unit) -> bool:
        """Is there something to train before the next decision? Its slots go from one decision to the next together."""
        training = self._training(unit)
        return bool(training) and not all(self._reached(slot, self._target(unit)) for slot in training)

    def _settle(self, unit: _Unit) -> None:
        """Bring a unit's phase in line with what is known of its slots."""
        if unit.phase in (Phase.BLOCKED, Phase.DONE):
            return
        if not self._live(unit):
            unit.phase = Phase.DONE
            self._held.discard(unit.number)
        elif unit.phase is Phase.RUNNING:
            training = self._training(unit)
            if not training:
                unit.phase = Phase.PAUSED
            elif all(self._reached(slot, unit.until) for slot in training):
                unit.phase = Phase.HELD
                self._held.add(unit.number)
        elif unit.phase in (Phase.PAUSED, Phase.READY):
            goes_on = self._goes_on(unit)
            if goes_on and unit.phase is Phase.PAUSED:
                self._ready(unit)
            elif not goes_on:
                unit.phase = Phase.PAUSED

    def _note(self, race: Race, number: int) -> None:
        """Hand on what a race has decided about one of its draws."""
        draw = race.draws[number]
        slot = draw.slot
        if slot in self._status:
            return
        self._decisions += draw.judged[self._written.get(slot, 0) :]
        self._written[slot] = len(draw.judged)
        if draw.final is not None:
            self._end(slot, draw.final)
            if draw.final is Status.PRUNED:
                last = draw.judged[-1]
                reason = f"pruned at epoch {last.rung}: {last.value:.6g} against {last.cutoff:.6g}"
                self._outbox.append(Stop(slot, Status.PRUNED, reason, last.rung, last.value, last.cutoff, last.against))

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
                self._open(self._unit_of[slot])
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
        self._open(self._unit_of[slot])

    def _work(self, unit: _Unit) -> Action:
        begun, made = unit.begun, unit.made
        assert made is not None
        self._run(unit)
        if made.slot.stage is Stage.CONFIRM:
            return Confirm(made, unit.until)
        return Continue(made, unit.until) if begun else Start(made, unit.until)
