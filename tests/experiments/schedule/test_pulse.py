"""A worker whose sign of life is not heard goes on with its trial."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

ray = pytest.importorskip("ray")

from experiments.schedule.tune import WorkerTrainable  # noqa: E402 (it imports Ray)


def test_a_pulse_that_is_gone_fails_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen with a cancelled Slurm job: the driver ended its pulse, and the workers' trials were written as failed."""
    beats: list[str] = []

    def beat(worker: str, trial: str, epochs: int, value: float) -> str:
        beats.append(trial)
        return f"answer {len(beats)}"

    def gone(answer: str) -> bool:
        raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(ray, "wait", lambda answers, timeout: (answers, []))
    monkeypatch.setattr(ray, "get", gone)
    worker = cast(Any, object.__new__(WorkerTrainable))
    worker._name, worker._answer = "w", None
    worker._pulse = SimpleNamespace(beat=SimpleNamespace(remote=beat))
    spec = cast(Any, SimpleNamespace(slot="a trial"))
    assert [worker._beat(spec, epoch, 0.5) for epoch in range(4)] == [False] * 4
    assert beats == ["a trial"] * 2  # it is told again after a failure, in case the driver can hear it once more
    monkeypatch.setattr(ray, "get", lambda answer: True)
    worker._answer = "heard again"
    assert worker._beat(spec, 5, 0.5) is True
