"""A score as a function of how much of the input is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def normalised_auc(rates: Sequence[float], scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Area under score(rate) by the trapezoid rule, divided by the range of rates: the mean score over that range.

    rates   [R], in any order, at least two different
    scores  [..., R]
    Computed inside each study, so that the decisive test applies to it as to any score.

    >>> float(normalised_auc([0.0, 0.5, 1.0], [0.8, 0.6, 0.2]))
    0.55
    """
    x = np.asarray(rates, dtype=np.float64)
    y = np.asarray(scores, dtype=np.float64)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[..., order]
    span = x[-1] - x[0]
    if x.size < 2 or not span > 0:
        raise ValueError("an area under a missing-rate curve needs at least two different rates")
    area: npt.NDArray[np.float64] = np.trapezoid(y, x, axis=-1) / span
    return area


def crossings(rates: Sequence[float], first: Sequence[float], second: Sequence[float]) -> list[float]:
    """The rates at which two mean curves change places, by linear interpolation.

    >>> crossings([0.0, 1.0], [1.0, 0.0], [0.5, 0.5])
    [0.5]
    """
    x = np.asarray(rates, dtype=np.float64)
    d = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    found = []
    for i in range(x.size - 1):
        if d[i] * d[i + 1] < 0:
            found.append(float(x[i] + (x[i + 1] - x[i]) * d[i] / (d[i] - d[i + 1])))
    return found
