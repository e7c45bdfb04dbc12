"""Work that follows known curves, takes a known time and fails on demand: for tests, simulations and benchmarks."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from experiments.results.records import EpochRow, PredictionRow, ScoreRow
from experiments.results.schema import METRICS
from experiments.schedule.work import Diverged, Finished, Spec
from experiments.slots import Stage
from mer.streams import derive


def unit(*parts: object) -> float:
    """A number in [0, 1) from any parts."""
    return derive(*parts) / 2.0**63


def curve_value(spec: Spec, epoch: int) -> float:
    """A saturating curve whose level and speed are functions of the trial's recipe and streams."""
    key = spec.key
    level = 0.4 + 0.5 * unit("level", key.recipe, key.study, key.fold)
    speed = 1.0 + 6.0 * unit("speed", key.recipe)
    noise = 0.02 * (unit("noise", spec.trial, epoch) - 0.5)
    return round(level * (1 - math.exp(-epoch / speed)) + noise, 12)


@dataclass
class FakeWork:
    """Follows `curve_value`.

    seconds    sleep for each epoch
    faults     trial or slot text to what happens to it in its second epoch: "nan", "error", "oom", "die", "hang"
    utterances size of the pretended test split
    """

    spec: Spec
    seconds: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)
    utterances: int = 4
    epochs_done: int = 0
    history: list[float] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.epochs_done >= self.spec.epochs

    def run_to(self, epoch: int) -> list[EpochRow]:
        rows = []
        while self.epochs_done < min(epoch, self.spec.epochs):
            number = self.epochs_done + 1
            if self.seconds:
                time.sleep(self.seconds)
            if number == 2:
                self._fault(self.faults.get(self.spec.trial) or self.faults.get(str(self.spec.slot)))
            value = curve_value(self.spec, number)
            self.history.append(value)
            rows.append(EpochRow(number, "train", "loss", round(1 - value, 12)))
            rows += [EpochRow(number, "valid", metric, value) for metric in METRICS]
            self.epochs_done = number
        return rows

    def _fault(self, kind: str | None) -> None:
        if kind == "nan":
            raise Diverged("the training loss became non-finite in epoch 2")
        if kind == "error":
            raise RuntimeError("the model is broken on purpose")
        if kind == "oom":
            raise MemoryError("out of memory on purpose")
        if kind == "hang":
            time.sleep(3600)
        if kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    def finish(self) -> Finished:
        best = max(range(len(self.history)), key=lambda index: (self.history[index], -index))
        valid = dict.fromkeys(METRICS, self.history[best])
        scores: list[ScoreRow] = []
        predictions: list[PredictionRow] = []
        if self.spec.slot.stage is Stage.CONFIRM:
            for condition in self.spec.conditions:
                value = round(self.history[best] - 0.1 * unit("drop", condition.name), 12)
                scores += [ScoreRow(condition.name, metric, value, self.utterances) for metric in METRICS]
                for number in range(self.utterances):
                    sure = round(unit("p", self.spec.trial, condition.name, number), 6)
                    predictions.append(
                        PredictionRow(
                            condition.name, f"u{number}", "a", "a" if sure >= 0.5 else "b", (sure, 1 - sure), "s0"
                        )
                    )
        return Finished(valid, best + 1, scores, predictions, ("a", "b"), False, True, 10)

    def save_checkpoint(self, folder: Path, keep: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"trial": self.spec.trial, "keep": keep}))

    def state(self) -> bytes:
        return json.dumps(self.history).encode()

    def restore(self, state: bytes) -> None:
        self.history = json.loads(state)
        self.epochs_done = len(self.history)

    def memory_mb(self) -> float | None:
        return 1.0

    def close(self) -> None:
        self.history = []


@dataclass(frozen=True)
class MakeFake:
    """A picklable factory of fake work."""

    seconds: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)
    utterances: int = 4

    def __call__(self, spec: Spec) -> FakeWork:
        return FakeWork(spec, self.seconds, self.faults, self.utterances)
