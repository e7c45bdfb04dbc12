"""Claims beyond the test set: intervals over studies and over dialogues (or speakers) at once.

A difference D of two cells varies with the study and with the utterances that happened to be tested, and the
utterances of a dialogue are alike. Both are left out in turn (jackknife):

    V_study = var(D_s) / S
    V_unit  = (J - 1) / J · Σ_j (D_(-j) - mean_j D_(-j))²      D_(-j): the mean over studies without dialogue j
    V_both  = what the two have in common (study × dialogue residual), in both sums and therefore subtracted once
    D ± t(ν) · √V,  V = V_study + V_unit - V_both, at least the larger of the two,  ν by Satterthwaite

Units of unequal size tell less of their spread than as many equal ones: V_unit has Bell and McCaffrey's (2002) degrees
of freedom, those of the jackknife variance if units differed alike. J equal units have J - 1; 28 small ones beside two
with 30 % of the utterances each have 1.4, where J - 1 = 29 leaves out the truth in up to 11 % of experiments.

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


def shares(counts: Counts, metric: str) -> Counts:
    """[J]: how much each unit weighs in a metric, by its utterances; by class where classes weigh alike."""
    support = counts[0].sum(-1)
    if metric in ("ua", "macro_f1"):
        support = support[:, support.sum(0) > 0]
        return np.asarray((support / support.sum(0)).mean(1))
    return np.asarray(support.sum(1) / support.sum())


def effective_units(share: Counts) -> float:
    """How many equal units would average out as much: 1 / Σ share².

    >>> effective_units(np.array([0.5, 0.25, 0.25])), effective_units(np.full(8, 1 / 8))
    (2.6666666666666665, 8.0)
    """
    return float(1 / (share**2).sum())


def unit_df(share: Counts) -> float:
    """Degrees of freedom of the variance by leaving out units in turn, whose effects u_j vary alike:

        V ∝ Σ_j c_j (u_j - Σ_l h_l u_l)²,  c_j = (h_j / (1 - h_j))²,  ν = 2 E(V)² / var(V) = tr(A)² / tr(A²)

    >>> round(unit_df(np.full(8, 1 / 8)), 9), round(unit_df(np.array([0.3, 0.3, *[0.4 / 28] * 28])), 1)
    (7.0, 1.4)
    """
    c = (share / (1 - share)) ** 2
    gram = np.eye(share.size) - share[:, None] - share[None, :] + (share**2).sum()
    return float((c @ np.diag(gram)) ** 2 / (c @ gram**2 @ c))


def two_level(stacks: Sequence[tuple[float, Counts]], metric: str, level: float = 0.95) -> TwoLevel | None:
    """Interval of `Σ weight · metric(cell)` for new studies and new units.

    stacks  (weight, counts) a cell, counts [S, J, C, C] of study s and unit j: the same units in the same order
    None where the units weigh less than `FEWEST_UNITS` equal ones, or where there are fewer than two studies.

    >>> a = np.tile([[9.0, 1.0], [1.0, 9.0]], (3, 6, 1, 1)); b = np.tile([[7.0, 3.0], [3.0, 7.0]], (3, 6, 1, 1))
    >>> round(two_level([(1, a), (-1, b)], "wa").mean, 3)
    0.2
    """
    from scipy import special

    studies, units = stacks[0][1].shape[:2]
    share = shares(stacks[0][1], metric)
    if units < FEWEST_UNITS or effective_units(share) < FEWEST_UNITS - 1e-9 or studies < 2:
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
    df_unit = unit_df(share)
    spread = v_study**2 / (studies - 1) + v_unit**2 / df_unit + v_both**2 / ((studies - 1) * df_unit)
    df = max(variance**2 / spread, min(studies - 1.0, df_unit))
    error = math.sqrt(variance)
    half = float(special.stdtrit(df, 0.5 + level / 2)) * error
    p = float(2 * special.stdtr(df, -abs(mean) / error))
    return TwoLevel(studies, units, mean, mean - half, mean + half, p, min(1.0, v_study / (v_study + v_unit)))
