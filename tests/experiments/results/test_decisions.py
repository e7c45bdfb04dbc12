"""Decisions are written together, merged when there are many files, and read once each."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.results import decisions
from experiments.results.decisions import FOLDER, DecisionLog, DecisionRow, read_decisions
from mer.storage import LocalStore


def row(draw: int) -> DecisionRow:
    return DecisionRow("demo", "fusion=f", 0, 0, "prune", draw, f"{draw:016x}", 3, 0.5, 0.6, 4, None)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_what_comes_within_a_second_is_written_together(store: LocalStore) -> None:
    now = [0.0]
    log = DecisionLog(store, "s", clock=lambda: now[0])
    for draw in range(10):
        log.add([row(draw)])
        now[0] += 0.3
    assert len(store.list(f"{FOLDER}/s")) == 2  # at 1.2 and 2.4 seconds
    log.flush()
    log.flush()  # nothing waits: no file is made for nothing
    assert len(store.list(f"{FOLDER}/s")) == 3
    assert read_decisions(store, "s") == [row(draw) for draw in range(10)]


def test_many_files_become_one_and_nothing_is_lost(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MANY", 5)
    log = DecisionLog(store, "s", clock=lambda: 0.0)
    for draw in [0, 1, 2, 3, 3]:
        log.add([row(draw)])
        log.flush()
    log.compact()
    assert len(store.list(f"{FOLDER}/s")) == 5
    log.add([row(4)])
    store.put(f"{FOLDER}/s/damaged.parquet", b"not a table")
    log.compact()
    assert len(store.list(f"{FOLDER}/s")) == 1
    assert store.read("ledger/_corrupt/decisions-s-damaged.parquet") == b"not a table"  # for people to look at
    assert read_decisions(store, "s") == [row(draw) for draw in range(5)]
    log.add([row(9)])
    log.compact()
    assert row(9) in read_decisions(store, "s")
