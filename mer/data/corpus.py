"""A corpus: one folder of JSONL splits with wavs, features, transcripts, or any mixture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a split. `source` is `train.jsonl:12`, for messages."""

    id: str
    speaker: str
    emotion: str
    source: str
    wav: str | None = None
    start: float | None = None
    end: float | None = None
    transcript: str | None = None
    dialogue: str | None = None
    turn: float | None = None
    row: int | None = None
    lacks: frozenset[str] = field(default_factory=frozenset)
    """Modalities that the corpus has but this utterance has not."""


@dataclass(frozen=True)
class CorpusInfo:
    """What is known of a corpus apart from its utterances."""

    folder: Path
    name: str
    labels: tuple[str, ...]
    language: str | None = None
    note: str = ""
    synthetic: bool = False
    features: Mapping[str, int] = field(default_factory=dict)
    """Pre-extracted features: modality to width; the arrays lie in `features/<modality>.npy`."""


@dataclass(frozen=True)
class TrainValid:
    """What tuning code is handed: no test utterance can be reached from here."""

    info: CorpusInfo
    train: tuple[Utterance, ...]
    valid: tuple[Utterance, ...]


@dataclass(frozen=True)
class TestSet:
    """What the confirm stage alone is handed, once its model is chosen."""

    __test__ = False  # not a pytest class

    info: CorpusInfo
    test: tuple[Utterance, ...]
