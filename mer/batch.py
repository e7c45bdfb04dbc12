"""What flows through a model: sequences with their masks, batches, fused sequences.

Shape suffixes used throughout: B utterances of a batch, T frames or tokens, D width, M modalities, C classes.
A mask is True where a frame is real. A modality that an utterance lacks has a mask row of all False.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sequence:
    """Values `[B, T, D]` (or `[B, T]`: token ids, samples) and their mask `[B, T]`, True = real."""

    values: Tensor
    mask: Tensor

    def filled(self) -> Tensor:
        """The values with zeros wherever the mask is False, whatever stood there, NaN included."""
        mask = self.mask if self.values.dim() == 2 else self.mask.unsqueeze(-1)
        return torch.where(mask, self.values, torch.zeros((), dtype=self.values.dtype, device=self.values.device))

    @property
    def present(self) -> Tensor:
        """`[B]`: does the utterance have this modality at all?"""
        return self.mask.any(dim=1)

    @property
    def lengths(self) -> Tensor:
        """`[B]`: number of real frames."""
        return self.mask.sum(dim=1)

    def pinned(self) -> Sequence:
        """In page-locked memory, from which a GPU copies without anybody waiting."""
        return Sequence(self.values.pin_memory(), self.mask.pin_memory())

    def to(self, device: torch.device | str) -> Sequence:
        return Sequence(self.values.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Which dialogue each utterance of a batch belongs to. Rows are ordered by dialogue, then by turn.

    index    `[B]` long, number of the dialogue within the batch, non-decreasing
    speaker  `[B]` long, number of the speaker within the batch
    turn     `[B]` float, position in time within the dialogue (turn number or seconds)
    extent   number of dialogues and utterances of the longest, where whoever made the batch knows them: on a GPU
             asking the tensors means waiting for them
    """

    index: Tensor
    speaker: Tensor
    turn: Tensor
    extent: tuple[int, int] | None = None

    def to(self, device: torch.device | str) -> Dialogues:
        index, speaker, turn = (
            tensor.to(device, non_blocking=True) for tensor in (self.index, self.speaker, self.turn)
        )
        return Dialogues(index, speaker, turn, self.extent)


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of a model. Labels travel outside it, so that no module can read them."""

    modalities: Mapping[str, Sequence]
    utterance_ids: tuple[str, ...] = ()
    dialogue: Dialogues | None = None

    @property
    def size(self) -> int:
        return next(iter(self.modalities.values())).mask.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: sequence.to(device) for name, sequence in self.modalities.items()}
        return Batch(moved, self.utterance_ids, None if self.dialogue is None else self.dialogue.to(device))


@dataclass(frozen=True, slots=True)
class Fused:
    """What a fusion returns.

    sequence  the fused sequence, to be pooled
    aux       for analysis: gates, modality weights, attention maps; each with B as its first dimension
    losses    auxiliary losses (scalars, already weighted) that the trainer adds to the classification loss
    second    in training: the same utterances seen in another way (other modalities hidden), of the same shape. It is
              classified too, learns the labels alike, and may be what `sequence` should agree with
    agreement weight of that agreement (`mer.losses.disagreement` of `sequence` from `second`); 0: they may differ
    """

    sequence: Sequence
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    second: Sequence | None = None
    agreement: float = 0.0
