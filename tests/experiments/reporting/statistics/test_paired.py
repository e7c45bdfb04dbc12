from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from experiments.reporting.statistics.paired import (
    compare,
    decidability,
    detectable_effect,
    equivalence,
    hedges_g,
    mean_interval,
    probability_better,
    sign_flip_test,
    t_test,
    wilcoxon_test,
)

samples = st.integers(2, 9).flatmap(
    lambda n: st.lists(st.floats(-1, 1, allow_nan=False, width=32), min_size=n, max_size=n)
)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 10, 30])
def test_t_agrees_with_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(20):
        a, b = rng.normal(0.7, 0.05, n), rng.normal(0.69, 0.05, n)
        c = compare(a, b)
        oracle = stats.ttest_rel(a, b)
        interval = oracle.confidence_interval()
        assert c.p == pytest.approx(oracle.pvalue, rel=1e-10)
        assert (c.low, c.high) == pytest.approx((interval.low, interval.high), rel=1e-10)
        assert c.sd == pytest.approx(np.std(a - b, ddof=1))


def test_mean_interval_agrees_with_scipy() -> None:
    x = np.random.default_rng(0).normal(0.6, 0.1, 7)
    interval = stats.ttest_1samp(x, 0).confidence_interval(0.9)
    assert mean_interval(x, 0.9)[1:] == pytest.approx((interval.low, interval.high))


@given(samples)
def test_sign_flips_agree_with_enumeration(d: list[float]) -> None:
    observed = abs(sum(d))
    slack = 1e-9 * sum(map(abs, d))
    flips = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=len(d))
    ]
    assert sign_flip_test(d) == pytest.approx(np.mean([flip >= observed - slack for flip in flips]))


def test_sign_flips_agree_with_scipy() -> None:
    d = np.random.default_rng(3).normal(0.5, 1, 8)
    oracle = stats.permutation_test(
        (d,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert sign_flip_test(d) == pytest.approx(oracle.pvalue)


def test_sign_flips_of_many_studies_are_sampled_and_reproducible() -> None:
    d = np.random.default_rng(4).normal(0.3, 1, 40)
    assert sign_flip_test(d) == sign_flip_test(d)
    assert sign_flip_test(d) == pytest.approx(t_test(d), abs=0.02)
    assert sign_flip_test(np.ones(40)) > 0


@pytest.mark.parametrize(("n", "p"), [(3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125), (10, 2 / 1024)])
def test_smallest_sign_flip_p(n: int, p: float) -> None:
    assert sign_flip_test(np.arange(1.0, n + 1)) == p


def test_hedges_correction_is_the_gamma_ratio() -> None:
    d = np.array([0.01, 0.03, 0.02, 0.05])
    exact = math.gamma(1.5) / (math.sqrt(1.5) * math.gamma(1.0))
    assert hedges_g(d) == pytest.approx(d.mean() / d.std(ddof=1) * exact)
    assert hedges_g([0.1, 0.2]) is None


def test_hedges_g_is_unbiased() -> None:
    rng = np.random.default_rng(1)
    g = [hedges_g(row) for row in rng.normal(0.8, 1.0, (20_000, 5))]
    assert np.mean([x for x in g if x is not None]) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("n", [3, 5, 8, 10, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_detectable_effect_has_the_power_it_says(n: int, alpha: float) -> None:
    found = detectable_effect(n, alpha)
    assert found is not None
    critical = stats.t.ppf(1 - alpha / 2, n - 1)

    def density(s: float) -> float:  # of the estimated standard deviation
        return float(stats.chi2.pdf(s * s * (n - 1), n - 1) * 2 * s * (n - 1))

    power = quad(lambda s: stats.norm.sf(critical * s - found * np.sqrt(n)) * density(s), 0, 6, limit=200)[0]
    assert power == pytest.approx(0.8, abs=1e-5)
    if alpha == 0.05:
        assert TTestPower().power(found, n, alpha, alternative="two-sided") == pytest.approx(0.8, abs=1e-4)


def test_what_cannot_be_decided() -> None:
    assert decidability(5, 1, "sign_flip").text == "not decidable with n = 5"
    assert decidability(6, 1, "sign_flip").possible
    assert not decidability(6, 2, "sign_flip").possible
    assert decidability(10, 25, "sign_flip").possible
    assert not decidability(10, 26, "sign_flip").possible
    assert not decidability(1).possible
    assert not decidability(2).possible
    assert decidability(3, 1).possible
    assert not decidability(3, 4).possible
    assert decidability(5, 10).possible


@pytest.mark.parametrize("n", [4, 9])
def test_equivalence_agrees_with_statsmodels(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.7, 0.01, n), rng.normal(0.7, 0.01, n)
    assert equivalence(a - b, 0.02) == pytest.approx(ttost_paired(a, b, -0.02, 0.02)[0])


def test_no_variance_has_a_defined_answer() -> None:
    same = compare([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert (same.p, same.mean, same.low, same.high, same.effect, same.better) == (1.0, 0.0, 0.0, 0.0, 0.0, 0.5)
    shifted = compare([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])
    assert shifted.constant
    assert shifted.p == 0.25
    assert shifted.effect is None
    assert (shifted.low, shifted.high) == pytest.approx((0.1, 0.1))
    assert equivalence([0.0, 0.0, 0.0], 0.01) == 0.125
    assert equivalence([0.5, 0.5, 0.5], 0.01) == 1.0


def test_one_study_gives_a_mean_and_nothing_else() -> None:
    c = compare([0.7], [0.6])
    assert c.mean == pytest.approx(0.1)
    assert (c.low, c.high, c.p, c.effect, c.detectable) == (None, None, None, None, None)


def test_nan_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        compare([0.1, float("nan")], [0.1, 0.2])
    with pytest.raises(ValueError, match="equal length"):
        compare([0.1], [0.1, 0.2])
    with pytest.raises(ValueError, match="unknown test"):
        compare([0.1, 0.2], [0.1, 0.3], test="median")


def test_lower_is_better_turns_the_probability_and_nothing_else() -> None:
    up, down = compare([2, 3], [1, 4]), compare([2, 3, 4], [1, 1, 5], higher_is_better=False)
    assert up.better == 0.5
    assert down.better == pytest.approx(1 / 3)
    assert down.mean == pytest.approx(2 / 3)


def test_probability_better_counts_ties_half() -> None:
    assert probability_better([1, 0, -1, 0]) == 0.5


def test_wilcoxon_agrees_with_scipy() -> None:
    d = np.random.default_rng(5).normal(0.3, 1, 9)
    assert wilcoxon_test(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
    assert compare(d, np.zeros(9), test="wilcoxon").p == wilcoxon_test(d)
    assert wilcoxon_test([0.0, 0.0, 0.0]) == 1.0
