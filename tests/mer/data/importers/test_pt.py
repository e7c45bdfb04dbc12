"""The fusion pipeline's six files and two CSVs, and back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer.data.corpus import load_corpus
from mer.data.importers.pt import import_pt
from mer.errors import UserError

NAMES = ("angry", "disgust", "fear")
SIZES = {"train": 9, "val": 6, "test": 6}


@pytest.fixture
def pipeline(tmp_path: Path) -> dict[str, Any]:
    """Padded sequences with NaN in the padding, so that padding that got through would show."""
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    for split, size in SIZES.items():
        y = torch.arange(size) % 3
        for kind, width, longest in (("speech", 5, 8), ("text", 4, 6)):
            lengths = torch.randint(1, longest + 1, (size,))
            m = (torch.arange(longest) < lengths[:, None]).float()
            x = torch.randn(size, longest, width).masked_fill(m[..., None] == 0, float("nan"))
            path = tmp_path / f"{split}_{kind}.pt"
            torch.save({"x": x, "m": m, "y": y}, path)
            options[f"{split}_{kind}_features"] = path
    for option, split in (("csv_path", "train"), ("test_csv_path", "test")):
        rows = [
            (i % 3, NAMES[i % 3], f"TESS/{split}_{i}.wav", f"Say the word {i}, please") for i in range(SIZES[split])
        ]
        options[option] = write_csv(tmp_path / f"{split}_split.csv", rows)
    return options


def write_csv(
    path: Path,
    rows: list[tuple[Any, ...]],
    header: tuple[str, ...] = ("label", "emotion_name", "file_path", "transcript"),
) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def test_round_trip(pipeline: dict[str, Any], tmp_path: Path) -> None:
    folder = import_pt(tmp_path / "out", **pipeline)
    corpus = load_corpus(folder)
    assert corpus.info.labels == NAMES
    assert corpus.info.features == {"audio": 5, "text": 4}
    first = corpus.train[0]
    assert (first.id, first.transcript, first.speaker) == ("train_0", "Say the word 0, please", "unknown")
    assert corpus.valid[0].transcript is None
    for split, part in (("train", corpus.train), ("val", corpus.valid), ("test", corpus.test)):
        for kind, modality in (("speech", "audio"), ("text", "text")):
            content = torch.load(pipeline[f"{split}_{kind}_features"], weights_only=True)
            frames = np.load(folder / "features" / f"{modality}.npy")
            offsets = np.load(folder / "features" / f"{modality}.offsets.npy")
            assert np.isfinite(frames).all()
            for number, utterance in enumerate(part):
                row = utterance.row or 0
                expected = content["x"][number][content["m"][number].bool()].numpy()
                np.testing.assert_array_equal(frames[offsets[row] : offsets[row + 1]], expected)
                assert utterance.emotion == NAMES[int(content["y"][number])]


def test_an_utterance_whose_mask_is_empty_lacks_the_modality(pipeline: dict[str, Any], tmp_path: Path) -> None:
    content = torch.load(pipeline["test_speech_features"], weights_only=True)
    content["m"][2] = 0
    torch.save(content, pipeline["test_speech_features"])
    corpus = load_corpus(import_pt(tmp_path / "out", **pipeline))
    assert [u.lacks for u in corpus.test] == [frozenset({"audio"}) if i == 2 else frozenset() for i in range(6)]


def test_one_csv_may_describe_train_and_val(pipeline: dict[str, Any], tmp_path: Path) -> None:
    rows = [(i % 3, NAMES[i % 3], f"a{s}{i}.wav", f"{s}{i}") for s in ("train", "val") for i in range(SIZES[s])]
    pipeline["csv_path"] = write_csv(tmp_path / "both.csv", rows)
    corpus = load_corpus(import_pt(tmp_path / "out", **pipeline))
    assert corpus.valid[1].transcript == "val1"
    assert corpus.valid[1].id == "aval1"


class _Runs:
    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> Any:
        return Path.touch, (self.trap,)


def spoil_tensor(key: str, value: Any) -> Any:
    def change(options: dict[str, Any], folder: Path) -> None:
        path = options["val_text_features"]
        content = torch.load(path, weights_only=True)
        content[key] = value(content[key])
        torch.save(content, path)

    return change


def spoil_csv(option: str, rows: list[tuple[Any, ...]], **more: Any) -> Any:
    return lambda options, folder: write_csv(options[option], rows, **more)


SIX = [(i % 3, NAMES[i % 3], "f", "t") for i in range(6)]
CASES = {
    "missing file": (lambda options, _: options["val_text_features"].unlink(), "val_text.pt: the file does not exist"),
    "not torch": (
        lambda options, _: options["val_text_features"].write_bytes(b"x" * 50),
        "cannot be loaded as weights",
    ),
    "runs code": (
        lambda options, f: torch.save({"x": _Runs(f / "sprung")}, options["val_text_features"]),
        "weights only",
    ),
    "no mask": (
        lambda options, _: torch.save({"x": 1, "y": 2}, options["val_text_features"]),
        "holds keys x, y; expected",
    ),
    "shapes": (spoil_tensor("m", lambda m: m[:, :-1]), r"expected x \[N, T, d\], m \[N, T\], y \[N\]"),
    "nan": (spoil_tensor("x", lambda x: x * float("nan")), "NaN or infinity where the mask says it is real"),
    "mask": (spoil_tensor("m", lambda m: m * 2), "the mask m holds other values than 0 and 1"),
    "labels": (spoil_tensor("y", lambda y: y.flip(0)), "its labels differ from those of val_speech.pt"),
    "fractions": (spoil_tensor("y", lambda y: y + 0.5), "the labels y are not whole numbers"),
    "no column": (
        spoil_csv("csv_path", SIX, header=("label", "emotion", "f", "t")),
        "no column 'emotion_name'.*did you mean 'emotion'",
    ),
    "order": (spoil_csv("test_csv_path", SIX[::-1]), "test_split.csv:2: label 2 here, but 0 for utterance 0"),
    "count": (spoil_csv("test_csv_path", SIX[:4]), "test_split.csv: 4 rows; expected 6"),
    "two names": (spoil_csv("test_csv_path", [(0, "happy", "f", "t")]), "label 0 is 'happy' here and 'angry' before"),
    "word": (
        spoil_csv("csv_path", [("angry", "angry", "f", "t")]),
        "train_split.csv:2: label 'angry'; expected a whole",
    ),
    "unnamed": (spoil_csv("csv_path", [(0, "angry", "f", "t")]), "label 1 is|has no name"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files_leave_nothing_half_written(pipeline: dict[str, Any], tmp_path: Path, case: str) -> None:
    change, message = CASES[case]
    change(pipeline, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        import_pt(tmp_path / "out", **pipeline)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
