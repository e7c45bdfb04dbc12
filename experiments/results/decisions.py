"""Prunings and selections, with the numbers they were made from. Evidence: nothing is ever decided from it.

    ledger/_decisions/<space>/<unique>.parquet

A decision is a function of the plan and of the trials' curves, so that a run that is resumed makes the same ones again;
reading keeps one of each. They are written together, about once a second, and merged when there are many files: one
file for each would cost the driver more than anything else that it does for a trial.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa

from experiments.results.records import encode
from experiments.results.schema import DECISIONS
from mer import sealed
from mer.errors import UserError
from mer.faults import visit
from mer.sealed import Damaged, judged
from mer.storage import Store

FOLDER = "ledger/_decisions"
CORRUPT = "ledger/_corrupt"

_log = logging.getLogger(__name__)

EVERY_S = 1.0
"""How long decisions may wait for others to be written with. The record of a pruned trial has its own in it."""

MANY = 64
"""Files that may lie about before they are merged."""


class DecisionRow(NamedTuple):
    """One row of decisions.parquet."""

    corpus: str
    cell: str
    study: int
    fold: int
    kind: str
    draw: int
    trial: str | None
    rung: int | None
    value: float | None
    cutoff: float | None
    peers: int | None
    reason: str | None


def decision_table(rows: Iterable[DecisionRow]) -> pa.Table:
    """Rows as a table: sorted, each once."""
    unique = sorted(set(rows), key=lambda row: tuple((item is not None, item) for item in row))
    return pa.Table.from_pylist([row._asdict() for row in unique], schema=DECISIONS)


def append_decisions(store: Store, rows: Sequence[DecisionRow], space: str) -> None:
    visit("decision.before")
    store.put(f"{FOLDER}/{space}/{uuid.uuid4().hex[:12]}.parquet", encode(decision_table(rows)))
    visit("decision.after")


class DecisionLog:
    """The decisions of a run, on their way to the store."""

    def __init__(self, store: Store, space: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self.space, self.clock = store, space, clock
        self._rows: list[DecisionRow] = []
        self._written = clock()

    def add(self, rows: Iterable[DecisionRow]) -> None:
        """Take rows in, and write what waits now and then. What cannot be written now waits on."""
        self._rows += rows
        if self._rows and self.clock() - self._written >= EVERY_S:
            with contextlib.suppress(OSError, MemoryError, UserError):
                self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._written = self.clock()
        if self._rows:
            append_decisions(self.store, self._rows, self.space)
            self._rows = []

    def compact(self) -> None:
        """Keep the number of files bounded. What is merged is removed once the merged file is there."""
        self.flush()
        names = [f"{FOLDER}/{self.space}/{entry.name}" for entry in self.store.list(f"{FOLDER}/{self.space}")]
        if len(names) <= MANY:
            return
        parts = {name: rows for name in names if (rows := _read(self.store, name)) is not None}
        append_decisions(self.store, [row for rows in parts.values() for row in rows], self.space)
        for name in parts:
            self.store.remove(name)


def read_decisions(store: Store, space: str) -> list[DecisionRow]:
    """Every decision on record for a space, by any plan of that name; damaged files are set aside."""
    rows: set[DecisionRow] = set()
    for entry in store.list(f"{FOLDER}/{space}"):
        rows.update(_read(store, f"{FOLDER}/{space}/{entry.name}") or ())
    return sorted(rows, key=lambda row: tuple((item is not None, item) for item in row))


def _read(store: Store, name: str) -> list[DecisionRow] | None:
    """The decisions in a file; None if it is gone, or damaged and set aside."""
    try:
        data = store.read(name)
        table = sealed.read(data, name)
        with judged(name):
            return [DecisionRow(**row) for row in table.select(DECISIONS.names).cast(DECISIONS).to_pylist()]
    except FileNotFoundError:
        return None
    except Damaged as damage:
        aside = f"{CORRUPT}/decisions-{name.removeprefix(FOLDER + '/').replace('/', '-')}"
        _log.warning("%s: set aside as %s; the run that made these decisions makes them again", damage, aside)
        store.put(aside, data)
        store.remove(name)
        return None
