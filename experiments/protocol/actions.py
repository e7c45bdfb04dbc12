"""What the protocol is told (facts) and what it answers (actions). Plain frozen data.

How an executor uses them: it starts what `Start` and `Confirm` name, reports a `Fact` of each slot of the unit when
the unit has reached its `until` or a slot has ended, and asks again. Before it computes anything it looks slots up in
the ledger and reports what it finds there in the same way: that is all there is to resuming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.slots import Scalar, Slot, Status
from experiments.space.plan import Group


@dataclass(frozen=True)
class Fact:
    """What is known of a slot.

    curve   selection metric on validation after each epoch so far
    status  None while it can go on; otherwise how training ended: complete, diverged, oom, failed (or a recorded
            `pruned`, which counts as a curve that goes no further: pruning is always decided again from the values)
    """

    slot: Slot
    curve: tuple[float, ...] = ()
    status: Status | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict)


Facts = Mapping[Slot, Fact]


@dataclass(frozen=True)
class Unit:
    """Slots that are trained together, from the same epoch to the same epoch: nearly always one, or a bundle.

    params  the hyperparameters of each
    judges  draws outside of the unit by which its draws are judged, and theirs: with the slots' own they determine
            who goes on after a rung, and with it every last bit of a bundle
    """

    slots: tuple[Slot, ...]
    params: tuple[Mapping[str, Scalar], ...]
    judges: tuple[tuple[Slot, Mapping[str, Scalar]], ...] = ()

    @property
    def slot(self) -> Slot:
        """The first, which stands for all where one is named."""
        return self.slots[0]

    @property
    def is_bundle(self) -> bool:
        return len(self.slots) > 1


@dataclass(frozen=True)
class Start:
    """Train a unit of draws until `until` epochs are done (or from a resume state, if there is one). Takes a worker."""

    unit: Unit
    until: int


@dataclass(frozen=True)
class Continue:
    """Train on until `until`. A unit that was paused takes a free worker; one just reported keeps its own."""

    unit: Unit
    until: int


@dataclass(frozen=True)
class Pause:
    """Save the state and free the worker: lower-numbered draws are not known at this rung yet."""

    unit: Unit
    rung: int


@dataclass(frozen=True)
class Judged:
    """One decision at a rung: the best value so far of a draw beside what it had to reach. For the ledger.

    cutoff   None: there was nothing to be judged by
    against  the lower-numbered draws whose values at this rung it was judged by
    """

    slot: Slot
    rung: int
    value: float
    cutoff: float | None
    against: tuple[int, ...]
    exempt: bool
    survived: bool


@dataclass(frozen=True)
class Stop:
    """The slot ends without (further) training: pruned at a rung, or skipped by a rule. Frees the worker, if any.

    For `pruned`: `rung` is the epoch, `value` the best value so far, `cutoff` what it had to reach, `against` the draws
    it was judged by.
    """

    slot: Slot
    status: Status
    reason: str
    rung: int | None = None
    value: float | None = None
    cutoff: float | None = None
    against: tuple[int, ...] = ()


@dataclass(frozen=True)
class Select:
    """The winner of a group: draw number, best validation value, and the draws it was chosen among."""

    group: Group
    winner: Slot
    value: float
    among: tuple[int, ...]
    params: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Confirm:
    """Train winners' hyperparameters at the full budget, unpruned, and score them on test. Takes a worker."""

    unit: Unit
    until: int


Decision = Judged | Select
Action = Start | Continue | Pause | Stop | Select | Confirm
