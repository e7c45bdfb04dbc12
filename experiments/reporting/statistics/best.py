"""Which cells cannot be separated from the best: a model confidence set (Hansen, Lunde and Nason 2011).

The set holds *every* cell that is as good as the best one, with probability >= `level`, however many cells there are:
among equal cells nothing is left out in 95 % of grids. (Hsu's comparison with the best promises to hold one of the
best only: among six equal cells it leaves some out in 22 % of grids.)

Found by elimination. While the cells of the set differ by the studentised range test,

    q = (max mean - min mean) / (s / √n),   score = cell + study + error,   s² the error's mean square in the set,

the worst cell leaves. The test is exact for normal errors when differences between cells have equal variance, where
the bootstrap of the paper would need far more than ten studies.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@lru_cache(maxsize=512)
def _error_nodes(df: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights for s = √(χ²(df) / df), over the quantiles that hold all but 1e-12 of it."""
    from scipy import special

    low, high = (math.sqrt(2 * special.gammaincinv(df / 2, q) / df) for q in (1e-12, 1 - 1e-12))
    x, w = np.polynomial.legendre.leggauss(96)
    s = 0.5 * (high - low) * x + 0.5 * (high + low)
    log_density = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2) + (df - 1) * np.log(s) - df * s**2 / 2
    return s, 0.5 * (high - low) * w * np.exp(log_density)


@lru_cache(maxsize=1)
def _normal_nodes() -> tuple[Floats, Floats]:
    x, w = np.polynomial.legendre.leggauss(160)
    z = 8.5 * x
    return z, 8.5 * w * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def range_p_value(q: float, cells: int, df: int) -> float:
    """P(studentised range of `cells` equal cells > q), `df` degrees of freedom for the error.

    1 - ∫ f(s) k ∫ φ(z) (Φ(z) - Φ(z - q s))^(k - 1) dz ds

    >>> round(range_p_value(3.877, 3, 10), 3)
    0.05
    """
    from scipy import special

    s, weight = _error_nodes(df)
    z, density = _normal_nodes()
    inside = np.clip(special.ndtr(z)[None, :] - special.ndtr(z[None, :] - q * s[:, None]), 0, 1)
    return float(np.clip(1 - weight @ (cells * (inside ** (cells - 1) @ density)), 0, 1))


def with_the_best(scores: npt.ArrayLike, level: float = 0.95, higher_is_better: bool = True) -> list[bool] | None:
    """For each of k cells, whether it cannot be separated from the best.

    scores  [k, n], complete: every cell in every study
    None for a single cell or a single study. Cost: one double integral (about 1 ms) for each cell that leaves.

    >>> with_the_best([[0.9, 0.91, 0.92], [0.9, 0.92, 0.91], [0.5, 0.51, 0.49]])
    [True, True, False]
    """
    y = np.asarray(scores, dtype=np.float64)
    if y.ndim != 2 or not np.isfinite(y).all():
        raise ValueError("expected complete scores [cells, studies]")
    if not higher_is_better:
        y = -y
    k, n = y.shape
    if k < 2 or n < 2:
        return None
    means = y.mean(axis=1)
    order = [int(i) for i in np.argsort(means, kind="stable")]  # worst first
    while len(order) > 1:
        part = y[order]
        spread = float(means[order[-1]] - means[order[0]])
        residual = part - part.mean(1, keepdims=True) - part.mean(0, keepdims=True) + part.mean()
        df = (len(order) - 1) * (n - 1)
        s = math.sqrt(float((residual**2).sum()) / df)
        if spread <= 1e-12 * max(1.0, abs(float(means[order[-1]]))):
            break
        # Differences without variance: cells that differ at all in every study alike are separated.
        if s > 1e-12 and range_p_value(spread / (s / math.sqrt(n)), len(order), df) > 1 - level:
            break
        order.pop(0)
    return [i in order for i in range(k)]
