"""Cross-modal semantic alignment: the modalities of an utterance should be recognisable from each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mer.precision import wide


def info_nce(a: Tensor, b: Tensor, both: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE between two views of the same utterances (CLIP's loss), in fp32.

    Args:
        a, b: `[N, D]`, row i of each belongs to utterance i.
        both: `[N]` bool; rows where a member is absent are neither anchors nor negatives. Best on the host: it decides
            a size.
        temperature: what the cosine similarities are divided by.

    Returns:
        the mean over both directions and all valid anchors; 0 (with a gradient of 0) for fewer than two of them.

    >>> x = torch.eye(3)
    >>> round(info_nce(x, x, torch.ones(3, dtype=torch.bool), 0.1).item(), 6)
    9.1e-05
    """
    with torch.autocast(a.device.type, enabled=False):
        rows = both.nonzero().squeeze(1).to(a.device, non_blocking=True)
        a, b = wide(a)[rows], wide(b)[rows]
        if a.shape[0] < 2:
            return (a.sum() + b.sum()) * 0.0
        logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / temperature
        match = torch.arange(a.shape[0], device=a.device)
        return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


def alignment_loss(views: Sequence[Tensor], available: Tensor, temperature: float) -> Tensor:
    """InfoNCE averaged over all pairs of two or more modalities.

    It acts on what the classifier reads, without a projection in between that would keep what it learns. At a
    temperature near 1 it seeks the directions that covary; a low one, as in CLIP, tells utterances apart, though many
    of those in a batch mean the same. Cost: pairs × N² similarities, in training only.

    Args:
        views: M of `[N, D]`; rows of mean 0, so that a common offset is no similarity.
        available: `[N, M]` bool, best on the host.

    >>> x = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    >>> round(alignment_loss([x, x, -x], torch.tensor([[True, True, False]] * 2 + [[True] * 3]), 1.0).item(), 4)
    0.1519
    """
    pairs = itertools.combinations(range(len(views)), 2)
    losses = [info_nce(views[i], views[j], available[:, i] & available[:, j], temperature) for i, j in pairs]
    return torch.stack(losses).mean()
