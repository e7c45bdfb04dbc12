"""From plan and ledger to tables: the protocol is replayed, so that the tables are a function of the two alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from experiments.protocol.actions import Judged
from experiments.protocol.replay import replay_ledger
from experiments.protocol.state import State
from experiments.results.ledger import Ledger
from experiments.results.snapshot import Known
from experiments.results.tables import Verdict, write_tables
from experiments.schedule.deciding import decision_row
from experiments.schedule.knowledge import Knowledge
from experiments.schedule.naming import Names
from experiments.schedule.session import Session
from experiments.slots import Slot, Stage, Status
from experiments.space.plan import Plan
from mer.storage import Store


def publish(plan: Plan, ledger: Ledger, out: str | Store, session: Session | None = None) -> list[Verdict]:
    """Write the tables of a plan from what the ledger knows now. A running session's names are reused: it is quicker.

    ::

        publish(plan, Ledger("results"), "results/fusion_vn")
    """
    names = session.names if session is not None else Names(plan, ledger.equal_code())
    recorded = session.knowledge.trials if session is not None else ()
    knowledge = Knowledge(plan, names, ledger.refresh(recorded))
    state = replay_ledger(plan, knowledge.look_up)
    verdicts = judge(plan, knowledge, state, session.left_alone if session is not None else {})
    decisions = [decision_row(plan, names, state, decision) for decision in state.all_decisions()]
    write_tables(plan, ledger, out, verdicts, decisions)
    return verdicts


def verdicts_of(plan: Plan, ledger: Ledger) -> list[Verdict]:
    """How each slot of a plan stands by what is on record. Nothing is written."""
    knowledge = Knowledge(plan, Names(plan, ledger.equal_code()), ledger.refresh())
    return judge(plan, knowledge, replay_ledger(plan, knowledge.look_up))


def judge(
    plan: Plan, knowledge: Knowledge, state: State, left_alone: Mapping[Slot, str] = MappingProxyType({})
) -> list[Verdict]:
    """One verdict for each slot of the plan, in its order. `left_alone`: slots that a run gave up for now, and why."""
    names = knowledge.names
    pruned: dict[Slot, Judged] = {}
    for decision in state.all_decisions():
        if isinstance(decision, Judged) and not decision.survived:
            pruned[decision.slot] = decision
    verdicts = []
    for slot in state.order:
        params = state.params(slot)
        status = state.status(slot)
        unit = state.unit(slot)
        trial = None if unit is None else names.trial(slot, unit)
        record = knowledge.trials.get(trial) if trial is not None else None
        if status is Status.PRUNED and record is None:
            status = Status.MISSING  # decided, and its record not yet written
        selected = None
        if slot.stage is Stage.TUNE:
            choice = state.selected(plan.group(slot))
            selected = None if choice is None else choice.winner == slot
        judged = pruned.get(slot) if status is Status.PRUNED else None
        verdicts.append(
            Verdict(
                slot=slot,
                trial=trial,
                status=status,
                reason=(status is Status.MISSING and left_alone.get(slot))
                or _reason(plan, state, slot, status, record, judged),
                params=params or {},
                selected=selected,
                rung=judged.rung if judged else None,
                rung_value=judged.value if judged else None,
                cutoff=judged.cutoff if judged else None,
                bundle=names.layout(unit) if unit is not None and unit.is_bundle else None,
                bundle_size=None if unit is None else len(unit.slots),
            )
        )
    return verdicts


def _reason(
    plan: Plan, state: State, slot: Slot, status: Status, record: Known | None, judged: Judged | None
) -> str | None:
    if status is Status.COMPLETE:
        return None
    if status is Status.MISSING:
        if record is not None and record.status is Status.PRUNED:
            return f"trained to epoch {record.epochs}; whether it goes on depends on draws that are not known yet"
        return "not run" if state.params(slot) is not None else "its draws have not all been run"
    if status is Status.SKIPPED:
        return plan.cell_of(slot).skip or f"no draw of {plan.group(slot)} completed, so there is nothing to confirm"
    if judged is not None and judged.cutoff is not None:
        return f"pruned at epoch {judged.rung}: {judged.value:.6g} against {judged.cutoff:.6g}"
    return record.reason if record is not None else None
