"""What the plan says before anything is spent: counts, costs, and what n can decide."""

from __future__ import annotations

import dataclasses

import pytest
from statsmodels.stats.power import TTestPower

from experiments.slots import Slot, Stage
from experiments.space.estimate import CellCost, estimate, expected_epochs
from experiments.space.fit import fit, fit_text, proposals
from experiments.space.text import needs_yes, plan_text
from mer.errors import UserError

SPACE = """
factors: {fusion: [concat, gated, weighted, cross_attention], pooling: [mean, min]}
tune: {parameters: {lr: {loguniform: [1e-4, 1e-2]}}, draws: 8}
studies: 5
limits: {price_per_hour: 3.5}
contrasts: {test: paired_t, sd: 0.02, compare: [fusion]}
"""


def costs(plan, seconds=2.0):
    return {(cell.corpus, cell.name): CellCost(seconds, 1000, 50.0) for cell in plan.cells}


def test_counts_and_power(plan_of):
    plan = plan_of(SPACE)
    text = plan_text(plan, timings=costs(plan), workers=2)
    assert "8 cells" in text
    assert "trials: 320 tune + 40 confirm = 360; already there: 0, to do: 360" in text
    assert "corpus demo is SYNTHETIC" in text
    # three contrasts: Holm's strictest step is 0.05 / 3
    d = TTestPower().solve_power(nobs=5, alpha=0.05 / 3, power=0.8)
    assert (
        f"gated vs concat [ua, complete]: {d:.2f} sd of the paired difference = {2 * d:.1f} points at an sd of 2.0"
        in text
    )
    assert "USD at 3.5 an hour" in text


def test_what_exact_tests_cannot_decide(plan_of):
    plan = plan_of(SPACE.replace("paired_t", "sign_flip"))
    assert "not decidable with n = 5" in plan_text(plan)
    plan = plan_of(SPACE.replace("paired_t", "sign_flip").replace("studies: 5", "studies: 8"))
    assert "not decidable" not in plan_text(plan)


def test_undeclared_contrasts_are_said_to_be_post_hoc(plan_of):
    assert "post hoc" in plan_text(plan_of("factors: {pooling: [mean, min]}"))


def test_time_is_what_the_epochs_cost(plan_of):
    plan = plan_of(SPACE + "\n", sets=["tune.pruner=none"])
    found = estimate(plan, costs(plan))
    assert found.epochs == {Stage.TUNE: 320 * 9, Stage.CONFIRM: 40 * 9}
    assert found.total_seconds == 360 * 9 * 2.0
    done = [slot for slot in plan.slots() if slot.study < 2]
    assert estimate(plan, costs(plan), done).total_seconds == pytest.approx(360 * 9 * 2.0 * 3 / 5)
    assert estimate(plan).total_seconds is None


def test_expected_epochs_are_between_one_rung_and_everything():
    assert expected_epochs(8, 27, (), 4.0, 0.25) == 8 * 27
    pruned = expected_epochs(8, 27, (2, 8), 4.0, 0.25)
    assert 8 * 2 + 2 * 25 < pruned < 0.6 * 8 * 27
    assert expected_epochs(8, 27, (2, 8), 4.0, 1.0) == 8 * 27
    assert expected_epochs(1, 27, (2, 8), 4.0, 0.0) == 27


def test_fit_stays_within_the_budget_and_costs_least(plan_of):
    plan = plan_of(SPACE)
    timings = costs(plan)
    whole = estimate(plan, timings).total_seconds
    assert fit(plan, timings, whole).sets == ()
    half = fit(plan, timings, whole / 2)
    assert half.seconds <= whole / 2
    assert half.sets
    better = [p for p in proposals(plan, timings) if p.loss < half.loss]
    assert all(p.seconds > whole / 2 for p in better)
    again = plan_of(SPACE, sets=half.sets)
    assert estimate(again, costs(again)).total_seconds == pytest.approx(half.seconds)
    text = fit_text(plan, timings, whole / 2)
    assert "proposed" in text
    assert all(f"--set '{s}'" in text for s in half.sets)
    with pytest.raises(UserError, match="no design fits in 10 s"):
        fit(plan, timings, 10)
    with pytest.raises(UserError, match="nothing was timed"):
        fit(plan, {}, 10)


def test_large_plans_ask(plan_of):
    plan = plan_of(SPACE)
    assert not needs_yes(plan)
    large = dataclasses.replace(plan, studies=400)
    assert needs_yes(large)
    assert "--yes" in plan_text(large)


def test_planning_needs_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys; from experiments.space.load import make_plan; from experiments.protocol.state import State\n"
        "import experiments.space.text, experiments.space.fit\n"
        "heavy = {'torch', 'ray', 'pandas', 'optuna', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_slots_are_in_the_order_of_the_words(plan_of):
    plan = plan_of(SPACE)
    slots = list(plan.slots())
    first = plan.cells[0].name
    assert slots[:9] == [
        *(Slot("demo", first, 0, 0, Stage.TUNE, d) for d in range(8)),
        Slot("demo", first, 0, 0, Stage.CONFIRM),
    ]
    assert {slot.study for slot in slots[: len(slots) // 5]} == {0}
