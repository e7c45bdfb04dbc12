"""A sound corpus folder that a test can spoil, and the real corpora where this machine has them."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


def wav_bytes(samples: np.ndarray[Any, Any], rate: int = 16000, channels: int = 1) -> bytes:
    data = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def tone(seconds: float = 0.5, rate: int = 16000, hertz: float = 220.0) -> np.ndarray[Any, Any]:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def lines_of(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()]


def write_lines(folder: Path, split: str, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / f"{split}.jsonl").write_text(text, "utf-8")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests go to a cache of the test's own."""
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "_cache"))


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Four utterances in train, two in valid and in test; wavs, transcripts, features of one row each."""
    folder = tmp_path / "corpus"
    (folder / "wavs").mkdir(parents=True)
    (folder / "features").mkdir()
    number = 0
    for split, size in {"train": 4, "valid": 2, "test": 2}.items():
        lines = []
        for _ in range(size):
            (folder / "wavs" / f"u{number}.wav").write_bytes(wav_bytes(tone(hertz=200.0 + 30 * number)))
            lines.append(
                {
                    "utterance_id": f"u{number}",
                    "speaker_id": f"{split}{number % 2}",
                    "wav_path": f"wavs/u{number}.wav",
                    "start": 0.0,
                    "end": 0.5,
                    "transcript": f"câu số {number}",
                    "emotion": ("sad", "glad")[number % 2],
                    "dialogue_id": split,
                    "turn": number,
                    "row": number,
                }
            )
            number += 1
        write_lines(folder, split, lines)
    np.save(folder / "features" / "visual.npy", np.arange(24, dtype=np.float32).reshape(8, 3) / 7)
    return folder


@pytest.fixture
def spoil(sound: Path) -> Callable[..., Path]:
    """Change the second line of train: `spoil(start=-1)` sets a key, `spoil(emotion=None)` removes it."""

    def change(split: str = "train", line: int = 2, **changes: Any) -> Path:
        lines = lines_of(sound, split)
        for key, value in changes.items():
            lines[line - 1].pop(key, None)
            if value is not None:
                lines[line - 1][key] = value
        write_lines(sound, split, lines)
        return sound

    return change


@pytest.fixture
def real() -> Callable[[str], Path]:
    """A real corpus by name; the test is skipped where this machine has none."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("MER_SHARED_DATA") or REPOSITORY.parent / "shared" / "data") / name
        if not folder.is_dir():
            pytest.skip(f"the real corpus {name} is not on this machine")
        return folder

    return find
