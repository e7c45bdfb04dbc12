"""Claims beyond the test set: intervals over studies and over dialogues (or speakers) at once.

A difference D of two cells varies with the study and with the utterances that happened to be tested, and the
utterances of a dialogue are alike. Both are left out in turn (jackknife):

    V_study = var(D_s) / S
    V_unit  = (J - 1) / J · Σ_j (D_(-j) - mean_j D_(-j))²      D_(-j): the mean over studies without dialogue j
    V_both  = what the two have in common (study × dialogue residual), in both sums and therefore subtracted once
    D ± t(ν) · √V,  V = V_study + V_unit - V_both, at least the larger of the two,  ν by Satterthwaite

Exact arithmetic on confusion counts, no random numbers. An interval over utterances that ignores dialogues covers
66 % where this one covers about 95 % (docs/statistics.md has what was measured).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.reporting.statistics.confusion import Counts, score

#: With fewer dialogues or speakers their spread cannot be told; the scope is refused.
FEWEST_UNITS = 5


@dataclass(frozen=True)
class TwoLevel:
    """A difference with an interval for new `units` (dialogues, speakers) as well as new studies."""

    studies: int
    units: int
    mean: float
    low: float
    high: float
    p: float
    study_share: float


def two_level(stacks: Sequence[tuple[float, Counts]], metric: str, level: float = 0.95) -> TwoLevel | None:
    """Interval of `Σ weight · metric(cell)` for new studies and new units.

    stacks  (weight, counts) a cell, counts [S, J, C, C] of study s and unit j: the same units in the same order
    None where there are fewer than `FEWEST_UNITS` units or fewer than two studies.

    >>> a = np.tile([[9.0, 1.0], [1.0, 9.0]], (3, 6, 1, 1)); b = np.tile([[7.0, 3.0], [3.0, 7.0]], (3, 6, 1, 1))
    >>> round(two_level([(1, a), (-1, b)], "wa").mean, 3)
    0.2
    """
    from scipy import special

    studies, units = stacks[0][1].shape[:2]
    if units < FEWEST_UNITS or studies < 2:
        return None
    d = np.zeros(studies)
    without = np.zeros((studies, units))
    for weight, counts in stacks:
        total = counts.sum(1)
        d += weight * score(total, metric)
        without += weight * score(total[:, None] - counts, metric)
    left_out = without.mean(0)
    v_study = float(d.var(ddof=1)) / studies
    v_unit = (units - 1) / units * float(((left_out - left_out.mean()) ** 2).sum())
    residual = without - without.mean(1, keepdims=True) - left_out[None, :] + left_out.mean()
    # A unit's influence on D_s is (J - 1) times what leaving it out changes.
    v_both = (units - 1) * float((residual**2).sum()) / (studies * units * (studies - 1))
    mean, variance = float(d.mean()), max(v_study + v_unit - v_both, v_study, v_unit)
    if variance <= 1e-24:
        return TwoLevel(studies, units, mean, mean, mean, 1.0 if abs(mean) <= 1e-12 else 2.0 ** (1 - studies), 0.0)
    spread = v_study**2 / (studies - 1) + v_unit**2 / (units - 1) + v_both**2 / ((studies - 1) * (units - 1))
    df = max(variance**2 / spread, min(studies, units) - 1.0)
    error = math.sqrt(variance)
    half = float(special.stdtrit(df, 0.5 + level / 2)) * error
    p = float(2 * special.stdtr(df, -abs(mean) / error))
    return TwoLevel(studies, units, mean, mean - half, mean + half, p, min(1.0, v_study / (v_study + v_unit)))
