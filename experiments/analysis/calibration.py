"""Do the probabilities mean what they say? Expected calibration error and the reliability diagram's numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.analysis.variant import SplitView
from mer import metrics


@dataclass(frozen=True)
class Bin:
    """Predictions whose confidence lies in `[low, high)`: how confident on average, and how often right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error: mean |accuracy - confidence| over the bins, weighted by their size."""

    error: float
    bins: tuple[Bin, ...]


def calibration(view: SplitView, bins: int = 10) -> Calibration:
    """Equal-width bins of the predicted class's probability; empty bins are left out."""
    confidence = view.probabilities.max(axis=1)
    right = ~view.wrong
    edges = np.linspace(0, 1, bins + 1)
    number = np.clip(np.digitize(confidence, edges[1:-1]), 0, bins - 1)
    found = tuple(
        Bin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            n=int((number == b).sum()),
            confidence=float(confidence[number == b].mean()),
            accuracy=float(right[number == b].mean()),
        )
        for b in range(bins)
        if (number == b).any()
    )
    return Calibration(metrics.ece(view.labels, view.probabilities, bins), found)
