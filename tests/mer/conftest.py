"""A corpus of features small enough to train on in a blink."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mer.data.corpus import Corpus, load_corpus
from mer.data.store import FeatureStore

WIDTHS = {"text": 6, "audio": 5, "visual": 4}
SIZES = {"train": 40, "valid": 20, "test": 24}


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three classes, dialogues of 4 turns, sequences of features; every modality carries the label, noisily."""
    folder = tmp_path_factory.mktemp("tiny_corpus")
    write_tiny_corpus(folder)
    return load_corpus(folder)


@pytest.fixture
def feature_store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def write_tiny_corpus(folder: Path, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    labels = ["calm", "glad", "sad"]
    frames: dict[str, list[np.ndarray]] = {name: [] for name in WIDTHS}
    centres = {name: rng.normal(size=(3, width)) for name, width in WIDTHS.items()}
    row = 0
    for split, size in SIZES.items():
        lines = []
        for number in range(size):
            label = int(rng.integers(3)) if number >= 3 else number
            lines.append(
                {
                    "utterance_id": f"{split}_{number}",
                    "speaker_id": f"{split}_s{number % 2}",
                    "dialogue_id": f"{split}_d{number // 4}",
                    "turn": number % 4,
                    "transcript": "a b c",
                    "emotion": labels[label],
                    "row": row,
                }
            )
            for name, width in WIDTHS.items():
                length = int(rng.integers(2, 7))
                frames[name].append(centres[name][label] + rng.normal(size=(length, width)))
            row += 1
        text = "\n".join(json.dumps(line) for line in lines) + "\n"
        (folder / f"{split}.jsonl").write_text(text, "utf-8")
    (folder / "features").mkdir()
    for name, arrays in frames.items():
        np.save(folder / "features" / f"{name}.npy", np.concatenate(arrays).astype(np.float32))
        offsets = np.cumsum([0, *(len(array) for array in arrays)])
        np.save(folder / "features" / f"{name}.offsets.npy", offsets.astype(np.int64))
    corpus = {"name": "tiny", "labels": labels, "features": WIDTHS, "synthetic": True}
    (folder / "corpus.json").write_text(json.dumps(corpus), "utf-8")
