"""The work item in a worker's hands: its members, what they have shown so far, and what they have cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from experiments.results import provenance
from experiments.results.records import EpochRow
from experiments.results.schema import METRICS
from experiments.schedule.aside import Aside
from experiments.schedule.states import Part, Saved
from experiments.schedule.work import Finished, Member, Order, Spec, Work
from experiments.slots import Status
from mer.metrics import metric


@dataclass
class Held:
    """An item in training. `closed`: members that are committed, by this worker or before."""

    item: str
    members: tuple[Member, ...]
    work: Work
    parts: list[Part]
    peak_memory_mb: float | None = None
    closed: set[int] = field(default_factory=set)
    saved_at: float = field(default_factory=time.monotonic)
    unsaved: bool = False

    @classmethod
    def fresh(cls, order: Order, work: Work) -> Held:
        now = datetime.now(UTC).isoformat()
        return cls(order.item, order.members, work, [Part(started=now) for _ in order.members]).told(order)

    def told(self, order: Order) -> Held:
        """Take over what an order knows of the members: who was pruned meanwhile, and who is on record."""
        self.members = order.members
        self.closed |= {number for number, member in enumerate(order.members) if member.recorded}
        return self

    def take_over(self, saved: Saved) -> None:
        if len(saved.parts) != len(self.members):
            raise ValueError("a state of another item")
        self.work.restore(saved.payload)
        self.parts, self.peak_memory_mb = saved.parts, saved.peak_memory_mb

    def saved(self) -> Saved:
        return Saved(self.parts, self.peak_memory_mb, self.work.state())

    @property
    def open(self) -> list[int]:
        """Members that are still to be committed when they end; of a pruned one an order of its own says how."""
        return [n for n, member in enumerate(self.members) if n not in self.closed and member.last is None]

    @property
    def epochs(self) -> int:
        return max(part.epochs for part in self.parts)

    @property
    def wall_s(self) -> float:
        return sum(part.wall_s for part in self.parts)

    def curve(self, number: int) -> tuple[float, ...]:
        """A member's selection metric on validation after each of its epochs."""
        metric = self.members[number].spec.metric
        found = [(r.epoch, r.value) for r in self.parts[number].rows if (r.split, r.metric) == ("valid", metric)]
        return tuple(value for _, value in sorted(found))


class Meter:
    """Measures what a piece of work costs and shares it out among those that it was done for."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside
        self.wall, self.device, self.energy = time.perf_counter(), _device_clock(), self._energy()

    def charge(self, held: Held, numbers: Sequence[int]) -> float:
        """Returns the seconds that it took."""
        took, used, energy = time.perf_counter() - self.wall, _device_clock() - self.device, self._energy()
        for number in numbers:
            part = held.parts[number]
            part.wall_s += took / len(numbers)
            part.device_s += used / len(numbers)
            if energy is not None and self.energy is not None and energy >= self.energy:
                part.energy_j = (part.energy_j or 0.0) + (energy - self.energy) / len(numbers)
        peak = self._aside("memory cannot be read", held.work.memory_mb)
        if peak is not None:
            held.peak_memory_mb = max(peak, held.peak_memory_mb or 0.0)
        return took

    def _energy(self) -> float | None:
        return self._aside("energy cannot be read", provenance.energy_j)


def so_far(rows: Sequence[EpochRow], spec: Spec) -> Finished:
    """The best epoch among the rows there are, by the selection metric; the earliest of equals."""
    sign = metric(spec.metric).sign
    values = [(sign * row.value, -row.epoch) for row in rows if (row.split, row.metric) == ("valid", spec.metric)]
    if not values:
        return Finished({}, 0)
    epoch = -max(values)[1]
    best = {row.metric: row.value for row in rows if row.split == "valid" and row.epoch == epoch}
    return Finished({metric: best[metric] for metric in METRICS if metric in best}, epoch)


@dataclass(frozen=True)
class Verdict:
    """How a member is committed."""

    number: int
    status: Status
    reason: str | None
    finished: Finished
    rung: int | None = None
    value: float | None = None
    cutoff: float | None = None
    checkpoint: str | None = None
    checkpoint_digest: str | None = None


class Nothing:
    """Stands in for the work of an item that is only written down."""

    epochs_done = 0

    def __init__(self, members: int) -> None:
        self.ended = [True] * members

    def stop(self, member: int) -> None:
        return

    def epoch(self) -> list[None]:
        return [None] * len(self.ended)

    def finish(self, member: int) -> Finished:
        return Finished({}, 0)

    def save_checkpoint(self, member: int, folder: Any, keep: str) -> None:
        return

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        return

    def memory_mb(self) -> float | None:
        return None

    def close(self) -> None:
        return


def _device_clock() -> float:
    """Seconds of the device: time on a GPU, processor time of this process otherwise."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return time.perf_counter()
    return time.process_time()
