"""Losses against torch's cross-entropy and a focal loss written in plain Python."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from mer import recipe
from mer.errors import UserError
from mer.losses import CrossEntropy, Focal, balanced_weights, build_loss, disagreement

WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0])


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(12, 4, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(4, (12,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), smoothing=st.sampled_from([0.0, 0.1, 0.4]), weighted=st.booleans())
def test_without_gamma_it_is_torchs_cross_entropy(seed: int, smoothing: float, weighted: bool) -> None:
    logits, labels = data(seed)
    weight = WEIGHT if weighted else None
    loss = CrossEntropy(label_smoothing=smoothing, weight=weight)
    for reduction in ("none", "sum", "mean"):
        expected = F.cross_entropy(
            logits, labels, None if weight is None else weight.double(), label_smoothing=smoothing, reduction=reduction
        )
        torch.testing.assert_close(loss(logits, labels, reduction), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
def test_focal_equals_a_loop_with_unweighted_probabilities(gamma: float) -> None:
    logits, labels = data()
    expected, denominator = 0.0, 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(z) for z in row)
        p = math.exp(row[label]) / total
        expected += float(WEIGHT[label]) * (1 - p) ** gamma * -math.log(p)
        denominator += float(WEIGHT[label])
    loss = Focal(gamma=gamma, weight=WEIGHT)
    assert float(loss(logits, labels, "sum")) == pytest.approx(expected, rel=1e-9)
    assert float(loss(logits, labels)) == pytest.approx(expected / denominator, rel=1e-6)


def test_focal_with_smoothing_equals_a_loop() -> None:
    logits, labels = data()
    p = torch.softmax(logits, 1)
    for i, label in enumerate(labels.tolist()):
        terms = [float(WEIGHT[c] * (1 - p[i, c]) ** 2 * -p[i, c].log()) for c in range(4)]
        expected = sum((0.9 * (c == label) + 0.1 / 4) * terms[c] for c in range(4))
        found = Focal(gamma=2, label_smoothing=0.1, weight=WEIGHT)(logits, labels, "none")[i]
        assert float(found) == pytest.approx(expected, rel=1e-9)


def test_literal_values() -> None:
    logits = torch.tensor([[2.0, 0.0]])
    assert float(CrossEntropy()(logits, torch.tensor([0]))) == pytest.approx(0.126928, abs=1e-6)
    assert float(Focal(gamma=2)(logits, torch.tensor([1]))) == pytest.approx(1.650078, abs=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients_agree_with_finite_differences_and_stay_finite_when_certain(gamma: float) -> None:
    loss = Focal(gamma=gamma, label_smoothing=0.1, weight=WEIGHT)
    logits, labels = data()
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_())
    certain = (torch.eye(4) * 1e4).requires_grad_()
    loss(certain, torch.arange(4)).backward()
    assert certain.grad is not None
    assert torch.isfinite(certain.grad).all()


def test_micro_batches_add_up_to_the_whole() -> None:
    logits, labels = data()
    loss = Focal(gamma=1.5, weight=WEIGHT)
    parts = [(logits[i : i + 5], labels[i : i + 5]) for i in range(0, 12, 5)]
    total = sum(loss(z, y, "sum") for z, y in parts) / sum(loss.denominator(y) for _, y in parts)
    torch.testing.assert_close(total, loss(logits, labels))


def test_balanced_weights_are_scikit_learns_over_the_classes_that_occur() -> None:
    labels = [0] * 7 + [2] * 2 + [3]
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels)
    found = balanced_weights(torch.tensor([7, 0, 2, 1]))
    assert found[[0, 2, 3]].tolist() == pytest.approx(list(expected))
    assert found[1] == 0


def test_a_batch_of_classes_without_weight_has_loss_zero() -> None:
    loss = build_loss(recipe.Loss(class_weights="balanced"), torch.tensor([3, 0]), 2)
    assert float(loss(torch.zeros(2, 2), torch.tensor([1, 1]))) == 0.0


def test_cross_entropy_ignores_gamma_and_the_weights_are_saved() -> None:
    plain = build_loss(recipe.Loss(name="cross_entropy", gamma=5.0), torch.tensor([1, 2]), 2)
    logits, labels = torch.tensor([[0.3, -1.0]]), torch.tensor([1])
    assert torch.equal(plain(logits, labels), CrossEntropy()(logits, labels))
    weighted = build_loss(recipe.Loss(class_weights="balanced"), torch.tensor([1, 2]), 2)
    assert "weight" in weighted.state_dict()


def test_a_loss_from_outside_is_built_with_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Poly-1 (Leng et al. 2022): cross-entropy and epsilon (1 - p), smoothed and weighted like ours."""
    (tmp_path / "poly_of_a_lab.py").write_text(
        "from mer.losses import ClassificationLoss\n\n\n"
        "class Poly1(ClassificationLoss):\n"
        "    def __init__(self, *, epsilon=1.0, label_smoothing=0.0, weight=None):\n"
        "        super().__init__(label_smoothing=label_smoothing, weight=weight)\n"
        "        self.epsilon = epsilon\n\n"
        "    def terms(self, log_p):\n"
        "        return -log_p + self.epsilon * (1 - log_p.exp())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = recipe.Loss(name="poly_of_a_lab:Poly1", options={"epsilon": 2.0}, class_weights="balanced")
    loss = build_loss(config, torch.tensor([1, 3]), 2)
    logits, labels = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    p = torch.softmax(logits, 1).gather(1, labels.unsqueeze(1)).squeeze(1)
    weights = torch.tensor([2.0, 2 / 3])
    expected = (weights * (-p.log() + 2.0 * (1 - p))).sum() / weights.sum()
    torch.testing.assert_close(loss(logits, labels), expected)


def test_counts_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(UserError, match=r"class counts of shape \(3,\) for 4 classes"):
        build_loss(recipe.Loss(), torch.tensor([1, 2, 3]), 4)


def test_disagreement_equals_jensen_shannon_within_its_bounds() -> None:
    far = disagreement(torch.tensor([[100.0, -100.0]]), torch.tensor([[-100.0, 100.0]]))
    torch.testing.assert_close(far, torch.tensor(2.0).log())
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 3, generator=generator), torch.randn(6, 3, generator=generator)
    torch.testing.assert_close(disagreement(a, b), disagreement(b, a))
    p, q = a.softmax(-1), b.softmax(-1)
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)).mean() / 2
    torch.testing.assert_close(disagreement(a, b), expected)


def test_disagreement_moves_the_student_alone() -> None:
    student, teacher = torch.zeros(2, 3, requires_grad=True), torch.eye(3)[:2].requires_grad_()
    before = disagreement(student, teacher)
    before.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert disagreement(student.detach() - student.grad, teacher) < before
