"""How busy a GPU is while a worker trains, by its driver's own measure, sampled in the background."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

EVERY_S = 0.5
"""The driver's figure is a mean over about this long."""


class Occupancy:
    """Between `start` and `stop`: the mean share of time in which the GPU was computing; None where nobody knows.

    read  the share at this moment; by default asked of the GPU that this process computes on
    """

    def __init__(self, read: Callable[[], float | None] | None = None, every_s: float = EVERY_S) -> None:
        self._read, self._every_s = read or gpu_utilisation, every_s
        self._samples: list[float] = []
        self._ended: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._read() is None:
            return
        ended = self._ended = threading.Event()
        self._samples = []

        def sample() -> None:
            while not ended.wait(self._every_s):
                share = self._read()
                if share is not None:
                    self._samples.append(share)

        self._thread = threading.Thread(target=sample, name="occupancy", daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        if self._ended is None or self._thread is None:
            return None
        self._ended.set()
        self._thread.join()
        self._ended = self._thread = None
        return sum(self._samples) / len(self._samples) if self._samples else None


def gpu_utilisation() -> float | None:
    """0 to 1, of the current CUDA device; None without one, or where its driver does not tell."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    try:
        return float(torch.cuda.utilization()) / 100
    except Exception:  # no management library, or not permitted: all mean "not known"
        return None
