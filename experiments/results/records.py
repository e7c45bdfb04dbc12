"""One attempt at a trial, as a worker hands it to the ledger, and its Parquet form."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from experiments.results.identity import VERSION as IDENTITY
from experiments.results.identity import TrialKey
from experiments.results.schema import TRIAL_PART
from experiments.slots import Status
from mer import sealed
from mer.sealed import Damaged, judged

_ENDED = frozenset(status.value for status in Status) - {Status.MISSING.value, Status.SKIPPED.value}


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One number of one epoch; epochs count from 1."""

    epoch: int
    split: str
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A test score under one condition, over `n` utterances."""

    condition: str
    metric: str
    value: float
    n: int


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """One utterance under one condition. `lacking`: the modalities taken away, joined by `+`."""

    condition: str
    utterance: str
    label: str
    prediction: str
    probabilities: tuple[float, ...]
    speaker: str | None = None
    dialogue: str | None = None
    lacking: str = ""


@dataclass(frozen=True)
class Cost:
    """What an attempt used, over all workers that had a hand in it."""

    wall_s: float = 0.0
    device_s: float = 0.0
    epochs: int = 0
    peak_memory_mb: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a number comes from: source, packages, machine. Filled in by the worker."""

    commit: str | None = None
    dirty: bool | None = None
    versions: str | None = None
    hardware: str | None = None
    host: str | None = None


@dataclass(frozen=True)
class TrialRecord:
    """A finished attempt: everything that is known about it. Appended once, never changed.

    `checkpoint` is a path below the results folder, `checkpoint_digest` that of the files there. `labels` gives the
    order of every prediction's probabilities.
    """

    key: TrialKey
    recipe: str
    status: Status
    attempt: int = 0
    reason: str | None = None
    space: str | None = None
    cell: str | None = None
    draw: int | None = None
    declaration: str | None = None
    valid: Mapping[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    rung: int | None = None
    rung_value: float | None = None
    cutoff: float | None = None
    curve: Sequence[EpochRow] = ()
    scores: Sequence[ScoreRow] = ()
    predictions: Sequence[PredictionRow] = ()
    labels: Sequence[str] = ()
    checkpoint: str | None = None
    checkpoint_digest: str | None = None
    cost: Cost = Cost()
    provenance: Provenance = Provenance()
    random_weights: bool | None = None
    synthetic: bool | None = None
    parameters: int | None = None
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def trial(self) -> str:
        return self.key.trial

    def row(self) -> dict[str, Any]:
        """The record as a row of the ledger's schema. Refuses NaN and infinity: a lost number is a status."""
        _finite("valid", self.valid.values())
        _finite("curve", (row.value for row in self.curve))
        _finite("scores", (row.value for row in self.scores))
        _finite("pruning", (x for x in (self.rung_value, self.cutoff) if x is not None))
        key, cost, where = self.key, self.cost, self.provenance
        return {
            "trial": self.trial,
            "attempt": self.attempt,
            "status": self.status.value,
            "reason": self.reason,
            "identity": key.version,
            "recipe": self.recipe,
            "recipe_digest": key.recipe,
            "code": key.code,
            "data": key.data,
            "corpus": key.corpus,
            "study": key.study,
            "fold": key.fold,
            "stage": key.stage,
            "root": key.root,
            "space": self.space,
            "cell": self.cell,
            "draw": self.draw,
            "declaration": self.declaration,
            "valid": [{"metric": name, "value": value} for name, value in sorted(self.valid.items())],
            "rung": self.rung,
            "rung_value": self.rung_value,
            "cutoff": self.cutoff,
            "wall_s": cost.wall_s,
            "device_s": cost.device_s,
            "epochs": cost.epochs,
            "best_epoch": self.best_epoch,
            "peak_memory_mb": cost.peak_memory_mb,
            "energy_j": cost.energy_j,
            "commit": where.commit,
            "dirty": where.dirty,
            "versions": where.versions,
            "hardware": where.hardware,
            "host": where.host,
            "random_weights": self.random_weights,
            "synthetic": self.synthetic,
            "parameters": self.parameters,
            "started": self.started,
            "ended": self.ended,
            "labels": list(self.labels),
            "checkpoint": self.checkpoint,
            "checkpoint_digest": self.checkpoint_digest,
            "curve": [_as_dict(row) for row in self.curve],
            "scores": [_as_dict(row) for row in self.scores],
            "predictions": [_as_dict(row) for row in self.predictions],
        }


def _as_dict(row: EpochRow | ScoreRow | PredictionRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def _finite(what: str, values: Iterable[float]) -> None:
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"NaN or infinity in {what}: such a trial is `diverged`, and its numbers are left out")


def encode(table: pa.Table) -> bytes:
    """A table as Parquet bytes: the same table gives the same bytes, and they prove themselves."""
    return sealed.encode([table], table.schema)


def record_table(records: Iterable[TrialRecord]) -> pa.Table:
    return pa.Table.from_pylist([record.row() for record in records], schema=TRIAL_PART)


def checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@functools.cache
def _schema(names: tuple[str, ...]) -> pa.Schema:
    return pa.schema([TRIAL_PART.field(name) for name in names], metadata=TRIAL_PART.metadata)


def conform(table: pa.Table, names: Sequence[str], where: str) -> pa.Table:
    """Rows of a part under (some of) today's columns; what an older version lacks is null.

    Raises `Damaged` for what is a table and not attempts at trials.
    """
    today, here = _schema(tuple(names)), set(table.column_names)
    for column in today:
        if column.name not in here and column.nullable:
            table = table.append_column(column, pa.nulls(len(table), column.type))
        elif not column.nullable and (column.name not in here or table[column.name].null_count):
            raise Damaged(f"not a part of a ledger: attempts without {column.name}", where=where)
    with judged(where):
        table = table.select(list(names)).cast(today)
    strange = set(table["status"].unique().to_pylist()) - _ENDED if "status" in names else set()
    if strange:
        raise Damaged(f"not a part of a ledger: status {min(strange)!r}", where=where)
    return table


__all__ = [
    "IDENTITY",
    "Cost",
    "EpochRow",
    "PredictionRow",
    "Provenance",
    "ScoreRow",
    "TrialRecord",
    "checksum",
    "conform",
    "encode",
    "record_table",
]
