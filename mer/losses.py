"""Losses: cross-entropy and focal, with class weights and label smoothing, under one formula.

With logits z `[B, C]`, labels y `[B]`, p = softmax(z) (never reweighted), class weights a, the smoothed target
q_c = (1 - e) [c = y] + e / C (torch's spread over all C classes), and what a loss charges for class c, t_c(p):

    loss = sum_c q_c a_c t_c(p)

Reductions: `none` `[B]`; `sum`; `mean`, which divides by sum_i a_{y_i} as torch does for weighted cross-entropy (by B
where there are no weights), for every loss.

A new level is a class here and a line in `LEVELS`; one outside the repository is named by itself, `mylab.loss:Poly1`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mer import levels, recipe
from mer.errors import UserError
from mer.precision import wide

Reduction = Literal["mean", "sum", "none"]

LEVELS: dict[str, str] = {
    "cross_entropy": "mer.losses:CrossEntropy",
    "focal": "mer.losses:Focal",
}


class ClassificationLoss(nn.Module):
    """What every loss is: the formula above around `terms`, the one thing that a subclass says.

    Computed in float32 at least. Class weights are a buffer: they move with the module and are saved with it.

    Shapes: logits `[B, C]`, labels `[B]` -> a scalar, or `[B]` unreduced.

    Args:
        label_smoothing: share of the target that is spread over all classes.
        class_weights: `balanced` weighs a class by the inverse of its share of the training rows.
    """

    unbundled: str = ""
    """Why trials with it cannot be trained together in one step (`mer.bundle`), if they cannot."""

    weight: Tensor | None

    def __init__(self, *, label_smoothing: float = 0.0, weight: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight)

    def terms(self, log_p: Tensor) -> Tensor:
        """`[B, C]` log-probabilities -> `[B, C]`: the cost of each class, were it the right one."""
        raise NotImplementedError

    def forward(self, logits: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        terms = self.terms(torch.log_softmax(wide, dim=-1))
        if self.weight is not None:
            terms = terms * self.weight.to(wide.dtype)
        losses = terms.gather(1, labels.unsqueeze(1)).squeeze(1)
        if self.label_smoothing:
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * terms.mean(1)
        if reduction == "none":
            return losses
        if reduction == "sum":
            return losses.sum()
        # A batch that holds only classes of weight 0 has loss 0, not 0/0.
        return losses.sum() / self.denominator(labels).to(wide.dtype).clamp(min=torch.finfo(wide.dtype).tiny)

    def denominator(self, labels: Tensor) -> Tensor:
        """What `mean` divides by. Sums and denominators of parts (micro-batches) add up to those of the whole."""
        if self.weight is None:
            return torch.full((), float(labels.shape[0]), device=labels.device)
        return self.weight[labels].sum()


class CrossEntropy(ClassificationLoss):
    """Cross-entropy: the negative log-probability of the right class.

    Equation:
        t_c(p) = -log p_c

    When to choose: the default, and the reference that every other loss must beat.
    Cost: none worth naming.
    Source: exactly `torch.nn.functional.cross_entropy(weight=a, label_smoothing=e)`; label smoothing: Szegedy et al.
        2016, arXiv 1512.00567.

    >>> CrossEntropy()(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))  # log 2
    tensor(0.6931)
    """

    def terms(self, log_p: Tensor) -> Tensor:
        return -log_p


class Focal(ClassificationLoss):
    """Focal loss: cross-entropy that counts what the model already gets right less.

    Equation:
        t_c(p) = (1 - p_c)^gamma (-log p_c)

    p is the unweighted softmax, also where classes are weighted. `gamma: 0` is cross-entropy exactly.

    When to choose: many easy utterances drown few hard ones; gamma of 1.5 (MER-VN) to 2. Its probabilities are less
        confident than those of cross-entropy.
    Cost: none worth naming.
    Source: Lin et al. 2017, arXiv 1708.02002; MER-VN's default.

    Args:
        gamma: how fast the weight of an utterance falls with the probability of its label; 0 for none.

    >>> Focal(gamma=2.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))  # 0.5^2 * log 2
    tensor(0.1733)
    """

    def __init__(self, *, gamma: float = 2.0, label_smoothing: float = 0.0, weight: Tensor | None = None) -> None:
        super().__init__(label_smoothing=label_smoothing, weight=weight)
        self.gamma = gamma

    def terms(self, log_p: Tensor) -> Tensor:
        if not self.gamma:
            return -log_p
        # 1 - p without cancellation; kept off 0, where the derivative of a power below 1 is infinite.
        return -log_p * (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).eps) ** self.gamma


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """The Jensen–Shannon divergence of softmax(student) and softmax(teacher), `[N, C]` each: mean over rows.

    From 0 to ln 2, in fp32 at least. The teacher, which saw more, gets no gradient: the student has to come nearer.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> round(disagreement(logits, logits.flip(1)).item(), 4)
    0.2194
    """
    with torch.autocast(student.device.type, enabled=False):
        log_p, log_q = (torch.log_softmax(wide(x), dim=-1) for x in (student, teacher.detach()))
        log_mean = torch.logaddexp(log_p, log_q) - math.log(2.0)
        divergences = [nn.functional.kl_div(log_mean, x, reduction="none", log_target=True) for x in (log_p, log_q)]
        return (divergences[0] + divergences[1]).sum(-1).mean() / 2


def balanced_weights(class_counts: Tensor) -> Tensor:
    """Weights n / (C' n_c), inverse to the class's share of the training rows; their mean over those rows is 1.

    C' counts the classes that occur. A class that never occurs gets 0: there is nothing to weigh, and label smoothing
    must not push towards it.

    >>> balanced_weights(torch.tensor([6, 2, 0]))
    tensor([0.6667, 2.0000, 0.0000])
    """
    counts = class_counts.double()
    present = counts > 0
    weights = counts.sum() / (present.sum().clamp(min=1) * counts.clamp(min=1))
    return torch.where(present, weights, 0.0).float()


def build_loss(config: recipe.Loss, class_counts: Tensor, num_classes: int) -> ClassificationLoss:
    """The loss of a recipe. `class_counts` `[C]` are those of the training rows, and are used by `balanced` alone.

    >>> loss = build_loss(recipe.Loss(name="focal", class_weights="balanced"), torch.tensor([3, 1]), 2)
    >>> loss.gamma, loss.weight
    (2.0, tensor([0.6667, 2.0000]))
    """
    if class_counts.shape != (num_classes,):
        found = tuple(class_counts.shape)
        raise UserError(f"class counts of shape {found} for {num_classes} classes", expected=f"({num_classes},)")
    weight = balanced_weights(class_counts) if config.class_weights == "balanced" else None
    options: dict[str, Any] = {"gamma": config.gamma} if config.name == "focal" else config.options
    kind = levels.load(levels.target(LEVELS, config.name, "loss"), "loss")
    loss: ClassificationLoss = kind(label_smoothing=config.label_smoothing, weight=weight, **options)
    return loss
