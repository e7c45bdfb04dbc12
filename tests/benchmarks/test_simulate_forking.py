"""No path through the garden shows more false claims without a mark than the level says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "simulate_forking.py"


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("simulate_forking", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_step_after_the_first_keeps_the_family_or_is_marked(simulation):
    for route, make in simulation.ROUTES.items():
        steps = make()
        runs = simulation.reports(steps)
        size = len(steps[0].plan.contrasts)
        assert not runs[0].spec.marks
        assert not any(contrast.post_hoc for contrast in runs[0].spec.contrasts)
        for run in runs[1:]:
            assert run.spec.marks or run.spec.declared >= size, route
            late = run.spec.marks or run.spec.metric_post_hoc or any(c.post_hoc for c in run.spec.contrasts)
            assert late or size > 1, route


def test_asking_the_smallest_p_alone_changes_nothing(simulation):
    run = simulation.reports(simulation.ROUTES["the best of 10 contrasts is kept"]()[:1])[0]
    rng = np.random.default_rng(0)
    for _ in range(40):
        scores = simulation.sample(rng, 11, 5)
        assert simulation.false_claims(run, scores) == simulation.false_claims(run, scores, everything=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(9))
def test_false_claims_without_a_mark_stay_below_the_level(simulation, number):
    route, runs = list(simulation.ROUTES)[number], 400
    unmarked, _, before = simulation.measure(route, runs, seed=100 + number)
    assert unmarked <= 0.05 + 2.58 * np.sqrt(0.05 * 0.95 / runs)
    assert before > 0.09  # what one reads where the last YAML is all that is known
