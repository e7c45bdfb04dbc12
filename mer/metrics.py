"""Metrics, from the concatenated labels and predictions of a whole split (never a mean of batch metrics); numpy alone.

The policy for classes is stated once. With C classes known to the corpus:

- a class that occurs neither in the labels nor in the predictions is left out of macro averages;
- UA averages recall over the classes that occur in the labels: recall of a class that was never there is undefined;
- precision of a class never predicted, and F1 where precision and recall are both 0, are 0.

This is scikit-learn's policy with `zero_division=0` and `labels` left to the data. WA is accuracy, UA unweighted
average recall, as in speech emotion recognition (some papers use the names the other way round).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mer.errors import UserError, unknown


@dataclass(frozen=True)
class Metric:
    """A metric as everything that ranks, prunes, tests or prints it knows it: which end is better stands here alone.

    Args:
        name: in code, files and columns.
        printed: in tables and figures.
        meaning: in a note below a table.
        direction: which end of it is the better one.
        scale: what it is multiplied by to be printed; 100 is per cent.
    """

    name: str
    printed: str
    meaning: str
    direction: Literal["max", "min"] = "max"
    scale: float = 100.0

    @property
    def higher_is_better(self) -> bool:
        return self.direction == "max"

    @property
    def sign(self) -> float:
        """What values are multiplied by so that larger is better."""
        return 1.0 if self.higher_is_better else -1.0


METRICS: dict[str, Metric] = {
    found.name: found
    for found in (
        Metric("wa", "WA", "accuracy"),
        Metric("ua", "UA", "recall averaged over classes"),
        Metric("weighted_f1", "weighted F1", "F1 averaged over classes by their size"),
        Metric("macro_f1", "macro F1", "F1 averaged over classes, each alike"),
    )
}

NAMES = tuple(METRICS)
"""What `scores` gives, in the order of tables."""


def metric(name: str) -> Metric:
    """
    >>> metric("ua").printed, metric("ua").higher_is_better
    ('UA', True)
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]


@dataclass(frozen=True)
class PerClass:
    """`[C]` each; recall is NaN where the class has no support (see the module's policy)."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]
    predicted: NDArray[np.int64]


def confusion(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """`[C, C]`, rows are labels, columns predictions.

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    y, p = _checked(labels, predictions, num_classes)
    return np.bincount(y * num_classes + p, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> PerClass:
    """Precision, recall, F1 and support of every class.

    >>> per_class([0, 0, 1], [0, 1, 1], 2).f1.round(3).tolist()
    [0.667, 0.667]
    """
    return _per_class(confusion(labels, predictions, num_classes))


def wa(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    """Weighted accuracy: the share of right predictions.

    >>> wa([0, 0, 1, 2], [0, 1, 1, 2], 3)
    0.75
    """
    return _summary(confusion(labels, predictions, num_classes))["wa"]


def ua(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    """Unweighted accuracy (UAR, balanced accuracy): mean recall of the classes that occur in the labels.

    >>> ua([0, 0, 1, 2], [0, 1, 1, 2], 4)
    0.8333333333333334
    """
    return _summary(confusion(labels, predictions, num_classes))["ua"]


def weighted_f1(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    """F1 of each class weighted by its support.

    >>> round(weighted_f1([0, 0, 1, 2], [0, 1, 1, 2], 3), 4)
    0.75
    """
    return _summary(confusion(labels, predictions, num_classes))["weighted_f1"]


def macro_f1(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    """Unweighted mean F1 of the classes that occur in the labels or the predictions.

    >>> round(macro_f1([0, 0, 1, 2], [0, 1, 1, 2], 4), 4)
    0.7778
    """
    return _summary(confusion(labels, predictions, num_classes))["macro_f1"]


def scores(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> dict[str, float]:
    """All four at once: `wa`, `ua`, `weighted_f1`, `macro_f1`.

    >>> scores([0, 1], [0, 1], 2)
    {'wa': 1.0, 'ua': 1.0, 'weighted_f1': 1.0, 'macro_f1': 1.0}
    """
    return _summary(confusion(labels, predictions, num_classes))


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): mean gap between confidence and accuracy over equal-width bins.

    Confidence is the largest probability; bin k is (k/bins, (k+1)/bins], the first closed on the left.

    >>> round(ece([0, 1], [[0.8, 0.2], [0.8, 0.2]], bins=10), 3)
    0.3
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or bins < 1:
        raise UserError(f"probabilities of shape {p.shape} in {bins} bins", expected="[N, C] and at least one bin")
    if not np.isfinite(p).all():
        raise UserError("probabilities that are not finite", expected="numbers in [0, 1]")
    y, right = _checked(labels, p.argmax(1), p.shape[1])
    confidence = p.max(1)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=(y == right) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(y))


def _checked(labels: ArrayLike, predictions: ArrayLike, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    y, p = np.asarray(labels), np.asarray(predictions)
    if y.ndim != 1 or y.shape != p.shape or not len(y):
        raise UserError(f"labels {y.shape} and predictions {p.shape}", expected="two non-empty lists of equal length")
    for name, values in (("label", y), ("prediction", p)):
        if not np.issubdtype(values.dtype, np.integer):
            raise UserError(f"{name}s of type {values.dtype}", expected="integers")
        if values.min() < 0 or values.max() >= classes:
            wrong: Any = values[(values < 0) | (values >= classes)][0]
            raise UserError(f"{name} {wrong}", expected=f"0 to {classes - 1}")
    return y.astype(np.int64), p.astype(np.int64)


def _per_class(matrix: NDArray[np.int64]) -> PerClass:
    hits, support, predicted = np.diag(matrix).astype(np.float64), matrix.sum(1), matrix.sum(0)
    precision = hits / np.maximum(predicted, 1)
    recall = np.where(support > 0, hits / np.maximum(support, 1), np.nan)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    return PerClass(precision, recall, f1, support, predicted)


def _summary(matrix: NDArray[np.int64]) -> dict[str, float]:
    found = _per_class(matrix)
    occurring = (found.support + found.predicted) > 0
    return {
        "wa": float(np.trace(matrix) / matrix.sum()),
        "ua": float(np.nanmean(found.recall)),
        "weighted_f1": float((found.f1 * found.support).sum() / found.support.sum()),
        "macro_f1": float(found.f1[occurring].mean()),
    }
