"""Metrics from confusion counts, for whole stacks of them at once.

counts  [..., C, C], row = label, column = prediction
Every metric here is a function of the counts alone, so leaving out a dialogue is a subtraction.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]


def _ratio(above: Counts, below: Counts) -> Counts:
    return np.divide(above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below > 0)


def per_class(counts: Counts) -> dict[str, Counts]:
    """Precision, recall, F1 and support of each class, [..., C]; 0 where a class was neither found nor there.

    >>> scores = per_class(np.array([[3.0, 1.0], [0.0, 4.0]]))
    >>> [scores[name].round(3).tolist() for name in ("precision", "recall", "f1")]
    [[1.0, 0.8], [0.75, 1.0], [0.857, 0.889]]
    """
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    support, found = counts.sum(-1), counts.sum(-2)
    return {
        "precision": _ratio(hit, found),
        "recall": _ratio(hit, support),
        "f1": _ratio(2 * hit, support + found),
        "support": support,
    }


def score(counts: Counts, metric: str) -> Counts:
    """A metric of each matrix in a stack.

    wa           share of utterances that are right
    ua           mean recall over the classes that occur
    weighted_f1  F1 weighted by support
    macro_f1     mean F1 over the classes that occur as label or prediction

    >>> float(score(np.array([[3.0, 1.0], [0.0, 4.0]]), "wa"))
    0.875
    """
    scores = per_class(counts)
    support = scores["support"]
    if metric == "wa":
        return _ratio(np.diagonal(counts, axis1=-2, axis2=-1).sum(-1), support.sum(-1))
    if metric == "ua":
        return _ratio(scores["recall"].sum(-1), (support > 0).sum(-1).astype(np.float64))
    if metric == "weighted_f1":
        return _ratio((scores["f1"] * support).sum(-1), support.sum(-1))
    if metric == "macro_f1":
        occurs = (support + counts.sum(-2)) > 0
        return _ratio((scores["f1"] * occurs).sum(-1), occurs.sum(-1).astype(np.float64))
    raise ValueError(f"{metric!r} is not a function of confusion counts here")


KNOWN = ("wa", "ua", "weighted_f1", "macro_f1")
