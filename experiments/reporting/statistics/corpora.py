"""One claim from several corpora: random effects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: With two corpora the interval has one degree of freedom and says nothing.
FEWEST_CORPORA = 3


@dataclass(frozen=True)
class Joint:
    """The mean effect over corpora as a sample of corpora; `tau` is the spread of true effects between them."""

    corpora: int
    mean: float
    low: float
    high: float
    p: float
    tau: float
    i2: float


def _tau2(y: np.ndarray, v: np.ndarray) -> float:
    """Paule and Mandel's between-corpus variance: the value at which the weighted residuals have mean square 1."""

    def excess(tau2: float) -> float:
        w = 1 / (v + tau2)
        return float((w * (y - (w @ y) / w.sum()) ** 2).sum()) - (y.size - 1)

    if excess(0.0) <= 0:
        return 0.0
    from scipy import optimize

    high = float(np.ptp(y)) ** 2 + float(v.max())
    while excess(high) > 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-16, rtol=1e-12))


def random_effects(effects: Sequence[float], variances: Sequence[float], level: float = 0.95) -> Joint | None:
    """Random-effects mean with Paule and Mandel's τ² and the Hartung-Knapp interval (t with k - 1 degrees of freedom).

    effects, variances  [k]: the mean difference on each corpus and the squared standard error of it
    The interval is never narrower than the one without Hartung and Knapp's factor (as Rover et al. 2015 advise for
    few studies). Fewer than three corpora: None; each is then shown on its own.

    >>> joint = random_effects([0.02, 0.03, 0.025], [0.0001, 0.0001, 0.0001])
    >>> round(joint.mean, 3), joint.tau
    (0.025, 0.0)
    """
    from scipy import special

    y, v = np.asarray(effects, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    k = y.size
    if k < FEWEST_CORPORA:
        return None
    # A corpus whose differences never varied would take all the weight; its error is at least the others' smallest.
    positive = v[v > 0]
    if positive.size == 0:
        v = np.full(k, 1e-12)
    else:
        v = np.where(v > 0, v, positive.min())
    tau2 = _tau2(y, v)
    w = 1 / (v + tau2)
    mean = float((w @ y) / w.sum())
    factor = max(1.0, float((w * (y - mean) ** 2).sum()) / (k - 1))
    error = math.sqrt(factor / float(w.sum()))
    half = float(special.stdtrit(k - 1, 0.5 + level / 2)) * error
    fixed = 1 / v
    q = float((fixed * (y - (fixed @ y) / fixed.sum()) ** 2).sum())
    return Joint(
        corpora=k,
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=float(2 * special.stdtr(k - 1, -abs(mean) / error)),
        tau=math.sqrt(tau2),
        i2=max(0.0, 1 - (k - 1) / q) if q > 0 else 0.0,
    )
