"""One trainer for all recipes, an epoch at a time, so that a scheduler can stop it and a crash costs an epoch.

Everything random in an epoch is a function of the trial's streams and the epoch's number: state saved between
epochs and restored gives the same weights bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mer.data.corpus import CorpusInfo, TrainValid, Utterance
from mer.data.loading import SplitData, prepare_split
from mer.data.missing import availability
from mer.data.sampling import make_sampler
from mer.data.store import FeatureStore
from mer.evaluation import Predictions, predict
from mer.layers import set_generator
from mer.losses import build_loss
from mer.metrics import metric
from mer.model import Model, build_model, needs_dialogues
from mer.precision import autocast, default_device, wide
from mer.recipe import Recipe
from mer.streams import Streams, derive


class Diverged(Exception):
    """The loss or the selection metric stopped being a number. NaN is never a value."""

    def __init__(self, epoch: int, what: str) -> None:
        self.epoch, self.what = epoch, what
        super().__init__(f"{what} became non-finite in epoch {epoch}")


@dataclass(frozen=True)
class EpochReport:
    """What one epoch brought. `epoch` counts from 1."""

    epoch: int
    train_loss: float
    learning_rate: float
    valid: dict[str, float]
    seconds: float
    loading_seconds: float
    is_best: bool


SplitLoader = Callable[[CorpusInfo, tuple[Utterance, ...], Model], SplitData]


class Trainer:
    """Trains one recipe on one train/valid pair. It cannot reach a test set: it is never handed one.

    Args:
        recipe: what is trained and how.
        data: training and validation utterances.
        streams: the seeds of the trial.
        store: where frozen features are kept; the default store if None.
        device: where it trains; a GPU if there is one by default.
        load: how utterances become arrays; workers pass one that keeps splits between trials.

    ::

        trainer = Trainer(recipe, corpus.train_valid(), streams(0, "demo", 0, 0, "confirm"))
        for report in trainer.run():
            print(report.epoch, report.valid["ua"])
        model = trainer.best_model()
    """

    def __init__(
        self,
        recipe: Recipe,
        data: TrainValid,
        streams: Streams,
        *,
        store: FeatureStore | None = None,
        device: torch.device | str | None = None,
        load: SplitLoader | None = None,
    ) -> None:
        self.recipe, self.streams, self.info = recipe, streams, data.info
        self.device = torch.device(device or default_device())
        torch.set_num_threads(recipe.training.threads)
        self.model = build_model(recipe, data.info, streams.init)
        load = load or split_loader(store or FeatureStore(), self.device)
        self.train, self.valid = (
            load(data.info, data.train, self.model),
            load(data.info, data.valid, self.model),
        )
        for name, encoder in self.model.encoder_table().items():
            self.train.fit(name, encoder)
        self.model.to(self.device)
        self.generator = torch.Generator(self.device)
        set_generator(self.model, self.generator)
        self.dialogues = needs_dialogues(recipe)
        self.sampler = make_sampler(recipe.sampler, self.train.sample_info(), streams.order, by_dialogue=self.dialogues)
        counts = torch.bincount(self.train.labels, minlength=len(data.info.labels))
        self.loss = build_loss(recipe.loss, counts, len(data.info.labels)).to(self.device)
        self.optimizer = build_optimizer(self.model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.training.precision == "fp16")
        self.plateau = Plateau(recipe.schedule.factor, recipe.schedule.patience)
        missing_valid = recipe.missing.valid or recipe.missing.train
        self.valid_available = availability(
            missing_valid,
            self.valid.ids,
            self.valid.modalities,
            streams.masks,
            present=self.valid.present,
            root=data.info.folder,
        )
        self.history: list[EpochReport] = []
        self.best: dict[str, Tensor] = {}
        self.metric = metric(recipe.training.metric)
        self.best_value, self.best_epoch = -math.inf * self.metric.sign, 0

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    @property
    def finished(self) -> bool:
        """Has the recipe's last epoch been trained, or patience run out?"""
        patience = self.recipe.training.patience
        stale = self.epochs_done - self.best_epoch
        return self.epochs_done >= self.recipe.training.epochs or (patience is not None and stale >= patience)

    def run(self) -> Iterator[EpochReport]:
        """Train to the end, yielding each epoch's report."""
        while not self.finished:
            yield self.epoch()

    def epoch(self) -> EpochReport:
        """Train one epoch, then score the validation part. Raises `Diverged` where a number is lost."""
        started = time.perf_counter()
        torch.set_num_threads(self.recipe.training.threads)
        number = self.epochs_done
        self.generator.manual_seed(derive(self.streams.dropout, number))
        for encoder in self.model.encoder_table().values():
            encoder.on_epoch(number)
        self.model.train()
        losses, loading = self._train_epoch(number)
        train_loss = float(torch.stack(losses).mean())
        if not math.isfinite(train_loss):
            raise Diverged(number + 1, "the training loss")
        valid = self.predict_valid().scores()
        return self.conclude(train_loss, valid, time.perf_counter() - started, loading)

    def conclude(
        self, train_loss: float, valid: dict[str, float], seconds: float, loading_seconds: float
    ) -> EpochReport:
        """Close the epoch whose weights the model now has: best so far, plateau, history."""
        number = self.epochs_done
        value, sign = valid[self.metric.name], self.metric.sign
        if not math.isfinite(value):
            raise Diverged(number + 1, "the validation metric")
        is_best = sign * value > sign * self.best_value
        if is_best:
            self.best_value, self.best_epoch = value, number + 1
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        report = EpochReport(
            epoch=number + 1,
            train_loss=train_loss,
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            valid=valid,
            seconds=seconds,
            loading_seconds=loading_seconds,
            is_best=is_best,
        )
        self.plateau.update(sign * value)
        self.history.append(report)
        return report

    def predict_valid(self) -> Predictions:
        """Predictions of the model as it is now on the validation part, under its frozen masks."""
        return predict(
            self.model,
            self.valid,
            self.valid_available,
            dialogues=self.dialogues,
            precision=self.recipe.training.precision,
        )

    def best_model(self) -> Model:
        """The model with the weights of its best validation epoch."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.best)
        set_generator(model, self.generator)
        return model.eval()

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on. Loadable by `torch.load(weights_only=True)`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "plateau": asdict(self.plateau),
            "history": [asdict(report) for report in self.history],
            "best": self.best,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = [EpochReport(**report) for report in state["history"]]
        for encoder in self.model.encoder_table().values():
            encoder.on_epoch(max(self.epochs_done - 1, 0))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.plateau = Plateau(**state["plateau"])
        self.best, self.best_value, self.best_epoch = state["best"], state["best_value"], state["best_epoch"]

    def train_available(self, epoch: int) -> np.ndarray:
        """`[N, M]`: which modalities the training utterances have in an epoch, counted from 0."""
        return availability(
            self.recipe.missing.train,
            self.train.ids,
            self.train.modalities,
            self.streams.masks,
            epoch=epoch,
            present=self.train.present,
            root=self.train.info.folder,
        )

    def _train_epoch(self, number: int) -> tuple[list[Tensor], float]:
        available = self.train_available(number)
        batches = self.sampler.batches(number)
        groups = self.recipe.optimizer.accumulate
        # The labels of an epoch are sent at once: nothing in the loop waits for the device.
        rows_of_epoch = torch.from_numpy(np.concatenate(batches)).to(self.device)
        labels_of = iter(torch.split(self.train.labels[rows_of_epoch], [len(rows) for rows in batches]))
        losses: list[Tensor] = []
        loading = 0.0
        for first in range(0, len(batches), groups):
            self.set_learning_rate(number, first / len(batches))
            self.optimizer.zero_grad(set_to_none=True)
            members = batches[first : first + groups]
            size = sum(len(rows) for rows in members)
            for rows in members:
                before = time.perf_counter()
                batch = self.train.batch(rows, available, dialogues=self.dialogues)
                loading += time.perf_counter() - before
                loss = self._loss(batch, next(labels_of))
                # Accumulated batches weigh by their size, so that splitting a batch does not change the step.
                torch.autograd.backward(self.scaler.scale(loss * (len(rows) / size)))
                losses.append(loss.detach())
            self._step()
        return losses, loading

    def _loss(self, batch: Any, labels: Tensor) -> Tensor:
        with autocast(self.device, self.recipe.training.precision):
            output = self.model(batch, details=False)
        loss: Tensor = self.loss(wide(output.logits), labels)
        if output.second is not None:
            loss = (loss + self.loss(wide(output.second), labels)) / 2
        for auxiliary in output.losses.values():
            loss = loss + wide(auxiliary)
        return loss

    def _step(self) -> None:
        if self.recipe.optimizer.grad_clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def set_learning_rate(self, epoch: int, within: float) -> None:
        """The rate is a function of training progress alone, so that there is no scheduler state to restore."""
        schedule = self.recipe.schedule
        progress = (epoch + within) / self.recipe.training.epochs
        scale = min(1.0, (progress + 1e-3) / schedule.warmup) if schedule.warmup > 0 else 1.0
        if schedule.name == "cosine" and progress > schedule.warmup:
            scale = 0.5 * (1 + math.cos(math.pi * (progress - schedule.warmup) / (1 - schedule.warmup)))
        elif schedule.name == "plateau":
            scale *= self.plateau.scale
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale


@dataclass
class Plateau:
    """Reduce-on-plateau as a small value: multiply the rate by `factor` after `patience` epochs without progress.

    What it is told is larger where it is better.
    """

    factor: float
    patience: int
    scale: float = 1.0
    best: float = -math.inf
    stale: int = 0

    def update(self, value: float) -> None:
        if value > self.best:
            self.best, self.stale = value, 0
            return
        self.stale += 1
        if self.stale > self.patience:
            self.scale, self.stale = self.scale * self.factor, 0


def build_optimizer(model: Model, recipe: Recipe) -> torch.optim.Optimizer:
    """Parameter groups: trained encoders, classifier, the rest; no weight decay on biases and norms."""
    config = recipe.optimizer
    rates = {"encoders": config.encoder_lr, "classifier": config.head_lr}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = rates.get(name.split(".", 1)[0]) or config.lr
        groups.setdefault((rate, parameter.dim() >= 2), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": rate,
            "base_lr": rate,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (rate, decays), parameters in groups.items()
    ]
    # One pass over each parameter: on a CPU the update takes a fifth of the time of torch's default.
    if config.name == "sgd":
        return torch.optim.SGD(settings, momentum=0.9, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(settings, fused=True)


def split_loader(store: FeatureStore, device: torch.device) -> SplitLoader:
    """The plain loader: encodes a split each time it is asked."""

    def load(info: CorpusInfo, utterances: tuple[Utterance, ...], model: Model) -> SplitData:
        return prepare_split(info, utterances, model.encoder_table(), store, device)

    return load
