"""One run of a plan without Ray: orders, lost workers, failures, budgets, resuming, and the same tables always."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from experiments.results.ledger import Ledger
from experiments.schedule.fake import FakeWork, MakeFake
from experiments.schedule.inline import run_inline
from experiments.schedule.publish import publish
from experiments.schedule.session import Session
from experiments.schedule.work import Do, Ended, Order, Outcome, Spec
from experiments.schedule.worker import Worker
from experiments.slots import Stage, Status
from experiments.space.plan import Condition, Plan
from tests.experiments.small_run import tables


def run(plan: Plan, root: Path, make: Any = None, **options: Any) -> Session:
    session = Session(plan, Ledger(str(root)), **{k: options.pop(k) for k in ("retry", "trials") if k in options})
    run_inline(session, make or MakeFake(), str(root), **options)
    return session


def values(plan: Plan, root: Path) -> dict[str, list[dict[str, Any]]]:
    """The tables without what is measured by a clock."""
    publish(plan, Ledger(str(root)), str(root / plan.space))
    return tables(root / plan.space)


def statuses(plan: Plan, root: Path) -> Counter[str]:
    return Counter(row["status"] for row in values(plan, root)["trials"])


def test_every_slot_ends_once_and_the_tables_say_so(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan()
    session = run(plan, tmp_path)
    assert session.finished
    assert session.state.finished
    rows = values(plan, tmp_path)["trials"]
    slots = [(r["corpus"], r["cell"], r["study"], r["fold"], r["stage"], r["draw"]) for r in rows]
    assert slots == [(s.corpus, s.cell, s.study, s.fold, s.stage.value, s.draw) for s in plan.slots()]
    assert len(set(slots)) == len(slots) == 30
    assert {row["status"] for row in rows} == {"complete", "pruned"}
    assert sum(bool(row["selected"]) for row in rows) == 6
    for row in rows:
        assert (row["test_ua"] is not None) == (row["stage"] == "confirm")
        assert row["valid_ua"] is not None


def test_workers_and_order_do_not_change_a_value(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan(cells=4, draws=6)
    run(plan, tmp_path / "one")
    expected = values(plan, tmp_path / "one")
    assert {row["status"] for row in expected["trials"]} == {"complete", "pruned"}
    for seed in range(4):
        root = tmp_path / f"many{seed}"
        run(plan, root, workers=seed + 2, pick=random.Random(seed).choice)
        assert values(plan, root) == expected


def test_resuming_runs_only_what_is_missing(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan()
    session = run(plan, tmp_path, trials=7)
    assert session.ending == "trials"
    before = set(Ledger(str(tmp_path)).refresh().rows)
    assert 0 < len(before) < 30
    run(plan, tmp_path)
    snapshot = Ledger(str(tmp_path)).refresh()
    assert before < set(snapshot.rows)
    assert len(snapshot.table) == len(snapshot) == 30  # nothing was done twice
    run(plan, tmp_path / "undisturbed")
    assert values(plan, tmp_path) == values(plan, tmp_path / "undisturbed")


def test_another_space_uses_what_has_been_run(small_plan: Any, tmp_path: Path) -> None:
    run(small_plan(cells=2), tmp_path)
    larger = small_plan(cells=3, space="larger")
    session = run(larger, tmp_path)
    assert session.tally.before == 20
    assert sum(session.tally.done.values()) == 10


def test_a_lost_worker_costs_nothing_but_time(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan()
    run(plan, tmp_path / "undisturbed")
    expected = values(plan, tmp_path / "undisturbed")
    for seed in range(6):
        root = tmp_path / f"lossy{seed}"
        draw = random.Random(seed)
        session = Session(plan, Ledger(str(root)))
        names = ["a", "b", "c"]
        hands = {name: Worker(str(root), MakeFake()) for name in names}
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
            about = orders[-1].spec.trial
            if draw.random() < 0.3 and losses[about] < 2:
                losses[about] += 1
                if draw.random() < 0.5:
                    hands[name].run(orders[:-1])  # it did some of it, and nobody was told
                hands[name] = Worker(str(root), MakeFake())
                session.lost(name)
                continue
            more = session.report(name, hands[name].run(orders))
            if more:
                todo[name] = more
        assert session.state.finished
        assert values(plan, root) == expected


def test_a_trial_that_costs_three_workers_is_left_for_the_next_run(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan(cells=2)
    session = Session(plan, Ledger(str(tmp_path)))
    for number in range(3):
        (order,) = session.orders(f"w{number}")
        session.lost(f"w{number}", "node 7 went away")
    reason = "3 workers were lost on this trial, which made no headway; the last time: node 7 went away"
    assert session.left_alone == {order.spec.slot: reason}
    run_inline(session, MakeFake(), str(tmp_path))  # all that does not wait for that trial
    assert session.finished
    assert session.ending == f"not everything could be run: {order.spec.slot}: {reason}"
    publish(plan, Ledger(str(tmp_path)), str(tmp_path / plan.space), session)
    rows = [row for row in tables(tmp_path / plan.space)["trials"] if row["status"] == "missing"]
    assert reason in {row["reason"] for row in rows}
    assert {(row["cell"], row["study"]) for row in rows} == {(order.spec.slot.cell, order.spec.slot.study)}
    run(plan, tmp_path)
    run(plan, tmp_path / "undisturbed")
    assert values(plan, tmp_path) == values(plan, tmp_path / "undisturbed")


def test_losses_are_forgiven_by_epochs_that_were_saved(
    small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.schedule.worker.SAVE_EVERY_S", 0.0)
    plan = small_plan(cells=1, studies=1, draws=0, epochs=12, tuning=small_plan().tuning.__class__(draws=0))
    session = Session(plan, Ledger(str(tmp_path)))
    for number in range(12):
        (order,) = session.orders(f"w{number}")
        if number % 2:  # every other worker gets one epoch further before it dies, the others do not
            Worker(str(tmp_path), MakeFake()).run([dataclasses.replace(order, until=number // 2 + 1)])
        session.lost(f"w{number}", "killed")
    assert not session.left_alone
    run_inline(session, MakeFake(), str(tmp_path))
    assert statuses(plan, tmp_path) == {"complete": 1}


def test_machines_that_are_taken_away_do_not_count(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan(cells=1, studies=1)
    session = Session(plan, Ledger(str(tmp_path)))
    for number in range(9):
        assert session.orders(f"w{number}")
        session.lost(f"w{number}", "pre-empted", blameless=True)
    assert not session.left_alone
    run_inline(session, MakeFake(), str(tmp_path))
    assert session.state.finished


def fault(plan: Plan, kind: str, *, stage: Stage = Stage.CONFIRM, cell: str = "fusion=f1") -> MakeFake:
    slots = [slot for slot in plan.slots() if slot.cell == cell and slot.stage is stage]
    return MakeFake(faults={str(slot): kind for slot in slots})


def test_nan_is_diverged_at_once_and_never_run_again(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan()
    run(plan, tmp_path, fault(plan, "nan"))
    rows = [row for row in values(plan, tmp_path)["trials"] if row["status"] == "diverged"]
    assert [(row["cell"], row["study"]) for row in rows] == [("fusion=f1", 0), ("fusion=f1", 1)]
    assert rows[0]["reason"] == "the training loss became non-finite in epoch 2"
    assert rows[0]["epochs"] == 1
    assert rows[0]["test_ua"] is None
    session = run(plan, tmp_path, retry=True)
    assert not session.tally.done


def test_a_failing_cell_stops_no_other_and_runs_again_when_asked(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan()
    broken = fault(plan, "error")
    run(plan, tmp_path, broken)
    found = values(plan, tmp_path)["trials"]
    failed = [row for row in found if row["status"] == "failed"]
    assert len(failed) == 2
    assert failed[0]["reason"].startswith("RuntimeError: the model is broken on purpose (fake.py:")
    assert sum(row["status"] == "complete" for row in found if row["stage"] == "confirm") == 4
    assert not run(plan, tmp_path, broken).tally.done  # not without being asked
    run(plan, tmp_path, retry=True)
    run(plan, tmp_path / "undisturbed")
    assert values(plan, tmp_path) == values(plan, tmp_path / "undisturbed")
    again = Ledger(str(tmp_path)).refresh().table
    assert max(again["attempt"].to_pylist()) == 1


def test_out_of_memory_is_tried_once_more_with_a_larger_share(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan(cells=1, studies=1)
    session = Session(plan, Ledger(str(tmp_path)))
    hand = Worker(str(tmp_path), fault(plan, "oom", stage=Stage.CONFIRM, cell="fusion=f0"))
    orders = session.orders("w")
    while not session.wants_large:
        orders = session.report("w", hand.run(orders)) or session.orders("w")
    assert session.orders("w") == []  # the usual share is not offered to it again
    large = session.orders("big", large=True)
    assert large[0].spec.slot.stage is Stage.CONFIRM
    session.report("big", hand.run(large))
    (close,) = session.orders("w")
    session.report("w", hand.run([close]))
    row = values(plan, tmp_path)["trials"][-1]
    assert row["status"] == "oom"
    assert "the second time with a larger share" in row["reason"]


def test_a_run_whose_first_trials_fail_stops_and_says_why(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan(cells=8)
    make = MakeFake(faults={str(slot): "error" for slot in plan.slots()})
    session = run(plan, tmp_path, make)
    assert session.tally.done[Status.FAILED] == 10
    assert session.ending is not None
    assert session.ending.startswith("10 of the first 10 trials failed")
    assert "the model is broken on purpose" in session.ending


def test_the_budget_saves_running_trials_and_resuming_goes_on(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan(epochs=30)
    now = [0.0]
    session = Session(plan, Ledger(str(tmp_path)), seconds=40.0, clock=lambda: now[0])

    def pass_time(worker: str, spec: Spec, epochs: int, value: float) -> None:
        now[0] += 1.0

    run_inline(session, MakeFake(), str(tmp_path), watch=pass_time)
    assert session.ending == "budget"
    (saved,) = (tmp_path / "_state").iterdir()
    assert saved.name not in Ledger(str(tmp_path)).refresh()
    run(plan, tmp_path)
    assert not list((tmp_path / "_state").iterdir())
    run(plan, tmp_path / "undisturbed")
    assert values(plan, tmp_path) == values(plan, tmp_path / "undisturbed")


def test_a_new_condition_scores_confirm_trials_again_and_keeps_the_old_scores(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan(cells=1, studies=1, conditions=(Condition("complete"),))
    run(plan, tmp_path)
    more = small_plan(cells=1, studies=1)
    session = run(more, tmp_path)
    assert sum(session.tally.done.values()) == 1
    rows = values(more, tmp_path)["scores"]
    assert [row["condition"] for row in rows] == ["complete"] * 4 + ["half"] * 4
    assert run(more, tmp_path).tally.done == {}


def test_a_condition_that_leaves_a_cell_nothing_is_not_scored(small_plan: Any, tmp_path: Path) -> None:
    text_only = Condition("text only", {"protocol": "pattern", "available": ["text"]})
    plan = small_plan(cells=1, studies=1, conditions=(Condition("complete"), text_only))
    session = run(plan, tmp_path)
    assert session.state.finished
    assert {row["condition"] for row in values(plan, tmp_path)["scores"]} == {"complete"}
    assert run(plan, tmp_path).tally.done == {}


def test_two_slots_that_are_one_trial_are_run_once(small_plan: Any, tmp_path: Path) -> None:
    """Draws of a `choice` repeat; the same trial then fills several slots."""
    from experiments.space.hyper import Hyper

    plan = small_plan(cells=1, studies=1, draws=4)
    hypers = {key: (Hyper("loss.name", "choice", choices=("focal", "cross_entropy")),) for key in plan.hypers}
    plan = small_plan(cells=1, studies=1, draws=4, hypers=hypers)
    session = run(plan, tmp_path, workers=3)
    assert session.state.finished
    rows = values(plan, tmp_path)["trials"]
    assert len(rows) == 5
    assert len({row["trial"] for row in rows if row["stage"] == "tune"}) == 2
    run(plan, tmp_path / "alone", workers=1)
    assert values(plan, tmp_path / "alone") == values(plan, tmp_path)


def test_a_pruned_trial_of_one_space_is_trained_on_for_another_that_does_not_prune(
    small_plan: Any, tmp_path: Path
) -> None:
    from experiments.space.plan import Tuning

    plan = small_plan(cells=1, studies=1, draws=6)
    run(plan, tmp_path)
    assert statuses(plan, tmp_path)["pruned"] > 0
    whole = small_plan(cells=1, studies=1, draws=6, space="whole", tuning=Tuning(draws=6, pruner="none"))
    run(whole, tmp_path)
    assert statuses(whole, tmp_path) == {"complete": 7}
    # and the first space still shows them pruned, with the values at their rung
    again = values(plan, tmp_path)["trials"]
    run(plan, tmp_path / "alone")
    keep = [{k: v for k, v in row.items() if k not in ("epochs", "parameters", "random_weights")} for row in again]
    alone = values(plan, tmp_path / "alone")["trials"]
    assert keep == [{k: v for k, v in r.items() if k not in ("epochs", "parameters", "random_weights")} for r in alone]


def test_a_broken_device_is_not_the_trials_fault(small_plan: Any, tmp_path: Path) -> None:
    class Broken(FakeWork):
        broken = True

        def epoch(self) -> list[Any]:
            if Broken.broken:
                Broken.broken = False
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().epoch()

    plan = small_plan(cells=1, studies=1)
    session = Session(plan, Ledger(str(tmp_path)))
    outcomes = Worker(str(tmp_path), Broken).run(session.orders("w"))
    assert outcomes[0].ended is Ended.BROKEN
    assert session.report("w", outcomes) == []
    run_inline(session, Broken, str(tmp_path))
    assert statuses(plan, tmp_path)["failed"] == 0


def test_unfinishable_numbers_are_refused_by_the_record(small_plan: Any, tmp_path: Path) -> None:
    class Empty(FakeWork):
        def finish(self, member: int) -> Any:
            found = super().finish(member)
            return type(found)({**found.valid, "ua": float("nan")}, found.best_epoch)

    plan = small_plan(cells=1, studies=1)
    run(plan, tmp_path, Empty)
    reasons = {row["reason"] for row in values(plan, tmp_path)["trials"] if row["status"] == "diverged"}
    assert reasons == {"a score of the finished model is not a number"}


def test_a_restored_state_goes_on_where_it_was(small_plan: Any, tmp_path: Path) -> None:
    trained: list[int] = []

    class Counting(FakeWork):
        def epoch(self) -> list[Any]:
            trained.append(self.epochs_done + 1)
            return super().epoch()

    plan = small_plan(cells=1, studies=1)
    session = Session(plan, Ledger(str(tmp_path)))
    (order,) = session.orders("w")
    first = Worker(str(tmp_path), Counting)
    first.run([order])
    first.run([dataclasses.replace(order, do=Do.PAUSE)])
    outcome: Outcome = Worker(str(tmp_path), Counting).run([dataclasses.replace(order, until=3)])[0]
    assert trained == [1, 2, 3]
    assert len(outcome.results[0].curve) == 3


@pytest.mark.parametrize(
    "damage", [b"", b"{}\n", b"not json", b'{"parts": 3}\n', b'{"parts": [], "peak_memory_mb": 1}\n[]']
)
def test_a_damaged_state_costs_a_fresh_start(small_plan: Any, tmp_path: Path, damage: bytes) -> None:
    plan = small_plan(cells=1, studies=1)
    session = Session(plan, Ledger(str(tmp_path)))
    (order,) = session.orders("w")
    (tmp_path / "_state").mkdir()
    (tmp_path / "_state" / order.spec.trial).write_bytes(damage)
    (outcome,) = Worker(str(tmp_path), MakeFake()).run([order])
    assert outcome.ended is Ended.REACHED
    assert len(outcome.results[0].curve) == order.until


def test_records_are_what_a_worker_says(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan(cells=1, studies=1)
    run(plan, tmp_path)
    row = next(r for r in Ledger(str(tmp_path)).refresh().effective.to_pylist() if r["stage"] == "confirm")
    assert row["status"] == Status.COMPLETE.value
    assert row["checkpoint"] == f"checkpoints/{row['trial']}"
    assert (tmp_path / row["checkpoint"] / "config.json").exists()
    assert row["labels"] == ["a", "b"]
    assert row["synthetic"] is True
    assert row["versions"].startswith("mer-ablation")
