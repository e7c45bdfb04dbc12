from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from math import comb
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from experiments.reporting.statistics.best import with_the_best
from experiments.reporting.statistics.confusion import per_class, score
from experiments.reporting.statistics.corpora import random_effects
from experiments.reporting.statistics.curves import crossings, normalised_auc
from experiments.reporting.statistics.factorial import anova
from experiments.reporting.statistics.family import holm
from experiments.reporting.statistics.folds import nadeau_bengio
from experiments.reporting.statistics.levels import effective_units, shares, two_level, unit_df
from experiments.reporting.statistics.search import expected_best, kendall


def _simulation() -> ModuleType:
    path = Path(__file__).resolve().parents[4] / "benchmarks" / "simulate_statistics.py"
    spec = importlib.util.spec_from_file_location("simulate_statistics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SIMULATION = _simulation()


@pytest.mark.parametrize("size", [1, 2, 5, 12, 40])
def test_holm_agrees_with_statsmodels(size: int) -> None:
    p = np.random.default_rng(size).beta(0.5, 2, size).round(2).tolist()  # with ties
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


def test_an_untested_contrast_keeps_its_place_in_the_family() -> None:
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]
    assert holm([0.01], size=5) == [pytest.approx(0.05)]


def test_nadeau_bengio_against_the_formula() -> None:
    d = np.array([0.02, -0.01, 0.03, 0.04, 0.02])
    found = nadeau_bengio(d)
    assert found is not None
    t = d.mean() / np.sqrt(d.var(ddof=1) * (1 / 5 + 1 / 4))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 4) * d.mean() / t)
    assert nadeau_bengio([0.1]) is None
    unequal = nadeau_bengio(d, test_share=0.1)
    assert unequal is not None
    assert unequal.p < found.p


def test_random_effects_agree_with_statsmodels() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        y, v = rng.normal(0.02, 0.03, 5), rng.uniform(1e-4, 4e-4, 5)
        joint = random_effects(y, v)
        assert joint is not None
        oracle = combine_effects(y, v, method_re="iterated", use_t=True)
        assert joint.tau**2 == pytest.approx(max(oracle.tau2, 0), abs=2e-7)
        assert joint.mean == pytest.approx(oracle.mean_effect_re, abs=1e-4)
        if oracle.scale_hksj_re > 1:
            assert (joint.high - joint.low) / 2 == pytest.approx(
                stats.t.ppf(0.975, 4) * oracle.sd_eff_w_re_hksj, rel=1e-3
            )
    assert random_effects([0.1, 0.2], [0.1, 0.1]) is None


def test_random_effects_without_heterogeneity_widen_when_the_factor_is_below_one() -> None:
    joint = random_effects([0.02, 0.02, 0.02], [1e-4, 1e-4, 1e-4])
    assert joint is not None
    assert joint.high - joint.mean == pytest.approx(stats.t.ppf(0.975, 2) * np.sqrt(1e-4 / 3))
    constant = random_effects([0.1, 0.1, 0.1], [0.0, 0.0, 0.0])
    assert constant is not None
    assert constant.mean == pytest.approx(0.1)


def test_best_separates_what_is_far_and_keeps_what_is_near() -> None:
    rng = np.random.default_rng(1)
    y = np.array([[0.80], [0.799], [0.60]]) + rng.normal(0, 0.01, (3, 8))
    assert with_the_best(y) == [True, True, False]
    assert with_the_best(-y, higher_is_better=False) == [True, True, False]
    assert with_the_best(np.ones((3, 4))) == [True, True, True]
    # What is better by the same in every study is told by signs alone: 2^-10 is below 5 % / 2, 2^-2 is not.
    assert with_the_best(np.array([[0.5, 0.6] * 5, [0.4, 0.5] * 5])) == [True, False]
    assert with_the_best(np.array([[0.5, 0.6], [0.4, 0.5]])) == [True, True]
    assert with_the_best(y[:, :1]) is None


def test_best_ignores_what_studies_share() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(0, 0.01, (4, 6)) + np.array([[0.0], [0.0], [0.0], [-0.04]])
    assert with_the_best(y) == with_the_best(y + rng.normal(0, 5, (1, 6))) == [True, True, True, False]


def test_anova_agrees_with_statsmodels_type_two() -> None:
    rng = np.random.default_rng(5)
    y = rng.normal(0.7, 0.02, (3, 2, 4, 5)) + rng.normal(0, 0.03, (1, 1, 1, 5))
    y[1] += 0.02
    y[2, 1] += 0.03
    rows = [
        {"y": y[index], "a": f"a{index[0]}", "b": f"b{index[1]}", "c": f"c{index[2]}", "study": index[3]}
        for index in np.ndindex(y.shape)
    ]
    fit = smf.ols("y ~ (C(a, Sum) + C(b, Sum) + C(c, Sum))**2 + C(study)", pd.DataFrame(rows)).fit()
    oracle = sm.stats.anova_lm(fit, typ=2)
    found = anova(y, ["a", "b", "c"])
    for effect in found.effects:
        line = oracle.loc[":".join(f"C({name}, Sum)" for name in effect.factors)]
        assert effect.ss == pytest.approx(line["sum_sq"])
        assert effect.df == line["df"]
        assert effect.f == pytest.approx(line["F"])
        assert effect.p == pytest.approx(line["PR(>F)"])
        ms = oracle.loc["Residual", "sum_sq"] / oracle.loc["Residual", "df"]
        assert effect.omega2 == pytest.approx((effect.ss - effect.df * ms) / (oracle["sum_sq"].sum() + ms))
    assert found.error_df == oracle.loc["Residual", "df"]
    assert found.block_ss == pytest.approx(oracle.loc["C(study)", "sum_sq"])


def test_anova_refuses_a_grid_with_gaps() -> None:
    with pytest.raises(ValueError, match="complete"):
        anova([[0.1, np.nan], [0.2, 0.3]], ["a"])


def test_anova_without_error_gives_no_p() -> None:
    assert all(effect.p is None for effect in anova(np.ones((2, 3)), ["a"]).effects)
    exact = anova([[1.0, 1.0], [2.0, 2.0]], ["a"]).effects[0]
    assert exact.p is None
    assert exact.omega2 == pytest.approx(1.0)


def test_auc_and_crossings() -> None:
    assert normalised_auc([0.5, 0.0], [[0.4, 0.8]]).tolist() == pytest.approx([0.6])
    assert normalised_auc([0, 0.2, 1.0], [0.5, 0.5, 0.5]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="two different rates"):
        normalised_auc([0.5], [0.1])
    assert crossings([0, 0.5, 1], [0.9, 0.7, 0.1], [0.8, 0.6, 0.5]) == pytest.approx([0.6])


@pytest.mark.parametrize("higher", [True, False])
def test_expected_best_is_the_mean_over_all_subsets(higher: bool) -> None:
    values = np.random.default_rng(6).normal(size=7).tolist()
    best: Callable[..., float] = max if higher else min
    for k, found in enumerate(expected_best(values, higher), start=1):
        subsets = list(itertools.combinations(values, k))
        assert len(subsets) == comb(7, k)
        assert found == pytest.approx(np.mean([best(s) for s in subsets]))


def test_kendall_of_constants_is_unknown() -> None:
    assert kendall([1, 1, 1], [1, 2, 3]) is None
    assert kendall([1, 2, 3], [1, 2, 3]) == 1.0


def counts_of(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    return sk.confusion_matrix(labels, predictions, labels=range(classes)).astype(float)


@pytest.mark.parametrize("missing_class", [False, True])
def test_metrics_agree_with_scikit_learn(missing_class: bool) -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3 if missing_class else 4, 200)
    predictions = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 4, 200))
    counts = counts_of(labels, predictions, 4)
    assert score(counts, "wa") == pytest.approx(sk.accuracy_score(labels, predictions))
    present = sk.recall_score(labels, predictions, labels=np.unique(labels), average="macro")
    assert score(counts, "ua") == pytest.approx(present)
    for metric, average in [("weighted_f1", "weighted"), ("macro_f1", "macro")]:
        assert score(counts, metric) == pytest.approx(sk.f1_score(labels, predictions, average=average))
    oracle = sk.precision_recall_fscore_support(labels, predictions, labels=range(4), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), oracle, strict=True):
        assert per_class(counts)[name] == pytest.approx(values)


def dialogues(rng: np.random.Generator, studies: int, units: int, effect: float, spread: float) -> tuple:
    """Two cells on dialogues of 20 utterances, two classes; how much better the first is differs by dialogue."""
    unit = rng.normal(0, spread, units)
    study = rng.normal(0, 0.01, studies)
    p_a = np.clip(0.6 + effect + unit[None, :] + study[:, None], 0, 1)
    right_a = rng.binomial(20, p_a)
    right_b = rng.binomial(20, 0.6, (studies, units))

    def counts(right: np.ndarray) -> np.ndarray:
        half = np.stack([right / 2, 10 - right / 2], -1)
        return np.stack([half, half[..., ::-1]], -2)

    return counts(right_a), counts(right_b)


def test_two_level_equals_the_obvious_jackknife() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.integers(0, 6, (2, 4, 7, 3, 3)).astype(float)
    a[:], b[:] = a[0], b[0]  # the same utterances in every study and cell, differently predicted
    for counts in (*a, *b):
        for unit, truth in zip(counts, a[0].sum(-1), strict=True):
            for row, total in zip(unit, truth, strict=True):
                row[:] = rng.multinomial(int(total), np.full(3, 1 / 3))
    found = two_level([(1, a), (-1, b)], "weighted_f1")
    assert found is not None

    def difference(units: list[int], study: int) -> float:
        return float(score(a[study, units].sum(0), "weighted_f1") - score(b[study, units].sum(0), "weighted_f1"))

    everything = list(range(7))
    d = np.array([difference(everything, s) for s in range(4)])
    left = np.array([np.mean([difference([u for u in everything if u != j], s) for s in range(4)]) for j in everything])
    influence = np.array(
        [[6 * (d[s] - difference([u for u in everything if u != j], s)) for j in everything] for s in range(4)]
    )
    influence -= influence.mean(1, keepdims=True)
    influence -= influence.mean(0, keepdims=True)
    v_both = (influence**2).sum() / (3 * 6) / (4 * 7)
    v_study, v_unit = d.var(ddof=1) / 4, 6 / 7 * ((left - left.mean()) ** 2).sum()
    variance = max(v_study + v_unit - v_both, v_study, v_unit)
    # Bell and McCaffrey: ν = tr(A)² / tr(A²) of the quadratic form in the units' effects.
    h = a[0].sum((1, 2)) / a[0].sum()
    rows = np.sqrt(6 / 7) * (h / (1 - h))[:, None] * (np.eye(7) - h[None, :])
    form = rows.T @ rows
    nu = np.trace(form) ** 2 / np.trace(form @ form)
    df = max(variance**2 / (v_study**2 / 3 + v_unit**2 / nu + v_both**2 / (3 * nu)), min(3, nu))
    half = stats.t.ppf(0.975, df) * np.sqrt(variance)
    assert (found.mean, found.low, found.high) == pytest.approx((d.mean(), d.mean() - half, d.mean() + half))


def test_two_level_refuses_what_the_data_cannot_carry() -> None:
    a = np.ones((5, 2, 2, 2))
    assert two_level([(1, a), (-1, a)], "wa") is None
    assert two_level([(1, np.ones((1, 30, 2, 2)))], "wa") is None


def test_equal_units_have_one_degree_of_freedom_less_than_they_are_many_and_the_floor_holds() -> None:
    """Where studies hardly matter it is the units that decide; where they decide alone, the smaller of the two."""
    rng = np.random.default_rng(3)
    sizes = np.full(8, 20)
    for studies in (3, 12):
        a, b = SIMULATION.counts_of_equals(rng, sizes, studies, (0.1, 0.0, 0.0))
        assert unit_df(shares(a, "wa")) == pytest.approx(7)
        found = two_level([(1, a), (-1, b)], "wa")
        assert found is not None
        without = score(a.sum(1)[:, None] - a, "wa") - score(b.sum(1)[:, None] - b, "wa")
        d = score(a.sum(1), "wa") - score(b.sum(1), "wa")
        v_study = d.var(ddof=1) / studies
        residual = without - without.mean(1, keepdims=True) - without.mean(0) + without.mean()
        v_both = 7 * (residual**2).sum() / (studies * 8 * (studies - 1))
        v_unit = 7 / 8 * ((without.mean(0) - without.mean()) ** 2).sum()
        variance = max(v_study + v_unit - v_both, v_study, v_unit)
        most = stats.t.ppf(0.975, min(studies - 1, 7)) * np.sqrt(variance)  # the floor: never fewer degrees than these
        assert (found.high - found.low) / 2 <= most + 1e-12


def test_units_that_weigh_as_few_are_refused() -> None:
    rng = np.random.default_rng(4)
    sizes = np.array([400, *[10] * 20])
    assert effective_units(sizes / sizes.sum()) < 5
    a, b = SIMULATION.counts_of_equals(rng, sizes, 5, (0.1, 0.0, 0.0))
    assert two_level([(1, a), (-1, b)], "wa") is None
    a, b = SIMULATION.counts_of_equals(rng, np.full(5, 10), 5, (0.1, 0.0, 0.0))
    assert two_level([(1, a), (-1, b)], "wa") is not None


@pytest.mark.parametrize("kind", ["lognormal 1", "two units 25 %", "two units 30 %"])
def test_units_of_very_unequal_size_do_not_make_intervals_too_short(kind: str) -> None:
    wrong, _ = SIMULATION.interval_errs(np.random.default_rng(5), kind, 30, 10, "units", "wa", 800)
    assert wrong <= 0.05


@pytest.mark.parametrize(("cells", "studies"), [(3, 10), (6, 5), (12, 3)])
@pytest.mark.parametrize("spread", ["one cell four times", "from 1 to 8"])
def test_cells_that_vary_unequally_are_not_called_worse_than_the_best(cells: int, studies: int, spread: str) -> None:
    runs = 1000
    lost = SIMULATION.any_equal_lost(np.random.default_rng(6), spread, cells, studies, runs)
    assert lost <= 0.05 + 1.96 * np.sqrt(0.05 * 0.95 / runs)


def test_two_level_covers_where_an_interval_over_studies_does_not() -> None:
    rng = np.random.default_rng(9)
    inside = studies_alone = 0
    runs = 400
    for _ in range(runs):
        a, b = dialogues(rng, 5, 20, 0.05, 0.08)
        found = two_level([(1, a), (-1, b)], "wa")
        assert found is not None
        inside += found.low <= 0.05 <= found.high
        d = score(a.sum(1), "wa") - score(b.sum(1), "wa")
        half = stats.t.ppf(0.975, 4) * d.std(ddof=1) / np.sqrt(5)
        studies_alone += abs(d.mean() - 0.05) <= half
    assert 0.93 <= inside / runs <= 0.99
    assert studies_alone / runs < 0.90
