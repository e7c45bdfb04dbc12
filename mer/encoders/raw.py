"""What a trained audio encoder reads each epoch: decoded, resampled samples, cached in the feature store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from mer.encoders.mel import waves

if TYPE_CHECKING:
    from mer.data.audio import AudioClip


class Samples:
    """Audio clips -> samples `[T]` in float32 at `rate`; clips under `at_least` end in silence."""

    def __init__(self, rate: int, at_least: int = 1) -> None:
        self.rate, self.at_least = rate, at_least
        self.dim, self.dtype = 0, "float32"
        self.kind: Literal["audio", "text"] = "audio"

    def identity(self) -> dict[str, object]:
        return {"frontend": "samples", "version": 1, "rate": self.rate, "at_least": self.at_least}

    def extract(self, items: Sequence[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        return [samples.numpy() for samples in waves(items, self.rate, self.at_least)]
