"""Samplers: which utterances form the batches of an epoch. Pure functions of (seed, epoch).

Two independent choices make the four samplers: whether an epoch is drawn by weight or is a permutation, and
whether utterances of similar length are put together. `both` does both, in that order, so that bucketing cannot
undo the weighting: classes have the same shares in expectation with and without it.

Stopping in mid-epoch needs no state: `sampler.batches(epoch)[k:]` are the batches that remain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mer.errors import UserError
from mer.levels import load, target
from mer.recipe import Sampler as SamplerConfig
from mer.streams import derive

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

LEVELS: dict[str, str] = {
    "plain": "mer.data.sampling:Plain",
    "length_bucket": "mer.data.sampling:LengthBucket",
    "weighted": "mer.data.sampling:Weighted",
    "both": "mer.data.sampling:Both",
}


@dataclass(frozen=True)
class SampleInfo:
    """What samplers know of the N training utterances.

    labels         `[N]` class numbers
    audio_seconds  `[N]` durations; 0 where there is no audio
    text_words     `[N]` numbers of words; 0 where there is no text
    dialogue       `[N]` number of the dialogue, or None; the rows of a dialogue are in turn order
    """

    labels: npt.NDArray[Any]
    audio_seconds: npt.NDArray[Any]
    text_words: npt.NDArray[Any]
    dialogue: npt.NDArray[Any] | None = None

    def mixed_length(self, alpha: float) -> Floats:
        """`[N]`: audio seconds + alpha x text words (MER-VN)."""
        mixed: Floats = np.asarray(self.audio_seconds, np.float64) + alpha * np.asarray(self.text_words, np.float64)
        return mixed


def make_sampler(config: SamplerConfig, info: SampleInfo, seed: int, by_dialogue: bool = False) -> Sampler:
    """The sampler that a recipe names: one of `LEVELS`, or `module:attr` of a class that takes the same arguments.

    >>> info = SampleInfo(np.array([0, 0, 0, 1]), np.array([1.0, 4.0, 1.1, 4.2]), np.zeros(4))
    >>> sampler = make_sampler(SamplerConfig(name="length_bucket", batch_size=2, bucket=2), info, seed=0)
    >>> sorted(sorted(batch.tolist()) for batch in sampler.batches(epoch=0))
    [[0, 2], [1, 3]]
    """
    found = load(target(LEVELS, config.name, "sampler"), "sampler")
    sampler: Sampler = found(config, info, seed, by_dialogue)
    return sampler


class Sampler:
    """Batches of about `batch_size` rows of the training split.

    With `by_dialogue`, for models with context: batches of whole dialogues in turn order, closed as soon as they hold
    `batch_size` utterances; a dialogue weighs the mean of its utterances, and is as long as its longest. No dialogue
    occurs twice in one batch, however often it was drawn.

    Shapes: N training utterances -> arrays of row numbers, one per batch, a function of the seed and the epoch.

    Args:
        batch_size: utterances of a batch.
        alpha: seconds that one word counts for in the mixed length.
    """

    by_weight: ClassVar[bool] = False
    by_length: ClassVar[bool] = False

    def __init__(self, config: SamplerConfig, info: SampleInfo, seed: int, by_dialogue: bool = False) -> None:
        if by_dialogue and info.dialogue is None:
            raise UserError("this model needs whole dialogues, and the corpus names none", expected="dialogue_id")
        self.config, self.seed = config, seed
        weights, lengths = utterance_weights(config, info), info.mixed_length(config.alpha)
        self._dialogues: list[Rows] | None = None
        if by_dialogue:
            assert info.dialogue is not None
            self._dialogues = rows_by_dialogue(info.dialogue)
            weights = np.array([weights[rows].mean() for rows in self._dialogues])
            lengths = np.array([lengths[rows].max() for rows in self._dialogues])
        self._weights, self._lengths = weights / weights.sum(), lengths

    def batches(self, epoch: int) -> list[Rows]:
        """The row numbers of each batch of an epoch (counted from 0)."""
        rng = np.random.default_rng(derive("batches", self.seed, epoch))
        n = len(self._weights)
        order = rng.choice(n, n, p=self._weights) if self.by_weight else rng.permutation(n)
        if self.by_length:
            order = self._sorted_in_buckets(order)
        batches = self._cut(order) if self._dialogues is None else self._pack(order, self._dialogues)
        if self.by_length:  # sorting put short before long: undo that between batches
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def _sorted_in_buckets(self, order: Rows) -> Rows:
        """Sort by length within buckets of `bucket` batches: alike lengths meet, and which of them do is random."""
        size = self.config.bucket * self.config.batch_size
        if self._dialogues is not None:
            utterances = sum(len(rows) for rows in self._dialogues)
            size = max(1, round(size * len(self._dialogues) / utterances))
        bucket = np.arange(len(order)) // size
        sorted_order: Rows = order[np.lexsort((self._lengths[order], bucket))]
        return sorted_order

    def _cut(self, order: Rows) -> list[Rows]:
        size = self.config.batch_size
        return [order[i : i + size] for i in range(0, len(order), size)]

    def _pack(self, order: Rows, dialogues: list[Rows]) -> list[Rows]:
        batches: list[Rows] = []
        waiting = order.tolist()
        while waiting:
            batch: dict[int, Rows] = {}
            again, size = [], 0
            while waiting and size < self.config.batch_size:
                dialogue = waiting.pop(0)
                if dialogue in batch:
                    again.append(dialogue)
                else:
                    batch[dialogue] = dialogues[dialogue]
                    size += len(dialogues[dialogue])
            waiting = again + waiting
            batches.append(np.concatenate(list(batch.values())))
        return batches


class Plain(Sampler):
    """Every utterance once, in random order.

    Equation:
        one permutation of the N rows per epoch, cut into batches

    When to choose: the reference; corpora that are balanced.
    Cost: padding of about twice the frames that are there.
    Source: common.
    """


class LengthBucket(Sampler):
    """Every utterance once; batches hold similar lengths, which halves what is spent on padding.

    Equation:
        length_i = audio seconds + alpha text words
        one permutation per epoch, cut into buckets of `bucket` batches;
        each bucket sorted by length and cut into batches; batches shuffled

    Composition and order differ in every epoch (the source shuffles once, at construction, and shows the same batches
    in the same order for ever).

    When to choose: utterances of very different length.
    Cost: batches are less mixed than random ones, the less the larger `bucket` is.
    Source: MER-VN (taptanhcoder/MER), its length-bucket batching.

    Args:
        bucket: batches per bucket.
    """

    by_length = True


class Weighted(Sampler):
    """N draws with replacement, by weight: against class imbalance and length bias.

    Equation:
        share of class c      ~ count_c^(1 - class_power)
        within its class      w_i ~ (share of utterances of i's length)^(-length_power)

    Lengths are counted in half-octaves of the mixed length. Shares of classes are exactly what `class_power` says,
    whether or not length and class go together.

    When to choose: unbalanced classes and a metric that counts them equally (UA, macro F1). Do not weight the loss by
        class as well: that corrects twice.
    Cost: some utterances of large classes are not seen in an epoch.
    Source: MER-VN (taptanhcoder/MER), its weighted sampling.

    Args:
        class_power: 0 leaves classes as they are, 1 makes them all the same.
        length_power: how strongly rare lengths are favoured.
    """

    by_weight = True


class Both(Sampler):
    """N draws by weight in every epoch, then buckets by length, then batches shuffled.

    Bucketing cannot undo the weighting: classes have the same shares in expectation with and without it. (In the source
    length-bucket batching silently turns weighted sampling off.)

    Equation:
        the draws of `weighted`, batched as `length_bucket` batches its permutation

    When to choose: unbalanced classes and very different lengths at once.
    Cost: as `weighted` and `length_bucket`.
    Source: MER-VN (taptanhcoder/MER), which names it and cannot run it.

    Args:
        bucket: batches per bucket.
        class_power: 0 leaves classes as they are, 1 makes them all the same.
        length_power: how strongly rare lengths are favoured.
    """

    by_weight = True
    by_length = True


def utterance_weights(config: SamplerConfig, info: SampleInfo) -> Floats:
    """`[N]` probabilities of a draw.

    Classes get shares proportional to count ** (1 - class_power): 0 as they are, 1 all the same. Within its class
    an utterance weighs (share of utterances of its length) ** -length_power, lengths counted in half-octaves of
    the mixed length (from 1 s to 1.41 s, to 2 s, ...). Shares of classes are therefore exactly what class_power
    says, whether or not length and class go together.

    >>> info = SampleInfo(np.array([0, 0, 0, 1]), np.ones(4), np.zeros(4))
    >>> utterance_weights(SamplerConfig(), info).round(3).tolist()
    [0.167, 0.167, 0.167, 0.5]
    """
    _, label, counts = np.unique(info.labels, return_inverse=True, return_counts=True)
    shares = counts.astype(np.float64) ** (1 - config.class_power)
    shares /= shares.sum()
    lengths = np.maximum(info.mixed_length(config.alpha), 1e-3)
    _, octave, alike = np.unique(np.floor(2 * np.log2(lengths)), return_inverse=True, return_counts=True)
    rarity = (alike[octave] / len(label)) ** -config.length_power
    weights: Floats = shares[label] * rarity / np.bincount(label, weights=rarity)[label]
    return weights


def rows_by_dialogue(dialogue: npt.NDArray[Any]) -> list[Rows]:
    """The rows of each dialogue, dialogues in order of first appearance, rows as they come (turn order).

    >>> [rows.tolist() for rows in rows_by_dialogue(np.array([7, 7, 3, 7]))]
    [[0, 1, 3], [2]]
    """
    _, first, number = np.unique(dialogue, return_index=True, return_inverse=True)
    order = np.argsort(number, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(number))[:-1])
    return [groups[i] for i in np.argsort(first)]


def padding_ratio(batches: list[Rows], lengths: npt.NDArray[Any]) -> float:
    """Positions of the padded batches over real ones: 1 where nothing is padded.

    >>> padding_ratio([np.array([0, 1])], np.array([1, 3]))
    1.5
    """
    padded = sum(len(rows) * float(lengths[rows].max()) for rows in batches)
    return padded / sum(float(lengths[rows].sum()) for rows in batches)
