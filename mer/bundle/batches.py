"""The members' batches at one shape, and splits that members share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mer.batch import Batch
from mer.bundle.dropout import Sizes
from mer.data.corpus import CorpusInfo, Utterance
from mer.data.loading import SplitData
from mer.model import Model
from mer.training import SplitLoader

Inputs = dict[str, tuple[Tensor, Tensor]]
"""Modality to values `[k, B, T, D]` and mask `[k, B, T]`."""

Rows = Sequence[np.ndarray | None]
"""Each member's rows; None: it takes no part."""


def together(
    splits: Sequence[SplitData], rows: Rows, available: Sequence[np.ndarray]
) -> tuple[Inputs, list[Sizes | None], Sizes]:
    """The members' batches padded to a common shape; one that takes no part has rows of nothing."""
    chosen = [own for own in rows if own is not None]
    if len(chosen) == len(rows) and all(split is splits[0] for split in splits) and len({len(x) for x in chosen}) == 1:
        return _at_once(splits[0], chosen, available)
    own = [
        None if chosen is None else split.batch(chosen, mask, dialogues=False)
        for split, chosen, mask in zip(splits, rows, available, strict=True)
    ]
    sizes = [None if batch is None else _sizes(batch) for batch in own]
    there = [size for size in sizes if size is not None]
    common = Sizes(
        max(size.rows for size in there), {name: max(s.frames[name] for s in there) for name in there[0].frames}
    )
    inputs: Inputs = {}
    for name, frames in common.frames.items():
        found = [None if batch is None else batch.modalities[name] for batch in own]
        inputs[name] = (
            _padded([None if x is None else x.values for x in found], (common.rows, frames)),
            _padded([None if x is None else x.mask for x in found], (common.rows, frames)),
        )
    return inputs, sizes, common


def _at_once(
    split: SplitData, rows: Sequence[np.ndarray], available: Sequence[np.ndarray]
) -> tuple[Inputs, list[Sizes | None], Sizes]:
    """Batches of as many rows each out of one split are gathered as one."""
    members, count = len(rows), len(rows[0])
    kept = np.concatenate([split.kept(own, mask) for own, mask in zip(rows, available, strict=True)])
    batch = split.gather(np.concatenate(rows), kept)
    frames = {
        name: np.where(kept[:, column], array.lengths[np.concatenate(rows)], 0).reshape(members, count).max(1).clip(1)
        for column, (name, array) in enumerate(split.arrays.items())
    }
    sizes: list[Sizes | None] = [
        Sizes(count, {name: int(longest[member]) for name, longest in frames.items()}) for member in range(members)
    ]
    inputs = {
        name: (x.values.view(members, count, *x.values.shape[1:]), x.mask.view(members, count, -1))
        for name, x in batch.items()
    }
    return inputs, sizes, Sizes(count, {name: int(longest.max()) for name, longest in frames.items()})


def labels_of(splits: Sequence[SplitData], rows: Rows, count: int) -> tuple[Tensor, Tensor]:
    """Labels `[k, B]`, and which rows are real."""
    index, real = np.zeros((len(rows), count), np.int64), np.zeros((len(rows), count), bool)
    for i, own in enumerate(rows):
        if own is not None:
            index[i, : len(own)], real[i, : len(own)] = own, True
    device = splits[0].device
    places = torch.from_numpy(index).to(device, non_blocking=True)
    labels = torch.stack([split.labels[place] for split, place in zip(splits, places, strict=True)])
    return labels, torch.from_numpy(real).to(device, non_blocking=True)


def once(load: SplitLoader) -> SplitLoader:
    """Members with the same utterances share one split: their encoders are the same and frozen."""
    kept: list[tuple[tuple[Utterance, ...], SplitData]] = []

    def shared(info: CorpusInfo, utterances: tuple[Utterance, ...], model: Model) -> SplitData:
        for known, data in kept:
            if known is utterances:
                return data
        kept.append((utterances, load(info, utterances, model)))
        return kept[-1][1]

    return shared


def _sizes(batch: Batch) -> Sizes:
    return Sizes(batch.size, {name: x.mask.shape[1] for name, x in batch.modalities.items()})


def _padded(found: Sequence[Tensor | None], shape: tuple[int, int]) -> Tensor:
    """`[k, B, T, ...]` of `[b, t, ...]` each, zeros beyond; zeros altogether where there is none."""
    first = next(x for x in found if x is not None)
    if all(x is not None and x.shape[:2] == shape for x in found):
        return torch.stack([x for x in found if x is not None])
    out = first.new_zeros(len(found), *shape, *first.shape[2:])
    for i, x in enumerate(found):
        if x is not None:
            out[i, : x.shape[0], : x.shape[1]] = x
    return out
