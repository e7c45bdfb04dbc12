"""Pre-extracted features of any modality, visual included: one vector per utterance from the corpus's own files."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mer.batch import Sequence
from mer.data.arrays import load_array
from mer.data.ragged import DeviceRagged, Ragged
from mer.encoders.base import Encoder
from mer.encoders.standardise import Standardiser
from mer.errors import UserError, reading_corpus, unknown
from mer.layers import Noise, Swap

if TYPE_CHECKING:
    from mer.data.corpus import CorpusInfo, Utterance
    from mer.data.store import FeatureStore
    from mer.recipe import EncoderConfig


class Features(Encoder):
    """Ready-made features of any modality, visual included, from the corpus's own files.

    Reads `features/<modality>.npy` (`[N, d]`; an utterance's line names its `row`), memory-mapped. With
    `features/<modality>.offsets.npy` (`[U + 1]`) beside it, row `i` is the sequence of frames `offsets[i]:offsets[i +
    1]`; without, each row is one frame.

    Equation:
        x <- (x - mean_train) / sd_train          per dimension, over the training rows alone

    Shapes: `[B, T, d] -> [B, T, d]`.
    When to choose: the features exist already (bc-LSTM, DenseFace, COVAREP ...).
    Cost: none.
    Source: whoever made the features; name them in `corpus.json`.

    Args:
        noise: deviation of Gaussian noise in training, in units of the standardised features.
        swap: share of the utterances that are given, in training, the features of another one of their batch. Both
            are for features whose extractor was trained on the same training part, where they are far better than
            anywhere else; see docs/cadgl.md.
        standardise: subtract the mean and divide by the deviation of the training rows. Features of different
            extractors differ by orders of magnitude, so this is the default; constant dimensions become 0.
    """

    requires = frozenset({"features"})
    kind = "features"

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        standardise: bool = True,
        noise: float = 0.0,
        swap: float = 0.0,
    ) -> None:
        super().__init__(modality, config, info)
        if modality not in info.features:
            raise unknown("features of modality", modality, info.features, where=f"corpus {info.name}")
        if config.train not in (None, "frozen") or config.weights is not None or config.checkpoint is not None:
            raise UserError(
                f"encoder 'features' of modality {modality!r} has no weights to load or train",
                hint="Remove the keys weights, checkpoint and train.",
            )
        self.out_dim = info.features[modality]
        self.standardiser = Standardiser(self.out_dim) if standardise else None
        self.noise, self.swap = Noise(noise), Swap(swap)

    @reading_corpus()
    def arrays(self, info: CorpusInfo, utterances: Items[Utterance], store: FeatureStore | None = None) -> Ragged:
        path = info.folder / "features" / f"{self.modality}.npy"
        table = load_array(path, "f", info.folder)
        if table.ndim != 2 or table.shape[1] != self.out_dim:
            raise UserError(f"features of shape {table.shape}", where=str(path), expected=f"[N, {self.out_dim}]")
        beside = path.with_suffix(".offsets.npy")
        bounds = load_array(beside, "iu", info.folder) if beside.exists() else np.arange(len(table) + 1)
        starts, lengths = np.zeros(len(utterances), np.int64), np.zeros(len(utterances), np.int64)
        for number, utterance in enumerate(utterances):
            if utterance.row is None or self.modality in utterance.lacks:
                continue
            if not 0 <= utterance.row < len(bounds) - 1:
                raise UserError(
                    f"row {utterance.row} of {path.name}", where=utterance.source, expected=f"0 to {len(bounds) - 2}"
                )
            starts[number] = bounds[utterance.row]
            lengths[number] = bounds[utterance.row + 1] - bounds[utterance.row]
        return Ragged.from_blocks([table], np.zeros_like(starts), starts, lengths)

    def fit(self, x: Ragged | DeviceRagged, rows: npt.NDArray[Any]) -> None:
        if self.standardiser is not None:
            self.standardiser.fit(x, rows)

    def forward(self, x: Sequence) -> Sequence:
        values = x.values.float() if self.standardiser is None else self.standardiser(x.values)
        mask = x.mask
        if self.swap.active:
            donors = self.swap.donors(x.present)
            values, mask = values[donors], mask[donors]
        return Sequence(self.noise(values), mask)
