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
from experiments.schedule.work import Epoch, Finished, Spec
from experiments.slots import Stage
from mer.files import write
from mer.metrics import metric
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

    specs: tuple[Spec, ...]
    seconds: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)
    utterances: int = 4
    history: list[list[float]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history = self.history or [[] for _ in self.specs]
        self.ended = self.ended or [False for _ in self.specs]

    @property
    def epochs_done(self) -> int:
        return max(map(len, self.history))

    def stop(self, member: int) -> None:
        self.ended[member] = True

    def epoch(self) -> list[Epoch | None]:
        if self.seconds:
            time.sleep(self.seconds)
        return [None if ended else self.one(member) for member, ended in enumerate(self.ended)]

    def one(self, member: int) -> Epoch:
        """One epoch of one member."""
        spec, values = self.specs[member], self.history[member]
        number = len(values) + 1
        if number == 2 and self._fault(self.faults.get(spec.trial) or self.faults.get(str(spec.slot))):
            self.stop(member)
            return Epoch(diverged="the training loss became non-finite in epoch 2")
        value = curve_value(spec, number)
        values.append(value)
        self.ended[member] = number >= spec.epochs
        rows = [EpochRow(number, "train", "loss", round(1 - value, 12))]
        return Epoch([*rows, *(EpochRow(number, "valid", name, value) for name in METRICS)])

    def _fault(self, kind: str | None) -> bool:
        """Do what a fault does; True: lose the numbers."""
        if kind == "error":
            raise RuntimeError("the model is broken on purpose")
        if kind == "oom":
            raise MemoryError("out of memory on purpose")
        if kind == "hang":
            time.sleep(3600)
        if kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return kind == "nan"

    def finish(self, member: int) -> Finished:
        spec, history = self.specs[member], self.history[member]
        sign = metric(spec.metric).sign
        best = max(range(len(history)), key=lambda index: (sign * history[index], -index))
        valid = dict.fromkeys(METRICS, history[best])
        scores: list[ScoreRow] = []
        predictions: list[PredictionRow] = []
        if spec.slot.stage is Stage.CONFIRM:
            for condition in spec.conditions:
                value = round(history[best] - 0.1 * unit("drop", condition.name), 12)
                scores += [ScoreRow(condition.name, name, value, self.utterances) for name in METRICS]
                for number in range(self.utterances):
                    sure = round(unit("p", spec.trial, condition.name, number), 6)
                    predictions.append(
                        PredictionRow(
                            condition.name, f"u{number}", "a", "a" if sure >= 0.5 else "b", (sure, 1 - sure), "s0"
                        )
                    )
        return Finished(valid, best + 1, scores, predictions, ("a", "b"), False, True, 10)

    def save_checkpoint(self, member: int, folder: Path, keep: str) -> None:
        write(folder / "config.json", json.dumps({"trial": self.specs[member].trial, "keep": keep}).encode())

    def state(self) -> bytes:
        return json.dumps([self.history, self.ended]).encode()

    def restore(self, state: bytes) -> None:
        self.history, self.ended = json.loads(state)

    def memory_mb(self) -> float | None:
        return 1.0

    def close(self) -> None:
        self.history = [[] for _ in self.specs]


@dataclass(frozen=True)
class MakeFake:
    """A picklable factory of fake work."""

    seconds: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)
    utterances: int = 4

    def __call__(self, specs: tuple[Spec, ...]) -> FakeWork:
        return FakeWork(specs, self.seconds, self.faults, self.utterances)
