"""The fusion pipeline's files: padded sequences in six `.pt` files and two CSVs, as a corpus folder.

Each `.pt` holds `{x, m, y}`: `x` `[N, T, d]`, `m` `[N, T]` with 1 where a frame is real, `y` `[N]` labels.
Each CSV has `label, emotion_name, file_path, transcript`. The option names are those of its users.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer.data.importers.restricted_pickle import check_program
from mer.data.importers.tabular import Row, read_csv, whole
from mer.data.importers.writing import Array, Draft, refuse_full, write_corpus
from mer.errors import UserError
from mer.files import data_file

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = ("label", "emotion_name")


@dataclass(frozen=True)
class _Padded:
    path: Path
    x: Tensor
    m: Tensor
    y: tuple[int, ...]

    def frames(self, number: int) -> Array | None:
        """`[T, d]` of the real frames of one utterance, None where there are none."""
        found: Array = self.x[number][self.m[number]].float().numpy()
        return found if len(found) else None


def import_pt(
    folder: Path | str,
    *,
    train_speech_features: Path | str,
    train_text_features: Path | str,
    val_speech_features: Path | str,
    val_text_features: Path | str,
    test_speech_features: Path | str,
    test_text_features: Path | str,
    csv_path: Path | str,
    test_csv_path: Path | str,
    name: str | None = None,
    language: str | None = None,
) -> Path:
    """Write a corpus folder with features `audio` and `text`; the padding stays behind.

    Names of the labels come from `csv_path`. Transcripts and file names come from a CSV whose rows are as many as,
    and labelled like, the utterances: `csv_path` for train (or for train and val, one after the other),
    `test_csv_path` for test. Speakers come from a column `speaker` or `speaker_id`, else they are `unknown`.
    """
    folder = Path(folder)
    refuse_full(folder)
    parts = {
        "train": (_load(train_speech_features), _load(train_text_features)),
        "valid": (_load(val_speech_features), _load(val_text_features)),
        "test": (_load(test_speech_features), _load(test_text_features)),
    }
    for speech, text in parts.values():
        if speech.y != text.y:
            raise UserError(
                f"its labels differ from those of {speech.path.name} ({len(text.y)} and {len(speech.y)} utterances)",
                where=str(text.path),
                expected="the same utterances in the same order",
            )
    train_rows, test_rows = read_csv(csv_path, COLUMNS), read_csv(test_csv_path, COLUMNS)
    labels = _label_names(train_rows, Path(csv_path))
    _label_names([*train_rows, *test_rows], Path(test_csv_path))
    described = _describe(parts, train_rows, test_rows, Path(csv_path), Path(test_csv_path))
    draft = Draft(name or folder.name, list(labels.values()), language, "imported from the fusion pipeline's .pt files")
    seen: set[str] = set()
    for split, (speech, text) in parts.items():
        for number, label in enumerate(speech.y):
            if label not in labels:
                raise UserError(
                    f"label {label} of utterance {number} has no name in {csv_path}",
                    where=str(speech.path),
                    expected=", ".join(f"{key} ({value})" for key, value in labels.items()),
                )
            row = described[split][number] if split in described else None
            line = _line(split, number, labels[label], row, seen)
            draft.add_row(line, {"audio": speech.frames(number), "text": text.frames(number)})
            draft.splits[split].append(line)
    return write_corpus(draft, folder)


def _load(path: Path | str) -> _Padded:
    """One `.pt` file, loaded as weights only: nothing in it is run."""
    import torch

    path = data_file(Path(path))
    try:
        _check_size(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds for damaged files and refused classes
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot be loaded as weights only: {first}", where=str(path), expected="a dict of tensors {x, m, y}"
        ) from None
    if not isinstance(content, dict) or not {"x", "m", "y"} <= set(content):
        found = f"keys {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise UserError(f"holds {found}", where=str(path), expected="a dict {x, m, y}")
    try:
        x, m, y = (torch.as_tensor(content[key]) for key in ("x", "m", "y"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"x, m, y are not tensors: {error}", where=str(path)) from None
    for name, tensor in (("x", x), ("m", m), ("y", y)):
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.is_complex():
            found = f"{str(tensor.layout).removeprefix('torch.')} {tensor.dtype} on device {tensor.device}"
            raise UserError(f"{name} is {found}", where=str(path), expected="a dense tensor of real numbers on the CPU")
        if tensor.numel() > path.stat().st_size:
            raise UserError(
                f"{name} has {tensor.numel()} elements in a file of {path.stat().st_size} bytes",
                where=str(path),
                expected="a tensor that is stored whole",
            )
    if x.dim() == 2:  # one vector an utterance
        x = x.unsqueeze(1)
        m = m.reshape(len(m), -1)
    if x.dim() != 3 or m.shape != x.shape[:2] or y.dim() != 1 or len(y) != len(x):
        raise UserError(
            f"x {tuple(x.shape)}, m {tuple(m.shape)}, y {tuple(y.shape)}",
            where=str(path),
            expected="x [N, T, d], m [N, T], y [N]",
        )
    if y.is_floating_point() and not bool(((y == y.round()) & (y.abs() < 2**62)).all()):
        raise UserError("the labels y are not whole numbers", where=str(path), expected="integers")
    if not bool(((m == 0) | (m == 1)).all()):
        raise UserError("the mask m holds other values than 0 and 1", where=str(path), expected="1 = real frame")
    if not bool(torch.isfinite(x[m.bool()]).all()):
        raise UserError("x holds NaN or infinity where the mask says it is real", where=str(path))
    return _Padded(path, x, m.bool(), tuple(int(label) for label in y.tolist()))


def _check_size(path: Path) -> None:
    """Refuse what would grow when it is loaded: a compressed archive, and a pickle that multiplies."""
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\3\4":
            stream.seek(0)
            for _ in range(4):  # the old format: magic number, version, system, content
                check_program(stream)
            return
    with zipfile.ZipFile(path) as archive:
        entries, most = archive.infolist(), path.stat().st_size
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > most for entry in entries):
            raise UserError("is a compressed archive", where=str(path), expected="a file that torch.save wrote")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                check_program(io.BytesIO(archive.read(entry)))


def _label_names(rows: Sequence[Row], path: Path) -> dict[int, str]:
    """Label number to name, in order; a number with two names or a name with two numbers is a mistake."""
    names: dict[int, str] = {}
    for row in rows:
        label = whole(row["label"])
        if label is None:
            raise UserError(f"label {row['label']!r}", where=f"{path}:{row.line}", expected="a whole number")
        name = names.setdefault(label, row["emotion_name"])
        if name != row["emotion_name"]:
            raise UserError(
                f"label {label} is {row['emotion_name']!r} here and {name!r} before", where=f"{path}:{row.line}"
            )
    if len(set(names.values())) < len(names):
        raise UserError("two labels have the same emotion_name", where=str(path), expected="one name a label")
    return dict(sorted(names.items()))


def _describe(
    parts: dict[str, tuple[_Padded, _Padded]], train: list[Row], test: list[Row], train_csv: Path, test_csv: Path
) -> dict[str, list[Row]]:
    """Which rows of the CSVs describe which split; a CSV of the right length but other labels is refused."""
    y = {split: speech.y for split, (speech, _) in parts.items()}
    found: dict[str, list[Row]] = {}
    if len(train) == len(y["train"]):
        found["train"] = train
    elif len(train) == len(y["train"]) + len(y["valid"]):
        found["train"], found["valid"] = train[: len(y["train"])], train[len(y["train"]) :]
    if len(test) != len(y["test"]):
        raise UserError(f"{len(test)} rows", where=str(test_csv), expected=f"{len(y['test'])}, as in the test features")
    found["test"] = test
    for split, rows in found.items():
        path = test_csv if split == "test" else train_csv
        for number, (row, label) in enumerate(zip(rows, y[split], strict=True)):
            if whole(row["label"]) != label:
                raise UserError(
                    f"label {row['label']} here, but {label} for utterance {number} of the {split} features",
                    where=f"{path}:{row.line}",
                    expected="rows in the order of the features",
                )
    return found


def _line(split: str, number: int, emotion: str, row: Row | None, seen: set[str]) -> dict[str, Any]:
    name = f"{split}_{number}"
    line: dict[str, Any] = {"utterance_id": name, "speaker_id": "unknown", "emotion": emotion}
    if row is not None:
        values = row.values
        file = values.get("file_path", "").replace("\\", "/")
        stem = Path(file).stem
        if stem and stem not in seen:
            line["utterance_id"] = stem
        if file:
            line["file"] = file
        line["speaker_id"] = values.get("speaker_id") or values.get("speaker") or "unknown"
        if values.get("transcript"):
            line["transcript"] = values["transcript"]
    seen.add(line["utterance_id"])
    return line
