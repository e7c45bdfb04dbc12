"""Reconstruction: missing modalities imagined from the available ones and from the dialogue."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.graph.precision import wide
from mer.layers import Dropout


class Reconstruction(nn.Module):
    """One small decoder per modality, from a node's state (what is available, and its context) to the modality.

    Shapes: `[N, width] -> [N, dims[name]]` per modality. Cost: M × width × (width + dim) multiplications an utterance.
    """

    def __init__(self, dims: Mapping[str, int], width: int, *, dropout: float) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, width), nn.GELU(), Dropout(dropout), nn.Linear(width, dim))
                for name, dim in dims.items()
            }
        )

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        return {name: decoder(state) for name, decoder in self.decoders.items()}


def reconstruction_loss(imagined: Tensor, target: Tensor, dropped: Tensor) -> Tensor:
    """Smooth L1 over the elements of rows that are known and were hidden: fp32, 0 (with a gradient) without any.

    Args:
        imagined: `[N, D]`.
        target: `[N, D]`, what the batch really holds; no gradient flows into it.
        dropped: `[N]` bool: observed, and artificially dropped.

    >>> reconstruction_loss(torch.zeros(2, 3), torch.full((2, 3), 2.0), torch.tensor([True, False])).item()
    1.5
    """
    with torch.autocast(imagined.device.type, enabled=False):
        imagined, target = wide(imagined)[dropped], wide(target.detach())[dropped]
        if imagined.shape[0] == 0:
            return imagined.sum() * 0.0
        return F.smooth_l1_loss(imagined, target)
