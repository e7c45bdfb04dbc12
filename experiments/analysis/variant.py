"""One variant: a cell of a run, seen through one of its trained models and all of its studies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
IntArray = np.ndarray[Any, np.dtype[np.integer[Any]]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class SplitView:
    """A model on one split, utterance by utterance. `transcripts` are None where they are kept out."""

    ids: tuple[str, ...]
    labels: IntArray
    probabilities: FloatArray
    representations: dict[str, FloatArray]
    aux: dict[str, FloatArray]
    speakers: tuple[str, ...]
    files: tuple[str | None, ...]
    transcripts: tuple[str | None, ...]
    seconds: FloatArray
    words: IntArray

    @property
    def predicted(self) -> IntArray:
        chosen: IntArray = self.probabilities.argmax(axis=1)
        return chosen

    @property
    def wrong(self) -> BoolArray:
        found: BoolArray = self.predicted != self.labels
        return found


@dataclass(frozen=True)
class Curve:
    """One training run: epoch numbers, training loss, validation scores in the metric that chose the model."""

    study: int
    epochs: IntArray
    train_loss: FloatArray
    valid: FloatArray


@dataclass(frozen=True)
class Variant:
    """A cell with the model that stands for it: of its studies' models the one best on validation.

    modalities  what it reads; one of them: a single-modality baseline
    """

    name: str
    cell: str
    trial: str
    study: int
    checkpoint: Path
    labels: tuple[str, ...]
    modalities: tuple[str, ...]
    metric: str
    curves: tuple[Curve, ...]
    valid: SplitView
    test: SplitView
    synthetic: bool = False
    random_weights: bool = False
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def caption(self) -> str:
        """What every picture says of where it comes from."""
        parts = [f"study {self.study}, trial {self.trial[:8]}"]
        if self.synthetic:
            parts.append("synthetic data")
        if self.random_weights:
            parts.append("random encoder weights")
        return "; ".join(parts)


PARTS = {"audio": "temporal", "text": "contextual", "fused": "fusion"}
"""The names that representations go by in file names; other modalities keep their own."""


def part_name(representation: str) -> str:
    return PARTS.get(representation, representation)
