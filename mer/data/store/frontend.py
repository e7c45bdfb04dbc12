"""What fills the store: frontends, and the keys under which their output is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mer.data.ragged import STORED, to_bfloat16
from mer.errors import UserError, unknown

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.fingerprint import FileDigests

FORMAT = 1
"""Version of keys and files. Another version finds nothing of this one, and reads nothing of it wrongly."""


class Frontend(Protocol):
    """Utterances to arrays: a frozen encoder, or the decoding that a trained encoder needs every epoch.

    dim     width of a frame; 0: a frame is a plain number (a token id, a sample), an utterance is `[T]`
    dtype   how frames are stored: float16, bfloat16, float32 or int32
    kind    which input it wants: clips of audio, or texts (normalised by `mer.data.text.normalise`)
    """

    dim: int
    dtype: str
    kind: Literal["audio", "text"]

    def identity(self) -> dict[str, object]:
        """Everything that can change the output except the content: encoder and weights revision, layer,
        preprocessing, segmenter, sample rate ... (JSON values; dim and dtype are added by the store)."""
        ...

    def extract(self, items: Sequence[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        """`[T, dim]` for each item. Items come ordered by length, longest first, to be batched at will;
        the result for an item must not depend on the others."""
        ...


def frontend_digest(frontend: Frontend) -> str:
    """Hex digest of a frontend's identity: the folder its frames lie in."""
    text = json.dumps(describe(frontend), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def describe(frontend: Frontend) -> dict[str, object]:
    """What is hashed, in a form that a person can read."""
    if frontend.dtype not in STORED:
        raise unknown("dtype of a frontend", frontend.dtype, STORED)
    if frontend.kind not in ("audio", "text"):
        raise unknown("kind of a frontend", frontend.kind, ("audio", "text"))
    return {
        "format": FORMAT,
        "kind": frontend.kind,
        "dim": frontend.dim,
        "dtype": frontend.dtype,
        "identity": frontend.identity(),
    }


def item_key(item: AudioClip | str, digests: FileDigests) -> bytes:
    """16 bytes: a text as the frontend sees it (encoders normalise it), or an audio file's bytes and the crop."""
    if isinstance(item, str):
        content: list[object] = ["text", item]
    else:
        try:
            file = digests.of(Path(item.path))
        except OSError as error:
            raise UserError(f"cannot read the audio: {error.strerror}", where=str(item.path)) from None
        content = ["audio", file, float(item.start or 0.0), None if item.end is None else float(item.end)]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).digest()


def item_size(item: AudioClip | str) -> float:
    """A length to sort by: characters, or seconds."""
    if isinstance(item, str):
        return float(len(item))
    if item.end is not None:
        return item.end - (item.start or 0.0)
    try:
        from mer.data.audio import duration

        return duration(Path(item.path)) - (item.start or 0.0)
    except UserError:
        return 0.0  # the frontend will say what is wrong with the file


def to_stored(frames: npt.NDArray[np.generic], frontend: Frontend, item: AudioClip | str) -> npt.NDArray[np.generic]:
    """One utterance's frames in the stored type; refuses what cannot be stored faithfully."""
    name = type(frontend).__name__
    where = f"text {item[:40]!r}" if isinstance(item, str) else str(item.path)
    frames = np.asarray(frames)
    wanted = "[T]" if frontend.dim == 0 else f"[T, {frontend.dim}]"
    if frames.ndim != (1 if frontend.dim == 0 else 2) or frames.shape[1:] != ((frontend.dim,) if frontend.dim else ()):
        raise UserError(f"frontend {name} gave an array of shape {frames.shape}", where=where, expected=wanted)
    if frontend.dtype == "int32":
        stored: npt.NDArray[np.generic] = frames.astype(np.int32)
        if not np.array_equal(stored, frames):
            raise UserError(f"frontend {name} gave values that are not 32-bit integers", where=where)
        return stored
    if not np.isfinite(frames).all():
        raise UserError(f"frontend {name} gave values that are NaN or infinite", where=where)
    with np.errstate(over="ignore"):
        if frontend.dtype == "bfloat16":
            stored = to_bfloat16(frames.astype(np.float32))
            overflow = bool(((stored & 0x7F80) == 0x7F80).any())
        else:
            stored = frames.astype(STORED[frontend.dtype])
            overflow = not np.isfinite(stored).all()
    if overflow:
        largest = float(np.abs(frames).max())
        raise UserError(
            f"frontend {name} gave a value of {largest:g}, too large for {frontend.dtype}",
            where=where,
            hint="Store the frames as bfloat16 or float32.",
        )
    return stored
