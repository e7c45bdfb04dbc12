"""A split ready to be batched: encoded arrays, labels and dialogue structure in one place."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mer.batch import Batch, Dialogues, Sequence
from mer.data.corpus import CorpusInfo, Utterance
from mer.data.ragged import Ragged
from mer.data.sampling import SampleInfo
from mer.precision import default_is

if TYPE_CHECKING:
    from mer.data.store import FeatureStore
    from mer.encoders.base import Encoder

FloatArray = np.ndarray
IntArray = np.ndarray


@dataclass(frozen=True)
class SplitData:
    """Utterances of one split, in dialogue order, with one ragged array per modality.

    present  `[N, M]`: which modalities the corpus holds for each utterance
    """

    info: CorpusInfo
    utterances: tuple[Utterance, ...]
    ids: tuple[str, ...]
    arrays: Mapping[str, Ragged]
    labels: Tensor
    present: np.ndarray
    dialogue: IntArray
    speaker: IntArray
    turn: FloatArray
    device: torch.device
    borrowed: Mapping[str, tuple[IntArray, IntArray]] = field(default_factory=dict)
    """Modalities made from transcripts (a language model's context): bounds `[N + 1]`, positions of the transcripts."""
    fitted: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """What encoders have learned from all of its utterances: statistics that every trial would compute again."""

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    def sample_info(self) -> SampleInfo:
        """What a sampler needs to know of the split."""
        seconds = [(u.end - (u.start or 0.0)) if u.end is not None else 0.0 for u in self.utterances]
        words = [len(u.transcript.split()) if u.transcript else 0 for u in self.utterances]
        return SampleInfo(
            labels=self.labels.cpu().numpy(),
            audio_seconds=np.asarray(seconds, dtype=np.float64),
            text_words=np.asarray(words, dtype=np.int64),
            dialogue=self.dialogue,
        )

    def batch(self, rows: np.ndarray, available: np.ndarray, *, dialogues: bool) -> Batch:
        """The batch of `rows`; `available [N, M]` is a missing-modality mask over the whole split.

        With `dialogues` the rows must come ordered by dialogue and turn, as whole-dialogue samplers give them.
        """
        modalities = self.gather(rows, self.kept(rows, available))
        ids = tuple(self.ids[row] for row in rows)
        return Batch(modalities, ids, self._dialogues(rows) if dialogues else None)

    def fit(self, name: str, encoder: Encoder) -> None:
        """Let an encoder take its statistics from these utterances, or give it those that its like has taken."""
        key = f"{name} {encoder.config.model_dump_json()}"
        if key not in self.fitted:
            encoder.fit(self.arrays[name], np.arange(len(self)))
            self.fitted[key] = {place: buffer.detach().clone() for place, buffer in encoder.named_buffers()}
            return
        with torch.no_grad():
            for place, buffer in encoder.named_buffers():
                buffer.copy_(self.fitted[key][place])

    def select(self, utterances: Items[Utterance]) -> SplitData:
        """Some of these utterances as a split of their own; frames are shared, nothing is encoded again."""
        if self.borrowed:
            raise ValueError("what a context holds depends on who else is in the split")
        ordered = _in_dialogue_order(utterances)
        place = {identifier: row for row, identifier in enumerate(self.ids)}
        rows = np.asarray([place[utterance.id] for utterance in ordered], dtype=np.int64)
        arrays = {name: array.select(rows) for name, array in self.arrays.items()}
        labels = self.labels[torch.from_numpy(rows).to(self.device)]
        return _split(self.info, ordered, arrays, labels, self.device, {})

    def kept(self, rows: np.ndarray, available: np.ndarray) -> np.ndarray:
        """`[len(rows), M]`: what these rows have and a mask over the whole split leaves them."""
        kept: np.ndarray = self.present[rows] & available[rows] & ~self._would_leak(rows, available)
        return kept

    def gather(self, rows: np.ndarray, kept: np.ndarray) -> dict[str, Sequence]:
        """The padded sequences of these rows; `kept [len(rows), M]` says which modalities each has."""
        return {
            name: array.gather(rows, kept[:, column], device=self.device)
            for column, (name, array) in enumerate(self.arrays.items())
        }

    def _would_leak(self, rows: np.ndarray, available: np.ndarray) -> np.ndarray:
        """`[len(rows), M]`: entries made from a transcript that the mask withholds, be it a neighbour's."""
        leaks = np.zeros((len(rows), len(self.modalities)), dtype=bool)
        if "text" not in self.modalities:
            return leaks
        text = self.modalities.index("text")
        withheld = self.present[:, text] & ~available[:, text]
        for name, (bounds, sources) in self.borrowed.items():
            counts = np.concatenate([[0], np.cumsum(withheld[sources])])
            leaks[:, self.modalities.index(name)] = counts[bounds[rows + 1]] > counts[bounds[rows]]
        return leaks

    def _dialogues(self, rows: np.ndarray) -> Dialogues:
        changes = np.diff(self.dialogue[rows], prepend=self.dialogue[rows[0]]) != 0
        _, speaker = np.unique(self.speaker[rows], return_inverse=True)
        index = np.cumsum(changes)
        structure = Dialogues(
            index=torch.from_numpy(index),
            speaker=torch.from_numpy(speaker.astype(np.int64)),
            turn=torch.from_numpy(self.turn[rows]),
            extent=(int(index[-1]) + 1, int(np.bincount(index).max())),
        )
        return structure if self.device.type == "cpu" else structure.to(self.device)

    def whole_batches(self, size: int) -> list[np.ndarray]:
        """All rows in order, whole dialogues together, about `size` utterances a batch: for evaluation."""
        starts = np.flatnonzero(np.diff(self.dialogue, prepend=-1))
        bounds = [0]
        for end in [*starts[1:].tolist(), len(self)]:
            if end - bounds[-1] >= size or end == len(self):
                bounds.append(end)
        return [np.arange(a, b) for a, b in itertools.pairwise(bounds)]


def prepare_split(
    info: CorpusInfo,
    utterances: Items[Utterance],
    encoders: Mapping[str, Encoder],
    store: FeatureStore,
    device: torch.device | str = "cpu",
    *,
    may_lack: bool = False,
) -> SplitData:
    """Encode a split (frozen encoders through the feature store) and order it by dialogue and turn.

    device: where the split lies, and where frozen encoders compute what the store lacks.
    may_lack: a modality that no utterance has is absent (prediction from text alone) instead of a mistake.
    """
    ordered = _in_dialogue_order(utterances)
    with default_is(device):
        arrays = {
            name: (
                _nothing(encoder, ordered)
                if may_lack and _lacks(encoder, info, ordered)
                else encoder.arrays(info, ordered, store)
            ).to(device)
            for name, encoder in encoders.items()
        }
    numbers = {label: number for number, label in enumerate(info.labels)}
    labels = torch.tensor([numbers[u.emotion] for u in ordered], device=device)
    return _split(info, ordered, arrays, labels, torch.device(device), _borrowed(encoders, ordered))


def _split(
    info: CorpusInfo,
    ordered: tuple[Utterance, ...],
    arrays: Mapping[str, Ragged],
    labels: Tensor,
    device: torch.device,
    borrowed: Mapping[str, tuple[IntArray, IntArray]],
) -> SplitData:
    dialogues = [u.dialogue if u.dialogue is not None else f"\0{u.id}" for u in ordered]
    return SplitData(
        info=info,
        utterances=ordered,
        ids=tuple(utterance.id for utterance in ordered),
        arrays=arrays,
        labels=labels,
        present=np.stack([array.lengths > 0 for array in arrays.values()], axis=1),
        dialogue=_numbered(dialogues),
        speaker=_numbered([u.speaker for u in ordered]),
        turn=np.asarray([u.turn if u.turn is not None else 0.0 for u in ordered], dtype=np.float32),
        device=device,
        borrowed=borrowed,
    )


def _borrowed(
    encoders: Mapping[str, Encoder], utterances: tuple[Utterance, ...]
) -> dict[str, tuple[IntArray, IntArray]]:
    found = {}
    for name, encoder in encoders.items():
        read = encoder.transcripts_read(utterances)
        if read is not None:
            bounds = np.concatenate([[0], np.cumsum([len(rows) for rows in read])])
            found[name] = bounds, np.fromiter((row for rows in read for row in rows), dtype=np.int64)
    return found


def _lacks(encoder: Encoder, info: CorpusInfo, utterances: Items[Utterance]) -> bool:
    return encoder.frontend is not None and all(encoder.item(info, utterance) is None for utterance in utterances)


def _nothing(encoder: Encoder, utterances: Items[Utterance]) -> Ragged:
    """No frame for anybody, at the width that the encoder's frontend gives."""
    assert encoder.frontend is not None
    return Ragged(np.zeros((0, encoder.frontend.dim), np.float32), np.zeros(len(utterances) + 1, np.int64))


def _in_dialogue_order(utterances: Items[Utterance]) -> tuple[Utterance, ...]:
    """Dialogues in the order of their first utterance, turns ascending; utterances without one stand alone."""
    first: dict[str, int] = {}
    for position, utterance in enumerate(utterances):
        if utterance.dialogue is not None:
            first.setdefault(utterance.dialogue, position)

    def key(item: tuple[int, Utterance]) -> tuple[int, float, int]:
        position, utterance = item
        if utterance.dialogue is None:
            return position, 0.0, position
        return first[utterance.dialogue], utterance.turn if utterance.turn is not None else position, position

    return tuple(utterance for _, utterance in sorted(enumerate(utterances), key=key))


def _numbered(names: Items[str]) -> IntArray:
    numbers: dict[str, int] = {}
    return np.asarray([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
