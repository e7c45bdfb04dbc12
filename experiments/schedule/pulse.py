"""What driver and workers of a run tell each other beside results."""

from __future__ import annotations

import time


class Pulse:
    """What workers are doing between two results: an actor that only remembers the last sign of life of each, and
    which nodes the driver has let in (`experiments.schedule.nodes`)."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[str, int, float, float]] = {}
        self.nodes: dict[str, bool] = {}
        self.stopping = False

    def admit(self, node: str, may: bool) -> None:
        self.nodes[node] = may

    def admitted(self, node: str) -> bool | None:
        return self.nodes.get(node)

    def beat(self, worker: str, trial: str, epochs: int, value: float) -> bool:
        self.last[worker] = (trial, epochs, value, time.monotonic())
        return self.stopping

    def stop(self) -> None:
        self.stopping = True

    def read(self) -> dict[str, tuple[str, int, float, float]]:
        """Worker to trial, epochs, last value, and seconds since it was heard of."""
        now = time.monotonic()
        return {name: (trial, epochs, value, now - then) for name, (trial, epochs, value, then) in self.last.items()}
