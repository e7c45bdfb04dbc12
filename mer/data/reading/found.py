"""What reading a folder gives: all that could be read, together with all that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mer.data.corpus import SPLITS, Corpus, CorpusInfo, Utterance
from mer.errors import UserError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One thing found in a corpus. An `error` forbids training; a `warning` should be looked at; a `note` informs.

    `code` is a stable name of the kind of problem, for tests and for people who filter.
    """

    severity: Severity
    code: str
    problem: str
    where: str | None = None
    expected: str | None = None
    nearest: str | None = None
    hint: str | None = None

    def as_error(self) -> UserError:
        return UserError(self.problem, where=self.where, expected=self.expected, nearest=self.nearest, hint=self.hint)

    def __str__(self) -> str:
        return str(self.as_error())


@dataclass(frozen=True)
class FeatureFile:
    """The shape of `features/<modality>.npy`: how many rows it holds, how wide they are, which of them are empty."""

    path: Path
    rows: int
    dim: int
    frames: int
    empty: frozenset[int] = frozenset()


@dataclass
class Reading:
    """All that could be read of a folder, together with all that is wrong with it."""

    folder: Path
    info: CorpusInfo
    splits: dict[str, list[Utterance]] = field(default_factory=dict)
    features: dict[str, FeatureFile] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    trained: set[str] = field(default_factory=set)
    """Labels of train.jsonl, those of lines that are refused for another reason included."""

    def corpus(self) -> Corpus:
        parts = [tuple(self.splits[split]) for split in SPLITS]
        return Corpus(self.info, *parts)

    def add(self, severity: Severity, code: str, problem: str, where: str | None = None, **more: Any) -> None:
        self.problems.append(Problem(severity, code, problem, where, **more))
