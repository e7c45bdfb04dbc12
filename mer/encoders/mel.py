"""Log-mel spectrograms: one implementation for Fourier2Vec, the log-mel baseline and VGGish."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mer.data.audio import AudioClip


@dataclass(frozen=True)
class MelSpec:
    """What a log-mel spectrogram is: `log(mel |STFT| + offset)`.

    The filters are triangles in the HTK mel scale (Hershey et al. 2017). With `center`, the signal is padded with
    zeros by half a window's FFT at both ends: frames = 1 + T // hop. Zeros, not reflections, so that the end of an
    utterance does not depend on what a batch puts behind it. Without, only whole windows: 1 + (T - window) // hop.
    """

    n_mels: int = 64
    f_min: float = 125.0
    f_max: float = 7500.0
    window_ms: float = 25.0
    hop_ms: float = 10.0
    offset: float = 0.01
    rate: int = 16_000
    center: bool = True

    @property
    def window(self) -> int:
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        return round(self.rate * self.hop_ms / 1000)

    @property
    def n_fft(self) -> int:
        """The next power of two."""
        return int(2 ** math.ceil(math.log2(self.window)))

    def frames(self, samples: Tensor) -> Tensor:
        """Numbers of samples -> numbers of frames, exactly.

        >>> MelSpec().frames(torch.tensor([1, 159, 160, 16000])).tolist()
        [1, 1, 2, 101]
        >>> MelSpec(center=False).frames(torch.tensor([399, 400, 560])).tolist()
        [0, 1, 2]
        """
        if self.center:
            return torch.where(samples > 0, 1 + samples // self.hop, 0)
        return (1 + torch.div(samples - self.window, self.hop, rounding_mode="floor")).clamp(min=0)

    def __call__(self, samples: Tensor) -> Tensor:
        """`[..., T]` samples -> `[..., frames, n_mels]`, float32."""
        mel: Tensor = _filters(self).to(samples.device) @ self._stft(samples.float()).abs()
        return (mel + self.offset).log().transpose(-1, -2)

    def _stft(self, samples: Tensor) -> Tensor:
        window = torch.hann_window(self.window, device=samples.device)  # periodic, as VGGish's
        if self.center:
            sizes = (self.n_fft, self.hop, self.window)
            stft: Tensor = torch.stft(samples, *sizes, window, pad_mode="constant", return_complex=True)
            return stft.contiguous()
        frames = samples.unfold(-1, self.window, self.hop) * window
        spectrum: Tensor = torch.fft.rfft(frames, n=self.n_fft)
        return spectrum.transpose(-1, -2).contiguous()


@functools.lru_cache(maxsize=8)
def _filters(spec: MelSpec) -> Tensor:
    """`[n_mels, n_fft // 2 + 1]`: triangles whose slopes are straight in mel; the DC bin belongs to none."""

    def mel(hertz: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    bins = mel(np.linspace(0.0, spec.rate / 2, spec.n_fft // 2 + 1))[None, :]
    edges = np.linspace(mel(spec.f_min), mel(spec.f_max), spec.n_mels + 2)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[:, 0] = 0.0
    return torch.from_numpy(weights.astype(np.float32))


class MelFrontend:
    """Audio clips -> log-mel frames `[frames, n_mels]`, one utterance at a time."""

    def __init__(self, spec: MelSpec, dtype: str = "float16") -> None:
        self.spec, self.dtype, self.dim = spec, dtype, spec.n_mels
        self.kind: Literal["audio", "text"] = "audio"

    def identity(self) -> dict[str, object]:
        return {"frontend": "log-mel", "version": 1, **asdict(self.spec), "dtype": self.dtype}

    def extract(self, items: Sequence[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        with torch.inference_mode():
            return [self.spec(samples).numpy() for samples in waves(items, self.spec.rate)]


def waves(items: Sequence[AudioClip | str], rate: int, at_least: int = 1) -> Iterator[Tensor]:
    """`[T]` float32 of each clip, one by one, decoded ahead; clips too short for one frame end in silence."""
    from mer.data.audio import AudioClip, read_many

    for found in read_many([clip for clip in items if isinstance(clip, AudioClip)], rate):
        samples = torch.from_numpy(found)
        yield torch.nn.functional.pad(samples, (0, max(0, at_least - len(samples))))
