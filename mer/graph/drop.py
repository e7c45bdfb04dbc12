"""Artificial drop: in training, modalities that are there are hidden, so that a model learns to do without."""

from __future__ import annotations

import torch
from torch import Tensor

from mer.layers import Dropout


class ModalityDrop(Dropout):
    """Hides each available modality with probability `rate`, never all of an utterance's; nothing in evaluation.

    Args:
        rate: probability per utterance and modality. An utterance with one modality always keeps it.
        curriculum: number of training batches over which the rate grows linearly from 0; 0: constant.

    A `Dropout`, so that `mer.layers.set_generator` gives it the trial's generator.

    >>> drop = ModalityDrop(0.9).train()
    >>> bool(drop(torch.ones(50, 3, dtype=torch.bool)).any(dim=1).all())
    True
    """

    seen: Tensor

    def __init__(self, rate: float, *, curriculum: int = 0) -> None:
        super().__init__(rate)
        self.rate, self.curriculum = rate, curriculum
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def current(self) -> float:
        """The rate that the next training batch gets."""
        if not self.curriculum:
            return self.rate
        return self.rate * min(1.0, int(self.seen) / self.curriculum)

    def forward(self, available: Tensor) -> Tensor:
        """`available [N, M]` -> what is kept of it, `[N, M]`."""
        if not self.active:
            return available
        rate = self.current()
        self.seen += 1
        device = self.generator.device if self.generator is not None else available.device
        draws = torch.rand((2, *available.shape), generator=self.generator, device=device).to(available.device)
        # One available modality, uniformly chosen, is kept whatever happens to the others.
        chosen = torch.where(available, draws[0], -1.0).argmax(dim=1, keepdim=True)
        kept = (draws[1] >= rate).scatter(1, chosen, True)
        return available & kept
