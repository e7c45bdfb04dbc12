"""Fourier2Vec: STFT -> log-mel -> patches -> Transformer with positions and mask, trained from scratch.

Source: the MER-VN framework's lightweight audio encoder. Its defaults (64 mels, 125-7500 Hz, 25/10 ms, d 256,
4 heads, 4 layers) are ours; unlike there, padding is masked, positions are known, and the body is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.batch import Sequence
from mer.data.ragged import DeviceRagged, Ragged
from mer.encoders.augment import Augment
from mer.encoders.base import AudioEncoder, mask_of
from mer.encoders.mel import MelFrontend, MelSpec
from mer.encoders.standardise import Standardiser
from mer.errors import UserError
from mer.layers import Dropout, TransformerBlock, add_positions, zeroed

if TYPE_CHECKING:
    from mer.data.corpus import CorpusInfo
    from mer.recipe import EncoderConfig


class Fourier2Vec(AudioEncoder):
    """A Transformer over patches of log-mel frames, trained from scratch.

    Equation:
        h0 = embed(patches of log-mel(x)) + sinusoid(position)
        h <- h + MHA(LN h);   h <- h + FFN(LN h)           `layers` times
        out = LN h

    Shapes: log-mels `[B, F, n_mels]` -> `[B, ceil(F / patch), dim]`, with F = 1 + samples // hop.
    When to choose: no pretrained weights at hand, little compute, or as the baseline that pretrained speech models have
        to beat.
    Cost: 3.2 M parameters at the defaults; attention is quadratic in F / patch, so `patch: 4` (40 ms) is about six
        times cheaper than frame by frame and loses little.
    Source: MER-VN (taptanhcoder/MER), its lightweight audio encoder and its defaults; unlike there, padding is masked,
        positions are known, and the body is trained.

    Args:
        dim: width of the Transformer (pre-norm, FFN of 4 dim, GELU).
        heads: attention heads.
        layers: Transformer layers.
        dropout: in the Transformer.
        patch: frames per patch; a power of two for the conv stem.
        stem: `linear` (patches flattened and projected) or `conv` (3 x 3 convolutions, each halving frequency and, log2
            patch of them, time; what is padding is zero before each).
        channels: of the conv stem's first convolution; the others have twice as many.
        n_mels: mel bands.
        f_min: lowest frequency, Hz.
        f_max: highest frequency, Hz.
        window_ms: length of a window, milliseconds.
        hop_ms: step between windows, milliseconds.
        normalise: log-mels less mean over deviation of the training rows (`train`), or less the utterance's own mean in
            each band besides (`utterance`: forgets the channel and the speaker's average spectrum).
        time_masks: SpecAugment (Park et al. 2019): stripes in time that are set to the mean.
        time_width: their largest width, frames.
        freq_masks: stripes in frequency.
        freq_width: their largest width, bands.
        stretch: each batch's time axis is stretched by a factor in [1 - s, 1 + s].
        shift: each utterance moves by up to so many mel bands (vocal tract length), edges repeated.
        gain: each utterance's log-mels move by up to so much (loudness), before normalisation.
        random_frozen: leave the random weights as they are. Only for controls: it says what training is worth.
    """

    unbundled = "it is trained on audio whose length its augmentation draws anew in every step"

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        dim: int = 256,
        heads: int = 4,
        layers: int = 4,
        dropout: float = 0.1,
        patch: int = 1,
        stem: Literal["linear", "conv"] = "linear",
        channels: int = 16,
        n_mels: int = 64,
        f_min: float = 125.0,
        f_max: float = 7500.0,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        normalise: Literal["train", "utterance"] = "train",
        time_masks: int = 0,
        time_width: int = 0,
        freq_masks: int = 0,
        freq_width: int = 0,
        stretch: float = 0.0,
        shift: int = 0,
        gain: float = 0.0,
        random_frozen: bool = False,
    ) -> None:
        super().__init__(modality, config, info)
        self._check(config, random_frozen)
        self.spec = MelSpec(n_mels, f_min, f_max, window_ms, hop_ms)
        self.frontend = MelFrontend(self.spec)
        self.out_dim, self.patch, self.normalise = dim, patch, normalise
        self.standardiser = Standardiser(n_mels)
        self.augment = Augment(time_masks, time_width, freq_masks, freq_width, stretch, shift, gain)
        self.embed: PatchEmbedding | ConvStem = (
            PatchEmbedding(n_mels, dim, patch) if stem == "linear" else ConvStem(n_mels, dim, patch, channels)
        )
        self.drop = Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerBlock(dim, heads, dropout=dropout, norm_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.trained, self.random_weights = not random_frozen, random_frozen
        if random_frozen:
            self.requires_grad_(False)

    @staticmethod
    def _check(config: EncoderConfig, random_frozen: bool) -> None:
        if config.weights not in (None, "scratch") or config.checkpoint is not None:
            raise UserError(
                "fourier2vec has no released weights", expected="weights: scratch (or nothing)", where="encoder"
            )
        if config.train == "frozen" and not random_frozen:
            raise UserError(
                "fourier2vec frozen would be a random projection",
                expected="train: full (or nothing)",
                hint="Where that is what you want (a control), say `random_frozen: true`.",
            )
        if config.train in ("last_k", "gradual") or (config.train == "full" and random_frozen):
            raise UserError(f"fourier2vec starts from random weights: train {config.train!r} makes no sense here")

    def get_feat_lengths(self, samples: Tensor) -> Tensor:
        return torch.div(self.spec.frames(samples) + self.patch - 1, self.patch, rounding_mode="floor")

    def fit(self, x: Ragged | DeviceRagged, rows: npt.NDArray[Any]) -> None:
        self.standardiser.fit(x, rows)

    def forward(self, x: Sequence) -> Sequence:
        x = self.augment(x) if self.training else x
        mel = self.standardiser(x.filled())
        if self.normalise == "utterance":
            weights = x.mask.unsqueeze(-1)
            mel = mel - (mel * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1)
        if self.training:
            mel = self.augment.stripes(mel, x.mask)
        h, mask = self.embed(mel, x.mask)
        h = self.drop(add_positions(h, mask))
        for layer in self.layers:
            h = layer(h, mask)
        return Sequence(self.norm(h), mask)


class PatchEmbedding(nn.Module):
    """`[B, F, M]` -> `[B, ceil(F / patch), dim]`: each patch of frames flattened and projected; padding is zero."""

    def __init__(self, n_mels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch, self.project = patch, nn.Linear(n_mels * patch, dim)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = F.pad(zeroed(x, mask), (0, 0, 0, -x.shape[1] % self.patch))
        h = self.project(x.reshape(x.shape[0], x.shape[1] // self.patch, -1))
        return h, mask_of((mask.sum(dim=1) + self.patch - 1) // self.patch, h.shape[1])


class ConvStem(nn.Module):
    """`[B, F, M]` -> `[B, ceil(F / patch), dim]`: 3 x 3 convolutions, each halving frequency and (log2 patch) time.

    Normalised per frame, so that neither batch mates nor padding matter; zero before every convolution.
    """

    def __init__(self, n_mels: int, dim: int, patch: int, channels: int) -> None:
        super().__init__()
        if patch < 1 or patch & (patch - 1):
            raise UserError(f"conv stem with patch {patch}", expected="a power of two: 1, 2, 4, 8")
        halvings = patch.bit_length() - 1
        self.strides = [2 if i < halvings else 1 for i in range(max(2, halvings))]
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        inner, width = 1, n_mels
        for number, stride in enumerate(self.strides):
            outer = channels * min(2, number + 1)
            self.convs.append(nn.Conv2d(inner, outer, 3, stride=(stride, 2), padding=1))
            inner, width = outer, (width + 1) // 2
            self.norms.append(nn.LayerNorm([inner, width]))
        self.project = nn.Linear(inner * width, dim)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h, lengths = x.unsqueeze(1), mask.sum(dim=1)
        for stride, conv, norm in zip(self.strides, self.convs, self.norms, strict=True):
            h = conv(torch.where(mask[:, None, :, None], h, 0.0))
            lengths = (lengths + stride - 1) // stride
            mask = mask_of(lengths, h.shape[2])
            h = F.gelu(norm(h.transpose(1, 2))).transpose(1, 2)
        return self.project(h.transpose(1, 2).flatten(2)), mask
