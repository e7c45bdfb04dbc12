"""What tests of several packages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mer import metrics


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m gpu` reads the files with such tests alone: a GPU machine may lack what the others import."""
    if config.option.markexpr == "gpu" and collection_path.name.startswith("test_"):
        return "mark.gpu" not in collection_path.read_text("utf-8") or None
    return None


@pytest.fixture
def lower_is_better(monkeypatch: pytest.MonkeyPatch) -> metrics.Metric:
    """A made-up metric whose smaller values are the better ones, under the name of one that is there: 1 - UA."""
    error = metrics.Metric("ua", "error", "share of wrong ones, averaged over classes", direction="min")
    scores = metrics.scores

    def with_error(*args: object) -> dict[str, float]:
        found = scores(*args)  # type: ignore[arg-type]
        return {**found, "ua": 1 - found["ua"]}

    monkeypatch.setitem(metrics.METRICS, "ua", error)
    monkeypatch.setattr(metrics, "scores", with_error)
    return error
