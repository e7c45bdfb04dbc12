"""Standardisation whose statistics come from the training rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from mer.data.ragged import DeviceRagged, Ragged

CHUNK = 256  # utterances at a time: the corpus may be larger than memory


class Standardiser(nn.Module):
    """`(x - mean) / std` per dimension, over the frames of the training rows.

    Shapes: `[..., D] -> [..., D]`. A dimension that is constant in training (or not finite) becomes 0. Mean and
    deviation are buffers: saved with the model, moved with it, never trained.

    >>> standardiser = Standardiser(2)
    >>> import numpy as np
    >>> frames = np.array([[1.0, 5.0], [3.0, 5.0], [9.0, 0.0]], dtype=np.float32)
    >>> ragged = Ragged(frames, np.array([0, 1, 2, 3]))
    >>> standardiser.fit(ragged, np.array([0, 1]))
    >>> standardiser(torch.tensor([[1.0, 7.0]])).tolist()
    [[-1.0, 0.0]]
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, x: Ragged | DeviceRagged, rows: npt.NDArray[Any]) -> None:
        """Two passes in float64: the mean, then the deviations from it."""
        rows = rows[x.lengths[rows] > 0]
        count = int(x.lengths[rows].sum())
        if count == 0:
            return
        mean = sum(frames.sum(dim=0) for frames in _frames(x, rows)) / count
        variance = sum((frames - mean).square().sum(dim=0) for frames in _frames(x, rows)) / count
        std = torch.as_tensor(variance).sqrt()
        varies = torch.isfinite(std) & (std > 1e-6 * torch.as_tensor(mean).abs().clamp(min=1e-6))
        self.mean.copy_(torch.where(varies, mean, 0.0))
        self.scale.copy_(torch.where(varies, 1.0 / std, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean.dtype) - self.mean) * self.scale


def _frames(x: Ragged | DeviceRagged, rows: npt.NDArray[Any]) -> Iterator[Tensor]:
    """`[F, D]` float64: all frames of the rows, some utterances at a time."""
    for at in range(0, len(rows), CHUNK):
        batch = x.gather(rows[at : at + CHUNK])
        yield batch.values[batch.mask].double()
