"""Consistency: an utterance should be judged alike under two patterns of missing modalities."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mer.graph.precision import wide


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """The Jensen–Shannon divergence between softmax(a) and softmax(b), `[N, C]` each: mean over rows, in 0 to ln 2.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> jensen_shannon(logits, logits).item()
    0.0
    """
    with torch.autocast(a.device.type, enabled=False):
        log_a, log_b = F.log_softmax(wide(a), dim=-1), F.log_softmax(wide(b), dim=-1)
        log_mean = torch.logaddexp(log_a, log_b) - math.log(2.0)
        to_a = F.kl_div(log_mean, log_a, reduction="none", log_target=True).sum(-1)
        to_b = F.kl_div(log_mean, log_b, reduction="none", log_target=True).sum(-1)
        return ((to_a + to_b) / 2).mean()
