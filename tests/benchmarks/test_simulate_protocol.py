"""The simulation runs the real protocol: what is known of a few replications beforehand comes out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.space.plan import Tuning

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "simulate_protocol.py"


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("simulate_protocol", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_epochs_and_scores_of_each_way(simulation):
    found = simulation.one_replication(simulation.SLOW_BEST, 3, Tuning())
    cells, full = 6, 6 * 5 * 8 * 27
    assert found["no pruning"][1] == full
    assert found["half the draws"][1] == full // 2
    assert found["tune once"][1] < found["this pruning"][1] / 4
    assert 0.3 * full < found["this pruning"][1] < 0.7 * full
    for scores, _ in found.values():
        assert scores.shape == (cells, 5)
        assert np.isfinite(scores).all()


def test_no_pruning_takes_the_best_curve(simulation):
    plan = simulation.make_plan(simulation.EQUAL, 5, Tuning(pruner="none"))
    points = np.random.default_rng(0).random((5, 8))
    nature = simulation.Nature(simulation.EQUAL, points, 5)
    winners, _ = simulation.run_state(plan, nature)
    assert (winners == nature.curves.max(axis=3).argmax(axis=2)).all()
