"""Fake trials have fake code, and nothing cuts the power."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sync is for cannot be seen by a test that does not cut the power; it takes most of the time."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are named by the project's source, too, which may be edited while a test runs."""
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")
