"""Decisions do not depend on the number of workers, on the order of arrival, or on what was lost on the way."""

from __future__ import annotations

import cProfile
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.protocol.actions import Confirm, Continue, Fact, Pause, Select, Start, Stop, Unit
from experiments.protocol.replay import next_actions, replay, replay_ledger
from experiments.protocol.state import State
from experiments.slots import Slot, Stage, Status


def tune(draw, cell="cell0", study=0):
    return Slot("demo", cell, study, 0, Stage.TUNE, draw)


def confirm(cell="cell0", study=0):
    return Slot("demo", cell, study, 0, Stage.CONFIRM)


def alone(plan, slot, params=None):
    return Unit((slot,), (plan.params(slot) if params is None else params,))


def oracle(plan, curve):
    """The rules of the method, one draw after the other, with no notion of time."""
    outcome, winners = {}, {}
    for slot in plan.slots():
        if plan.cell_of(slot).skip:
            outcome[slot] = Status.SKIPPED
    groups = {}
    for slot in plan.slots():
        if slot.stage is Stage.TUNE:
            groups.setdefault(plan.group(slot), []).append(slot)
    for group, slots in groups.items():
        reached = {}  # rung -> [(draw, value)]
        complete = []
        for slot in slots:
            values, ending = curve(slot)
            good = [v for v in values if v == v]
            pruned = False
            for rung in plan.rungs(plan.cell_of(slot)):
                if len(good) < rung:
                    if ending is Status.COMPLETE:
                        reached.setdefault(rung, []).append(max(good))
                        continue
                    break
                value = max(good[:rung])
                earlier = reached.setdefault(rung, [])
                better = sum(other > value for other in earlier)
                places = max(1, int((len(earlier) + 1) / plan.tuning.eta + 1e-9))
                reached[rung] = [*earlier, value]
                if not plan.exempt(slot) and better >= places:
                    pruned = True
                    break
            outcome[slot] = Status.PRUNED if pruned else ending
            if outcome[slot] is Status.COMPLETE:
                complete.append((max(good), -slot.draw))
        winners[group] = -max(complete)[1] if complete else None
    for slot in plan.slots():
        if slot.stage is Stage.CONFIRM and slot not in outcome:
            outcome[slot] = Status.SKIPPED if winners[plan.group(slot)] is None else curve(slot)[1]
    return outcome, winners


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    workers=st.integers(1, 9),
    losses=st.sampled_from([0.0, 0.2]),
    draws=st.integers(2, 9),
    eta=st.sampled_from([2.0, 3.0, 4.0]),
    exempt=st.sampled_from([0.0, 0.125, 0.3]),
    once=st.booleans(),
    skip=st.sampled_from([None, "rule"]),
    bundling=st.sampled_from([None, (2, 1), (3, 2), (8, 2)]),
)
def test_any_execution_agrees_with_the_rules(
    make_plan, executor, random_curve, seed, workers, losses, draws, eta, exempt, once, skip, bundling
):
    plan = make_plan(draws=draws, eta=eta, exempt=exempt, once=once, skip=skip, bundling=bundling)
    curve = random_curve(seed)
    run = executor(plan, curve, workers, seed, losses).run()
    outcome, winners = oracle(plan, curve)
    assert run.outcome() == outcome
    for group, number in winners.items():
        chosen = run.state.selected(group)
        assert (None if chosen is None else chosen.winner.draw) == number
    one = executor(plan, curve, 1, seed + 1).run()
    assert list(one.state.all_decisions()) == list(run.state.all_decisions())
    starts = [a.unit.slot for a in run.log if isinstance(a, Confirm)]
    assert losses or len(starts) == len(set(starts))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sampler=st.sampled_from(["sobol", "tpe"]),
    shuffle=st.integers(0, 99),
    bundling=st.sampled_from([None, (3, 2)]),
)
def test_replay_from_facts_in_any_order(make_plan, executor, random_curve, seed, sampler, shuffle, bundling):
    extra = {"startup": 2, "batch": 2, "draws": 6} if sampler == "tpe" else {}
    plan = make_plan(cells=1, studies=1 if sampler == "tpe" else 2, sampler=sampler, bundling=bundling, **extra)
    run = executor(plan, random_curve(seed), 3, seed).run()
    facts = list(run.facts.values())
    random.Random(shuffle).shuffle(facts)
    again = replay(plan, facts)
    assert again.finished
    assert list(again.all_decisions()) == list(run.state.all_decisions())
    assert {slot: again.status(slot) for slot in plan.slots()} == run.outcome()
    assert next_actions(plan, run.facts, 4) == [a for a in again.next_actions(4)]
    looked = replay_ledger(plan, lambda slot, unit: run.facts.get(slot))
    assert looked.finished
    assert list(looked.all_decisions()) == list(run.state.all_decisions())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 60), bundling=st.sampled_from([None, (3, 2), (4, 1)]))
def test_a_driver_killed_anywhere_and_restarted_decides_the_same(
    make_plan, executor, random_curve, seed, cut, bundling
):
    plan = make_plan(bundling=bundling)
    whole = executor(plan, random_curve(seed), 3, seed).run()
    ended = [fact for fact in whole.facts.values() if fact.status is not None][:cut]
    second = executor(plan, random_curve(seed), 2, seed + 1)
    for fact in ended:
        second.state.observe(fact)
    second.facts = {fact.slot: fact for fact in ended}
    second.ended = set(second.facts)
    second.run()
    assert second.outcome() == whole.outcome()
    assert list(second.state.all_decisions()) == list(whole.state.all_decisions())
    assert not {fact.slot for fact in ended} & set(second.epochs), "a finished trial was run again"


def test_literal_race_with_one_worker(make_plan):
    plan = make_plan(cells=1, studies=1, draws=3, exempt=0.0)
    assert plan.rungs(plan.cells[0]) == (1, 3)
    state = State(plan)
    assert state.next_actions(1) == [Start(alone(plan, tune(0)), 1)]
    state.observe(Fact(tune(0), (0.5,)))
    assert state.next_actions(0) == [Continue(alone(plan, tune(0)), 3)]
    state.observe(Fact(tune(0), (0.5, 0.6, 0.6)))
    assert state.next_actions(0) == [Continue(alone(plan, tune(0)), 9)]
    state.observe(Fact(tune(0), (0.5, 0.6, 0.6) + (0.7,) * 6, Status.COMPLETE))
    assert state.next_actions(1) == [Start(alone(plan, tune(1)), 1)]
    state.observe(Fact(tune(1), (0.4,)))
    [stop, start] = state.next_actions(0 + 1)
    assert stop == Stop(
        tune(1), Status.PRUNED, "pruned at epoch 1: 0.4 against 0.5", rung=1, value=0.4, cutoff=0.5, against=(0,)
    )
    assert start == Start(alone(plan, tune(2)), 1)
    state.observe(Fact(tune(2), (0.5,)))  # as good as the best is good enough
    assert state.next_actions(0) == [Continue(alone(plan, tune(2)), 3)]
    state.observe(Fact(tune(2), (0.5, 0.9, 0.1)))
    assert state.next_actions(0) == [Continue(alone(plan, tune(2)), 9)]
    state.observe(Fact(tune(2), (0.5, 0.9) + (0.1,) * 7, Status.COMPLETE))
    [select, last] = state.next_actions(1)
    assert isinstance(select, Select)
    assert (select.winner, select.value, select.among) == (tune(2), 0.9, (0, 2))
    assert last == Confirm(alone(plan, confirm(), plan.params(tune(2))), 9)
    assert not state.finished
    state.observe(Fact(confirm(), (0.8,) * 9, Status.COMPLETE))
    assert state.finished


def test_a_higher_draw_waits_without_a_worker(make_plan):
    plan = make_plan(cells=1, studies=1, draws=2, exempt=0.0)
    state = State(plan)
    state.next_actions(2)
    state.observe(Fact(tune(1), (0.9,)))
    assert state.next_actions(0) == [Pause(alone(plan, tune(1)), 1)]
    state.observe(Fact(tune(0), (0.5,)))
    assert state.next_actions(1) == [Continue(alone(plan, tune(0)), 3), Continue(alone(plan, tune(1)), 3)]


def test_confirm_comes_before_later_cells(make_plan):
    plan = make_plan(cells=2, studies=1, draws=2, exempt=1.0, pruner="none")
    state = State(plan)
    order = []
    while not state.finished:
        for action in state.next_actions(1):
            if isinstance(action, Start | Confirm):
                order.append(action.unit.slot)
                state.observe(Fact(action.unit.slot, (0.5,) * 9, Status.COMPLETE))
    assert order == list(plan.slots())
    assert [s.stage for s in order] == [Stage.TUNE, Stage.TUNE, Stage.CONFIRM] * 2


def test_nothing_completed_means_nothing_to_confirm(make_plan):
    plan = make_plan(cells=1, studies=1, draws=2)
    state = replay(plan, [Fact(tune(d), (), Status.DIVERGED) for d in range(2)])
    [stop] = state.next_actions(3)
    assert isinstance(stop, Stop)
    assert (stop.slot, stop.status) == (confirm(), Status.SKIPPED)
    assert "no draw" in stop.reason
    assert state.finished


def test_smaller_is_better_where_the_metric_says_so(make_plan, lower_is_better):
    plan = make_plan(cells=1, studies=1, draws=2, exempt=0.0)
    state = replay(plan, [Fact(tune(0), (0.5,) * 9, Status.COMPLETE), Fact(tune(1), (0.6,))])
    stop = state.next_actions(0)[0]
    assert isinstance(stop, Stop)
    assert (stop.value, stop.cutoff) == (0.6, 0.5)


def test_a_fact_about_other_hyperparameters_is_none(make_plan):
    plan = make_plan(cells=1, studies=1, draws=2)
    state = State(plan)
    state.observe(Fact(tune(0), (0.9,) * 9, Status.COMPLETE, {"optimizer.lr": 1.0}))
    assert state.status(tune(0)) is Status.MISSING


def test_a_recorded_pruning_is_decided_again(make_plan):
    """A space with a milder pruner runs on what another space has cut short."""
    plan = make_plan(cells=1, studies=1, draws=2, pruner="none")
    state = replay(plan, [Fact(tune(0), (0.5,) * 9, Status.COMPLETE), Fact(tune(1), (0.4,), Status.PRUNED)])
    assert state.next_actions(1) == [Start(alone(plan, tune(1)), 9)]


def test_more_draws_change_no_earlier_decision(make_plan, executor, random_curve):
    for seed in range(20):
        few = executor(make_plan(draws=4), random_curve(seed), 2, seed).run()
        many = executor(make_plan(draws=8), random_curve(seed), 2, seed).run()
        for slot, status in few.outcome().items():
            if slot.stage is Stage.TUNE:
                assert many.outcome()[slot] is status


def test_exempt_share_is_kept_in_every_prefix(make_plan):
    for share, every in ((0.125, 8), (0.25, 4), (0.5, 2)):
        plan = make_plan(draws=24, exempt=share)
        for study in range(4):
            free = [plan.exempt(tune(d, study=study)) for d in range(24)]
            for block in range(0, 24, every):
                assert sum(free[block : block + every]) == 1
    plan = make_plan(draws=30, exempt=0.3)
    assert sum(plan.exempt(tune(d)) for d in range(30)) == 9


@pytest.mark.parametrize("workers", [1, 16])
def test_ten_thousand_trials_in_linear_work(make_plan, executor, random_curve, workers):
    """Ten times the trials take ten times the calls, and no more."""

    def calls(cells: int) -> int:
        plan = make_plan(cells=cells, studies=10, draws=16, epochs=9)
        assert plan.n_slots == cells * 10 * 17
        with cProfile.Profile() as profile:
            assert executor(plan, random_curve(0, coarse=False), workers, 0).run().state.finished
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(60) < 11 * calls(6)
