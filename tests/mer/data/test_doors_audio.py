"""The door of audio files."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mer.data.audio import AudioClip, duration, read_audio
from mer.errors import UnfitMachine
from tests.doors import refused, through

soundfile = pytest.importorskip("soundfile")
FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def wav(data: bytes, rate: int = 16000, channels: int = 1, bits: int = 16, code: int = 1, **lies: int) -> bytes:
    """A wav file; `lies`: what its header says of the length in place of the truth."""
    block = max(1, channels * bits // 8) & 0xFFFF
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", lies.get("length", len(data))) + data
    return struct.pack("<4sI", b"RIFF", lies.get("whole", len(body))) + body


def flac(samples: int, rate: int = 44100) -> bytes:
    """A flac file of a tenth of a second whose header promises `samples` of them at another rate."""
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(4410, np.float32), 44100, format="FLAC")
    packed = rate << 44 | 15 << 36 | samples
    return stream.getvalue()[:18] + packed.to_bytes(8, "big") + stream.getvalue()[26:]


NOISE = np.random.default_rng(0).integers(-3000, 3000, 4000).astype("<i2").tobytes()
BAD: dict[str, tuple[str, bytes]] = {
    "flac of 2^36 - 1 samples": ("a.flac", flac(2**36 - 1)),
    "flac of 1 Hz": ("a.flac", flac(2**30, rate=1)),
    "wav of 1 Hz": ("a.wav", wav(NOISE * 100, rate=1)),
    "wav of 2^31 Hz": ("a.wav", wav(NOISE, rate=2**31 - 1)),
    "wav of 0 Hz": ("a.wav", wav(NOISE, rate=0)),
    "wav without channels": ("a.wav", wav(NOISE, channels=0)),
    "wav of NaN": ("a.wav", wav(np.full(4000, np.nan, "<f4").tobytes(), bits=32, code=3)),
    "wav of infinity": ("a.wav", wav(np.full(4000, np.inf, "<f4").tobytes(), bits=32, code=3)),
    "wav that promises more": ("a.wav", wav(NOISE, length=2**31)),
    "header alone": ("a.wav", wav(b"")),
    "a name that means no header": ("a.raw", NOISE),
    "not audio": ("a.wav", b"\0" * 5000),
    "empty": ("a.wav", b""),
}


@pytest.mark.parametrize(("name", "content"), BAD.values(), ids=list(BAD))
def test_bad_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(lambda: read_audio(AudioClip(tmp_path / name), 16000), name)
    with pytest.raises(UnfitMachine):  # no verdict on the trial that reads it
        read_audio(AudioClip(tmp_path / name), 16000)
    through(lambda: duration(tmp_path / name), name)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "too long"])
def test_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.wav" if kind != "too long" else "a" * 300)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    refused(lambda: read_audio(AudioClip(path), 16000), path.name)
    refused(lambda: duration(path), path.name)


rates = st.sampled_from([0, 1, 8000, 16000, 44100, 10**6, 2**31 - 1, 2**32 - 1])


@FUZZ
@given(
    data=st.binary(max_size=400).map(lambda data: data * 20),
    rate=rates,
    channels=st.sampled_from([0, 1, 2, 7, 1024, 65535]),
    bits=st.sampled_from([0, 1, 8, 16, 24, 32, 64, 65535]),
    code=st.sampled_from([0, 1, 2, 3, 6, 7, 17, 49, 85, 65534, 65535]),
    length=st.none() | st.sampled_from([0, 1, 4000, 2**31, 2**32 - 1]),
)
@example(NOISE, 16000, 1, 16, 1, None)
def test_any_wav(tmp_path: Path, data: bytes, rate: int, channels: int, bits: int, code: int, length: Any) -> None:
    lies = {} if length is None else {"length": length}
    (tmp_path / "a.wav").write_bytes(wav(data, rate, channels, bits, code, **lies))
    found = through(lambda: read_audio(AudioClip(tmp_path / "a.wav"), 16000), "a.wav")
    if found is not None:
        assert found.dtype == np.float32
        assert found.ndim == 1
        assert 0 < len(found) <= 2**28
        assert np.isfinite(found).all()


@FUZZ
@given(start=st.floats(0, allow_infinity=False) | st.integers(0, 10**300), end=st.none() | st.floats(0, 1e308))
@example(1e308, None)
@example(0.0, 1e308)
def test_any_crop(tmp_path: Path, start: float, end: float | None) -> None:
    (tmp_path / "a.wav").write_bytes(wav(NOISE))
    through(lambda: read_audio(AudioClip(tmp_path / "a.wav", float(start), end), 16000), "a.wav")


HEADS = (b"", b"fLaC", b"OggS", b"RIFF", b".snd", b"FORM", b"ID3", wav(b"")[:40], flac(99))


@FUZZ
@given(
    name=st.sampled_from(["a.wav", "a.flac", "a.ogg", "a.mp3", "a.au", "a"]),
    head=st.sampled_from(HEADS),
    content=st.binary(max_size=300),
)
def test_any_bytes(tmp_path: Path, name: str, head: bytes, content: bytes) -> None:
    (tmp_path / name).write_bytes(head + content)
    through(lambda: read_audio(AudioClip(tmp_path / name), 16000), name)
    through(lambda: duration(tmp_path / name), name)
