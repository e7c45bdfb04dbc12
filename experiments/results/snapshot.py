"""A ledger at one moment: for each trial the attempt that counts, and how many there were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.slots import Status

RANK = {
    Status.COMPLETE: 0,
    Status.DIVERGED: 1,
    Status.PRUNED: 2,
    Status.OOM: 3,
    Status.FAILED: 3,
}
"""Which attempt tells most about a trial. Training is deterministic: two that ended alike tell the same."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of a trial. `attempts` counts all that were recorded, whatever became of them."""

    trial: str
    status: Status
    reason: str | None
    attempts: int
    epochs: int
    curve: tuple[float, ...]
    conditions: frozenset[str]


def effective_rows(table: pa.Table) -> dict[str, int]:
    """Trial to the row of its attempt that counts.

    The lowest attempt of the most telling status: complete before diverged before pruned (the longer the better)
    before failed or out of memory (of which the latest counts). Repetitions of an attempt are equal; any will do.
    """
    trials = table["trial"].to_pylist()
    statuses = table["status"].to_pylist()
    attempts = table["attempt"].to_pylist()
    epochs = table["epochs"].to_pylist()
    ended = table["ended"].cast(pa.int64()).to_pylist()
    best: dict[str, tuple[tuple[int, ...], int]] = {}
    for row, trial in enumerate(trials):
        status = Status(statuses[row])
        rank, attempt, time = RANK[status], attempts[row], ended[row] or 0
        if status is Status.PRUNED:
            key = (rank, -(epochs[row] or 0), attempt, time)
        elif rank == 3:
            key = (rank, -attempt, -time, int(status is Status.OOM))
        else:
            key = (rank, attempt, time, 0)
        known = best.get(trial)
        if known is None or key < known[0]:
            best[trial] = (key, row)
    return {trial: row for trial, (_, row) in best.items()}


class Snapshot:
    """Read-only. `table` has one row for every attempt, without predictions."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @cached_property
    def rows(self) -> Mapping[str, int]:
        return effective_rows(self.table)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __contains__(self, trial: object) -> bool:
        return trial in self.rows

    @cached_property
    def effective(self) -> pa.Table:
        """One row for each trial, sorted by trial."""
        order = [self.rows[trial] for trial in sorted(self.rows)]
        return self.table.take(pa.array(order, pa.int64()))

    @cached_property
    def attempts(self) -> Mapping[str, int]:
        """Trial to the number of its next attempt: one more than the highest on record."""
        highest: dict[str, int] = {}
        for trial, attempt in zip(self.table["trial"].to_pylist(), self.table["attempt"].to_pylist(), strict=True):
            highest[trial] = max(highest.get(trial, 0), attempt + 1)
        return highest

    @cached_property
    def conditions(self) -> Mapping[str, frozenset[str]]:
        """Trial to the conditions it has been scored under, in any complete attempt."""
        done = self.table.filter(pc.equal(self.table["status"], Status.COMPLETE.value))
        return {trial: frozenset(rows) for trial, rows in _grouped(done, "scores", "condition").items()}

    def models(self, trial: str) -> frozenset[str]:
        """The digests of a trial's checkpoint on record, of any attempt: the last one to be written lies there."""
        mine = self.table.filter(pc.equal(self.table["trial"], trial))
        return frozenset(digest for digest in mine["checkpoint_digest"].to_pylist() if digest)

    def curves(self, metric: str) -> dict[str, tuple[float, ...]]:
        """Trial to its validation values after each epoch, by one metric."""
        return curves(self.effective, metric)

    def known(self, metric: str) -> dict[str, Known]:
        """Everything a driver needs of each trial."""
        curve = self.curves(metric)
        table = self.effective
        columns = [table[name].to_pylist() for name in ("trial", "status", "reason", "epochs")]
        return {
            trial: Known(
                trial=trial,
                status=Status(status),
                reason=reason,
                attempts=self.attempts[trial],
                epochs=epochs or 0,
                curve=curve.get(trial, ()),
                conditions=self.conditions.get(trial, frozenset()),
            )
            for trial, status, reason, epochs in zip(*columns, strict=True)
        }


def curves(table: pa.Table, metric: str) -> dict[str, tuple[float, ...]]:
    """As `Snapshot.curves`, for a table with one row a trial."""
    column = table["curve"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, table.schema.field("curve").type)
    rows = column.flatten()
    wanted = pc.and_(pc.equal(rows.field("split"), "valid"), pc.equal(rows.field("metric"), metric))
    owner = pc.list_parent_indices(column).filter(wanted).to_numpy(zero_copy_only=False)
    values = rows.field("value").filter(wanted).to_numpy(zero_copy_only=False)
    epochs = rows.field("epoch").filter(wanted).to_numpy(zero_copy_only=False)
    order = np.lexsort((epochs, owner))
    owner, values = owner[order], values[order]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    names = table["trial"].to_pylist()
    pieces = np.split(values, starts[1:]) if len(starts) else []
    return {names[owner[start]]: tuple(piece.tolist()) for start, piece in zip(starts, pieces, strict=True)}


def _grouped(table: pa.Table, column: str, field: str) -> dict[str, set[str]]:
    """Trial to the distinct values of a field in one of its nested columns."""
    nested = table[column].combine_chunks()
    if isinstance(nested, pa.ChunkedArray):
        nested = pa.concat_arrays(nested.chunks) if nested.num_chunks else pa.nulls(0, table.schema.field(column).type)
    names = table["trial"].to_pylist()
    found: dict[str, set[str]] = {}
    owners = pc.list_parent_indices(nested).to_pylist()
    for owner, value in zip(owners, nested.flatten().field(field).to_pylist(), strict=True):
        found.setdefault(names[owner], set()).add(value)
    return found
