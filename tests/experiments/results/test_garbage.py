"""`mer gc` takes what nobody declared a need of, and nothing else."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from experiments.results.cli import add_parser
from experiments.results.declared import FOLDER, declare, read_chain
from experiments.results.garbage import Garbage, collect, find_garbage
from experiments.results.lease import Lease
from experiments.results.ledger import Ledger
from experiments.schedule.fake import MakeFake
from experiments.schedule.inline import run_inline
from experiments.schedule.publish import publish
from experiments.schedule.session import Session
from experiments.slots import Status
from experiments.space.plan import Bundling, Folds, Plan, Tuning
from mer.errors import UserError

MakePlan = Callable[..., Plan]


@pytest.fixture
def plan(small_plan: MakePlan) -> Plan:
    """Two cells, two studies, two draws: twelve trials."""
    return small_plan(cells=2, draws=2, epochs=3)


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The code of the moment: its last item."""
    now = ["first"]
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: now[-1])
    return now


@pytest.fixture(autouse=True)
def _code(code: list[str]) -> None:
    pass


def run(plan: Plan, root: Path, tables: bool = True, **options: Any) -> Plan:
    ledger = Ledger(str(root))
    plan = declare(plan, ledger)
    run_inline(Session(plan, ledger, **options), MakeFake(utterances=2), str(root))
    if tables:
        publish(plan, ledger, str(root / plan.folder))
    return plan


def trials(root: Path) -> set[str]:
    return set(Ledger(str(root)).refresh().rows)


def gone(root: Path, *forget: str, grace_s: float = 0.0) -> Garbage:
    """Collect, after a look that is the same."""
    seen = find_garbage(str(root), grace_s, forget)
    assert collect(str(root), grace_s, forget) == seen
    return seen


def test_everything_that_was_ever_declared_stays_without_any_table(plan: Plan, tmp_path: Path) -> None:
    """Also what a smaller plan of the same space, run later, has no slot for; and with all tables deleted."""
    whole = plan
    run(whole, tmp_path)
    before = trials(tmp_path)
    run(dataclasses.replace(whole, cells=whole.cells[:1], options=("--only fusion=f0",)), tmp_path)
    run(dataclasses.replace(whole, studies=1, tuning=Tuning(draws=2, grace=1)), tmp_path)
    for table in tmp_path.glob("*/trials.parquet"):
        table.unlink()
    garbage = gone(tmp_path)
    assert garbage.trials == frozenset()
    assert before <= trials(tmp_path)
    verdicts = publish(whole, Ledger(str(tmp_path)), str(tmp_path / "small"))
    assert Status.MISSING not in {verdict.status for verdict in verdicts}


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": Tuning(draws=4, grace=1, sampler="tpe")},
        {"tuning": Tuning(draws=3, grace=1, once=True)},
        {"bundling": Bundling(4, 2), "bundled": frozenset({("demo", f"fusion=f{n}") for n in range(2)})},
        {"folds": Folds("session", 2)},
        {"resplit": True, "root_seed": 5},
        {"hypers": {}},
    ],
)
def test_every_kind_of_plan_names_its_trials(changes: dict[str, Any], plan: Plan, tmp_path: Path) -> None:
    run(dataclasses.replace(plan, **changes), tmp_path)
    run(dataclasses.replace(plan, space="other", studies=1), tmp_path)
    before = trials(tmp_path)
    garbage = gone(tmp_path, "other")
    assert garbage.trials == before - trials(tmp_path)
    verdicts = publish(dataclasses.replace(plan, **changes), Ledger(str(tmp_path)), str(tmp_path / "small"))
    assert Status.MISSING not in {verdict.status for verdict in verdicts}


def test_a_forgotten_space_loses_what_no_other_names_and_keeps_its_claims(plan: Plan, tmp_path: Path) -> None:
    whole = plan
    run(whole, tmp_path)
    part = dataclasses.replace(whole, space="part", cells=whole.cells[:1])
    run(part, tmp_path)
    garbage = gone(tmp_path, "small")
    assert garbage.spaces == ("part",)
    assert len(trials(tmp_path)) == 6
    chain = read_chain(Ledger(str(tmp_path)).store)
    assert [one.plan.get("space") for one in chain.declarations] == ["small", "part", None]
    again = run(whole, tmp_path)  # it is wanted after all: declared anew, and needed again
    assert again.declaration not in chain.forgotten
    assert gone(tmp_path).trials == frozenset()
    with pytest.raises(UserError, match=r"unknown space 'smal'.*did you mean 'small'"):
        find_garbage(str(tmp_path), forget=["smal"])


def test_a_trial_of_other_code_goes_where_todays_has_done_it_again(code: list[str], plan: Plan, tmp_path: Path) -> None:
    run(plan, tmp_path)
    old = trials(tmp_path)
    code.append("second")
    assert gone(tmp_path).trials == frozenset()  # edited, and not run yet
    run(plan, tmp_path, trials=5)
    new = trials(tmp_path) - old
    code.append("first")
    assert gone(tmp_path).trials == frozenset()  # from an older checkout
    code.append("second")
    assert len(gone(tmp_path).trials) == len(new)
    assert new <= trials(tmp_path)
    run(plan, tmp_path)
    gone(tmp_path)
    assert trials(tmp_path).isdisjoint(old)


def test_what_is_young_stays(code: list[str], plan: Plan, tmp_path: Path) -> None:
    run(plan, tmp_path)
    code.append("second")
    run(plan, tmp_path)
    orphan = tmp_path / "checkpoints" / "0123456789abcdef"
    orphan.mkdir(parents=True)
    (orphan / "config.json").write_text("{}")
    garbage = gone(tmp_path, grace_s=3600.0)
    assert (len(garbage.trials), garbage.checkpoints, garbage.young) == (0, (), 13)
    assert gone(tmp_path, "small", grace_s=3600.0).trials == frozenset()
    for file in (*(tmp_path / "ledger").glob("*.parquet"), *orphan.iterdir()):
        os.utime(file, (time.time() - 7200,) * 2)
    garbage = gone(tmp_path, grace_s=3600.0)
    assert garbage.checkpoints == ("0123456789abcdef",)
    assert len(garbage.trials) == 24  # forgotten above, and old by now
    assert not orphan.exists()


def test_checkpoints_and_states_that_are_needed_stay(plan: Plan, tmp_path: Path) -> None:
    run(plan, tmp_path, trials=6)
    ended = min(trials(tmp_path))
    states = tmp_path / "_state"
    states.mkdir(exist_ok=True)
    for name in (ended, "bundle-00112233", "ffffffffffffffff"):
        (states / name).write_bytes(b"{}")
    kept = tmp_path / "checkpoints" / ended
    kept.mkdir(parents=True, exist_ok=True)
    garbage = gone(tmp_path)
    assert garbage.states == (ended,)
    assert {file.name for file in states.iterdir()} == {"bundle-00112233", "ffffffffffffffff"}
    assert kept.exists()


def test_nothing_is_removed_while_a_driver_is_at_work(plan: Plan, tmp_path: Path) -> None:
    run(plan, tmp_path)
    lease = Lease(Ledger(str(tmp_path)).store, "busy")
    assert lease.take() is None
    try:
        with pytest.raises(UserError, match=r"a run is at work here \(space busy"):
            collect(str(tmp_path), 0.0, ["small"])
        find_garbage(str(tmp_path))
    finally:
        lease.give_back()
    assert len(trials(tmp_path)) == 12
    collect(str(tmp_path), 0.0, ["small"])
    assert not trials(tmp_path)


def test_it_refuses_where_a_declaration_cannot_be_read(plan: Plan, tmp_path: Path) -> None:
    run(plan, tmp_path)
    (file,) = (tmp_path / FOLDER).iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-3])
    with pytest.raises(UserError, match="no declaration that can be trusted"):
        find_garbage(str(tmp_path))
    file.unlink()
    with pytest.raises(UserError, match="this declaration is gone; trials on record"):
        collect(str(tmp_path), 0.0)
    assert len(trials(tmp_path)) == 12


def test_what_an_earlier_version_ran_is_kept(plan: Plan, tmp_path: Path) -> None:
    """Its declarations do not say what it needs."""
    run_inline(Session(plan, Ledger(str(tmp_path))), MakeFake(utterances=2), str(tmp_path))
    run(dataclasses.replace(plan, space="new", cells=plan.cells[:1]), tmp_path)
    assert gone(tmp_path).trials == frozenset()
    with pytest.raises(UserError, match="what space 'small' needs is not on record"):
        find_garbage(str(tmp_path), forget=["new"])
    assert len(gone(tmp_path, "small", "new").trials) == 12


def test_the_command(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: list[str]) -> None:
    run(plan, tmp_path)
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())

    def gc(*words: str) -> str:
        args = parser.parse_args(["gc", str(tmp_path), *words])
        assert args.func(args) == 0
        return capsys.readouterr().out

    assert "12 trials are kept; declared spaces: small." in gc("--yes")
    assert "12 more are younger than 1 days and stay" in gc("--forget", "small")
    assert "12 x" not in gc("--forget", "small", "--grace", "0")
    assert len(trials(tmp_path)) == 12
    assert '"trials": 12' in gc("--forget", "small", "--grace", "0", "--yes", "--json")
    assert not trials(tmp_path)
    with pytest.raises(SystemExit):
        parser.parse_args(["gc", "--grace", "nan"])
    assert pq.read_table(tmp_path / "small" / "trials.parquet").num_rows == 12
