"""Random conversations for the graph's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mer.batch import Batch, Dialogues, Sequence

Features = dict[str, Tensor]


@pytest.fixture
def config() -> dict[str, object]:
    return dict(audio_dim=3, visual_dim=4, text_dim=5, hidden_dim=16, num_classes=3)


@pytest.fixture
def conversation() -> Callable[..., dict[str, object]]:
    """Keyword arguments for CADGL: three modalities, dialogues of the given lengths, two speakers each."""

    def make(lengths: tuple[int, ...] = (5, 1, 3), seed: int = 0) -> dict[str, object]:
        generator = torch.Generator().manual_seed(seed)
        size = sum(lengths)
        masks = torch.rand(size, 3, generator=generator) < 0.6
        masks = masks.scatter(1, torch.randint(0, 3, (size, 1), generator=generator), True)
        dims = {"audio": 3, "visual": 4, "text": 5}
        return {
            **{name: torch.randn(size, dim, generator=generator) for name, dim in dims.items()},
            "modality_masks": masks,
            "dialogue_ids": [f"d{d}" for d, length in enumerate(lengths) for _ in range(length)],
            "speaker_ids": torch.randint(0, 2, (size,), generator=generator),
        }

    return make


@pytest.fixture
def dialogue_batch() -> Callable[..., Batch]:
    """A batch of sequences with dialogues, some modalities absent, ready for a fusion."""

    def make(
        lengths: tuple[int, ...] = (4, 1, 3), names: tuple[str, ...] = ("text", "audio"), dim: int = 8, seed: int = 0
    ) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        size, frames = sum(lengths), 6
        kept = torch.rand(size, len(names), generator=generator) < 0.6
        kept = kept.scatter(1, torch.randint(0, len(names), (size, 1), generator=generator), True)
        modalities = {}
        for column, name in enumerate(names):
            counts = torch.randint(1, frames + 1, (size, 1), generator=generator) * kept[:, column, None]
            mask = torch.arange(frames) < counts
            modalities[name] = Sequence(torch.randn(size, frames, dim, generator=generator), mask)
        index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        turn = torch.cat([torch.arange(float(length)) for length in lengths])
        speaker = torch.randint(0, 3, (size,), generator=generator)
        return Batch(modalities, tuple(str(i) for i in range(size)), Dialogues(index, speaker, turn))

    return make
