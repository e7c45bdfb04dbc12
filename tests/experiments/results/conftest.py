"""Ledgers and tables are written far from any disk that could lose power."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sync is for cannot be seen by a test that does not cut the power; it takes most of the time."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
