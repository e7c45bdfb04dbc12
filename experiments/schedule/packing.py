"""How large a share of a GPU a worker gets: as asked, or by the peak memory that trials were measured to need.

There is one shape of worker at a time. `auto` begins with whole GPUs; once `ENOUGH` trials have been measured, workers
are replaced by smaller ones. A trial that runs out of memory is tried once more by a worker with a larger share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from experiments.schedule.work import Outcome

ENOUGH = 4
"""Trials measured before the share is set."""

HEADROOM = 1.25
CONTEXT_MB = 700.0
"""A process's CUDA context and kernels, which no allocator counts."""

MOST = 8
"""Workers on one GPU at most: beyond that they wait for its kernels rather than for memory."""


class Packing:
    """Shares and bundles. `share` changes at most once, from 1 to what was measured."""

    def __init__(self, *, cpus: float, gpus: float | None, memory: int | None = None) -> None:
        self.cpus, self.memory = cpus, memory
        self.automatic = gpus is None
        self.share = 1.0 if gpus is None else gpus
        self._peaks: list[float] = []

    @property
    def larger(self) -> float:
        """The share of a second try: twice the first, at most a whole GPU; whole numbers stay as they are."""
        return self.share if self.share >= 1 or self.share == 0 else min(1.0, 2 * self.share)

    def measured(self, outcomes: Sequence[Outcome], device_mb: float | None) -> None:
        """Learn from finished trials what they needed."""
        self._peaks += [outcome.peak_memory_mb for outcome in outcomes if outcome.peak_memory_mb is not None]
        if self.automatic and device_mb and len(self._peaks) >= ENOUGH:
            self.automatic = False
            self.share = share_for(max(self._peaks), device_mb)

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


def share_for(peak_mb: float, device_mb: float) -> float:
    """The share of a device that holds a trial of this peak memory with headroom: 1, 1/2, 1/3, ...

    >>> share_for(1000, 24_000), share_for(20_000, 24_000)
    (0.125, 1.0)
    """
    fit = math.floor(device_mb / (peak_mb * HEADROOM + CONTEXT_MB))
    return 1.0 / min(max(fit, 1), MOST)
