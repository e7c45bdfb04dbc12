"""What is on record of a plan's trials: read from the ledger once, and kept up to date with what workers commit."""

from __future__ import annotations

from experiments.protocol.actions import Fact, Unit
from experiments.results.snapshot import Known, Snapshot
from experiments.schedule.naming import Names
from experiments.schedule.work import Result, Spec
from experiments.slots import Slot, Stage, Status
from experiments.space.plan import Plan


class Knowledge:
    """Trials by name. `retry`: those that failed or ran out of memory count as not run, once."""

    def __init__(self, plan: Plan, names: Names, snapshot: Snapshot, *, retry: bool = False) -> None:
        self.plan, self.names, self.retry = plan, names, retry
        self.attempts = dict(snapshot.attempts)
        self.trials: dict[str, Known] = snapshot.known(plan.metric)
        self._retried: set[str] = set()

    def look_up(self, slot: Slot, unit: Unit) -> Fact | None:
        """What the protocol should know of a slot; None if it has to be run (again)."""
        found = self.recorded(slot, unit)
        if found is None:
            return None
        return Fact(slot, found.curve, found.status, unit.params[unit.slots.index(slot)])

    def recorded(self, slot: Slot, unit: Unit) -> Known | None:
        """What is on record of a slot's trial and holds."""
        trial = self.names.trial(slot, unit)
        found = self.trials.get(trial)
        if found is None or (found.status in (Status.FAILED, Status.OOM) and self._runs_again(trial)):
            return None
        if slot.stage is Stage.CONFIRM and found.status is Status.COMPLETE:
            wanted = {condition.name for condition in self.names.conditions(slot)}
            if not wanted <= found.conditions:
                return None  # a condition was added: trained and scored again, by the same streams
        return found

    def has_ended(self, slot: Slot, unit: Unit) -> bool:
        """Is the trial on record as one that came to an end of its own, or was pruned?"""
        known = self.trials.get(self.names.trial(slot, unit))
        return known is not None and known.status in (Status.COMPLETE, Status.PRUNED, Status.DIVERGED)

    def committed(self, spec: Spec, result: Result) -> None:
        """A worker has written a trial into the ledger."""
        assert result.status is not None
        trial = spec.trial
        self.attempts[trial] = max(self.attempts.get(trial, 0), spec.attempt + 1)
        self._retried.add(trial)
        conditions = frozenset(condition.name for condition in spec.conditions)
        self.trials[trial] = Known(
            trial, result.status, result.reason, self.attempts[trial], len(result.curve), result.curve, conditions
        )

    def _runs_again(self, trial: str) -> bool:
        return self.retry and trial not in self._retried
