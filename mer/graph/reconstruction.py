"""Reconstruction: missing modalities imagined from the available ones and from the dialogue."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.layers import Dropout
from mer.precision import wide

START = 0.1
"""Size of the first weights that bring imagined content into a state: at first it is nearly left alone."""


class Reconstruction(nn.Module):
    """One small decoder per modality, from a node's state (what is available, and its context) to the modality.

    What is imagined is the modality as the network reads it: each row normalised. A decoder that is unsure stays near
    the mean, which is 0, and what it imagined is not normalised again: little is imagined, and little is added to the
    state. Decoders learn from reconstruction alone; no gradient of another loss reaches them.

    Shapes: `[N, width] -> [N, dims[name]]` per modality. Cost: M × width × (2 width + dim) multiplications an
    utterance.
    """

    def __init__(self, dims: Mapping[str, int], width: int, *, dropout: float) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, width), nn.GELU(), Dropout(dropout), nn.Linear(width, dim))
                for name, dim in dims.items()
            }
        )
        self.entry = nn.Linear(len(dims) * width, width, bias=False)
        nn.init.normal_(self.entry.weight, std=START * width**-0.5)

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        return {name: decoder(state) for name, decoder in self.decoders.items()}

    def filling(self, imagined: Mapping[str, Tensor], encoders: nn.ModuleDict, kept: Tensor) -> Tensor:
        """`[N, width]`, to be added to the state: the content of what was imagined in the place of what is absent.

        Args:
            imagined: `[N, dims[name]]` per modality.
            encoders: what reads a modality, observed or imagined, `[N, dims[name]] -> [N, width]`.
            kept: `[N, M]` bool, in the order of the modalities; nothing is added for what is there.
        """
        content = [
            torch.where(kept[:, column, None], torch.zeros((), device=x.device), encoders[name](x.detach()))
            for column, (name, x) in enumerate(imagined.items())
        ]
        out: Tensor = self.entry(torch.cat(content, dim=-1))
        return out


def reconstruction_loss(imagined: Tensor, target: Tensor, dropped: Tensor) -> Tensor:
    """Smooth L1 over the elements of rows that are known and were hidden: fp32, 0 (with a gradient) without any.

    Args:
        imagined: `[N, D]`.
        target: `[N, D]`, what the batch really holds; no gradient flows into it.
        dropped: `[N]` bool: observed, and artificially dropped. Best on the host: it decides a size.

    >>> reconstruction_loss(torch.zeros(2, 3), torch.full((2, 3), 2.0), torch.tensor([True, False])).item()
    1.5
    """
    with torch.autocast(imagined.device.type, enabled=False):
        rows = dropped.nonzero().squeeze(1).to(imagined.device, non_blocking=True)
        imagined, target = wide(imagined)[rows], wide(target.detach())[rows]
        if imagined.shape[0] == 0:
            return imagined.sum() * 0.0
        return F.smooth_l1_loss(imagined, target)
