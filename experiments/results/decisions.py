"""Prunings and selections, with the numbers they were made from. Evidence: nothing is ever decided from it.

    ledger/_decisions/<space>/<unique>.parquet

A decision is a function of the plan and of the trials' curves, so that a run that is resumed makes the same ones again;
reading keeps one of each.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.results.records import encode
from experiments.results.schema import DECISIONS
from mer.faults import visit
from mer.storage import Store

FOLDER = "ledger/_decisions"


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


def read_decisions(store: Store, space: str) -> list[DecisionRow]:
    """Every decision on record for a space, by any plan of that name; damaged files are passed over."""
    rows: set[DecisionRow] = set()
    for entry in store.list(f"{FOLDER}/{space}"):
        try:
            table = pq.read_table(io.BytesIO(store.read(f"{FOLDER}/{space}/{entry.name}")), schema=DECISIONS)
        except (OSError, pa.ArrowException):
            continue
        rows.update(DecisionRow(**row) for row in table.to_pylist())
    return sorted(rows, key=lambda row: tuple((item is not None, item) for item in row))
