"""Log-mel frames as features: the cheapest audio encoder, and the baseline that a learned one has to beat."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mer.batch import Sequence
from mer.data.ragged import DeviceRagged, Ragged
from mer.encoders.base import AudioEncoder
from mer.encoders.mel import MelFrontend, MelSpec, waves
from mer.encoders.standardise import Standardiser
from mer.errors import UserError

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo
    from mer.recipe import EncoderConfig


class LogMel(AudioEncoder):
    """Log-mels, optionally with their slopes, averaged over `pool` frames, standardised on the training rows.

    Equation:
        m_f = log(mel |STFT(x)_f| + offset)
        x_t = mean of m_f over `pool` frames     the last is over the frames that are left

    Shapes: samples `[B, T]` -> `[B, ceil(F / pool), n_mels (2 n_mels with deltas)]`, F = 1 + T // hop.
    When to choose: a quick, frozen, weightless start; smoke tests.
    Cost: 1.5 ms per second of audio, once.
    Source: Davis and Mermelstein 1980 for the mel scale's use; the settings are VGGish's (Hershey et al. 2017, arXiv
        1609.09430).

    Args:
        deltas: append the slope of each band over 5 frames (regression, edges repeated).
        pool: frames per output frame; 4 gives 25 frames a second.
        n_mels: mel bands.
        f_min: lowest frequency, Hz.
        f_max: highest frequency, Hz.
        window_ms: length of a window, milliseconds.
        hop_ms: step between windows, milliseconds.
        standardise: as for `features`.
    """

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        deltas: bool = False,
        pool: int = 4,
        n_mels: int = 64,
        f_min: float = 125.0,
        f_max: float = 7500.0,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        standardise: bool = True,
    ) -> None:
        super().__init__(modality, config, info)
        if config.train not in (None, "frozen") or config.weights is not None or config.checkpoint is not None:
            raise UserError(
                "encoder 'logmel' has no weights to load or train",
                hint="Remove the keys weights, checkpoint and train.",
            )
        self.spec, self.pool = MelSpec(n_mels, f_min, f_max, window_ms, hop_ms), pool
        self.out_dim = n_mels * (2 if deltas else 1)
        self.frontend = PooledMels(self.spec, deltas, pool)
        self.standardiser = Standardiser(self.out_dim) if standardise else None

    def get_feat_lengths(self, samples: Tensor) -> Tensor:
        return torch.div(self.spec.frames(samples) + self.pool - 1, self.pool, rounding_mode="floor")

    def fit(self, x: Ragged | DeviceRagged, rows: npt.NDArray[Any]) -> None:
        if self.standardiser is not None:
            self.standardiser.fit(x, rows)

    def forward(self, x: Sequence) -> Sequence:
        return x if self.standardiser is None else Sequence(self.standardiser(x.filled()), x.mask)


class PooledMels(MelFrontend):
    """Audio clips -> log-mels with slopes, averaged over `pool` frames."""

    def __init__(self, spec: MelSpec, deltas: bool, pool: int) -> None:
        super().__init__(spec)
        self.deltas, self.pool = deltas, pool
        self.dim = spec.n_mels * (2 if deltas else 1)

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "deltas": self.deltas, "pool": self.pool}

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        with torch.inference_mode():
            return [self._frames(self.spec(samples)).numpy() for samples in waves(items, self.spec.rate)]

    def _frames(self, mel: Tensor) -> Tensor:
        frames = torch.cat([mel, slopes(mel)], dim=1) if self.deltas else mel
        return average(frames, self.pool)


def slopes(x: Tensor, reach: int = 2) -> Tensor:
    """`[T, D]` -> `[T, D]`: sum of n (x[t + n] - x[t - n]) over 2 sum of n^2, edges repeated.

    >>> slopes(torch.arange(6.0).unsqueeze(1)).squeeze(1)[2:4].tolist()
    [1.0, 1.0]
    """
    padded = torch.cat([x[:1].expand(reach, -1), x, x[-1:].expand(reach, -1)])
    size = len(x)
    total = torch.zeros_like(x)
    for n in range(1, reach + 1):
        total += n * (padded[reach + n : reach + n + size] - padded[reach - n : reach - n + size])
    return total / (2 * sum(n * n for n in range(1, reach + 1)))


def average(x: Tensor, size: int) -> Tensor:
    """`[T, D]` -> `[ceil(T / size), D]`: means of `size` frames; the last of what is left.

    >>> average(torch.tensor([[1.0], [3.0], [7.0]]), 2).tolist()
    [[2.0], [7.0]]
    """
    if size == 1:
        return x
    return F.avg_pool1d(x.T.unsqueeze(0), size, ceil_mode=True, count_include_pad=False).squeeze(0).T.contiguous()
