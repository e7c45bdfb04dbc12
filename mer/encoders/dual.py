"""Two views of the same speech: a wav2vec 2.0 model (what is said, how) and VGGish (how it sounds).

Source: the MER-VN framework's dual encoder. There VGGish ran on padded audio and was stretched to the padded length,
so that the alignment depended on batch mates; here each utterance's VGGish frames are resampled to its own frames.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.batch import Sequence
from mer.encoders.base import column
from mer.encoders.mel import waves
from mer.encoders.pretrained import StoreType
from mer.encoders.vggish import MIN_SAMPLES, VggishFrontend, vggish_identity
from mer.encoders.wav2vec import SpeechFrontend, SpeechModel

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo
    from mer.recipe import EncoderConfig


class Dual(SpeechModel):
    """wav2vec 2.0 (XLSR-53 unless `checkpoint` names another of its family) beside VGGish.

    Equation:
        merge: concat    x = [x_w ; resample(x_v, T')]
        merge: sum       x = x_w + W resample(x_v, T')

    Resampling is linear between the centres of VGGish's patches. W is learned, so `sum` is the one frozen encoder that
    has a trained part; VGGish itself stays frozen, whatever `train` says of the wav2vec 2.0 body.

    Shapes: samples `[B, T]` -> `[B, T', D + 128]` (`concat`) or `[B, T', D]` (`sum`), T' as for `xlsr`.
    When to choose: emotions that sound (laughter, crying) beside those that are spoken.
    Cost: both encoders.
    Source: MER-VN (taptanhcoder/MER), its dual encoder. There VGGish runs on padded audio and is stretched to the
        padded length, so that the alignment depends on batch mates; here each utterance's frames are resampled to its
        own.

    Args:
        merge: `concat` or `sum`.
        vggish: a local file of VGGish's weights; none: the released ones (tiny beside tiny).
    """

    level, norm = "xlsr", "layer"

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        merge: Literal["concat", "sum"] = "concat",
        vggish: str | None = None,
        layer: int = -1,
        dtype: StoreType = "float16",
        bf16: bool = False,
        unfreeze_every: int = 1,
    ) -> None:
        super().__init__(modality, config, info, layer=layer, dtype=dtype, bf16=bf16, unfreeze_every=unfreeze_every)
        self.merge = merge
        kind = "tiny" if config.weights == "tiny" and vggish is None else "pretrained"
        self.vggish = VggishFrontend(kind, vggish, dtype)
        self.vggish_weights = vggish_identity(kind, vggish)
        self.project = nn.Linear(128, self.speech_dim) if merge == "sum" else None
        self.out_dim = self.speech_dim + (128 if merge == "concat" else 0)
        if isinstance(self.frontend, SpeechFrontend):
            self.frontend = DualFrontend(self, self.frontend)

    def forward(self, x: Sequence) -> Sequence:
        if self.body is None:
            values, mask = x.filled(), x.mask
        else:
            speech = self._speech(x)
            sound = torch.zeros(*speech.values.shape[:2], 128, device=speech.values.device)
            lengths, frames = x.lengths.tolist(), speech.lengths.tolist()
            with torch.no_grad():
                for row, (samples, count, size) in enumerate(zip(column(x), lengths, frames, strict=True)):
                    if size:
                        sound[row, :size] = self.sound(samples[:count], size).to(sound)
            values, mask = torch.cat([speech.filled(), sound.to(speech.values.dtype)], dim=-1), speech.mask
        if self.project is None:
            return Sequence(values, mask)
        speech_part, sound_part = values[..., : self.speech_dim], values[..., self.speech_dim :]
        return Sequence(speech_part + self.project(sound_part), mask)

    def sound(self, samples: Tensor, size: int) -> Tensor:
        """`[T]` samples -> `[size, 128]`: VGGish of one utterance, at the time-scale of its other frames."""
        padded = F.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))
        return resample(self.vggish.embed(padded), size)


def resample(x: Tensor, size: int) -> Tensor:
    """`[N, D]` -> `[size, D]`: linear between the centres of the frames, constant beyond the outer ones.

    >>> resample(torch.tensor([[0.0], [1.0]]), 4).squeeze(1).tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    return F.interpolate(x.T.unsqueeze(0), size=size, mode="linear", align_corners=False).squeeze(0).T


class DualFrontend:
    """Audio clips -> frames of both frozen models side by side, `[T', D + 128]`."""

    def __init__(self, encoder: Dual, speech: SpeechFrontend) -> None:
        self.encoder, self.speech = [encoder], speech
        self.dim, self.dtype = speech.dim + 128, speech.dtype
        self.kind: Literal["audio", "text"] = "audio"

    def identity(self) -> dict[str, object]:
        return {**self.speech.identity(), "frontend": "wav2vec2 family and vggish", **self.encoder[0].vggish_weights}

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        encoder = self.encoder[0]
        found: list[npt.NDArray[np.generic]] = []
        clips = waves(items, encoder.sample_rate, encoder.min_samples)
        with torch.inference_mode():
            for speech, samples in zip(self.speech.extract(items), clips, strict=True):
                sound = encoder.sound(samples, len(speech)).cpu().numpy()
                found.append(np.concatenate([np.asarray(speech, dtype=np.float32), sound], axis=1))
        return found
