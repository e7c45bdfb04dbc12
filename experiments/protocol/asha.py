"""ASHA made deterministic: the draws of one group, judged at each rung by lower-numbered draws alone.

Asynchronous successive halving (Li et al., MLSys 2020) judges a trial by whatever has arrived, so its decisions depend
on the machine. Here draw k is judged at a rung once every draw below k has either reached that rung or ended before
it: it goes on if it is among the best `1/eta` of those and itself (at least one). No arrival order, number of workers
or crash can change that. The price is that a draw sometimes waits, while its worker does something else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.protocol.actions import Judged
from experiments.slots import Slot, Status


def cutoff(values: Sequence[float], eta: float) -> float | None:
    """What a further draw must reach to be among the best `1/eta` of these and itself; larger is better.

    >>> cutoff([0.5, 0.4, 0.6, 0.3, 0.2], eta=3)   # two of six may go on
    0.5
    >>> cutoff([], eta=3) is None
    True
    """
    if not values:
        return None
    places = max(1, math.floor((len(values) + 1) / eta + 1e-9))
    return sorted(values, reverse=True)[min(places, len(values)) - 1]


def finite(curve: Sequence[float]) -> tuple[float, ...]:
    """The curve up to the first value that is no number."""
    for epoch, value in enumerate(curve):
        if not math.isfinite(value):
            return tuple(curve[:epoch])
    return tuple(curve)


@dataclass
class Draw:
    """One draw as its group knows it: what was reported, how many rungs it has passed, how it ended."""

    slot: Slot
    exempt: bool
    curve: tuple[float, ...] = ()
    reported: Status | None = None
    passed: int = 0
    final: Status | None = None
    judged: list[Judged] = field(default_factory=list)


class Race:
    """The draws of one group. Folding facts into it in any order leads to the same decisions."""

    def __init__(self, slots: Sequence[Slot], exempt: Sequence[bool], rungs: tuple[int, ...], eta: float, sign: float):
        self.draws = [Draw(slot, free) for slot, free in zip(slots, exempt, strict=True)]
        self.rungs, self.eta, self.sign = rungs, eta, sign
        self._resolved = [0] * len(rungs)  # how many leading draws have reached each rung or ended before it
        self._waiting: list[set[int]] = [set() for _ in rungs]
        self._values: list[dict[int, float]] = [{} for _ in rungs]  # value at the rung, larger is better
        self._left = len(self.draws)

    def report(self, number: int, curve: Sequence[float], status: Status | None) -> list[int]:
        """Take in what is known of a draw; return the numbers of those about which something was decided."""
        draw = self.draws[number]
        if draw.final is not None:
            return []
        known = finite(curve)
        if len(known) > len(draw.curve):
            draw.curve = known
        if status is not None and status is not Status.PRUNED:
            draw.reported = status
        changed = self._advance(number)
        return changed + self._judge()

    @property
    def finished(self) -> bool:
        return self._left == 0

    def best(self, number: int, epoch: int | None = None) -> float:
        """Best value of a draw up to an epoch, in the metric's own sign."""
        return self.sign * max(self.sign * value for value in self.draws[number].curve[:epoch])

    def _advance(self, number: int) -> list[int]:
        """Register a draw at the rung it stands at, or end it if training has ended and no rung is left to judge."""
        draw = self.draws[number]
        while draw.passed < len(self.rungs):
            rung = self.rungs[draw.passed]
            if len(draw.curve) >= rung:
                if number not in self._values[draw.passed]:
                    self._values[draw.passed][number] = self.sign * self.best(number, rung)
                    self._waiting[draw.passed].add(number)
                return []
            if draw.reported is Status.COMPLETE and draw.curve:  # stopped early: what it has is what it will ever have
                self._values[draw.passed][number] = self.sign * self.best(number)
                draw.passed += 1
            else:
                break
        if draw.reported is None or draw.final is not None:
            return []
        complete_without_value = draw.reported is Status.COMPLETE and not draw.curve
        self._end(draw, Status.DIVERGED if complete_without_value else draw.reported)
        return [number]

    def _judge(self) -> list[int]:
        decided: list[int] = []
        for index in range(len(self.rungs)):
            resolved, values = self._resolved[index], self._values[index]
            while resolved < len(self.draws) and (resolved in values or self.draws[resolved].final is not None):
                resolved += 1
            self._resolved[index] = resolved
            for number in sorted(self._waiting[index]):
                if number > resolved:
                    break
                self._waiting[index].discard(number)
                self._decide(number, index)
                decided.append(number)
        return decided

    def _decide(self, number: int, index: int) -> None:
        draw, values = self.draws[number], self._values[index]
        against = tuple(other for other in sorted(values) if other < number)
        bar = cutoff([values[other] for other in against], self.eta)
        survived = draw.exempt or bar is None or values[number] >= bar
        shown = None if bar is None else self.sign * bar
        value = self.sign * values[number]
        draw.judged.append(Judged(draw.slot, self.rungs[index], value, shown, against, draw.exempt, survived))
        if survived:
            draw.passed += 1
            self._advance(number)
        else:
            self._end(draw, Status.PRUNED)

    def _end(self, draw: Draw, status: Status) -> None:
        draw.final = status
        self._left -= 1

    def winner(self) -> int | None:
        """The complete draw with the best validation value (the lowest number among equals), or None."""
        complete = [number for number, draw in enumerate(self.draws) if draw.final is Status.COMPLETE]
        return max(complete, key=lambda number: (self.sign * self.best(number), -number), default=None)
