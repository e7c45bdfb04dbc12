"""One run of a plan: what the ledger knows, what the protocol wants next, and which worker does it.

Resuming is `plan - ledger`: the protocol is told what the ledger knows of each slot once the slot's hyperparameters are
known, and what is left is work. Nothing else is restored. The session decides nothing about the method; it turns the
protocol's actions into orders for workers and their outcomes into facts. It knows nothing of Ray: an executor calls
`orders(worker)` when a worker is free, `report(worker, outcomes)` when it has answered, `lost(worker)` when it is gone.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from experiments.protocol.actions import (
    Action,
    Confirm,
    Continue,
    Fact,
    Pause,
    Select,
    Start,
    Stop,
)
from experiments.protocol.replay import replay_ledger
from experiments.protocol.state import State
from experiments.results.decisions import DecisionLog
from experiments.results.ledger import Ledger
from experiments.schedule import states
from experiments.schedule.aside import Aside, what_failed
from experiments.schedule.deciding import decision_row
from experiments.schedule.knowledge import Knowledge
from experiments.schedule.naming import Names
from experiments.schedule.orders import Orders, merged
from experiments.schedule.work import Do, Ended, Order, Outcome, Result, Spec
from experiments.slots import Slot, Status
from experiments.space.plan import Plan

WORKERS_LOST = 3
"""Workers lost on one trial, with no epoch saved in between, before this run leaves it alone: it may be the trial's
doing, and may not, so that it stays missing. The same command tries it again."""

TAKEN_OVER = "another run has taken over, because this one was suspended, or cut off from the results folder"

FIRST_TRIALS = 10
FAILED_SHARE = 0.5
"""A run ends early when more than this share of its first trials failed: something is wrong with all of them."""


@dataclass
class Tally:
    """What this run has done, for progress and the exit code."""

    done: Counter[Status] = field(default_factory=Counter)
    before: int = 0
    trained_s: float = 0.0
    tests: dict[tuple[str, str], dict[int, list[float]]] = field(default_factory=dict)


Work = Start | Confirm | Continue


class Session:
    """The state of a run between protocol and executor.

    retry      run `failed` and `oom` trials again
    seconds    of wall time after which nothing new is started and running trials are saved
    trials     number of trials after which nothing new is started
    holds      does this driver hold the lease of the results folder still?
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        *,
        retry: bool = False,
        seconds: float | None = None,
        trials: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        holds: Callable[[], bool] = lambda: True,
    ) -> None:
        self.plan, self.ledger, self.holds = plan, ledger, holds
        self.clock, self.started = clock, clock()
        self.deadline = None if seconds is None else self.started + seconds
        self.trials = trials
        self.names = Names(plan, ledger.equal_code())
        self.knowledge = Knowledge(plan, self.names, ledger.refresh(), retry=retry)
        self.ending: str | None = None
        """Why the run ends before its plan is done: `budget`, `interrupted`, `TAKEN_OVER`, or an explanation."""
        self.blocked: str | None = None
        self.left_alone: dict[Slot, str] = {}
        """Slots that this run does not try any more, and why."""
        self.notes: list[str] = []
        """What a person should know of side outputs, once each."""
        self.tally = Tally()
        self._begun_trials = 0
        self._proven = False
        self.state: State = replay_ledger(plan, self.knowledge.look_up)
        self.make = Orders(plan, self.state, self.knowledge)
        self._aside = Aside(self.notes.append)
        self.sweep()
        self.tally.before = sum(self.state.status(slot) is not Status.MISSING for slot in self.state.order)
        self._holder: dict[Slot, str] = {}  # first slot of a unit that has reported -> worker that keeps it
        self._running: dict[str, list[Order]] = {}  # worker -> what it is doing
        self._busy: dict[str, Slot] = {}  # item -> first slot of the unit that it is run for
        self._waiting: dict[str, list[Work]] = {}  # item -> actions for other units that are the same item
        self._chores: list[Order] = []
        self._queue: deque[Order] = deque()
        self._large: deque[Order] = deque()
        self._losses: dict[str, tuple[int, int]] = {}  # item -> epochs saved at the last loss, losses since then
        self._ooms: Counter[str] = Counter()
        self._log = DecisionLog(ledger.store, plan.space)
        for action in self.state.next_actions(0):
            self._take_action(action, None)
        self._note_decisions()

    @property
    def finished(self) -> bool:
        """Is there nothing left that anyone does or could do?"""
        idle = not self._running
        if self.ending or self.blocked:
            return idle
        return idle and self.state.finished and not self._chores and not self._queue and not self._large

    @property
    def overtime(self) -> bool:
        """Should running trials save their state and stop?"""
        if self.deadline is not None and self.ending is None and self.clock() >= self.deadline:
            self.ending = "budget"
        if self.ending is None and not self.holds():
            self.ending = TAKEN_OVER
        return self.ending is not None and self.ending != "trials"

    def remaining(self) -> int:
        """Slots that have not ended."""
        return self.state.left

    def busy_workers(self) -> frozenset[str]:
        """Workers that are carrying out orders."""
        return frozenset(self._running)

    @property
    def wants_large(self) -> bool:
        """Is there a trial that ran out of memory and waits for a worker with a larger share?"""
        return bool(self._large)

    # ---- for executors ---------------------------------------------------------------------------------------

    def orders(self, worker: str, *, large: bool = False) -> list[Order]:
        """What a free worker should do; [] if there is nothing for it now.

        `large`: the worker has a larger share of a GPU than usual, for trials that ran out of memory.
        """
        if self.overtime or self.blocked:
            return []
        orders: list[Order] = []
        while self._chores and len(orders) < 8:
            orders.append(self._chores.pop(0))
        queue = self._large if large else self._queue
        if queue:
            orders.append(queue.popleft())
        elif not large and not self._spent():
            orders += self._next(worker)
        if orders:
            self._running[worker] = orders
        elif not large and not self._running and not self._large and not self.state.finished:
            self.ending = self.ending or self._stuck()
        return orders

    def report(self, worker: str, outcomes: Sequence[Outcome]) -> list[Order]:
        """Take in what a worker has done. Returns what it should do next with the item it holds, if anything."""
        self._running.pop(worker, None)
        for outcome in outcomes:
            self._outcome(worker, outcome)
        orders: list[Order] = []
        for action in self.state.next_actions(0):
            self._take_action(action, orders if self._held_by(action) == worker else None)
        self._note_decisions()
        if orders and not self.overtime:
            if orders[-1].do is not Do.TRAIN:
                orders += self.orders(worker)
            self._running[worker] = orders
            return orders
        if orders:  # the run is ending: what is held is saved, or closed
            orders = [order if order.do is Do.CLOSE else replace(order, do=Do.PAUSE) for order in orders]
            self._running[worker] = orders
        return orders

    def lost(self, worker: str, reason: str = "its worker was lost", *, blameless: bool = False) -> None:
        """A worker is gone with all that it held. Its item runs again from the last saved state.

        `blameless`: its machine was taken away, which no trial can have brought about.
        """
        orders = self._running.pop(worker, [])
        training = any(order.do is Do.TRAIN for order in orders)  # what was only to be written down has lost nobody
        for item in dict.fromkeys(order.item for order in orders):
            found = [order for order in orders if order.item == item]
            counts = not blameless and (not training or any(order.do is Do.TRAIN for order in found))
            self._again(found, reason, counts)
        for slot in [slot for slot, holder in self._holder.items() if holder == worker]:
            del self._holder[slot]
            self.state.lost(slot)

    def interrupt(self) -> None:
        """A person or a scheduler ends the run."""
        self.ending = "interrupted"

    def block(self, reason: str) -> None:
        """The results cannot be written: nothing more is started, and the run ends with this explanation."""
        self.blocked = self.blocked or reason
        self.ending = self.ending or reason

    def sweep(self) -> None:
        """Remove resume states of what has ended."""
        self._aside("saved states of finished trials cannot be removed", self._sweep)

    def _sweep(self) -> None:
        bundles = {self.names.unit(unit) for unit in self.state.ended_units() if unit.is_bundle}
        states.sweep(self.ledger.store, {*self.ledger.refresh().rows, *bundles})

    def compact_decisions(self) -> None:
        """Write the decisions that wait, and keep the number of their files bounded."""
        self._log.compact()

    # ---- orders ----------------------------------------------------------------------------------------------

    def _spent(self) -> bool:
        if self.trials is not None and self._begun_trials >= self.trials:
            self.ending = self.ending or "trials"
        return self.ending is not None

    def _next(self, worker: str) -> list[Order]:
        orders: list[Order] = []
        while True:
            actions = self.state.next_actions(1)
            if not actions:
                return orders
            for action in actions:
                if isinstance(action, Start | Confirm | Continue):
                    orders += self._begin(action)
                else:
                    self._take_action(action, None)
            if orders:
                return orders

    def _begin(self, action: Work) -> list[Order]:
        """The order for a unit, unless its item is in other hands."""
        unit = action.unit
        item = self.names.unit(unit)
        if item in self._busy and self._busy[item] != unit.slot:
            self._waiting.setdefault(item, []).append(action)
            return []
        self._busy[item] = unit.slot
        self._begun_trials += 0 if isinstance(action, Continue) else len(unit.slots)
        return [self.make.of(Do.TRAIN, unit, action.until)]

    def _held_by(self, action: Action) -> str | None:
        if isinstance(action, Select):
            return None
        if isinstance(action, Stop):
            unit = self.state.unit(action.slot)
            return None if unit is None else self._holder.get(unit.slot)
        return self._holder.get(action.unit.slot)

    def _take_action(self, action: Action, held: list[Order] | None) -> None:
        """Turn an action that needs no new worker into orders, for the worker that holds the unit or for anyone."""
        if isinstance(action, Select):
            return
        if isinstance(action, Stop):
            self._stop(action, self._chores if held is None else held)
            return
        holder = self._holder.pop(action.unit.slot, None)
        if isinstance(action, Pause):
            if held is not None:
                held.append(self.make.of(Do.PAUSE, action.unit))
        elif held is not None and holder is not None:
            held.append(self.make.of(Do.TRAIN, action.unit, action.until))
        else:
            self._queue.append(self.make.of(Do.TRAIN, action.unit, action.until))

    def _stop(self, action: Stop, orders: list[Order]) -> None:
        """Have an ending written down, together with those of other trials of its bundle."""
        slot, unit = action.slot, self.state.unit(action.slot)
        if unit is None or action.status is Status.SKIPPED:
            self.tally.done[Status.SKIPPED] += 1
            return
        if all(self.state.status(other) is not Status.MISSING for other in unit.slots):
            self._holder.pop(unit.slot, None)
        if not self.knowledge.has_ended(slot, unit):
            merged(orders, self.make.closing(action, unit))

    # ---- outcomes --------------------------------------------------------------------------------------------

    def _outcome(self, worker: str, outcome: Outcome) -> None:
        order = outcome.order
        known = {what_failed(note) for note in self.notes}  # several workers may say the same of other files
        self.notes += [note for note in outcome.notes if what_failed(note) not in known]
        self.tally.trained_s += outcome.trained_s
        if outcome.ended in (Ended.REACHED, Ended.COMMITTED):
            self._progress(worker, outcome)
        elif outcome.ended is Ended.OUT_OF_MEMORY:
            self._ooms[order.item] += 1
            if self._ooms[order.item] == 1:
                self._large.append(order)
            else:
                reason = f"out of memory twice, the second time with a larger share: {outcome.reason}"
                self._chores.append(self.make.given_up(order, Status.OOM, reason))
        elif outcome.ended is Ended.BROKEN:
            self._again([order], outcome.reason or "its device failed", counts=True)
        elif outcome.ended is Ended.BLOCKED:
            self.block(outcome.reason or "the results cannot be written")
        elif outcome.ended is Ended.INTERRUPTED:
            self._busy.pop(order.item, None)

    def _progress(self, worker: str, outcome: Outcome) -> None:
        """Some of an item's trials have ended, the others have reached what was asked for."""
        order, first = outcome.order, outcome.order.spec.slot
        if outcome.ended is Ended.REACHED:
            self._holder[first] = worker
        for member, result in zip(order.members, outcome.results, strict=True):
            if result.status is not None:
                self._committed(member.spec, result)
        done = all(self.state.status(member.spec.slot) is not Status.MISSING for member in order.members)
        over = outcome.ended is Ended.COMMITTED and (order.do is Do.TRAIN or not order.until or done)
        if over or done:
            self._busy.pop(order.item, None)
        for member, result in zip(order.members, outcome.results, strict=True):
            spec = member.spec
            if result.status is None and not member.recorded and order.do is Do.TRAIN:
                self.state.observe(Fact(spec.slot, result.curve, None, spec.params))  # type: ignore[arg-type]
        if over:
            for action in self._waiting.pop(order.item, []):
                self._same_item(action)
        self._stop_if_hopeless()

    def _committed(self, spec: Spec, result: Result) -> None:
        assert result.status is not None
        self.knowledge.committed(spec, result)
        self.tally.done[result.status] += 1
        if self.plan.metric in result.test:
            scores = self.tally.tests.setdefault((spec.slot.corpus, spec.slot.cell), {})
            scores.setdefault(spec.slot.study, []).append(result.test[self.plan.metric])
        if result.status is not Status.PRUNED:  # of a pruning the protocol knows already: it ordered it
            self.state.observe(Fact(spec.slot, result.curve, result.status, spec.params))  # type: ignore[arg-type]

    def _same_item(self, action: Work) -> None:
        """Another unit is the same item: what has just been found out is true of it too."""
        unit, missing = action.unit, False
        for slot in unit.slots:
            fact = self.knowledge.look_up(slot, unit)
            if fact is not None:
                self.state.observe(fact)
            if fact is None or (fact.status is Status.PRUNED and len(fact.curve) < action.until):
                missing = True
        if missing:
            self._queue.extend(self._begin(action))

    def _again(self, orders: Sequence[Order], reason: str, counts: bool) -> None:
        """What a lost worker was to do with one item: somebody else does it, unless it has cost too many workers with
        no headway at all."""
        item = orders[0].item
        if counts and any(order.do is not Do.PAUSE for order in orders):
            saved = states.epochs(self.ledger.store, item)
            before, losses = self._losses.get(item, (0, 0))
            losses = 1 if saved > before else losses + 1
            self._losses[item] = saved, losses
            if losses >= WORKERS_LOST:
                reason = f"{losses} workers were lost on this trial, which made no headway; the last time: {reason}"
                self.left_alone |= {member.spec.slot: reason for member in orders[-1].members if not member.recorded}
                return
        self._chores.extend(order for order in orders if order.do is Do.CLOSE)
        self._queue.extend(order for order in orders if order.do is Do.TRAIN)

    def _stuck(self) -> str:
        """Why nothing can be done any more although slots are missing."""
        if self.left_alone:
            slot, reason = next(iter(self.left_alone.items()))
            more = f", and {len(self.left_alone) - 1} others" if len(self.left_alone) > 1 else ""
            return f"not everything could be run: {slot}{more}: {reason}"
        return f"{self.state.left} planned trials cannot be run, which is a fault of this program"

    def _stop_if_hopeless(self) -> None:
        done = self.tally.done
        bad = done[Status.FAILED] + done[Status.OOM]
        ended = bad + done[Status.COMPLETE] + done[Status.DIVERGED]  # a pruned trial has not shown that it can end
        if self._proven or ended < FIRST_TRIALS:
            return
        self._proven = True
        if self.ending is None and bad > FAILED_SHARE * ended:
            reasons = Counter(known.reason for known in self.knowledge.trials.values() if known.status is Status.FAILED)
            common = reasons.most_common(1)[0][0] if reasons else "out of memory"
            self.ending = f"{bad} of the first {ended} trials failed, so the run stops. Most often: {common}"

    # ---- decisions -------------------------------------------------------------------------------------------

    def _note_decisions(self) -> None:
        """Write new prunings, survivals and selections into the ledger. Those of earlier runs are there already."""
        decisions = self.state.decisions()
        self._log.add(decision_row(self.plan, self.names, self.state, decision) for decision in decisions)
