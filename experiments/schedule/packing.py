"""How large a share of a GPU a worker gets: as asked, or by the memory that items need and the time that they use.

There is one shape of worker at a time. `auto` begins with whole GPUs; once `ENOUGH` items have been measured, workers
are replaced by smaller ones: as many on a GPU as its memory holds, and no more than keep it busy. A trial that runs
out of memory is tried once more by a worker with a larger share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from experiments.schedule.work import Outcome

ENOUGH = 4
"""Items measured before the share is set."""

HEADROOM = 1.25
CONTEXT_MB = 700.0
"""A process's CUDA context and kernels, which no allocator counts."""

FULL = 0.9
"""A GPU that computes this share of the time is busy: more workers would wait for each other's kernels."""

MOST = 8
"""Workers on one GPU at most."""


class Packing:
    """Shares and bundles. `share` changes at most once, from 1 to what was measured."""

    def __init__(self, *, cpus: float, gpus: float | None, memory: int | None = None) -> None:
        self.cpus, self.memory = cpus, memory
        self.automatic = gpus is None
        self.share = 1.0 if gpus is None else gpus
        self._peaks: list[float] = []
        self._busy: list[float] = []

    @property
    def larger(self) -> float:
        """The share of a second try: twice the first, at most a whole GPU; whole numbers stay as they are."""
        return self.share if self.share >= 1 or self.share == 0 else min(1.0, 2 * self.share)

    def measured(self, outcomes: Sequence[Outcome], device_mb: float | None, busy: float | None = None) -> None:
        """Learn what items needed, and how busy one of them alone kept its GPU (None: not known)."""
        if busy is not None:
            self._busy.append(busy)
        self._peaks += [outcome.peak_memory_mb for outcome in outcomes if outcome.peak_memory_mb is not None]
        if self.automatic and device_mb and len(self._peaks) >= ENOUGH:
            self.automatic = False
            self.share = share_for(max(self._peaks), device_mb, median(self._busy) if self._busy else None)

    def bundle(self, share: float) -> dict[str, float]:
        found = {"CPU": float(self.cpus)}
        if share:
            found["GPU"] = share
        if self.memory:
            found["memory"] = float(self.memory)
        return found

    def room(self, cluster: Mapping[str, float]) -> int:
        """How many workers the cluster holds at the present share."""
        limits = [cluster.get(kind, 0.0) / amount for kind, amount in self.bundle(self.share).items() if amount]
        return max(1, math.floor(min(limits) + 1e-9)) if limits else 1


def share_for(peak_mb: float, device_mb: float, busy: float | None = None) -> float:
    """The share of a device for an item of this peak memory, with headroom, that alone keeps it this busy.

    >>> share_for(1000, 24_000), share_for(20_000, 24_000), share_for(1000, 24_000, busy=0.4)
    (0.125, 1.0, 0.3333333333333333)
    """
    fit = math.floor(device_mb / (peak_mb * HEADROOM + CONTEXT_MB))
    useful = MOST if busy is None else math.ceil(FULL / max(busy, FULL / MOST))
    return 1.0 / max(1, min(fit, useful, MOST))
