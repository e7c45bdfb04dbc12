"""The decisive test over the whole protocol: draws, selection on validation, confirmation on test, correction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from experiments.reporting.statistics.best import with_the_best
from experiments.reporting.statistics.family import holm
from experiments.reporting.statistics.paired import compare, decidability, mean_interval


def run_protocol(rng: np.random.Generator, truth: np.ndarray, studies: int, draws: int = 8) -> np.ndarray:
    """Confirmed test scores [cells, studies]: every study draws, chooses by noisy validation and retrains the winner.

    Draws of a study are the same points in every cell; their quality varies, a cell's own luck is added.
    """
    cells = truth.size
    shared = rng.normal(0, 0.02, (studies, draws))  # how good a point is, for every cell
    own = rng.normal(0, 0.005, (cells, studies, draws))
    quality = truth[:, None, None] + shared[None] + own
    valid = quality + rng.normal(0, 0.015, (studies, 1))[None] + rng.normal(0, 0.01, quality.shape)
    chosen = valid.argmax(-1)[..., None]
    confirmed = np.take_along_axis(quality, chosen, -1)[..., 0]
    test_split = rng.normal(0, 0.02, studies)  # shared by all cells: the pairing
    return confirmed + test_split + rng.normal(0, 0.008, confirmed.shape)


def called_different(scores: np.ndarray, test: str) -> bool:
    adjusted = holm([compare(row, scores[0], test=test).p for row in scores[1:]])
    return any(p is not None and p < 0.05 for p in adjusted)


@pytest.mark.parametrize("studies", [5, 8])
def test_equal_cells_are_called_different_in_at_most_five_percent_of_families(studies: int) -> None:
    rng = np.random.default_rng(studies)
    grids, cells = 6000, 6  # 500 would leave ±1 % of chance
    scores = np.stack([run_protocol(rng, np.full(cells, 0.7), studies) for _ in range(grids)])
    p = stats.ttest_1samp(scores[:, 1:] - scores[:, :1], 0, axis=-1).pvalue
    wrong = (cells - 1) * p.min(1) < 0.05  # Holm's first step decides whether anything is called different
    assert [called_different(grid, "paired_t") for grid in scores[:300]] == wrong[:300].tolist()
    assert wrong.mean() <= 0.05
    flips = [called_different(grid, "sign_flip") for grid in scores[:500]]
    assert np.mean(flips) <= 0.05
    if not decidability(studies, cells - 1, "sign_flip").possible:
        assert not any(flips)


def test_among_equal_cells_none_is_separated_from_the_best() -> None:
    rng = np.random.default_rng(1)
    grids = 1500
    lost = sum(not all(with_the_best(run_protocol(rng, np.full(6, 0.7), 5)) or [False]) for _ in range(grids))
    assert lost / grids <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / grids)


@pytest.mark.parametrize("studies", [5, 8, 10])
def test_t_intervals_cover_the_true_difference(studies: int) -> None:
    rng = np.random.default_rng(studies)
    truth = np.array([0.70, 0.715])
    runs = 6000
    inside = 0
    half = stats.t.ppf(0.975, studies - 1) / np.sqrt(studies)
    for run in range(runs):
        scores = run_protocol(rng, truth, studies)
        d = scores[1] - scores[0]
        width = half * d.std(ddof=1)
        inside += abs(d.mean() - 0.015) <= width
        if run < 50:  # the vectorised interval is the one that reports show
            assert mean_interval(d)[2] == pytest.approx(d.mean() + width)
    assert abs(inside / runs - 0.95) <= 0.015


def test_an_effect_is_found_as_often_as_the_detectable_difference_says() -> None:
    rng = np.random.default_rng(0)
    effect = decidability(8).effect
    assert effect is not None
    d = rng.normal(effect, 1.0, (3000, 8))
    found = np.mean(stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.03)
