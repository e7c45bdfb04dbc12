"""A corpus: one folder of JSONL splits with wavs, features, transcripts, or any mixture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mer.errors import UserErrors

if TYPE_CHECKING:
    from mer.data.folds import Fold

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


@dataclass(frozen=True)
class Corpus:
    """A corpus that has been read and found sound. Training code asks it for a `TrainValid` or a `TestSet`."""

    info: CorpusInfo
    train: tuple[Utterance, ...]
    valid: tuple[Utterance, ...]
    test: tuple[Utterance, ...]

    def utterances(self) -> Iterator[Utterance]:
        """Every utterance, in the order of the files."""
        yield from self.train
        yield from self.valid
        yield from self.test

    @property
    def modalities(self) -> tuple[str, ...]:
        """What an encoder could be given, `text` from transcripts, `audio` from wavs, any from features.

        A modality is offered when at least one utterance of the training split has it.
        """
        known = dict.fromkeys(("text", "audio", *self.info.features))
        return tuple(name for name in known if any(name not in utterance.lacks for utterance in self.train))

    @property
    def has_dialogues(self) -> bool:
        """Does every utterance belong to a dialogue?"""
        return all(utterance.dialogue is not None for utterance in self.utterances())

    def train_valid(self, split_seed: int | None = None, fold: Fold | None = None) -> TrainValid:
        """The training and validation part: as the files say, of a fold, or resplit for a study.

        A resplit keeps the sizes and the label shares, and keeps whole whatever train and valid did not share
        before: speakers, dialogues, sentences (see `mer.data.folds.resplit`).
        """
        train, valid = self.train, self.valid
        if fold is not None:
            rest = [utterance for utterance in self.utterances() if utterance.id not in fold.test]
            train = tuple(utterance for utterance in rest if utterance.id not in fold.valid)
            valid = tuple(utterance for utterance in rest if utterance.id in fold.valid)
        if split_seed is not None:
            from mer.data.folds import resplit

            train, valid = resplit(train, valid, split_seed)
        return TrainValid(self.info, train, valid)

    def test_set(self, fold: Fold | None = None) -> TestSet:
        """The test part: as the files say, or of a fold."""
        if fold is None:
            return TestSet(self.info, self.test)
        return TestSet(self.info, tuple(utterance for utterance in self.utterances() if utterance.id in fold.test))

    def fingerprint(self) -> str:
        """A digest of everything in the corpus that can change a number: utterances, labels, split, features, wavs.

        The folder's place and the notes in `corpus.json` are not part of it. File contents are hashed once and
        remembered by size and time of change (see `mer.data.fingerprint`).
        """
        from mer.data.fingerprint import fingerprint

        return fingerprint(self)


def load_corpus(folder: Path | str) -> Corpus:
    """Read a corpus folder, or refuse it with all of its problems at once.

    Audio is not decoded here and feature arrays are not read through: `mer data check` does both.
    """
    from mer.data.reading import read_folder

    reading = read_folder(Path(folder))
    errors = [problem.as_error() for problem in reading.problems if problem.severity == "error"]
    if errors:
        raise errors[0] if len(errors) == 1 else UserErrors(errors)
    return reading.corpus()
