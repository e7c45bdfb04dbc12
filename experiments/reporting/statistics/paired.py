"""Two cells compared over the same studies.

Each study gives one difference; the interval and the test are those of their mean. With n differences d:

    mean(d) ± t(n - 1) · sd(d) / √n          Student's t; covers 95 % at n = 3 to 10, where a bootstrap does not
    exact sign flips                         all 2^n sign patterns; cannot be below 2 / 2^n

Differences without variance have a defined answer. All zero: p = 1 and the interval is the point 0. All equal but
not zero: Student's t would be infinite, so p is what the signs alone can tell, 2 / 2^n, the interval is the point
and the standardised effect is undefined; the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TESTS = {"paired_t": "paired t test", "sign_flip": "exact sign-flip test", "wilcoxon": "Wilcoxon signed-rank test"}

#: Beyond this many standard deviations of the paired differences nobody expects an effect; what needs more at 80 %
#: power is called not decidable. (n = 3 needs 3.3 for one contrast, 4.7 for two, 5.8 for three.)
LARGEST_CREDIBLE_EFFECT = 5.0


@dataclass(frozen=True)
class Comparison:
    """The difference of two cells over studies. `None` where n does not allow the quantity.

    mean, low, high   mean difference and its confidence interval
    p                 two-sided p value of `test`, uncorrected
    effect            Hedges' g of the paired differences (mean / sd, corrected for small n)
    better            share of studies in which the first was better, ties counting half: P(A > B)
    detectable        the smallest true difference found with 80 % power, given the observed spread
    constant          every difference is the same number
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    p: float | None
    test: str
    level: float
    effect: float | None
    better: float
    detectable: float | None
    constant: bool = False


def _checked(differences: Sequence[float] | Floats) -> Floats:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size == 0:
        raise ValueError(f"expected at least one difference in one dimension, got shape {d.shape}")
    if not np.isfinite(d).all():
        raise ValueError("a difference is not finite; a study without a score cannot enter a comparison")
    return d


def is_constant(d: Floats) -> bool:
    """Whether differences vary by no more than rounding noise (scores are of order 1, or as large as they are)."""
    return bool(np.ptp(d) <= 1e-12 * max(1.0, float(np.abs(d).max())))


def mean_interval(values: Sequence[float] | Floats, level: float = 0.95) -> tuple[float, float | None, float | None]:
    """Mean and Student's t interval of it; no interval from a single value.

    >>> [round(x, 3) for x in mean_interval([0.70, 0.72, 0.71])]
    [0.71, 0.685, 0.735]
    """
    from scipy import special

    x = _checked(values)
    mean = float(x.mean())
    if x.size < 2:
        return mean, None, None
    half = float(special.stdtrit(x.size - 1, 0.5 + level / 2)) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return mean, mean - half, mean + half


def t_test(differences: Sequence[float] | Floats) -> float | None:
    """Two-sided p of the paired t test; see the module for differences without variance.

    >>> round(t_test([0.01, 0.02, 0.03]), 4)
    0.0742
    """
    from scipy import special

    d = _checked(differences)
    if d.size < 2:
        return None
    if is_constant(d):
        return 1.0 if abs(d[0]) <= 1e-12 else 2.0 ** (1 - d.size)
    t = abs(d.mean()) / (d.std(ddof=1) / math.sqrt(d.size))
    return float(2 * special.stdtr(d.size - 1, -t))


def sign_flip_test(differences: Sequence[float] | Floats, samples: int = 100_000) -> float:
    """Two-sided p of the sign-flip permutation test of the mean: exact up to n = 20.

    Above that, `samples` patterns from a generator with a fixed seed, counting the observed one (Phipson and Smyth
    2010), so that p is never 0 and is the same in every report. No distribution is assumed beyond symmetry under
    equality, and so p cannot be below 2 / 2^n: five studies cannot reach .05.

    >>> sign_flip_test([1.0, 2.0, 3.0])
    0.25
    """
    d = _checked(differences)
    observed = abs(d.sum())
    slack = 1e-9 * np.abs(d).sum()
    if d.size > 20:
        signs = np.random.default_rng(20).choice(np.array([-1.0, 1.0]), size=(samples, d.size))
        return float((1 + np.count_nonzero(np.abs(signs @ d) >= observed - slack)) / (samples + 1))
    sums = np.zeros(1)
    for value in d:  # 2^n sums by doubling
        sums = np.concatenate([sums + value, sums - value])
    return float(np.count_nonzero(np.abs(sums) >= observed - slack) / sums.size)


def wilcoxon_test(differences: Sequence[float] | Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test: the sign-flip test of the signed ranks, exact with ties too.

    Zero differences keep their rank and count for neither side (Pratt 1959). Cannot be below 2 / 2^n either.

    >>> wilcoxon_test([0.1, 0.2, 0.3, 0.4, 0.5])
    0.0625
    """
    from scipy import stats

    d = _checked(differences)
    return sign_flip_test(np.sign(d) * stats.rankdata(np.abs(d)))


def hedges_g(differences: Sequence[float] | Floats) -> float | None:
    """Standardised paired difference with the exact small-sample correction (Hedges 1981).

    g = mean / sd · Γ(ν/2) / (√(ν/2) Γ((ν - 1)/2)), ν = n - 1

    Undefined for n < 3 and for constant differences other than 0.
    """
    d = _checked(differences)
    if is_constant(d):
        return 0.0 if abs(d[0]) <= 1e-12 else None
    nu = d.size - 1
    if nu < 2:
        return None
    correction = math.exp(math.lgamma(nu / 2) - 0.5 * math.log(nu / 2) - math.lgamma((nu - 1) / 2))
    return float(d.mean() / d.std(ddof=1) * correction)


def probability_better(differences: Sequence[float] | Floats) -> float:
    """Share of studies in which the first cell was better; ties count half.

    >>> probability_better([0.1, 0.0, -0.1, 0.2])
    0.625
    """
    d = _checked(differences)
    return float(((d > 0) + 0.5 * (d == 0)).mean())


@lru_cache(maxsize=4096)
def detectable_effect(n: int, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The standardised paired difference that a two-sided t test at `alpha` finds with `power`.

    >>> [round(detectable_effect(n), 2) for n in (3, 5, 8, 10)]
    [3.26, 1.68, 1.16, 1.0]
    """
    if n < 2:
        return None
    from scipy import optimize, special

    critical = float(special.stdtrit(n - 1, 1 - alpha / 2))

    def shortfall(d: float) -> float:
        # The far tail adds nothing that could be seen where power is 80 %.
        return 1 - float(special.nctdtr(n - 1, d * math.sqrt(n), critical)) - power

    high = 1.0
    while shortfall(high) < 0:
        high *= 2
        if high > 1e4:
            return None
    return float(optimize.brentq(shortfall, 0.0, high, xtol=1e-6))


@dataclass(frozen=True)
class Decidability:
    """What `n` studies can decide about one of `family` contrasts before any of them is run."""

    n: int
    family: int
    test: str
    possible: bool
    effect: float | None
    smallest_p: float

    @property
    def text(self) -> str:
        return "" if self.possible else f"not decidable with n = {self.n}"

    @property
    def why(self) -> str:
        """What is true of it: exact tests have a smallest p; Student's t has none, but needs much."""
        if self.n < 2:
            return "one study has no spread"
        if self.test != "paired_t":
            return f"no data of {self.n} studies give a corrected p below {self.smallest_p:.2g}"
        need = "no" if self.effect is None else f"only a difference of {self.effect:.1f} standard deviations has"
        return f"{need} 80 % power"


def decidability(
    n: int, family: int = 1, test: str = "paired_t", alpha: float = 0.05, power: float = 0.8
) -> Decidability:
    """Whether `n` studies can decide a contrast at all, by the size of its family.

    Sign flips and ranks: the smallest p is 2 / 2^n, times the family's size. Student's t: the smallest effect found
    with `power` at Holm's strictest step, alpha / family, must be one that can happen (`LARGEST_CREDIBLE_EFFECT`).

    >>> decidability(5, test="sign_flip").text, decidability(6, test="sign_flip").text, decidability(3, family=6).text
    ('not decidable with n = 5', '', 'not decidable with n = 3')
    """
    family = max(family, 1)
    if n < 2:
        return Decidability(n, family, test, False, None, 1.0)
    effect = detectable_effect(n, alpha / family, power)
    if test != "paired_t":
        smallest = min(1.0, family * 2.0 ** (1 - n))
        return Decidability(n, family, test, smallest <= alpha, effect, smallest)
    possible = effect is not None and effect <= LARGEST_CREDIBLE_EFFECT
    return Decidability(n, family, test, possible, effect, 0.0)


def compare(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    *,
    test: str = "paired_t",
    level: float = 0.95,
    higher_is_better: bool = True,
    family: int = 1,
) -> Comparison:
    """`first` minus `second`, both [n] over the same studies in the same order.

    The interval is Student's whatever the test; `detectable` is at the family's strictest step.

    >>> c = compare([0.74, 0.76, 0.75, 0.78], [0.70, 0.71, 0.73, 0.74])
    >>> round(c.mean, 4), c.n, c.better, c.p < 0.05
    (0.0375, 4, 1.0, True)
    """
    a, b = _checked(first), _checked(second)
    if a.shape != b.shape:
        raise ValueError(f"paired scores must have equal length, got {a.size} and {b.size}")
    d = a - b
    mean, low, high = mean_interval(d, level)
    constant = d.size > 1 and is_constant(d)
    sd = None if d.size < 2 else (0.0 if constant else float(d.std(ddof=1)))
    if constant:
        low = high = mean
    p: float | None
    if d.size < 2:
        p = None
    elif test == "sign_flip":
        p = sign_flip_test(d)
    elif test == "wilcoxon":
        p = wilcoxon_test(d)
    elif test == "paired_t":
        p = t_test(d)
    else:
        raise ValueError(f"unknown test {test!r}; expected {', '.join(TESTS)}")
    unit = detectable_effect(d.size, (1 - level) / max(family, 1))
    return Comparison(
        n=d.size,
        mean=mean,
        sd=sd,
        low=low,
        high=high,
        p=p,
        test=test,
        level=level,
        effect=hedges_g(d) if d.size > 1 else None,
        better=probability_better(d if higher_is_better else -d),
        detectable=None if unit is None or sd is None else unit * sd,
        constant=constant,
    )


def equivalence(differences: Sequence[float] | Floats, margin: float) -> float | None:
    """TOST: the p value of "the difference is within ± margin" (Schuirmann 1987).

    The larger of two one-sided t tests. Equality is never concluded from a large p of the test of a difference.

    >>> equivalence([0.001, -0.001, 0.002, 0.0, -0.002], margin=0.02) < 0.001
    True
    """
    from scipy import special

    if not margin > 0:
        raise ValueError(f"the margin of equivalence must be positive, got {margin}")
    d = _checked(differences)
    if d.size < 2:
        return None
    if is_constant(d):
        return 2.0**-d.size if abs(d[0]) < margin else 1.0
    error = d.std(ddof=1) / math.sqrt(d.size)
    nearer = min((d.mean() + margin) / error, (margin - d.mean()) / error)
    return float(special.stdtr(d.size - 1, -nearer))
