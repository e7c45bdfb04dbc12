"""Keeps the ledger small while a run goes on, without keeping its workers waiting."""

from __future__ import annotations

import threading

from experiments.results.ledger import Ledger
from experiments.schedule.aside import Aside

EVERY_S = 15.0
"""How often it looks whether there are many loose parts."""


class Compactor:
    """A thread that merges loose parts when there are many; a part costs milliseconds, and a driver that merged
    thousands between two orders would leave its workers idle for a minute."""

    def __init__(self, ledger: Ledger, aside: Aside, every_s: float | None = None) -> None:
        self.ledger, self.every_s = ledger, EVERY_S if every_s is None else every_s
        self._aside = aside
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="compactor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let a compaction that has begun come to its end, and merge what is left."""
        self._stop.set()
        self._thread.join()
        self._compact()

    def _work(self) -> None:
        while not self._stop.wait(self.every_s):
            self._compact()

    def _compact(self) -> None:
        self._aside("the ledger's files cannot be merged", self.ledger.compact_if_needed)
