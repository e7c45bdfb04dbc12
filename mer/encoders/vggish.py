"""VGGish: a convolutional network on log-mel patches of 0.96 s, 128 numbers each.

Source: Hershey et al. 2017 (arXiv 1609.09430). The released weights are those of harritaylor/torchvggish (a port of
AudioSet's), loaded by their parameter names.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer import weights
from mer.batch import Sequence
from mer.encoders.base import AudioEncoder, column, mask_of
from mer.encoders.mel import MelSpec, waves
from mer.encoders.pretrained import StoreType, seeded
from mer.encoders.raw import Samples
from mer.errors import UserError
from mer.precision import default_device
from mer.streams import derive

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo
    from mer.recipe import EncoderConfig

RELEASED = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"
"""The eight digits are the beginning of the file's SHA-256, which is checked after the download."""

SPEC = MelSpec(center=False)
PATCH = 96
MIN_SAMPLES = SPEC.window + (PATCH - 1) * SPEC.hop
"""15 600 samples: the first whole patch."""


class Vggish(nn.Module):
    """Log-mel patches `[N, 96, 64]` -> `[N, 128]`: 6 convolutions, 4 poolings, 3 linear layers (72 M parameters).

    `width` scales the channels down for tests; 1 is the released architecture.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = 1
        for channels in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0):
            if channels == 0:
                layers.append(nn.MaxPool2d(2, 2))
                continue
            outer = max(1, round(channels * width))
            layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(inplace=True)]
            inner = outer
        middle = max(1, round(4096 * width))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(inner * 4 * 6, middle),
            nn.ReLU(inplace=True),
            nn.Linear(middle, middle),
            nn.ReLU(inplace=True),
            nn.Linear(middle, 128),
            nn.ReLU(inplace=True),
        )

    def forward(self, patches: Tensor) -> Tensor:
        found: Tensor = self.features(patches.unsqueeze(1))
        flat = found.permute(0, 2, 3, 1).flatten(1)  # time, frequency, channel: the order of the original
        embedded: Tensor = self.embeddings(flat)
        return embedded


def patches_of(samples: Tensor) -> Tensor:
    """`[T]` samples, T >= 15 600 -> `[N, 96, 64]`: whole patches only."""
    frames = SPEC(samples)
    count = len(frames) // PATCH
    return frames[: count * PATCH].reshape(count, PATCH, -1)


def patch_count(samples: Tensor) -> Tensor:
    """Numbers of samples -> numbers of whole patches.

    >>> patch_count(torch.tensor([15_599, 15_600, 30_720, 30_960])).tolist()
    [0, 1, 1, 2]
    """
    return SPEC.frames(samples) // PATCH


def load_vggish(kind: str, checkpoint: str | None, width: float = 1.0) -> Vggish:
    """VGGish with the released weights (download or local file), tiny random ones, or fresh ones."""
    if kind == "tiny":
        with seeded(derive("tiny", "vggish")):
            return Vggish(1 / 16).eval()
    if kind == "scratch":
        return Vggish(width).eval()
    state = _released_state(checkpoint)
    body = Vggish(width)
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"checkpoint {checkpoint or RELEASED!r} is not VGGish: {first}") from None
    return body.eval()


def _released_state(checkpoint: str | None) -> dict[str, Tensor]:
    if checkpoint is None:
        try:
            found: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
                RELEASED, map_location="cpu", check_hash=True, progress=False, weights_only=True
            )
            return found
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot load the released weights of VGGish ({error}); tried torch's cache "
                f"({torch.hub.get_dir()}/checkpoints), then {RELEASED}",
                hint="Download that file and name it as `checkpoint`; " + weights.TINY_WAY_OUT,
            ) from None
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise UserError(f"checkpoint {checkpoint!r} does not exist", expected="a .safetensors or .pth file of VGGish")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        loaded: dict[str, Tensor] = load_file(path)
        return loaded
    try:
        read: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different one for each kind of damage
        raise UserError(f"checkpoint {checkpoint!r} cannot be read: {error}") from None
    return read


class VggishEncoder(AudioEncoder):
    """VGGish as an encoder: one vector for each 0.96 s.

    Equation:
        h_n = VGG(log-mel patch of 96 frames)

    Shapes: samples `[B, T]` -> `[B, N, 128]`, N = (1 + (T - 400) // 160) // 96, first at 15 600 samples; a shorter clip
        is padded with silence to one patch.
    When to choose: general sound rather than words (laughter, crying), or with wav2vec 2.0 in `dual`.
    Cost: 72 M parameters, about 0.9 GFLOP a patch; runs once per utterance.
    Source: Hershey et al. 2017, arXiv 1609.09430; the weights are harritaylor/torchvggish's.

    Args:
        dtype: how frozen features are stored.
    """

    min_samples = MIN_SAMPLES

    def __init__(self, modality: str, config: EncoderConfig, info: CorpusInfo, *, dtype: StoreType = "float16") -> None:
        super().__init__(modality, config, info)
        kind = config.weights or "pretrained"
        mode = config.train or ("full" if kind == "scratch" else "frozen")
        if mode not in ("frozen", "full") or (kind == "scratch" and mode == "frozen"):
            raise UserError(
                f"encoder 'vggish' with weights {kind!r} and train {mode!r}", expected="train: frozen or full"
            )
        if kind != "pretrained" and config.checkpoint:
            raise UserError(f"encoder 'vggish': {kind} weights come from no checkpoint")
        self.out_dim, self.trained, self.random_weights = 128, mode == "full", kind == "tiny"
        self.weights_kind, self.checkpoint = kind, config.checkpoint
        self.body: Vggish | None = None
        if self.trained:
            self.body = load_vggish(kind, config.checkpoint)
            self.frontend = Samples(self.sample_rate, self.min_samples)
        else:
            self.frontend = VggishFrontend(kind, config.checkpoint, dtype)

    def get_feat_lengths(self, samples: Tensor) -> Tensor:
        return patch_count(samples)

    def forward(self, x: Sequence) -> Sequence:
        if self.body is None:
            return x
        samples, lengths = column(x), x.lengths
        counts = patch_count(torch.where(lengths > 0, lengths.clamp(min=self.min_samples), 0))
        values = torch.zeros(len(counts), max(1, int(counts.max())), 128, device=samples.device)
        mask = mask_of(counts, values.shape[1])
        if bool(mask.any()):
            padded = F.pad(samples, (0, max(0, self.min_samples - samples.shape[1])))
            cut = [
                patches_of(row[: max(int(n), self.min_samples)]) for row, n in zip(padded, lengths, strict=True) if n
            ]
            found = self.body(torch.cat(cut))
            values = values.to(found.dtype).masked_scatter(mask.unsqueeze(-1), found)
        return Sequence(values, mask)


class VggishFrontend:
    """Audio clips -> patches of a frozen VGGish."""

    def __init__(self, kind: str, checkpoint: str | None, dtype: str) -> None:
        self.dim, self.dtype = 128, dtype
        self.kind: Literal["audio", "text"] = "audio"
        self.weights, self.checkpoint = kind, checkpoint
        self._body: Vggish | None = None

    def identity(self) -> dict[str, object]:
        return {"frontend": "vggish", "version": 1, **vggish_identity(self.weights, self.checkpoint)}

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        with torch.inference_mode():
            return [self.embed(samples).cpu().numpy() for samples in waves(items, SPEC.rate, MIN_SAMPLES)]

    def embed(self, samples: Tensor) -> Tensor:
        """`[T]` samples, T >= 15 600 -> `[N, 128]`."""
        if self._body is None:
            self._body = load_vggish(self.weights, self.checkpoint).requires_grad_(False)
        body, device = self._body.to(default_device()), default_device()
        parts = patches_of(samples.to(device)).split(16)  # type: ignore[no-untyped-call]
        return torch.cat([body(part) for part in parts])


def vggish_identity(kind: str, checkpoint: str | None) -> dict[str, object]:
    """What names the weights: the released file, a digest of a local one, or tiny ones."""
    if kind == "tiny":
        return {"vggish": "tiny/1"}
    if checkpoint is None:
        return {"vggish": Path(RELEASED).stem}
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise UserError(f"checkpoint {checkpoint!r} does not exist", expected="a .safetensors or .pth file of VGGish")
    return {"vggish": weights.digest_of(path)}
