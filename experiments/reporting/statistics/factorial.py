"""Main effects and interactions on a complete grid: analysis of variance with the study as block.

On a complete grid (every combination of levels in every study) sums of squares of types I, II and III are the same
and follow from means alone. Incomplete grids are refused: a marginal mean over cells that differ in what is missing
compares nothing.

    score = study + Σ effects + error,   ω² = (SS - df · MS_error) / (SS_total + MS_error)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Effect:
    """One line of the table. `p` and `f` are None where the error has no degrees of freedom or no variance."""

    factors: tuple[str, ...]
    df: int
    ss: float
    f: float | None
    p: float | None
    omega2: float | None


@dataclass(frozen=True)
class Anova:
    effects: tuple[Effect, ...]
    block_ss: float
    error_ss: float
    error_df: int
    total_ss: float


def anova(scores: npt.ArrayLike, factors: Sequence[str], order: int = 2) -> Anova:
    """Effects of up to `order` factors together; what is left of the interactions goes into the error.

    scores  [l_1, ..., l_F, S]: one axis a factor, the last axis the study; no gaps
    Type II (= I = III here). The study is a fixed block: five studies are too few to estimate its variance.

    >>> a = anova([[[0.70, 0.72], [0.71, 0.73]], [[0.80, 0.81], [0.80, 0.82]]], ["fusion", "pooling"])
    >>> [(e.factors, e.df) for e in a.effects]
    [(('fusion',), 1), (('pooling',), 1), (('fusion', 'pooling'), 1)]
    """
    from scipy import special

    y = np.asarray(scores, dtype=np.float64)
    if y.ndim != len(factors) + 1:
        raise ValueError(f"expected {len(factors)} factor axes and one of studies, got shape {y.shape}")
    if not np.isfinite(y).all():
        raise ValueError("an analysis of variance needs a complete grid")
    centred = y - y.mean()
    total = float((centred**2).sum())
    axes = range(len(factors))
    # The effect of a subset of axes: its marginal means minus every effect inside it.
    fitted: dict[tuple[int, ...], npt.NDArray[np.float64]] = {}
    found: list[tuple[tuple[int, ...], int, float]] = []
    for size in range(1, min(order, len(factors)) + 1):
        for subset in itertools.combinations(axes, size):
            others = tuple(axis for axis in range(y.ndim) if axis not in subset)
            part = centred.mean(axis=others, keepdims=True)
            for smaller, effect in fitted.items():
                if set(smaller) < set(subset):
                    part = part - effect
            fitted[subset] = part
            df = int(np.prod([y.shape[axis] - 1 for axis in subset]))
            repeats = y.size // int(np.prod([y.shape[axis] for axis in subset]))
            found.append((subset, df, float((part**2).sum()) * repeats))
    block = centred.mean(axis=tuple(axes), keepdims=True)
    block_ss = float((block**2).sum()) * (y.size // y.shape[-1])
    error_df = y.size - 1 - (y.shape[-1] - 1) - sum(df for _, df, _ in found)
    error_ss = max(0.0, total - block_ss - sum(ss for _, _, ss in found))
    if error_ss <= 1e-12 * total:
        error_ss = 0.0
    ms = error_ss / error_df if error_df > 0 else None
    effects = []
    for subset, df, ss in found:
        f = p = omega2 = None
        if ms is not None and ms > 0 and df > 0:
            f = ss / df / ms
            p = float(special.fdtrc(df, error_df, f))
        if ms is not None and total + ms > 0:
            omega2 = (ss - df * ms) / (total + ms)
        effects.append(Effect(tuple(factors[axis] for axis in subset), df, ss, f, p, omega2))
    return Anova(tuple(effects), block_ss, error_ss, error_df, total)
