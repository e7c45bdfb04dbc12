"""Cross-modal semantic alignment: the modalities of an utterance should be recognisable from each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.precision import wide


def info_nce(a: Tensor, b: Tensor, both: Tensor, temperature: Tensor | float) -> Tensor:
    """Symmetric InfoNCE between two views of the same utterances (CLIP's loss), in fp32.

    Args:
        a, b: `[N, D]`, row i of each belongs to utterance i.
        both: `[N]` bool; rows where a member is absent are neither anchors nor negatives.
        temperature: what the cosine similarities are divided by.

    Returns:
        the mean over both directions and all valid anchors; 0 (with a gradient of 0) for fewer than two of them.

    >>> x = torch.eye(3)
    >>> round(info_nce(x, x, torch.ones(3, dtype=torch.bool), 0.1).item(), 6)
    9.1e-05
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = wide(a)[both], wide(b)[both]
        if a.shape[0] < 2:
            return (a.sum() + b.sum()) * 0.0
        logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / temperature
        match = torch.arange(a.shape[0], device=a.device)
        return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


class Alignment(nn.Module):
    """InfoNCE averaged over all pairs of two or more modalities, in a space of its own; learned, clamped temperature.

    Cost: pairs × N² similarities of width `dim`, in training only.
    """

    def __init__(self, modalities: tuple[str, ...], width: int, *, dim: int = 64, temperature: float = 0.1) -> None:
        super().__init__()
        self.pairs = tuple(itertools.combinations(range(len(modalities)), 2))
        self.modalities = modalities
        self.projections = nn.ModuleDict({name: nn.Linear(width, dim) for name in modalities})
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())

    def forward(self, content: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """`content[name] [N, width]`, `available [N, M]` in the order of the modalities."""
        temperature = self.log_temperature.exp().clamp(0.01, 1.0)
        views = [self.projections[name](content[name]) for name in self.modalities]
        losses = [info_nce(views[i], views[j], available[:, i] & available[:, j], temperature) for i, j in self.pairs]
        return torch.stack(losses).mean()
