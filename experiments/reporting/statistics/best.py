"""Which cells cannot be separated from the best: a confidence set of the best cells.

The set holds *every* cell that is as good as the best one, with probability >= `level`, however many cells there are
and however differently they vary: among equal cells nothing is left out in 95 % of grids. (Hsu's comparison with the
best promises to hold one of the best only: among six equal cells it leaves some out in 22 % of grids. The studentised
range test, which pools the variances, leaves some out in 7 to 12 % where one cell varies much more than the others.)

A cell leaves where some other one is better by a one-sided paired t test, corrected by Holm (1979): with m cells left
of k, a p value must reach (1 - level) / (m (k - 1)). As long as all of the best cells are left, those m (k - 1) pairs
hold every true hypothesis "the other one is no better than this one of the best", so that by Bonferroni's inequality
none of these is rejected. Each paired t test is exact for its own pair, whatever the variances and the correlations
of the others: nothing is pooled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def with_the_best(scores: npt.ArrayLike, level: float = 0.95, higher_is_better: bool = True) -> list[bool] | None:
    """For each of k cells, whether it cannot be separated from the best.

    scores  [k, n], complete: every cell in every study
    None for a single cell or a single study.

    >>> with_the_best([[0.9, 0.91, 0.92], [0.9, 0.92, 0.91], [0.5, 0.51, 0.49]])
    [True, True, False]
    """
    from scipy import special

    y = np.asarray(scores, dtype=np.float64)
    if y.ndim != 2 or not np.isfinite(y).all():
        raise ValueError("expected complete scores [cells, studies]")
    k, n = y.shape
    if k < 2 or n < 2:
        return None
    y = y if higher_is_better else -y
    p = np.ones(k)  # the smallest one-sided p of "another one is better than this one"
    for i in range(k):
        d = np.delete(y, i, axis=0) - y[i]
        mean, sd = d.mean(1), d.std(1, ddof=1)
        varies = np.ptp(d, axis=1) > 1e-12 * np.maximum(1.0, np.abs(d).max(1))
        t = np.divide(mean, sd / np.sqrt(n), out=np.zeros_like(mean), where=varies)
        # A difference without variance tells what its signs alone can tell.
        p[i] = np.where(varies, special.stdtr(n - 1, -t), np.where(mean > 1e-12, 2.0**-n, 1.0)).min()
    kept = np.ones(k, bool)
    while (out := kept & (p * kept.sum() * (k - 1) <= 1 - level)).any():
        kept &= ~out
    return [bool(x) for x in kept]
