"""Bundles in a run: one item of several trials, the same to the last bit however it was interrupted."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from experiments.protocol.replay import replay_ledger
from experiments.results.ledger import Ledger
from experiments.results.snapshot import Snapshot
from experiments.schedule.accept import accept, changes
from experiments.schedule.fake import FakeWork, MakeFake
from experiments.schedule.inline import run_inline
from experiments.schedule.knowledge import Knowledge
from experiments.schedule.naming import Names
from experiments.schedule.rebundled import rebundled
from experiments.schedule.run import execute
from experiments.schedule.session import Session
from experiments.schedule.work import Do, Epoch, Order
from experiments.schedule.worker import Worker
from experiments.slots import Stage, Status
from experiments.space.plan import Bundling, Plan
from mer.errors import UserError
from mer.streams import derive
from tests.experiments.schedule.test_session import run, statuses, values


class Coupled(FakeWork):
    """What a member reaches depends in its last digits on who is trained beside it, as in a real bundle."""

    def epoch(self) -> list[Any]:
        self.beside = tuple(number for number, ended in enumerate(self.ended) if not ended)
        return super().epoch()

    def one(self, member: int) -> Epoch:
        found = super().one(member)
        if not found.rows:
            return found
        touch = 1e-13 * (derive(*self.beside, self.history[member][-1]) % 1000)
        self.history[member][-1] += touch
        return Epoch([dataclasses.replace(row, value=row.value + touch) for row in found.rows])


@pytest.fixture
def bundled(small_plan: Any) -> Any:
    """A small plan all of whose cells are bundled."""

    def make(size: int = 4, block: int = 2, **changes: Any) -> Plan:
        plan: Plan = small_plan(**changes)
        names = frozenset((cell.corpus, cell.name) for cell in plan.cells)
        return dataclasses.replace(plan, bundling=Bundling(size, block), bundled=names)

    return make


def test_a_bundled_run_ends_every_slot_once(bundled: Any, tmp_path: Path) -> None:
    plan = bundled()
    session = run(plan, tmp_path, Coupled)
    assert session.finished
    assert session.state.finished
    rows = values(plan, tmp_path)["trials"]
    assert len(rows) == len({row["trial"] for row in rows}) == 30
    assert {row["status"] for row in rows} == {"complete", "pruned"}
    assert not list((tmp_path / "_state").glob("*"))
    parts = list((tmp_path / "ledger").glob("*.parquet"))
    assert len(parts) < 30  # trials that ended together are in one part


def test_the_same_decisions_as_alone(bundled: Any, small_plan: Any, tmp_path: Path) -> None:
    """The curves are alike, so who is pruned and who wins are, too."""

    class Alike(FakeWork):
        def one(self, member: int) -> Epoch:
            spec = self.specs[member]
            level = derive(spec.slot.cell, spec.slot.study, spec.slot.draw) / 2**63
            self.history[member].append(level * len(self.history[member]))
            rows = super().one(member).rows
            self.history[member].pop()
            return Epoch([dataclasses.replace(row, value=self.history[member][-1]) for row in rows])

    def decided(plan: Plan, root: Path) -> list[Any]:
        run(plan, root, Alike)
        keep = ("cell", "study", "stage", "draw", "status", "selected", "rung", "rung_value", "cutoff")
        found = [tuple(row[name] for name in keep) for row in values(plan, root)["trials"]]
        return sorted(found, key=str)

    assert decided(bundled(draws=6), tmp_path / "bundled") == decided(small_plan(draws=6), tmp_path / "alone")


@pytest.mark.parametrize(("size", "block", "draws"), [(4, 2, 4), (3, 2, 4), (8, 2, 4), (4, 1, 6)])
def test_workers_order_and_losses_do_not_change_a_bit(
    bundled: Any, tmp_path: Path, size: int, block: int, draws: int
) -> None:
    plan = bundled(size, block, draws=draws)
    run(plan, tmp_path / "undisturbed", Coupled)
    expected = values(plan, tmp_path / "undisturbed")
    assert {row["status"] for row in expected["trials"]} == {"complete", "pruned"}
    for seed in range(3):
        root = tmp_path / f"many{seed}"
        run(plan, root, Coupled, workers=seed + 2, pick=random.Random(seed).choice)
        assert values(plan, root) == expected
    for seed in range(6):
        lossy(plan, tmp_path / f"lossy{seed}", seed)
        assert values(plan, tmp_path / f"lossy{seed}") == expected


def lossy(plan: Plan, root: Path, seed: int) -> None:
    """Workers are lost at random, some after they have done what they were told, and nobody hears of it."""
    draw = random.Random(seed)
    session = Session(plan, Ledger(str(root)))
    names = ["a", "b", "c"]
    hands = {name: Worker(str(root), Coupled) for name in names}
    todo: dict[str, list[Order]] = {}
    losses: Counter[str] = Counter()
    while True:
        for name in names:
            if name not in todo and (orders := session.orders(name)):
                todo[name] = orders
        if not todo:
            break
        name = draw.choice(sorted(todo))
        orders = todo.pop(name)
        items = {order.item for order in orders}
        if draw.random() < 0.3 and all(losses[item] < 2 for item in items):
            losses.update(items)
            hands[name].run(orders[: draw.randint(0, len(orders))])
            hands[name] = Worker(str(root), Coupled)
            session.lost(name)
            continue
        more = session.report(name, hands[name].run(orders))
        if more:
            todo[name] = more
    assert session.state.finished


@pytest.mark.parametrize("seed", range(8))
def test_a_driver_ended_anywhere_goes_on_to_the_same_bits(bundled: Any, tmp_path: Path, seed: int) -> None:
    """Killed after a random number of orders, again and again: what is on record counts, what is not is made anew."""
    plan = bundled(draws=6)
    run(plan, tmp_path / "undisturbed", Coupled)
    draw, root, again = random.Random(seed), tmp_path / "killed", 0
    while True:
        session = Session(plan, Ledger(str(root)))
        if session.state.finished and not session.orders("w"):
            break
        hand, orders = Worker(str(root), Coupled), session.orders("w")
        for _ in range(draw.randint(1, 6)):
            if not orders:
                break
            orders = session.report("w", hand.run(orders)) or session.orders("w")
        hand.run(orders[: draw.randint(0, len(orders))])
        again += 1
    assert again > 2
    assert values(plan, root) == values(plan, tmp_path / "undisturbed")


def test_a_budget_saves_a_bundle_and_goes_on_to_the_same_bits(bundled: Any, tmp_path: Path) -> None:
    plan = bundled(epochs=30)
    now = [0.0]
    session = Session(plan, Ledger(str(tmp_path / "parts")), seconds=20.0, clock=lambda: now[0])

    def pass_time(*seen: Any) -> None:
        now[0] += 1.0

    run_inline(session, Coupled, str(tmp_path / "parts"), watch=pass_time)
    assert session.ending == "budget"
    (saved,) = (tmp_path / "parts" / "_state").iterdir()
    assert saved.name.startswith("bundle-")
    run(plan, tmp_path / "parts", Coupled)
    run(plan, tmp_path / "undisturbed", Coupled)
    assert values(plan, tmp_path / "parts") == values(plan, tmp_path / "undisturbed")
    assert not list((tmp_path / "parts" / "_state").iterdir())


def test_a_longer_space_runs_only_what_is_new(bundled: Any, tmp_path: Path) -> None:
    run(bundled(cells=2, studies=3), tmp_path, Coupled)
    before = Ledger(str(tmp_path)).refresh()
    more = run(bundled(cells=3, studies=5, space="larger"), tmp_path, Coupled)
    # Of two cells studies 0 and 1 are there, a whole block; of study 2 the draws, which are a bundle as before. Its
    # confirm trial, alone in the first run, is one of a bundle now.
    assert more.tally.before == 2 * (2 * 5 + 4)
    assert sum(more.tally.done.values()) == 3 * 5 * 5 - 28
    assert run(bundled(cells=3, studies=5, space="larger"), tmp_path, Coupled).tally.done == {}
    assert again(bundled(cells=3, studies=5), before) == 2
    assert again(bundled(cells=3, studies=5), Ledger(str(tmp_path)).refresh()) == 0


def again(plan: Plan, snapshot: Snapshot) -> int:
    names = Names(plan)
    return rebundled(names, replay_ledger(plan, Knowledge(plan, names, snapshot).look_up), snapshot)


def kept(plan: Plan, snapshot: Snapshot) -> int:
    state = replay_ledger(plan, Knowledge(plan, Names(plan), snapshot).look_up)
    return sum(state.status(slot) is not Status.MISSING for slot in state.order)


@pytest.mark.parametrize("changed", [{"draws": 5}, {"size": 2}, {"size": 1}])
def test_a_run_says_how_many_recorded_trials_other_bundles_make_it_run_again(
    bundled: Any, tmp_path: Path, changed: dict[str, int]
) -> None:
    """As many as were recorded and do not count any more; a plan as before says nothing."""
    said: list[str] = []
    for plan in (bundled(), bundled(), bundled(**changed)):
        said.clear()
        before = Ledger(str(tmp_path)).refresh()
        result = execute(plan, Ledger(str(tmp_path)), executor="inline", progress=False, make_work=Coupled,
                         say=said.append)  # fmt: skip
        assert result.exit_code == 0
    (line,) = [line for line in said if "will be run again" in line]
    count = again(plan, before)
    assert count == len(before) - kept(plan, before) > 0
    assert line.startswith(f"note: {count} recorded trials will be run again")


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("lost", range(6))
def test_a_record_that_is_lost_changes_no_bundle(bundled: Any, tmp_path: Path, size: int, lost: int) -> None:
    plan = bundled(size=size)
    run(plan, tmp_path, Coupled)
    ledger = Ledger(str(tmp_path))
    before = ledger.refresh()
    one = sorted(before.rows)[lost * (len(before) - 1) // 5]
    ledger.rewrite_without({one})
    assert kept(plan, Ledger(str(tmp_path)).refresh()) < len(before)
    assert again(plan, Ledger(str(tmp_path)).refresh()) == 0
    run(plan, tmp_path, Coupled)
    assert kept(plan, Ledger(str(tmp_path)).refresh()) == len(before)


def fault(plan: Plan, kind: str, *, stage: Stage, study: int) -> MakeFake:
    slots = [s for s in plan.slots() if s.cell == "fusion=f1" and s.stage is stage and s.study == study]
    return MakeFake(faults={str(slot): kind for slot in slots[:1]})


def test_one_member_that_diverges_ends_alone(bundled: Any, tmp_path: Path) -> None:
    plan = bundled()
    run(plan, tmp_path, fault(plan, "nan", stage=Stage.CONFIRM, study=1))
    rows = {(r["cell"], r["study"]): r for r in values(plan, tmp_path)["trials"] if r["stage"] == "confirm"}
    assert rows["fusion=f1", 1]["status"] == "diverged"
    assert rows["fusion=f1", 1]["epochs"] == 1
    assert rows["fusion=f1", 0]["status"] == "complete"
    assert sum(row["status"] == "diverged" for row in rows.values()) == 1


def test_a_bundle_that_fails_is_reported_and_run_again_as_the_same_bundle(bundled: Any, tmp_path: Path) -> None:
    plan = bundled()
    run(plan, tmp_path, fault(plan, "error", stage=Stage.CONFIRM, study=1))
    failed = [row for row in values(plan, tmp_path)["trials"] if row["status"] == "failed"]
    assert [(row["cell"], row["study"], row["stage"]) for row in failed] == [
        ("fusion=f1", 0, "confirm"),
        ("fusion=f1", 1, "confirm"),
    ]
    assert run(plan, tmp_path).tally.done == {}
    run(plan, tmp_path, retry=True)
    run(plan, tmp_path / "undisturbed")
    assert values(plan, tmp_path) == values(plan, tmp_path / "undisturbed")


def test_out_of_memory_twice_ends_the_whole_bundle(bundled: Any, tmp_path: Path) -> None:
    plan = bundled()
    run(plan, tmp_path, fault(plan, "oom", stage=Stage.CONFIRM, study=0))
    assert statuses(plan, tmp_path)["oom"] == 2
    reasons = {row["reason"] for row in values(plan, tmp_path)["trials"] if row["status"] == "oom"}
    assert len(reasons) == 1
    assert "the second time with a larger share" in reasons.pop()


def test_a_score_that_cannot_be_made_fails_its_trial_alone(bundled: Any, tmp_path: Path) -> None:
    class Unscored(Coupled):
        def finish(self, member: int) -> Any:
            slot = self.specs[member].slot
            if (slot.stage, slot.cell, slot.study) == (Stage.CONFIRM, "fusion=f0", 1):
                raise RuntimeError("no score")
            return super().finish(member)

    plan = bundled()
    run(plan, tmp_path, Unscored)
    rows = {(r["cell"], r["study"]): r for r in values(plan, tmp_path)["trials"] if r["stage"] == "confirm"}
    assert [key for key, row in rows.items() if row["status"] == "failed"] == [("fusion=f0", 1)]
    run(plan, tmp_path, Coupled, retry=True)
    run(plan, tmp_path / "undisturbed", Coupled)
    assert values(plan, tmp_path) == values(plan, tmp_path / "undisturbed")


def test_a_bundle_that_costs_three_workers_stays_missing(bundled: Any, tmp_path: Path) -> None:
    plan = bundled(cells=1)
    session = Session(plan, Ledger(str(tmp_path)))
    for number in range(3):
        (order,) = session.orders(f"w{number}")
        assert len(order.members) == 4
        session.lost(f"w{number}", "node 7 went away")
    run_inline(session, Coupled, str(tmp_path))
    rows = values(plan, tmp_path)["trials"]
    missing = [row for row in rows if row["status"] == "missing"]
    assert [(row["study"], row["draw"]) for row in missing] == [
        *((0, draw) for draw in range(4)), (0, -1), (1, -1),
    ]  # fmt: skip
    assert "node 7 went away" in str(session.ending)
    run_inline(Session(plan, Ledger(str(tmp_path))), Coupled, str(tmp_path))
    run_inline(Session(plan, Ledger(str(tmp_path / "undisturbed"))), Coupled, str(tmp_path / "undisturbed"))
    assert values(plan, tmp_path) == values(plan, tmp_path / "undisturbed")


def test_a_pruning_that_cannot_be_written_down_is_no_failure(bundled: Any, tmp_path: Path) -> None:
    """A worker that is lost again and again while it writes an ending: the next run writes it."""
    plan = bundled(cells=1, studies=1)
    session = Session(plan, Ledger(str(tmp_path)))
    orders = session.report("w", Worker(str(tmp_path), Coupled).run(session.orders("w")))
    assert [order.do for order in orders] == [Do.CLOSE, Do.TRAIN]
    while any(order.closings and order.until for order in orders):
        session.lost("w")
        orders = session.orders("w")
    assert set(statuses(plan, tmp_path)) == {"missing"}
    run_inline(Session(plan, Ledger(str(tmp_path))), Coupled, str(tmp_path))
    run_inline(Session(plan, Ledger(str(tmp_path / "undisturbed"))), Coupled, str(tmp_path / "undisturbed"))
    assert values(plan, tmp_path) == values(plan, tmp_path / "undisturbed")


def test_code_is_proven_on_whole_bundles(bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bundled(cells=1)
    ledger = Ledger(str(tmp_path))
    run_inline(Session(plan, ledger), Coupled, str(tmp_path))
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "tidier code")
    (change,) = changes(ledger)
    proof = accept(ledger, change, list(plan.corpora.values()), Coupled, sample=8)
    assert set(proof) <= set(change.trials)
    assert len(proof) == len(change.trials)
    assert changes(ledger) == []


def test_code_that_changes_a_bundle_is_refused(bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the members trained one by one, the last digits would be others."""
    plan = bundled(cells=1)
    ledger = Ledger(str(tmp_path))
    run_inline(Session(plan, ledger), Coupled, str(tmp_path))
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "other code")
    with pytest.raises(UserError, match="came out otherwise: epoch 1"):
        accept(ledger, changes(ledger)[0], list(plan.corpora.values()), FakeWork)


def test_code_is_not_proven_on_a_part_of_a_bundle(
    bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = bundled(cells=1)
    ledger = Ledger(str(tmp_path))
    run_inline(Session(plan, ledger), Coupled, str(tmp_path))
    rows = ledger.refresh().effective.to_pylist()
    ledger.rewrite_without({row["trial"] for row in rows if row["study"] == 1 or row["draw"] == 0})
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "tidier code")
    fresh = Ledger(str(tmp_path))
    with pytest.raises(UserError, match="some members are not on record"):
        accept(fresh, changes(fresh)[0], list(plan.corpora.values()), Coupled)
