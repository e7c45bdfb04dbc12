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
    Judged,
    Pause,
    Select,
    Start,
    Stop,
    Unit,
)
from experiments.protocol.state import State, replay_ledger
from experiments.results.decisions import DecisionLog, DecisionRow
from experiments.results.ledger import LOOSE, Ledger
from experiments.results.snapshot import Known
from experiments.schedule import states
from experiments.schedule.naming import Names, conditions_of
from experiments.schedule.work import Closing, Do, Ended, Member, Order, Outcome, Result, Spec
from experiments.slots import Slot, Stage, Status
from experiments.space.plan import Plan

WORKERS_LOST = 3
"""Workers lost on one trial before it counts as failed: by then it is likelier to be the trial's doing."""

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
    ) -> None:
        self.plan, self.ledger, self.retry = plan, ledger, retry
        self.clock, self.started = clock, clock()
        self.deadline = None if seconds is None else self.started + seconds
        self.trials = trials
        self.names = Names(plan, ledger.equal_code())
        snapshot = ledger.refresh()
        self.attempts = dict(snapshot.attempts)
        self.known: dict[str, Known] = snapshot.known(plan.metric)
        self.ending: str | None = None
        """Why the run ends before its plan is done: `budget`, `interrupted`, or an explanation."""
        self.blocked: str | None = None
        self.tally = Tally()
        self._begun_trials = 0
        self._retried: set[str] = set()
        self._proven = False
        self.state: State = replay_ledger(plan, self.look_up)
        self.sweep()
        self.tally.before = sum(self.state.status(slot) is not Status.MISSING for slot in self.state.order)
        self._holder: dict[Slot, str] = {}  # first slot of a unit that has reported -> worker that keeps it
        self._running: dict[str, list[Order]] = {}  # worker -> what it is doing
        self._busy: dict[str, Slot] = {}  # item -> first slot of the unit that it is run for
        self._waiting: dict[str, list[Work]] = {}  # item -> actions for other units that are the same item
        self._chores: deque[Order] = deque()
        self._again: deque[Order] = deque()
        self._large: deque[Order] = deque()
        self._losses: Counter[str] = Counter()
        self._ooms: Counter[str] = Counter()
        self._log = DecisionLog(ledger.store, plan.space)
        for action in self.state.next_actions(0):
            self._take_action(action, None)
        self._note_decisions()

    # ---- what is known ---------------------------------------------------------------------------------------

    def look_up(self, slot: Slot, unit: Unit) -> Fact | None:
        """What the ledger knows of a slot; None if it has to be run (again)."""
        found = self._recorded(slot, unit)
        if found is None:
            return None
        return Fact(slot, found.curve, found.status, unit.params[unit.slots.index(slot)])

    def _recorded(self, slot: Slot, unit: Unit) -> Known | None:
        """What is on record of a slot's trial and holds."""
        trial = self.names.trial(slot, unit)
        found = self.known.get(trial)
        if found is None or (found.status in (Status.FAILED, Status.OOM) and self._runs_again(trial)):
            return None
        if slot.stage is Stage.CONFIRM and found.status is Status.COMPLETE:
            wanted = {condition.name for condition in conditions_of(self.plan, self.plan.cell_of(slot))}
            if not wanted <= found.conditions:
                return None  # a condition was added: trained and scored again, by the same streams
        return found

    def _runs_again(self, trial: str) -> bool:
        return self.retry and trial not in self._retried

    @property
    def finished(self) -> bool:
        """Is there nothing left that anyone does or could do?"""
        idle = not self._running
        if self.ending or self.blocked:
            return idle
        return idle and self.state.finished and not self._chores and not self._again and not self._large

    @property
    def overtime(self) -> bool:
        """Should running trials save their state and stop?"""
        if self.deadline is not None and self.ending is None and self.clock() >= self.deadline:
            self.ending = "budget"
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
            orders.append(self._chores.popleft())
        queue = self._large if large else self._again
        if queue:
            orders.append(queue.popleft())
        elif not large and not self._spent():
            orders += self._next(worker)
        if orders:
            self._running[worker] = orders
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

    def lost(self, worker: str, reason: str = "its worker was lost") -> None:
        """A worker is gone with all that it held. Its item runs again from the last saved state."""
        orders = self._running.pop(worker, [])
        for item in dict.fromkeys(order.item for order in orders):
            self._again_or_failed([order for order in orders if order.item == item], reason)
        for slot in [slot for slot, holder in self._holder.items() if holder == worker]:
            del self._holder[slot]
            self.state.lost(slot)

    def block(self, reason: str) -> None:
        """The results cannot be written: nothing more is started, and the run ends with this explanation."""
        self.blocked = self.blocked or reason
        self.ending = self.ending or reason

    def sweep(self) -> None:
        """Remove resume states of what has ended."""
        bundles = {self.names.unit(unit) for unit in self.state.ended_units() if unit.is_bundle}
        states.sweep(self.ledger.store, {*self.ledger.refresh().rows, *bundles})

    def compact_if_needed(self) -> None:
        """Keep the number of files bounded."""
        self._log.compact()
        if self.ledger.loose() > LOOSE:
            self.ledger.compact()

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
        return [self._order(Do.TRAIN, unit, action.until)]

    def _order(self, do: Do, unit: Unit, until: int = 0, closings: tuple[Closing, ...] = ()) -> Order:
        return Order(do, self.names.unit(unit), tuple(self._member(slot, unit) for slot in unit.slots), until, closings)

    def _member(self, slot: Slot, unit: Unit) -> Member:
        """One trial of an order. Alone it is what the order is about; in a bundle it may have ended before others."""
        spec = self._spec(slot, unit)
        if not unit.is_bundle:
            return Member(spec)
        found = self._recorded(slot, unit)
        last = self.state.pruned_at(slot)
        if last is None and found is not None and found.status is Status.PRUNED:
            last = len(found.curve)
        return Member(spec, last, found is not None)

    def _spec(self, slot: Slot, unit: Unit) -> Spec:
        plan = self.plan
        key, text = self.names.key(slot, unit)
        return Spec(
            key=key,
            recipe=text,
            slot=slot,
            space=plan.space,
            epochs=plan.epochs(plan.cell_of(slot)),
            metric=plan.metric,
            direction=plan.direction,
            corpus=plan.corpora[slot.corpus],
            folds=plan.folds,
            resplit=plan.resplit,
            conditions=conditions_of(plan, plan.cell_of(slot)) if slot.stage is Stage.CONFIRM else (),
            keep=plan.keep,
            attempt=self.attempts.get(key.trial, 0),
            params=dict(unit.params[unit.slots.index(slot)]),
        )

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
                held.append(self._order(Do.PAUSE, action.unit))
        elif held is not None and holder is not None:
            held.append(self._order(Do.TRAIN, action.unit, action.until))
        else:
            self._again.append(self._order(Do.TRAIN, action.unit, action.until))

    def _stop(self, action: Stop, orders: list[Order] | deque[Order]) -> None:
        """Have an ending written down, together with those of other trials of its bundle."""
        slot, unit = action.slot, self.state.unit(action.slot)
        if unit is None or action.status is Status.SKIPPED:
            self.tally.done[Status.SKIPPED] += 1
            return
        known = self.known.get(self.names.trial(slot, unit))
        if all(self.state.status(other) is not Status.MISSING for other in unit.slots):
            self._holder.pop(unit.slot, None)
        if known is not None and known.status in (Status.COMPLETE, Status.PRUNED, Status.DIVERGED):
            return  # on record already, with at least the epochs that this needs
        closing = Closing(
            unit.slots.index(slot), action.status, action.reason, action.rung, action.value, action.cutoff
        )
        order = self._order(Do.CLOSE, unit, action.rung or 0, (closing,))
        last = orders[-1] if orders else None
        if last is not None and (last.do, last.item, last.until) == (Do.CLOSE, order.item, order.until):
            orders[-1] = replace(order, closings=(*last.closings, closing))
        else:
            orders.append(order)

    # ---- outcomes --------------------------------------------------------------------------------------------

    def _outcome(self, worker: str, outcome: Outcome) -> None:
        order = outcome.order
        self.tally.trained_s += outcome.trained_s
        if outcome.ended in (Ended.REACHED, Ended.COMMITTED):
            self._progress(worker, outcome)
        elif outcome.ended is Ended.OUT_OF_MEMORY:
            self._ooms[order.item] += 1
            if self._ooms[order.item] == 1:
                self._large.append(order)
            else:
                reason = f"out of memory twice, the second time with a larger share: {outcome.reason}"
                self._chores.append(self._given_up(order, Status.OOM, reason))
        elif outcome.ended is Ended.BROKEN:
            self._again_or_failed([order], outcome.reason or "its device failed")
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
        trial, slot = spec.trial, spec.slot
        assert result.status is not None
        self.attempts[trial] = max(self.attempts.get(trial, 0), spec.attempt + 1)
        self._retried.add(trial)
        conditions = frozenset(condition.name for condition in spec.conditions)
        self.known[trial] = Known(
            trial, result.status, result.reason, self.attempts[trial], len(result.curve), result.curve, conditions
        )
        self.tally.done[result.status] += 1
        if self.plan.metric in result.test:
            scores = self.tally.tests.setdefault((slot.corpus, slot.cell), {})
            scores.setdefault(slot.study, []).append(result.test[self.plan.metric])
        if result.status is not Status.PRUNED:  # of a pruning the protocol knows already: it ordered it
            self.state.observe(Fact(slot, result.curve, result.status, spec.params))  # type: ignore[arg-type]

    def _same_item(self, action: Work) -> None:
        """Another unit is the same item: what has just been found out is true of it too."""
        unit, missing = action.unit, False
        for slot in unit.slots:
            fact = self.look_up(slot, unit)
            if fact is not None:
                self.state.observe(fact)
            if fact is None or (fact.status is Status.PRUNED and len(fact.curve) < action.until):
                missing = True
        if missing:
            self._again.extend(self._begin(action))

    def _given_up(self, order: Order, status: Status, reason: str) -> Order:
        """An order that ends what is not on record of an item, without computing anything."""
        closings = []
        for number, member in enumerate(order.members):
            unit = self.state.unit(member.spec.slot)
            if unit is None or self._recorded(member.spec.slot, unit) is None:
                closings.append(Closing(number, status, reason))
        return replace(order, do=Do.CLOSE, until=0, closings=tuple(closings))

    def _again_or_failed(self, orders: Sequence[Order], reason: str) -> None:
        """What a lost worker was to do with one item: somebody else does it, unless it has cost too many workers."""
        item = orders[0].item
        self._losses[item] += any(order.do is Do.TRAIN or order.until for order in orders)
        if self._losses[item] >= WORKERS_LOST:
            reason = f"{WORKERS_LOST} workers were lost on this trial; the last time: {reason}"
            self._chores.append(self._given_up(orders[-1], Status.FAILED, reason))
            return
        self._chores.extend(order for order in orders if order.do is Do.CLOSE)
        self._again.extend(order for order in orders if order.do is Do.TRAIN)

    def _stop_if_hopeless(self) -> None:
        done = self.tally.done
        bad = done[Status.FAILED] + done[Status.OOM]
        ended = bad + done[Status.COMPLETE] + done[Status.DIVERGED]  # a pruned trial has not shown that it can end
        if self._proven or ended < FIRST_TRIALS:
            return
        self._proven = True
        if self.ending is None and bad > FAILED_SHARE * ended:
            reasons = Counter(known.reason for known in self.known.values() if known.status is Status.FAILED)
            common = reasons.most_common(1)[0][0] if reasons else "out of memory"
            self.ending = f"{bad} of the first {ended} trials failed, so the run stops. Most often: {common}"

    # ---- decisions -------------------------------------------------------------------------------------------

    def _note_decisions(self) -> None:
        """Write new prunings, survivals and selections into the ledger. Those of earlier runs are there already."""
        self._log.add(self._decision_row(decision) for decision in self.state.decisions())

    def _decision_row(self, decision: Judged | Select) -> DecisionRow:
        return decision_row(self.plan, self.names, self.state, decision)


def decision_row(plan: Plan, names: Names, state: State, decision: Judged | Select) -> DecisionRow:
    """A decision of the protocol as the ledger and the tables write it."""
    slot = decision.winner if isinstance(decision, Select) else decision.slot
    unit = state.unit(slot)
    trial = None if unit is None else names.trial(slot, unit)
    if isinstance(decision, Select):
        return DecisionRow(
            slot.corpus, slot.cell, slot.study, slot.fold, "select", slot.draw, trial, None, decision.value, None,
            len(decision.among), f"best of {len(decision.among)} complete draws on validation {plan.metric}",
        )  # fmt: skip
    kind = "keep" if decision.survived else "prune"
    reason = "exempt from pruning" if decision.exempt else None
    if reason is None and decision.cutoff is None:
        reason = "first at this rung"
    return DecisionRow(
        slot.corpus, slot.cell, slot.study, slot.fold, kind, slot.draw, trial, decision.rung, decision.value,
        decision.cutoff, len(decision.against), reason,
    )  # fmt: skip
