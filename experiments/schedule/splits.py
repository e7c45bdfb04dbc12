"""What trials of one process share: corpora, their cuts, and their encoded utterances. Nothing that a trial can change.

A corpus is encoded once for all cuts of it (folds, resplits of studies), and lies on the device once. Only where what
an utterance holds depends on who else is in its split (a language model's context) is each split encoded by itself.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import torch

from experiments.schedule.work import Spec
from experiments.space.plan import CorpusRef
from mer.data.corpus import Corpus, TestSet, TrainValid, Utterance, load_corpus
from mer.data.folds import Fold, folds
from mer.data.loading import SplitData, prepare_split
from mer.data.places import copy_here
from mer.data.store.shared import open_features
from mer.errors import UnfitMachine, reading_corpus
from mer.model import Model

POOLS, SPLITS = 4, 64
"""Encoded corpora that a process keeps, and cuts of them."""

T = TypeVar("T")


class Splits:
    """The encoded splits of a process."""

    def __init__(self) -> None:
        self._pools = _Recent[SplitData | None](POOLS)
        self._splits = _Recent[SplitData](SPLITS)

    def get(
        self, corpus: Corpus, fingerprint: str, utterances: tuple[Utterance, ...], model: Model, device: torch.device
    ) -> SplitData:
        """A split, encoded by the model's encoders."""
        encoders = model.encoder_table()
        sources = tuple((name, encoder.reads()) for name, encoder in encoders.items())
        pool_key = (fingerprint, sources, str(device))

        def pool() -> SplitData | None:
            everything = tuple(corpus.utterances())
            if any(encoder.transcripts_read(everything) is not None for encoder in encoders.values()):
                return None
            return prepare_split(corpus.info, everything, encoders, open_features(), device)

        def split() -> SplitData:
            whole = self._pools.get(pool_key, pool)
            if whole is None:
                return prepare_split(corpus.info, utterances, encoders, open_features(), device)
            return whole.select(utterances)

        return self._splits.get((pool_key, tuple(utterance.id for utterance in utterances)), split)


class _Recent(OrderedDict[Hashable, T]):
    """The last few of what is expensive to make."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def get(self, key: Hashable, make: Callable[[], T]) -> T:  # type: ignore[override]
        if key not in self:
            self[key] = make()
        self.move_to_end(key)
        while len(self) > self._most:
            self.popitem(last=False)
        return self[key]


def corpus_of(ref: CorpusRef) -> Corpus:
    """A corpus, proven to be the one that was planned with: on another machine there may be another."""
    return _corpus(ref.folder, ref.fingerprint, ref.address)


@functools.lru_cache(maxsize=4)
@reading_corpus()
def _corpus(folder: Path, fingerprint: str, address: str | None) -> Corpus:
    here = copy_here(folder, address)
    corpus = load_corpus(here)
    found = corpus.fingerprint()
    if found != fingerprint:
        raise UnfitMachine(
            "the corpus here is not the one that the run was planned with",
            where=str(here),
            expected=f"fingerprint {fingerprint}, found {found}",
            hint="Copy the same corpus to every machine, or start the run again.",
        )
    return corpus


def train_valid(spec: Spec, split_seed: int) -> TrainValid:
    """The training and validation part of a trial."""
    return _train_valid(*_where(spec), split_seed if spec.resplit else None)


def test_set(spec: Spec) -> TestSet:
    folder, fingerprint, address, by, count, number = _where(spec)
    return _corpus(folder, fingerprint, address).test_set(_fold(folder, fingerprint, address, by, count, number))


Where = tuple[Path, str, str | None, str | None, int, int]


def _where(spec: Spec) -> Where:
    corpus, cut = spec.corpus, spec.folds
    return corpus.folder, corpus.fingerprint, corpus.address, cut.by, cut.count, spec.key.fold


@functools.lru_cache(maxsize=SPLITS)
def _train_valid(
    folder: Path, fingerprint: str, address: str | None, by: str | None, count: int, number: int, split_seed: int | None
) -> TrainValid:
    fold = _fold(folder, fingerprint, address, by, count, number)
    return _corpus(folder, fingerprint, address).train_valid(split_seed, fold)


@functools.lru_cache(maxsize=SPLITS)
def _fold(folder: Path, fingerprint: str, address: str | None, by: str | None, count: int, number: int) -> Fold | None:
    if by is None:
        return None
    return folds(_corpus(folder, fingerprint, address), by, count)[number]  # type: ignore[arg-type]
