"""Folds share their training data, so their scores are not independent repetitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.reporting.statistics.paired import Floats, is_constant


@dataclass(frozen=True)
class FoldComparison:
    """Mean difference over folds with its corrected interval."""

    folds: int
    mean: float
    low: float
    high: float
    p: float


def nadeau_bengio(
    differences: Sequence[float] | Floats, test_share: float | None = None, level: float = 0.95
) -> FoldComparison | None:
    """The corrected resampled t test of Nadeau and Bengio (2003) over folds.

        variance of the mean = var(d) · (1/k + n_test / n_train)

    differences  [k], one a fold, each the mean over the studies of that fold (studies and folds are never pooled)
    test_share   n_test / n_train; 1 / (k - 1) for folds of equal size
    When: a claim about people or sessions that are in no fold. Cost: wider than over studies, as it must be.

    >>> c = nadeau_bengio([0.02, 0.03, 0.01, 0.04, 0.02])
    >>> round(c.mean, 3), c.p < 0.05
    (0.024, True)
    """
    from scipy import special

    d = np.asarray(differences, dtype=np.float64)
    k = d.size
    if k < 2:
        return None
    share = 1 / (k - 1) if test_share is None else test_share
    mean = float(d.mean())
    if is_constant(d):
        return FoldComparison(k, mean, mean, mean, 1.0 if abs(mean) <= 1e-12 else 2.0 ** (1 - k))
    error = math.sqrt(float(d.var(ddof=1)) * (1 / k + share))
    half = float(special.stdtrit(k - 1, 0.5 + level / 2)) * error
    p = float(2 * special.stdtr(k - 1, -abs(mean) / error))
    return FoldComparison(k, mean, mean - half, mean + half, p)
