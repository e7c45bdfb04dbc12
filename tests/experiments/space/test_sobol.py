"""The points of hyperparameters: Sobol as scipy has it, scrambled, and a function of seed, name and k alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from experiments.space.hyper import Hyper
from experiments.space.sobol import DIMENSIONS, owen, point, sobol


def test_unscrambled_points_are_scipys():
    expected = qmc.Sobol(len(DIMENSIONS), scramble=False, bits=32).random(256)
    for dimension, k in itertools.product(range(len(DIMENSIONS)), range(256)):
        gray = k ^ (k >> 1)  # scipy lists the same points in Gray code order
        assert sobol(dimension, gray) / 2**32 == expected[k, dimension]


@pytest.mark.parametrize("name", ["optimizer.lr", "projection.dropout", "fusion.heads", "my.own"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), power=st.integers(0, 4))
def test_every_power_of_two_is_stratified(name, seed, power):
    n = 2**power
    assert sorted(int(n * point(seed, name, k)) for k in range(n)) == list(range(n))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_known_parameters_fill_the_plane(seed):
    """lr and projection dropout: 16 points, one in each box of every 4 x 4 grid (a (0, 4, 2)-net)."""
    points = [(point(seed, "optimizer.lr", k), point(seed, "projection.dropout", k)) for k in range(16)]
    assert len({(int(4 * x), int(4 * y)) for x, y in points}) == 16
    assert len({(int(16 * x), 0) for x, y in points}) == 16


def test_unknown_parameters_are_independent_of_each_other():
    cells = {(int(2 * point(s, "a.b", k)), int(2 * point(s, "c.d", k))) for s in range(40) for k in range(2)}
    assert len(cells) == 4


def test_points_do_not_change_between_versions():
    """Ledgers depend on them: these values may never change."""
    assert [round(point(1, "optimizer.lr", k), 6) for k in range(3)] == LR
    assert [round(point(1, "fusion.heads", k), 6) for k in range(3)] == HEADS


LR = [0.328608, 0.795819, 0.054508]
HEADS = [0.694876, 0.234718, 0.984244]


@settings(max_examples=10, deadline=None)
@given(value=st.integers(0, 2**8 - 1), seed=st.integers(0, 99))
def test_owen_permutes_and_keeps_prefixes(value, seed):
    found = [owen(v, seed, 8) for v in range(256)]
    assert sorted(found) == list(range(256))
    for shift in range(8):
        assert len({found[v] >> shift for v in range(256) if v >> shift == value >> shift}) == 1


@given(unit=st.floats(0, 1, exclude_max=True))
def test_values_stay_in_range(unit):
    for kind, low, high in [("uniform", -1, 1), ("loguniform", 1e-5, 1e-2), ("int", 1, 5), ("logint", 1, 64)]:
        value = Hyper("x", kind, low, high).value(unit)
        assert low <= value <= high
        assert isinstance(value, int) == kind.endswith("int")
    assert Hyper("x", "choice", choices=("a", "b", "c")).value(unit) == "abc"[int(3 * unit)]


def test_literal_values():
    assert Hyper("x", "loguniform", 1e-4, 1e-2).value(0.5) == 1e-3
    assert [Hyper("x", "int", 1, 4).value(u) for u in (0.0, 0.25, 0.5, 0.99)] == [1, 2, 3, 4]
    assert [Hyper("x", "logint", 1, 7).value(u) for u in (0.0, 0.34, 0.67, 0.999)] == [1, 2, 4, 7]
