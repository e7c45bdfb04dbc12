"""Orders for workers: what the protocol wants of a unit, with everything that a worker must know of its trials."""

from __future__ import annotations

from dataclasses import replace

from experiments.protocol.actions import Stop, Unit
from experiments.protocol.state import State
from experiments.schedule.knowledge import Knowledge
from experiments.schedule.work import Closing, Do, Member, Order, Spec
from experiments.slots import Slot, Stage, Status
from experiments.space.plan import Plan


class Orders:
    """Makes orders from where the protocol stands and what is on record."""

    def __init__(self, plan: Plan, state: State, knowledge: Knowledge) -> None:
        self.plan, self.state, self.knowledge, self.names = plan, state, knowledge, knowledge.names

    def of(self, do: Do, unit: Unit, until: int = 0, closings: tuple[Closing, ...] = ()) -> Order:
        """An order for a unit."""
        members = tuple(self._member(slot, unit) for slot in unit.slots)
        return Order(do, self.names.unit(unit), members, until, closings)

    def closing(self, stop: Stop, unit: Unit) -> Order:
        """An order that writes down how a slot of a unit has ended."""
        end = Closing(unit.slots.index(stop.slot), stop.status, stop.reason, stop.rung, stop.value, stop.cutoff)
        return self.of(Do.CLOSE, unit, stop.rung or 0, (end,))

    def given_up(self, order: Order, status: Status, reason: str) -> Order:
        """An order that ends what is not on record of an item, without computing anything."""
        closings = []
        for number, member in enumerate(order.members):
            unit = self.state.unit(member.spec.slot)
            if unit is None or self.knowledge.recorded(member.spec.slot, unit) is None:
                closings.append(Closing(number, status, reason))
        return replace(order, do=Do.CLOSE, until=0, closings=tuple(closings))

    def _member(self, slot: Slot, unit: Unit) -> Member:
        """One trial of an order. Alone it is what the order is about; in a bundle it may have ended before others."""
        spec = self._spec(slot, unit)
        if not unit.is_bundle:
            return Member(spec)
        found = self.knowledge.recorded(slot, unit)
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
            corpus=plan.corpora[slot.corpus],
            folds=plan.folds,
            resplit=plan.resplit,
            conditions=self.names.conditions(slot) if slot.stage is Stage.CONFIRM else (),
            keep=plan.keep,
            attempt=self.knowledge.attempts.get(key.trial, 0),
            params=dict(unit.params[unit.slots.index(slot)]),
            declaration=plan.declaration,
        )


def merged(orders: list[Order], order: Order) -> None:
    """Append an order that closes, to the one before it where that closes other members of the same item there."""
    last = orders[-1] if orders else None
    if last is not None and (last.do, last.item, last.until) == (Do.CLOSE, order.item, order.until):
        orders[-1] = replace(order, closings=(*last.closings, *order.closings))
    else:
        orders.append(order)
