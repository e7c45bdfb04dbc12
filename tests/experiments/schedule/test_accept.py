"""A refactoring is declared equal only when recorded trials come out the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.results.ledger import Ledger
from experiments.schedule.accept import accept, changes, find_change
from experiments.schedule.fake import FakeWork, MakeFake
from experiments.schedule.inline import run_inline
from experiments.schedule.session import Session
from experiments.schedule.work import Epoch
from mer.errors import UserError


def test_proven_code_lets_recorded_trials_count_again(
    small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(cells=2, studies=1)
    ledger = Ledger(str(tmp_path))
    run_inline(Session(plan, ledger), MakeFake(), str(tmp_path))
    assert changes(ledger) == []
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "tidier code")
    assert Session(plan, Ledger(str(tmp_path))).tally.before == 0
    (change,) = changes(ledger)
    assert (change.old, change.new) == ("the code of this test", "tidier code")
    assert find_change(changes(ledger), "the code", "tidier") == change
    with pytest.raises(UserError, match="unknown pair of code digests"):
        find_change(changes(ledger), "x", "y")
    proof = accept(ledger, change, list(plan.corpora.values()), MakeFake(), sample=4)
    assert len(proof) == 4
    assert changes(ledger) == []
    session = Session(plan, Ledger(str(tmp_path)))
    assert session.state.finished
    assert session.tally.before == 10


def test_code_that_changes_a_number_is_refused(
    small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(FakeWork):
        def one(self, member: int) -> Epoch:
            rows = super().one(member).rows
            return Epoch([type(r)(r.epoch, r.split, r.metric, r.value + 1e-15 * (r.epoch == 3)) for r in rows])

    plan = small_plan(cells=1, studies=1)
    ledger = Ledger(str(tmp_path))
    run_inline(Session(plan, ledger), MakeFake(), str(tmp_path))
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "other code")
    (change,) = changes(ledger)
    with pytest.raises(UserError, match=r"not equal: trial \w+ \(fusion=f0\) came out otherwise: epoch 3"):
        accept(ledger, change, list(plan.corpora.values()), Other)
    assert changes(ledger) == [change]
    with pytest.raises(UserError, match="not among the corpora given"):
        accept(ledger, change, [], MakeFake())
