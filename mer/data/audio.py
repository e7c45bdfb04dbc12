"""Audio: a crop of a file as mono float32 at the rate that is asked for, or an error that says what is wrong."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mer.errors import UserError, reading_corpus
from mer.files import data_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mer.data.corpus import CorpusInfo, Utterance

MIN_SECONDS = 0.025
"""Shortest crop that is read: the receptive field of wav2vec 2.0 is 400 samples at 16 kHz."""

SLACK = 0.02
"""Seconds by which `end` may lie behind the end of the file: manifests round."""

LOUDEST = 16.0
"""Float files may exceed 1 a little; beyond this the numbers are not audio."""

RATES = (1_000, 768_000)
"""Samples a second that a file may claim: what is resampled grows by this number."""

MOST_SAMPLES = 1 << 28
"""Samples of all channels that one crop may hold: 1 GiB once decoded, 93 minutes of one channel at 48 kHz."""

AHEAD = 4
"""Clips that each thread may have decoded before they are asked for: what is held in memory."""


@dataclass(frozen=True, slots=True)
class AudioClip:
    """A crop of an audio file, in seconds; `end` None means to the end of the file."""

    path: Path
    start: float = 0.0
    end: float | None = None


def clip_of(info: CorpusInfo, utterance: Utterance) -> AudioClip | None:
    """The crop that an utterance names, or None where it has no wav."""
    if utterance.wav is None:
        return None
    return AudioClip(info.folder / utterance.wav, utterance.start or 0.0, utterance.end)


def read_audio(clip: AudioClip, rate: int, min_seconds: float = MIN_SECONDS) -> NDArray[np.float32]:
    """Decode, crop, mix to mono and resample (soxr, high quality). Shape `[samples]`, float32.

    A file that is truncated, corrupt, empty, too short or not finite raises `UserError` naming it: a decoder that
    fills up with silence would hide it in the results.
    """
    samples, native = decode(clip, min_seconds)
    if native != rate:
        samples = _resample(samples, native, rate)
    return samples


def read_many(clips: Sequence[AudioClip], rate: int, threads: int | None = None) -> Iterator[NDArray[np.float32]]:
    """`read_audio` of each clip, in order, decoded ahead by threads (decoders and resamplers let go of Python's lock):
    what consumes them, a GPU say, does not wait. `threads`: default one for each processor of this process."""
    count = threads or _processors()
    if count == 1 or len(clips) < 2:
        yield from (read_audio(clip, rate) for clip in clips)
        return
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[NDArray[np.float32]]] = deque()
        try:
            for clip in clips:
                waiting.append(pool.submit(read_audio, clip, rate))
                if len(waiting) > AHEAD * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@reading_corpus()
def decode(clip: AudioClip, min_seconds: float = MIN_SECONDS) -> tuple[NDArray[np.float32], int]:
    """The crop as mono float32 at the file's own rate, and that rate."""
    import numpy as np
    import soundfile

    where = str(clip.path)
    if data_file(clip.path, what="audio file").stat().st_size == 0:
        raise UserError("the audio file has 0 bytes", where=where)
    _check_container(clip.path)
    try:
        with soundfile.SoundFile(str(clip.path)) as file:
            native, total = int(file.samplerate), int(file.frames)
            if not RATES[0] <= native <= RATES[1]:
                problem = f"the audio has {native} samples a second"
                raise UserError(problem, where=where, expected=f"{RATES[0]} to {RATES[1]}")
            first, count = _frames(clip, native, total, min_seconds)
            if count * file.channels > MOST_SAMPLES:
                raise UserError(
                    f"its header promises {count} samples in each of {file.channels} channels",
                    where=where,
                    expected=f"at most {MOST_SAMPLES} in one utterance",
                )
            file.seek(first)
            read = file.read(count, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:  # by name, .raw has no header
        reason = " ".join(str(getattr(error, "error_string", error)).split())
        raise UserError(
            f"the audio cannot be decoded: {reason}", where=where, expected="a sound wav or flac file"
        ) from None
    if len(read) < count:
        raise UserError(
            f"the audio is truncated: {len(read)} of {count} samples could be decoded", where=where, expected=f"{count}"
        )
    if not np.isfinite(read).all():
        bad = int((~np.isfinite(read)).any(axis=1).sum())
        raise UserError(f"{bad} samples are NaN or infinite", where=where, expected="finite samples")
    loudest = float(np.abs(read).max())
    if loudest > LOUDEST:
        raise UserError(f"samples reach {loudest:.3g}", where=where, expected="audio within -1 to 1")
    return np.ascontiguousarray(read.mean(axis=1, dtype=np.float32)), native


def duration(path: Path) -> float:
    """Seconds of an audio file, from its header."""
    import soundfile

    try:
        return float(soundfile.info(str(data_file(path))).duration)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"the audio cannot be read: {error}", where=str(path)) from None


def _frames(clip: AudioClip, rate: int, total: int, min_seconds: float) -> tuple[int, int]:
    """First sample and number of samples of the crop."""
    where, seconds = str(clip.path), total / rate
    if total == 0:
        raise UserError("the audio file holds no samples", where=where)
    if clip.end is not None and clip.end > seconds + SLACK:
        raise UserError(
            f"the crop ends at {clip.end:g} s, but the file lasts {seconds:.3f} s",
            where=where,
            expected="end within it",
        )
    first = round(clip.start * rate) if clip.start < seconds else total
    last = total if clip.end is None else min(total, round(clip.end * rate))
    count = last - first
    if first >= total or count <= 0 or count < min_seconds * rate:
        found = max(count, 0) / rate
        raise UserError(
            f"the crop from {clip.start:g} s holds {found:.3f} s", where=where, expected=f"at least {min_seconds:g} s"
        )
    return first, count


def _check_container(path: Path) -> None:
    """libsndfile quietly believes a wav file's length over its header; a header that promises more means truncation."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        position = 12
        while position + 8 <= size:
            stream.seek(position)
            name, length = struct.unpack("<4sI", stream.read(8))
            if name == b"data":
                streamed = length == 0xFFFFFFFF  # written to a pipe: the length was not known
                if not streamed and position + 8 + length > size:
                    raise UserError(
                        f"the audio is truncated: its header promises {length} bytes of samples, "
                        f"{size - position - 8} are there",
                        where=str(path),
                    )
                return
            position += 8 + length + length % 2
    raise UserError("the wav file holds no samples: only a header", where=str(path))


def _resample(samples: NDArray[np.float32], native: int, rate: int) -> NDArray[np.float32]:
    import numpy as np
    import soxr

    return np.ascontiguousarray(soxr.resample(samples, native, rate, quality="HQ"), dtype=np.float32)
