"""Writing a corpus folder: into a temporary place first, read back, then renamed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer.data.corpus import SPLITS
from mer.data.reading import read_folder
from mer.errors import UserError, UserErrors
from mer.files import commit_folder, make_folder

Array = NDArray[Any]


@dataclass
class Draft:
    """A corpus to be written. Lines are the JSON objects of each split; `add_row` gives a line its features."""

    name: str
    labels: Sequence[str]
    language: str | None = None
    note: str = ""
    splits: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    features: dict[str, list[Array | None]] = field(default_factory=dict)

    def add_row(self, line: dict[str, Any], arrays: Mapping[str, Array | None]) -> None:
        """Store `[T, d]` or `[d]` arrays for a line (None: it lacks the modality), and set its `row`."""
        line["row"] = len(next(iter(self.features.values()), []))
        for modality in arrays:
            self.features.setdefault(modality, [None] * int(line["row"]))
        for modality, rows in self.features.items():
            array = arrays.get(modality)
            rows.append(None if array is None else np.atleast_2d(array))


def write_corpus(draft: Draft, folder: Path | str) -> Path:
    """Write the folder atomically. What would come out as an unsound corpus is refused and leaves nothing behind."""
    folder = Path(folder)
    refuse_full(folder)
    make_folder(folder.parent)
    building = Path(tempfile.mkdtemp(prefix=f"_{folder.name[:40]}.", dir=folder.parent))
    try:
        building.chmod(0o755)
        _write(draft, building, str(folder))
        errors = [problem.as_error() for problem in read_folder(building).problems if problem.severity == "error"]
        if errors:
            raise UserErrors([UserError(f"what was imported into {folder} would not be sound"), *errors])
        commit_folder(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def refuse_full(folder: Path) -> None:
    """An existing folder with something in it is not written into."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("something is already there", where=str(folder), expected="a folder that does not exist")


def _write(draft: Draft, folder: Path, where: str) -> None:
    widths: dict[str, int] = {}
    if draft.features:
        (folder / "features").mkdir()
    for modality, rows in draft.features.items():
        widths[modality] = _write_features(folder / "features", modality, rows, where)
    for split in SPLITS:
        lines = [json.dumps(line, ensure_ascii=False, allow_nan=False) for line in draft.splits[split]]
        # a lone surrogate is written as it is, and refused where the folder is read back
        (folder / f"{split}.jsonl").write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))
    description: dict[str, Any] = {"name": draft.name, "labels": list(draft.labels), "features": widths}
    if draft.language:
        description["language"] = draft.language
    if draft.note:
        description["note"] = draft.note
    text = json.dumps(description, ensure_ascii=False, indent=1) + "\n"
    (folder / "corpus.json").write_bytes(text.encode("utf-8", "surrogatepass"))


def _write_features(folder: Path, modality: str, rows: Sequence[Array | None], where: str) -> int:
    """`[N, d]` where every row is one frame, else `[frames, d]` with offsets. Returns d."""
    widths = {row.shape[1] for row in rows if row is not None and len(row)}
    if len(widths) != 1:
        raise UserError(f"{modality} features are {sorted(widths)} wide", where=where, expected="one width")
    width = widths.pop()
    filled = [np.zeros((0, width), np.float32) if row is None else row.reshape(-1, width) for row in rows]
    dtype = np.float16 if all(row.dtype == np.float16 for row in filled if len(row)) else np.float32
    np.save(folder / f"{modality}.npy", np.concatenate(filled).astype(dtype))
    lengths = [len(row) for row in filled]
    if any(length != 1 for length in lengths):
        np.save(folder / f"{modality}.offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
    return int(width)
