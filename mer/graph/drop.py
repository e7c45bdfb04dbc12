"""Artificial drop: in training, modalities that are there are hidden, so that a model learns to do without."""

from __future__ import annotations

import torch
from torch import Tensor

from mer.layers import Dropout


class ModalityDrop(Dropout):
    """Hides available modalities, never all of an utterance's; nothing in evaluation.

    Each dialogue and modality has a rate of its own, u ** (1 / rate - 1) with u uniform in 0 to 1: its mean is `rate`,
    and it lies anywhere from 0 to 1. So one training meets all conditions: dialogues that are complete, gaps here and
    there, and modalities that a dialogue lacks from beginning to end.

    Args:
        rate: mean probability, per utterance and modality. An utterance with one modality always keeps it.
        curriculum: number of training batches over which the rate grows linearly from 0; 0: constant.

    A `Dropout`, so that `mer.layers.set_generator` gives it the trial's generator.

    >>> drop = ModalityDrop(0.9).train()
    >>> bool(drop.keep(torch.ones(50, 3, dtype=torch.bool), torch.zeros(50, dtype=torch.long)).any(dim=1).all())
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

    def keep(self, available: Tensor, first: Tensor) -> Tensor:
        """`available [N, M]`, `first [N]` the first row of each row's dialogue -> what is kept of it, `[N, M]`."""
        if not self.active:
            return available
        rate = self.current()
        self.seen += 1
        device = self.generator.device if self.generator is not None else available.device
        draws = torch.rand((3, *available.shape), generator=self.generator, device=device).to(
            available.device, non_blocking=True
        )
        # One available modality, uniformly chosen, is kept whatever happens to the others.
        chosen = torch.where(available, draws[0], -1.0).argmax(dim=1, keepdim=True)
        rates = draws[2][first] ** (1 / rate - 1) if rate > 0 else torch.zeros_like(draws[2])
        kept = (draws[1] >= rates).scatter(1, chosen, True)
        return available & kept
