"""The real work of a trial: `mer`'s trainer, an epoch at a time, on the corpus and streams that the spec names.

A worker process keeps what trials share and nothing that a trial can change: corpora, and the encoded splits of the
last few (corpus, encoders, split), which are read-only.
"""

from __future__ import annotations

import functools
import io
import json
import resource
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import torch

from experiments.results.records import EpochRow, PredictionRow, ScoreRow
from experiments.schedule.work import Diverged, Finished, Spec, Work
from experiments.slots import Stage
from mer import training
from mer.checkpoint import save_checkpoint
from mer.data.corpus import Corpus, CorpusInfo, Utterance, load_corpus
from mer.data.folds import Fold, folds
from mer.data.loading import SplitData, prepare_split
from mer.data.missing import availability
from mer.data.places import copy_here
from mer.data.store.shared import open_features
from mer.encoders.base import Encoder
from mer.errors import UnfitMachine
from mer.evaluation import predict
from mer.model import Model
from mer.recipe import MissingConfig, Recipe
from mer.streams import streams

KEPT_SPLITS = 6
"""Encoded splits that a process keeps: train, valid and test of two corpora or encoders."""


def make_training_work(spec: Spec) -> Work:
    """The work of a trial; what every executor hands to its workers."""
    return TrainingWork(spec)


class TrainingWork:
    """One trial in training."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.recipe = Recipe.model_validate(json.loads(spec.recipe), strict=False)
        self.corpus = _corpus(spec.corpus.folder, spec.corpus.fingerprint, spec.corpus.address)
        self.fold = _fold(self.corpus, spec)
        key = spec.key
        self.streams = streams(key.root, key.corpus, key.study, key.fold, key.stage, self.recipe.replica)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data = self.corpus.train_valid(self.streams.split if spec.resplit else None, self.fold)
        self.trainer = training.Trainer(self.recipe, data, self.streams, device=self.device, load=self._load)

    def _load(self, info: CorpusInfo, utterances: tuple[Utterance, ...], model: Model) -> SplitData:
        return _splits.get(
            (
                self.spec.corpus.fingerprint,
                hash(tuple(utterance.id for utterance in utterances)),
                json.dumps(self.recipe.model_dump(mode="json")["encoders"], sort_keys=True),
                str(self.device),
            ),
            info,
            utterances,
            model,
            self.device,
        )

    @property
    def epochs_done(self) -> int:
        return self.trainer.epochs_done

    @property
    def finished(self) -> bool:
        return self.trainer.finished

    def run_to(self, epoch: int) -> list[EpochRow]:
        rows: list[EpochRow] = []
        while self.epochs_done < epoch and not self.finished:
            try:
                report = self.trainer.epoch()
            except training.Diverged as error:
                raise Diverged(str(error)) from None
            rows.append(EpochRow(report.epoch, "train", "loss", report.train_loss))
            rows.append(EpochRow(report.epoch, "train", "lr", report.learning_rate))
            rows += [EpochRow(report.epoch, "valid", name, value) for name, value in report.valid.items()]
        return rows

    def finish(self) -> Finished:
        model = self.trainer.best_model()
        best = self.trainer.best_epoch
        scores: list[ScoreRow] = []
        predictions: list[PredictionRow] = []
        if self.spec.slot.stage is Stage.CONFIRM:
            test = self.corpus.test_set(self.fold)
            data = self._load(test.info, test.test, model)
            for condition in self.spec.conditions:
                found, rows = self._score(model, data, condition.name, condition.missing)
                scores += found
                predictions += rows
        return Finished(
            valid=dict(self.trainer.history[best - 1].valid),
            best_epoch=best,
            scores=scores,
            predictions=predictions,
            labels=self.corpus.info.labels,
            random_weights=any(bool(encoder.random_weights) for encoder in model.encoders.values()),
            synthetic=self.corpus.info.synthetic,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )

    def _score(
        self, model: Model, data: SplitData, condition: str, missing: Any
    ) -> tuple[list[ScoreRow], list[PredictionRow]]:
        """One condition: its masks are functions of study, fold and utterance, the same for every cell."""
        config = MissingConfig.model_validate(dict(missing), strict=False)
        kept = availability(
            config, data.ids, data.modalities, self.streams.masks, present=data.present, root=self.corpus.info.folder
        )
        precision = self.recipe.training.precision
        found = predict(model, data, kept, dialogues=self.trainer.dialogues, precision=precision)
        scores = [ScoreRow(condition, name, value, len(data)) for name, value in found.scores().items()]
        labels, taken = self.corpus.info.labels, data.present & ~kept
        rows = [
            PredictionRow(
                condition,
                utterance.id,
                utterance.emotion,
                labels[int(chosen)],
                tuple(float(p) for p in probabilities),
                utterance.speaker,
                utterance.dialogue,
                "+".join(sorted(name for name, gone in zip(data.modalities, lost, strict=True) if gone)),
            )
            for utterance, chosen, probabilities, lost in zip(
                data.utterances, found.predicted, found.probabilities, taken, strict=True
            )
        ]
        return scores, rows

    def save_checkpoint(self, folder: Path, keep: str) -> None:
        """`keep: best` writes the model of the best validation epoch; `all` the last epoch's too, in `last/`."""
        trainer, info = self.trainer, self.corpus.info
        best = trainer.history[trainer.best_epoch - 1]
        save_checkpoint(
            folder, trainer.best_model(), self.recipe, info, best_epoch=best.epoch, valid=best.valid,
            trial=self.spec.trial,
        )  # fmt: skip
        if keep == "all":
            last = trainer.history[-1]
            save_checkpoint(
                folder / "last", trainer.model, self.recipe, info, epoch=last.epoch, valid=last.valid,
                trial=self.spec.trial,
            )  # fmt: skip

    def state(self) -> bytes:
        sink = io.BytesIO()
        torch.save(self.trainer.state_dict(), sink)
        return sink.getvalue()

    def restore(self, state: bytes) -> None:
        self.trainer.load_state_dict(torch.load(io.BytesIO(state), map_location=self.device, weights_only=True))

    def memory_mb(self) -> float | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # of the process, trials before it included

    def close(self) -> None:
        del self.trainer


class _Splits:
    """The last few encoded splits of this process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, SplitData] = OrderedDict()

    def get(
        self,
        key: Hashable,
        info: CorpusInfo,
        utterances: tuple[Utterance, ...],
        model: Model,
        device: torch.device,
    ) -> SplitData:
        found = self._kept.get(key)
        if found is None:
            found = prepare_split(info, utterances, _encoders(model), open_features(), device)
            self._kept[key] = found
            while len(self._kept) > KEPT_SPLITS:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return found


def _encoders(model: Model) -> dict[str, Encoder]:
    return {name: cast("Encoder", encoder) for name, encoder in model.encoders.items()}


_splits = _Splits()


@functools.lru_cache(maxsize=4)
def _corpus(folder: Path, fingerprint: str, address: str | None) -> Corpus:
    """A corpus, proven to be the one that was planned with: on another machine there may be another."""
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


def _fold(corpus: Corpus, spec: Spec) -> Fold | None:
    if spec.folds.by is None:
        return None
    return folds(corpus, spec.folds.by, spec.folds.count)[spec.key.fold]  # type: ignore[arg-type]
