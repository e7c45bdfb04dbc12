"""Augmentation of log-mels during training, drawn from the trial's generator."""

from __future__ import annotations

import torch
from torch import Tensor

from mer.batch import Sequence
from mer.encoders.base import mask_of
from mer.layers import Dropout


class Augment(Dropout):
    """Changes that leave the emotion as it is: tempo, vocal tract, loudness; and SpecAugment's stripes.

    A `Dropout` with p = 0: so `mer.layers.set_generator` finds it and a trial's draws are its own.
    """

    def __init__(
        self,
        time_masks: int = 0,
        time_width: int = 0,
        freq_masks: int = 0,
        freq_width: int = 0,
        stretch: float = 0.0,
        shift: int = 0,
        gain: float = 0.0,
    ) -> None:
        super().__init__(0.0)
        self.time_masks, self.time_width = time_masks, time_width
        self.freq_masks, self.freq_width = freq_masks, freq_width
        self.stretch, self.shift, self.gain = stretch, shift, gain

    def _uniform(self, *shape: int, like: Tensor) -> Tensor:
        """Numbers in [-1, 1)."""
        return torch.rand(shape, generator=self.generator, device=like.device) * 2 - 1

    def forward(self, x: Sequence) -> Sequence:  # type: ignore[override]
        """Tempo, vocal tract, loudness: `[B, F, M]` -> `[B, F', M]`."""
        values, mask = x.filled(), x.mask
        if self.gain:
            values = values + self.gain * self._uniform(len(values), 1, 1, like=values)
        if self.shift:
            bands = values.shape[2]
            by = (self._uniform(len(values), like=values) * (self.shift + 0.5)).round().long()
            index = (torch.arange(bands, device=values.device) + by[:, None]).clamp(0, bands - 1)
            values = values.gather(2, index[:, None, :].expand_as(values))
        if self.stretch:
            factor = 1 + self.stretch * float(self._uniform(1, like=values))
            lengths = (mask.sum(dim=1) * factor).round().long().clamp(min=1) * mask.any(dim=1)
            size = max(1, int(lengths.max()))
            source = (torch.arange(size, device=values.device) / factor).clamp(max=values.shape[1] - 1)
            low = source.long()
            high = (low + 1).clamp(max=values.shape[1] - 1)
            part = (source - low)[None, :, None].to(values.dtype)
            last = (mask.sum(dim=1) - 1).clamp(min=0)[:, None]
            rows = torch.arange(len(values), device=values.device)[:, None]
            values = values[rows, low.minimum(last)] * (1 - part) + values[rows, high.minimum(last)] * part
            mask = mask_of(lengths, size)
        return Sequence(values, mask)

    def stripes(self, values: Tensor, mask: Tensor) -> Tensor:
        """SpecAugment: stripes of time and of frequency become 0, the mean."""
        batch, time, bands = values.shape
        for _ in range(self.time_masks):
            values = values * ~self._stripe(batch, self.time_width, mask.sum(dim=1), time, values).unsqueeze(2)
        full = torch.full((batch,), bands, device=values.device)
        for _ in range(self.freq_masks):
            values = values * ~self._stripe(batch, self.freq_width, full, bands, values).unsqueeze(1)
        return values

    def _stripe(self, batch: int, width: int, lengths: Tensor, size: int, like: Tensor) -> Tensor:
        """`[B, size]`, True on a stripe of up to `width`, and of at most half the length."""
        draw = torch.rand(2, batch, generator=self.generator, device=like.device)
        wide = (draw[0] * (lengths // 2).clamp(max=width).add(1)).long()
        start = (draw[1] * (lengths - wide + 1)).long()
        at = torch.arange(size, device=like.device)
        return (at >= start[:, None]) & (at < (start + wide)[:, None])
