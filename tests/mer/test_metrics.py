"""Metrics against scikit-learn, and literal values for what it does not define."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mer import metrics
from mer.errors import UserError

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(pairs=PAIRS)
def test_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    y, p = np.array(pairs).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "wa": sk.accuracy_score(y, p),
            "ua": sk.balanced_accuracy_score(y, p),
            "weighted_f1": sk.f1_score(y, p, average="weighted", zero_division=0),
            "macro_f1": sk.f1_score(y, p, average="macro", zero_division=0),
        }
        precision, recall, f1, support = sk.precision_recall_fscore_support(y, p, labels=range(6), zero_division=0)
    assert metrics.scores(y, p, 6) == pytest.approx(expected)
    for name, value in expected.items():
        assert getattr(metrics, name)(y, p, 6) == pytest.approx(value)
    found = metrics.per_class(y, p, 6)
    np.testing.assert_allclose(found.precision, precision)
    np.testing.assert_allclose(found.f1, f1)
    np.testing.assert_array_equal(found.support, support)
    np.testing.assert_allclose(found.recall[support > 0], recall[support > 0])
    assert np.isnan(found.recall[support == 0]).all()
    np.testing.assert_array_equal(metrics.confusion(y, p, 6), sk.confusion_matrix(y, p, labels=range(6)))


def test_absent_classes_by_hand() -> None:
    """Class 2 is predicted but never there, class 3 neither: UA over two classes, macro F1 over three."""
    found = metrics.scores([0, 0, 1, 1], [0, 2, 1, 1], 4)
    assert found == pytest.approx({"wa": 0.75, "ua": 0.75, "weighted_f1": 5 / 6, "macro_f1": (2 / 3 + 1) / 3})


def test_ece_by_hand_and_at_its_edges() -> None:
    probabilities = [[0.9, 0.1], [0.6, 0.4], [0.55, 0.45], [0.2, 0.8]]
    # bins of .1: (.8,.9]: right, gap .1; (.5,.6]: one right of two at .575, gap .15 / 2 rows; (.7,.8]: wrong, gap .8
    assert metrics.ece([0, 0, 1, 0], probabilities, bins=10) == pytest.approx((0.1 + 0.15 + 0.8) / 4)
    assert metrics.ece([0, 1], [[1.0, 0.0], [0.0, 1.0]]) == 0.0
    assert metrics.ece([0], [[0.5, 0.5]], bins=1) == 0.5


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 5], [0, 1], "label 5; expected 0 to 2"),
        ([0, 1], [0, -1], "prediction -1; expected 0 to 2"),
        ([0, 1], [0], "expected two non-empty lists of equal length"),
        ([], [], "expected two non-empty lists of equal length"),
        ([0.5], [0], "labels of type float64; expected integers"),
    ],
)
def test_bad_input_is_refused(labels: list[float], predictions: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        metrics.scores(labels, predictions, 3)


def test_probabilities_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        metrics.ece([0], [[float("nan"), 1.0]])


def test_every_metric_has_one_definition() -> None:
    from typing import get_args

    from mer.recipe import Metric

    assert get_args(Metric) == metrics.NAMES == tuple(metrics.scores([0, 1], [0, 1], 2))
    assert all(name == metric.name and metric.direction in ("max", "min") for name, metric in metrics.METRICS.items())
    with pytest.raises(UserError, match="did you mean 'macro_f1'"):
        metrics.metric("macro_f")
