"""A refactoring is declared equal only when recorded trials come out the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from experiments.results.accepted import changed_code
from experiments.results.ledger import Ledger
from experiments.schedule.accept import accept, changes, find_change
from experiments.schedule.fake import FakeWork, MakeFake
from experiments.schedule.inline import run_inline
from experiments.schedule.run import execute
from experiments.schedule.session import Session
from experiments.schedule.work import Epoch, Finished
from experiments.space.plan import COMPLETE, Condition
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


def test_code_that_changes_a_score_under_one_condition_is_refused(
    small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever trials are drawn for the proof: those of the tune stage were never scored."""

    class Other(FakeWork):
        def finish(self, member: int) -> Finished:
            found = super().finish(member)
            scores = [
                dataclasses.replace(s, value=s.value + 0.1 * s.condition.startswith("half")) for s in found.scores
            ]
            return dataclasses.replace(found, scores=scores)

    plan = small_plan(cells=1, studies=1, draws=12)
    ledger = Ledger(str(tmp_path))
    execute(plan, ledger, executor="inline", progress=False, make_work=MakeFake())
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "other code")
    (change,) = changes(ledger)
    with pytest.raises(UserError, match="came out otherwise: test scores differ, half"):
        accept(ledger, change, list(plan.corpora.values()), Other, sample=1)
    accept(ledger, change, list(plan.corpora.values()), MakeFake(), sample=1)


def test_a_run_says_which_recorded_trials_do_not_count_for_todays_code(
    small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(cells=2, studies=1)
    ledger = Ledger(str(tmp_path))
    run_inline(Session(plan, ledger), MakeFake(), str(tmp_path))
    assert changed_code(ledger.refresh(), plan.space, {}) == []
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "tidier code")
    complete = sum(len(change.trials) for change in changes(ledger))
    said: list[str] = []
    execute(plan, Ledger(str(tmp_path)), executor="inline", progress=False, make_work=MakeFake(), say=said.append)
    assert any(f"{complete} recorded trials of this space were made by other code" in line for line in said)
    assert changed_code(ledger.refresh(), plan.space, {"tidier code": "the code of this test"}) != []  # both are there


@pytest.mark.parametrize("name", ["subprocess:call", "subprocess:Popen", "evil_of_ledger:Gate"])
def test_a_ledger_from_elsewhere_runs_no_code(
    name: str, small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_of_ledger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = small_plan(cells=1, studies=1)
    cell = plan.cells[0]
    evil = dataclasses.replace(cell, recipe={**cell.recipe, "fusion": {"name": name}})
    ledger = Ledger(str(tmp_path / "results"))
    with monkeypatch.context() as patch:
        patch.setattr("mer.levels._check_kind", lambda *args: None)  # it was made by somebody without scruples
        patch.setattr("mer.levels.check_parameters", lambda *args: None)
        patch.setattr("experiments.space.layers.canonical", lambda data, sources: data)
        run_inline(Session(dataclasses.replace(plan, cells=(evil,)), ledger), MakeFake(), str(tmp_path / "results"))
    with pytest.raises(UserError, match="fusion names code from outside this project"):
        changes(ledger)
    assert changed_code(ledger.refresh(), plan.space, {}) == []
    with pytest.raises(UserError, match=r"is not a fusion|unknown class"):
        changes(ledger, [name])
    assert not (tmp_path / "ran").exists()


def test_a_condition_from_outside_is_scored_for_a_proof_only_where_it_is_allowed(
    small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lost_to.py").write_text("def chance(config, ids, modalities, seed): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "lost_to:chance"
    plan = small_plan(cells=1, studies=1, conditions=(COMPLETE, Condition("outside", {"protocol": name})))
    ledger = Ledger(str(tmp_path / "results"))
    execute(plan, ledger, executor="inline", progress=False, make_work=MakeFake())
    asked: list[str] = []

    class Asking(FakeWork):
        def finish(self, member: int) -> Finished:
            asked.extend(condition.name.partition(" ")[0] for condition in self.specs[member].conditions)
            return super().finish(member)

    for code, allowed in (("other code", []), ("more code", [name])):
        monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe, code=code: code)
        (change,) = changes(ledger, allowed)
        accept(ledger, change, list(plan.corpora.values()), Asking, sample=1, allow_outside=allowed)
    assert asked == ["complete", "complete", "outside"]
