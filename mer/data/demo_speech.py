"""Speech-like sound by numpy: a buzzing source with prosody, formants, breath, and a timbre for each speaker."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Style:
    """How an emotion sounds, relative to the speaker's neutral voice.

    pitch, bend    factor of the fundamental; its rise (+) or fall (-) over a syllable, in octaves
    loud, tilt     decibels; decibels per octave added to the spectrum's slope (+ is brighter)
    pace, breath   syllables per second (factor); share of noise in the source
    tremor         depth of an 8 Hz modulation
    """

    pitch: float
    bend: float
    loud: float
    tilt: float
    pace: float
    breath: float
    tremor: float


STYLES = {
    "neutral": Style(1.00, 0.00, 0.0, 0.0, 1.0, 0.10, 0.0),
    "happiness": Style(1.35, 0.35, 4.0, 1.5, 1.1, 0.08, 0.0),
    "sadness": Style(0.85, -0.25, -6.0, -3.5, 0.8, 0.15, 0.0),
    "angry": Style(1.15, -0.10, 7.0, 4.0, 1.2, 0.05, 0.0),
    "fear": Style(1.30, 0.05, -2.0, 0.0, 1.1, 0.55, 0.6),
}

VOWELS = (
    (750, 1250, 2600),  # a
    (500, 1900, 2550),  # ê
    (300, 2300, 3000),  # i
    (500, 900, 2500),  # ô
    (330, 800, 2400),  # u
    (420, 1350, 2450),  # ơ
)
"""First three formants in Hz."""

TONES = ((0.0, 0.0), (-0.25, -0.1), (0.0, 0.4), (-0.3, 0.25), (0.15, 0.3), (-0.1, -0.4))
"""The six tones, as bends of the pitch (octaves) over the first and the second half of a syllable."""


@dataclass(frozen=True)
class Voice:
    """A speaker: fundamental in Hz, vocal tract length as a factor of the formants, brightness, loudness, pace."""

    pitch: float
    tract: float
    tilt: float
    loud: float
    pace: float

    @staticmethod
    def of(random: np.random.RandomState, number: int) -> Voice:
        """A speaker's voice; even numbers are low voices, odd ones high."""
        low = number % 2 == 0
        return Voice(
            pitch=(115.0 if low else 205.0) * 2 ** random.uniform(-0.2, 0.2),
            tract=(0.95 if low else 1.1) * random.uniform(0.95, 1.05),
            tilt=random.uniform(-1.0, 1.0),
            loud=random.uniform(-1.5, 1.5),
            pace=random.uniform(0.9, 1.1),
        )

    def speak(self, random: np.random.RandomState, emotion: str, purity: float, rate: int) -> Samples:
        """Eight to twelve syllables, most of them in the style of the emotion, between silences, with knocks."""
        parts = [_silence(random, rate)]
        for _ in range(8 + random.randint(5)):
            other = random.random_sample() >= purity
            styled = list(STYLES)[random.randint(len(STYLES))] if other else emotion
            parts.append(self._syllable(random, STYLES[styled], rate))
            if random.random_sample() < 0.15:
                parts.append(_silence(random, rate))
        parts.append(_silence(random, rate))
        sound = np.concatenate(parts)
        sound += random.standard_normal(len(sound)) * 0.0008
        for _ in range(1 + random.randint(2)):
            _knock(random, sound, rate)
        return np.asarray(np.clip(sound, -0.99, 0.99))

    def _syllable(self, random: np.random.RandomState, style: Style, rate: int) -> Samples:
        count = int(rate * random.uniform(0.11, 0.15) / (self.pace * style.pace))
        time = np.arange(count) / rate
        place = np.linspace(0.0, 1.0, count)
        first, second = TONES[random.randint(len(TONES))]
        bend = 0.4 * np.where(place < 0.5, first * place * 2, first + (second - first) * (place - 0.5) * 2)
        octaves = bend + style.bend * place + random.uniform(-0.05, 0.05)
        tremor = 1.0 + style.tremor * np.sin(2 * np.pi * 8.0 * time + random.uniform(0, 2 * np.pi))
        pitch = self.pitch * style.pitch * 2**octaves
        phase = np.cumsum(pitch) / rate
        source = (1.0 - style.breath) * _buzz(phase, pitch / rate)
        source = source + style.breath * 0.7 * random.standard_normal(count)
        envelope = np.minimum(1.0, np.minimum(place, 1.0 - place) * 8.0)
        voiced = _filter(source * tremor * envelope, VOWELS[random.randint(len(VOWELS))], self, style, rate)
        onset = _onset(random, rate)
        return np.concatenate([onset * 10 ** ((self.loud + style.loud) / 20), voiced])


def write_wav(path: Path, samples: Samples, rate: int) -> None:
    """16-bit mono PCM."""
    data = np.round(samples * 32767).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    path.write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)


def _buzz(phase: Samples, step: Samples) -> Samples:
    """A sawtooth, smoothed at its jumps (polyBLEP) so that it does not alias."""
    place = phase % 1.0
    wave = 2.0 * place - 1.0
    before, after = place < step, place > 1.0 - step
    near = place / step
    wave -= np.where(before, 2 * near - near**2 - 1.0, 0.0)
    near = (place - 1.0) / step
    wave -= np.where(after, near**2 + 2 * near + 1.0, 0.0)
    return wave


def _filter(source: Samples, formants: tuple[int, int, int], voice: Voice, style: Style, rate: int) -> Samples:
    """Three resonances and a slope, applied to the spectrum of the syllable."""
    count = len(source)
    spectrum = np.fft.rfft(source, n=4096 if count <= 4096 else 8192)
    frequency = np.fft.rfftfreq(2 * (len(spectrum) - 1), 1.0 / rate)
    gain = np.full_like(frequency, 0.03)
    for formant, strength in zip(formants, (1.0, 0.6, 0.3), strict=True):
        centre = formant * voice.tract
        gain += strength / (1.0 + ((frequency - centre) / (60.0 + 0.05 * centre)) ** 2)
    slope = voice.tilt + style.tilt
    gain *= 10 ** (slope * np.log2(np.maximum(frequency, 100.0) / 500.0) / 20)
    shaped = np.fft.irfft(spectrum * gain)[:count]
    return np.asarray(shaped * 0.12 * 10 ** ((voice.loud + style.loud) / 20))


def _onset(random: np.random.RandomState, rate: int) -> Samples:
    """A consonant: a short burst of noise."""
    count = int(rate * random.uniform(0.015, 0.035))
    return random.standard_normal(count) * np.linspace(0.0, 1.0, count) * 0.02


def _silence(random: np.random.RandomState, rate: int) -> Samples:
    return np.zeros(int(rate * random.uniform(0.04, 0.12)))


def _knock(random: np.random.RandomState, sound: Samples, rate: int) -> None:
    """Something hits the table: the loudest and brightest frames of every recording mean nothing."""
    count = min(len(sound), int(rate * 0.03))
    start = random.randint(len(sound) - count + 1)
    decay = np.exp(-np.arange(count) / (0.006 * rate))
    sound[start : start + count] += random.standard_normal(count) * decay * random.uniform(0.4, 0.8)
