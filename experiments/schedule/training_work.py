"""The real work of a trial: `mer`'s trainer, an epoch at a time, on the corpus and streams that the spec names.

A worker process keeps what trials share and nothing that a trial can change: see `experiments.schedule.splits`.
"""

from __future__ import annotations

import io
import resource
from pathlib import Path
from typing import Any

import torch

from experiments.results.records import EpochRow, PredictionRow, ScoreRow
from experiments.schedule import splits
from experiments.schedule.work import Epoch, Finished, Spec, Work
from experiments.slots import Stage
from mer import training
from mer.bundle.trainer import BundleTrainer
from mer.checkpoint import save_checkpoint
from mer.data.corpus import CorpusInfo, Utterance
from mer.data.loading import SplitData
from mer.data.missing import availability
from mer.evaluation import predict
from mer.model import Model
from mer.precision import default_device
from mer.recipe import MissingConfig, read_recipe
from mer.streams import streams
from mer.training import EpochReport, Trainer

_splits = splits.Splits()


def make_training_work(specs: tuple[Spec, ...]) -> Work:
    """The work of an item; what every executor hands to its workers."""
    return TrainingWork(specs)


class TrainingWork:
    """One trial in training, or a bundle of them."""

    def __init__(self, specs: tuple[Spec, ...]) -> None:
        self.specs = specs
        self.recipes = [read_recipe(spec.recipe, f"trial {spec.trial}", allow_outside=None) for spec in specs]
        self.corpus = splits.corpus_of(specs[0].corpus)
        self.device = default_device()
        seeds, data = [], []
        for spec, recipe in zip(specs, self.recipes, strict=True):
            key = spec.key
            own = streams(key.root, key.corpus, key.study, key.fold, key.stage, recipe.replica)
            seeds.append(own)
            data.append(splits.train_valid(spec, own.split))
        self.bundle: BundleTrainer | None = None
        if len(specs) == 1:
            self.trainers = [Trainer(self.recipes[0], data[0], seeds[0], device=self.device, load=self._load)]
        else:
            self.bundle = BundleTrainer(self.recipes, data, seeds, device=self.device, load=self._load)
            self.trainers = self.bundle.members
        self._over = [False] * len(specs)

    def _load(self, info: CorpusInfo, utterances: tuple[Utterance, ...], model: Model) -> SplitData:
        return _splits.get(self.corpus, self.specs[0].corpus.fingerprint, utterances, model, self.device)

    @property
    def epochs_done(self) -> int:
        return max(trainer.epochs_done for trainer in self.trainers)

    @property
    def ended(self) -> list[bool]:
        done = [self.trainers[0].finished] if self.bundle is None else self.bundle.members_finished
        return [over or finished for over, finished in zip(self._over, done, strict=True)]

    def stop(self, member: int) -> None:
        self._over[member] = True
        if self.bundle is not None:
            self.bundle.stop(member)

    def epoch(self) -> list[Epoch | None]:
        if self.bundle is not None:
            lost = [failure is not None for failure in self.bundle.diverged]
            reports = self.bundle.epoch()
            now = [None if was else failure for was, failure in zip(lost, self.bundle.diverged, strict=True)]
            return [_epoch(report, failure) for report, failure in zip(reports, now, strict=True)]
        try:
            return [_epoch(self.trainers[0].epoch(), None)]
        except training.Diverged as failure:
            self._over[0] = True
            return [_epoch(None, failure)]

    def finish(self, member: int) -> Finished:
        trainer, spec = self.trainers[member], self.specs[member]
        model, best = trainer.best_model(), trainer.best_epoch
        scores: list[ScoreRow] = []
        predictions: list[PredictionRow] = []
        if spec.slot.stage is Stage.CONFIRM:
            test = splits.test_set(spec)
            data = self._load(test.info, test.test, model)
            for condition in spec.conditions:
                found, rows = self._score(trainer, model, data, condition.name, condition.missing)
                scores += found
                predictions += rows
        return Finished(
            valid=dict(trainer.history[best - 1].valid),
            best_epoch=best,
            scores=scores,
            predictions=predictions,
            labels=self.corpus.info.labels,
            random_weights=any(bool(encoder.random_weights) for encoder in model.encoders.values()),
            synthetic=self.corpus.info.synthetic,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )

    def _score(
        self, trainer: Trainer, model: Model, data: SplitData, condition: str, missing: Any
    ) -> tuple[list[ScoreRow], list[PredictionRow]]:
        """One condition: its masks are functions of study, fold and utterance, the same for every cell."""
        config = MissingConfig.model_validate(dict(missing), strict=False)
        kept = availability(
            config, data.ids, data.modalities, trainer.streams.masks, present=data.present, root=self.corpus.info.folder
        )
        precision = trainer.recipe.training.precision
        found = predict(model, data, kept, dialogues=trainer.dialogues, precision=precision)
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

    def save_checkpoint(self, member: int, folder: Path, keep: str) -> None:
        """`keep: best` writes the model of the best validation epoch; `all` the last epoch's too, in `last/`."""
        trainer, info, trial = self.trainers[member], self.corpus.info, self.specs[member].trial
        best = trainer.history[trainer.best_epoch - 1]
        save_checkpoint(
            folder, trainer.best_model(), trainer.recipe, info, best_epoch=best.epoch, valid=best.valid, trial=trial
        )
        if keep == "all":
            last = trainer.history[-1]
            save_checkpoint(
                folder / "last", trainer.model, trainer.recipe, info, epoch=last.epoch, valid=last.valid, trial=trial
            )

    def state(self) -> bytes:
        sink = io.BytesIO()
        torch.save((self.bundle or self.trainers[0]).state_dict(), sink)
        return sink.getvalue()

    def restore(self, state: bytes) -> None:
        found = torch.load(io.BytesIO(state), map_location=self.device, weights_only=True)
        (self.bundle or self.trainers[0]).load_state_dict(found)

    def memory_mb(self) -> float | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # of the process, trials before it included

    def close(self) -> None:
        self.bundle, self.trainers = None, []


def _epoch(report: EpochReport | None, failure: training.Diverged | None) -> Epoch | None:
    if failure is not None:
        return Epoch(diverged=str(failure))
    if report is None:
        return None
    rows = [
        EpochRow(report.epoch, "train", "loss", report.train_loss),
        EpochRow(report.epoch, "train", "lr", report.learning_rate),
    ]
    return Epoch([*rows, *(EpochRow(report.epoch, "valid", name, value) for name, value in report.valid.items())])
