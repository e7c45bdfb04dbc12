"""What the search for hyperparameters did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def expected_best(values: Sequence[float], higher_is_better: bool = True) -> npt.NDArray[np.float64]:
    """Expected validation performance after k = 1..N draws, without bias (Tang et al. 2020).

        EVP(k) = Σ_i C(i - 1, k - 1) / C(N, k) · v_(i),   v sorted ascending

    The mean of the best of k over all subsets of k draws. Valid for independent, unpruned draws alone (random; Sobol
    as an approximation), never for adaptive or pruned ones.

    >>> expected_best([0.1, 0.2, 0.3]).round(4).tolist()
    [0.2, 0.2667, 0.3]
    """
    v = np.sort(np.asarray(values, dtype=np.float64))
    if not higher_is_better:
        v = -v[::-1]
    n = v.size
    i = np.arange(1, n + 1)
    logs = np.array([math.lgamma(x + 1) for x in range(n + 1)])
    curve = np.empty(n)
    for k in range(1, n + 1):
        weights = np.zeros(n)
        tail = i >= k
        m = i[tail] - 1
        log_weight = logs[m] - logs[k - 1] - logs[m - k + 1] - (logs[n] - logs[k] - logs[n - k])
        weights[tail] = np.exp(log_weight)
        curve[k - 1] = weights @ v
    return curve if higher_is_better else -curve


@dataclass(frozen=True)
class PruningEffect:
    """What pruning did, from the draws that were exempt from it.

    exempt       exempt draws that were judged at a rung
    condemned    those of them that would have been pruned
    regretted    condemned draws that ended better than the winner of their cell and study
    correlation  Kendall's tau between the value at the first rung and the final value, over exempt draws of a group;
                 averaged over groups with at least three
    saved        share of tune-stage epochs that pruning saved
    """

    exempt: int
    condemned: int
    regretted: int
    correlation: float | None
    saved: float | None


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b; None where either is constant."""
    from scipy import stats

    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(stats.kendalltau(first, second).statistic)
