"""Decoding, cropping, mixing, resampling; and every way in which a file can be bad."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample_poly

from mer.data.audio import AudioClip, clip_of, duration, read_audio, read_many
from mer.data.corpus import load_corpus
from mer.errors import UserError

soundfile = pytest.importorskip("soundfile")


@pytest.fixture
def speech(tmp_path: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    """One second at 16 kHz of something without symmetry."""
    random = np.random.RandomState(0)
    time = np.arange(16000) / 16000
    samples = 0.3 * np.sin(2 * np.pi * 150 * time * (1 + 0.2 * time)) + 0.01 * random.standard_normal(16000)
    path = tmp_path / "speech.wav"
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    return path, np.round(samples * 32768) / 32768


HEADER_ONLY = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)


def refusal(path: Path, **clip: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_audio(AudioClip(path, **clip), 16000)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_samples_are_those_of_the_file(speech: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, samples = speech
    read = read_audio(AudioClip(path), 16000)
    assert read.dtype == np.float32
    assert read.shape == (16000,)
    np.testing.assert_allclose(read, samples, atol=1.01 / 32768)


def test_a_crop_is_the_same_as_cutting_the_whole(speech: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, _ = speech
    whole = read_audio(AudioClip(path), 16000)
    np.testing.assert_array_equal(read_audio(AudioClip(path, 0.25, 0.5), 16000), whole[4000:8000])
    np.testing.assert_array_equal(read_audio(AudioClip(path, 0.9), 16000), whole[14400:])
    np.testing.assert_array_equal(read_audio(AudioClip(path, 0.9, 1.01), 16000), whole[14400:])  # rounded manifest


def test_flac_and_stereo(speech: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    path, samples = speech
    mono = read_audio(AudioClip(path), 16000)
    soundfile.write(tmp_path / "a.flac", samples, 16000)
    np.testing.assert_allclose(read_audio(AudioClip(tmp_path / "a.flac"), 16000), mono, atol=1.01 / 32768)
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples, np.zeros_like(samples)], 1), 16000, subtype="FLOAT")
    stereo = read_audio(AudioClip(tmp_path / "stereo.wav"), 16000)
    np.testing.assert_allclose(stereo, samples / 2, atol=1e-6)


@pytest.mark.parametrize("native", [8000, 22050, 24000, 44100, 48000])
def test_resampling_keeps_a_tone_and_removes_what_does_not_fit(tmp_path: Path, native: int) -> None:
    time = np.arange(native) / native
    low, high = 0.4 * np.sin(2 * np.pi * 440 * time), 0.4 * np.sin(2 * np.pi * 0.45 * native * time)
    soundfile.write(tmp_path / "a.wav", low + high, native, subtype="FLOAT")
    read = read_audio(AudioClip(tmp_path / "a.wav"), 16000)
    assert len(read) == 16000
    spectrum = np.abs(np.fft.rfft(read[2000:14000] * np.hanning(12000)))
    frequency = np.fft.rfftfreq(12000, 1 / 16000)
    assert abs(frequency[spectrum.argmax()] - 440) < 2 or native == 8000
    if 0.45 * native > 8000:  # the high tone lies beyond what 16 kHz can carry: it must be gone, not folded
        expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
        assert np.abs(read - expected)[1000:-1000].max() < 0.01


def test_resampling_agrees_with_another_resampler(tmp_path: Path) -> None:
    random = np.random.RandomState(1)
    samples = np.convolve(random.standard_normal(24000), np.hanning(40) / 20, "same") * 0.2  # nothing near Nyquist
    soundfile.write(tmp_path / "a.wav", samples, 24000, subtype="DOUBLE")
    read = read_audio(AudioClip(tmp_path / "a.wav"), 16000)
    other = resample_poly(samples, 2, 3)
    assert np.abs(read - other)[500:-500].max() < 0.01 * np.abs(other).max()


def test_a_truncated_wav_is_an_error_not_silence(speech: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, _ = speech
    path.write_bytes(path.read_bytes()[:-1000])
    assert "the audio is truncated: its header promises 32000 bytes of samples, 31000 are there" in refusal(path)
    assert "truncated" in refusal(path, start=0.0, end=0.1)  # even where the crop itself is whole


def test_a_truncated_flac_is_an_error(speech: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, speech[1], 16000)
    path.write_bytes(path.read_bytes()[:-2000])
    message = refusal(path)
    assert "truncated" in message or "cannot be decoded" in message


def test_a_flipped_bit_in_a_flac_is_an_error(speech: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, speech[1], 16000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)
    message = refusal(path)
    assert "truncated" in message or "cannot be decoded" in message


def test_a_decoder_that_gives_less_than_it_promised(
    speech: tuple[Path, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda file, count, **more: whole(file, count - 7, **more))
    assert "truncated: 15993 of 16000 samples could be decoded" in refusal(speech[0])


def test_a_wav_from_a_pipe_does_not_know_its_length(speech: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, _ = speech
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(AudioClip(path), 16000)) == 16000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the audio file does not exist"),
        (b"", "the audio file has 0 bytes"),
        (b"this is no audio at all, whatever its name says", "the audio cannot be decoded"),
        (HEADER_ONLY, "only a header"),
    ],
    ids=["missing", "0 bytes", "not audio", "header only"],
)  # fmt: skip
def test_files_that_are_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    assert message in refusal(path)


def test_a_wav_without_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    assert "holds no samples" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e29])
def test_numbers_that_are_not_audio(tmp_path: Path, value: float) -> None:
    samples = np.zeros(16000, np.float32)
    samples[77] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    expected = "samples reach 1e+29" if np.isfinite(value) else "1 samples are NaN or infinite"
    assert expected in refusal(tmp_path / "a.wav")


def test_crops_that_do_not_fit(speech: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, _ = speech
    assert "the crop ends at 1.5 s, but the file lasts 1.000 s" in refusal(path, end=1.5)
    assert "the crop from 2 s holds 0.000 s; expected at least 0.025 s" in refusal(path, start=2.0)
    assert "the crop from 0.5 s holds 0.010 s" in refusal(path, start=0.5, end=0.51)
    assert duration(path) == 1.0


def test_a_header_with_an_odd_chunk_before_the_samples(speech: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, _ = speech
    content = path.read_bytes()
    odd = struct.pack("<4sI", b"LIST", 5) + b"abcde\0"
    path.write_bytes(content[:12] + odd + content[12:])
    assert len(read_audio(AudioClip(path), 16000)) == 16000


def test_real_flac_at_24_kilohertz(real: Callable[[str], Path]) -> None:
    corpus = load_corpus(real("nemo"))
    for utterance in corpus.test[:20]:
        clip = clip_of(corpus.info, utterance)
        assert clip is not None
        assert utterance.end is not None
        read = read_audio(clip, 16000)
        assert abs(len(read) / 16000 - utterance.end) < 0.02
        assert 0.001 < np.abs(read).max() < 1.1


def test_many_clips_come_in_order_whoever_is_decoded_first(tmp_path: Path) -> None:
    clips = []
    for number in range(40):
        seconds = 2.0 if number % 7 == 0 else 0.1
        samples = np.full(int(seconds * 16_000), number / 100, np.float32)
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000, subtype="FLOAT")
        clips.append(AudioClip(tmp_path / f"{number}.wav"))
    for threads in (1, 3):
        found = list(read_many(clips, 16_000, threads))
        assert [len(samples) for samples in found] == [len(read_audio(clip, 16_000)) for clip in clips]
        assert [round(float(samples[5]), 2) for samples in found] == [number / 100 for number in range(40)]


def test_a_broken_clip_among_many_is_named_and_those_before_it_are_there(tmp_path: Path) -> None:
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(1600, np.float32), 16_000)
    (tmp_path / "3.wav").write_bytes(b"RIFF")
    reading = read_many([AudioClip(tmp_path / f"{n}.wav") for n in range(6)], 16_000, 4)
    assert [len(next(reading)) for _ in range(3)] == [1600] * 3
    with pytest.raises(UserError, match=r"3\.wav"):
        next(reading)
