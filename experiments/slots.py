"""The words that planning, protocol, execution and results share. One meaning each; see docs/architecture.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Scalar = str | int | float | bool


class Stage(StrEnum):
    TUNE = "tune"
    CONFIRM = "confirm"


class Status(StrEnum):
    """How a slot ended. `missing` is a planned slot with no record."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OOM = "oom"
    FAILED = "failed"
    SKIPPED = "skipped"
    MISSING = "missing"


@dataclass(frozen=True, order=True, slots=True)
class Slot:
    """What the plan counts. `draw` is -1 in the confirm stage."""

    corpus: str
    cell: str
    study: int
    fold: int
    stage: Stage
    draw: int = -1

    def __str__(self) -> str:
        draw = f" draw {self.draw}" if self.stage is Stage.TUNE else ""
        return f"{self.corpus} | {self.cell} | study {self.study} fold {self.fold} | {self.stage}{draw}"


@dataclass(frozen=True)
class Cell:
    """One combination of levels on one corpus.

    name     readable and unique within its corpus: `fusion=tacfn pooling=attn`
    levels   factor to label, in the order of the space
    recipe   resolved recipe as plain data (defaults < base < levels), without a draw
    sources  recipe path to `file:line` of the layer that set it
    skip     the rule that excludes the cell, or None
    tuning   the group that shares its tuning (`tune.per`); cells of a group have the same draws and winner
    """

    corpus: str
    name: str
    levels: Mapping[str, Scalar]
    recipe: Mapping[str, object]
    sources: Mapping[str, str] = field(default_factory=dict)
    skip: str | None = None
    tuning: str = ""
