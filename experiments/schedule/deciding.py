"""A decision of the protocol as the ledger and the tables write it."""

from __future__ import annotations

from experiments.protocol.actions import Judged, Select
from experiments.protocol.state import State
from experiments.results.decisions import DecisionRow
from experiments.schedule.naming import Names
from experiments.space.plan import Plan


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
