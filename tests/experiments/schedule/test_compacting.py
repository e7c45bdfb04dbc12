"""The ledger stays small beside a run, and the run never notices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from experiments.results.identity import TrialKey
from experiments.results.ledger import Ledger
from experiments.results.records import TrialRecord
from experiments.schedule.aside import Aside
from experiments.schedule.compacting import Compactor
from experiments.slots import Status

START = datetime(2026, 1, 1, tzinfo=UTC)


def record(number: int) -> TrialRecord:
    return TrialRecord(
        key=TrialKey(f"recipe{number}", "code", "data", "demo", 0, 0, "confirm", 0),
        recipe="{}",
        status=Status.COMPLETE,
        space="s",
        cell="c",
        valid={"ua": 0.3},
        ended=START + timedelta(seconds=number),
    )


def test_parts_are_merged_while_the_same_ledger_writes_and_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.results.ledger.LOOSE", 8)
    ledger = Ledger(str(tmp_path))
    compactor = Compactor(ledger, Aside(print), every_s=0.001)
    written: set[str] = set()
    merged = False
    while len(written) < 60 or not merged:
        fresh = record(len(written))
        ledger.append(fresh)
        written.add(fresh.trial)
        assert written <= set(ledger.refresh().rows)
        merged = merged or any((tmp_path / "ledger").glob("compact-*.parquet"))
    compactor.close()
    assert ledger.loose() <= 8
    assert set(Ledger(str(tmp_path)).refresh().rows) == written


def test_what_is_left_is_merged_at_the_end_and_no_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.results.ledger.LOOSE", 8)
    ledger = Ledger(str(tmp_path))
    compactor = Compactor(ledger, Aside(print), every_s=3600.0)
    for number in range(12):
        ledger.append(record(number))
    assert ledger.loose() == 12
    compactor.close()  # wakes it
    assert ledger.loose() == 0
    assert len(ledger.refresh()) == 12
