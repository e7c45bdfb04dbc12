"""`features/<modality>.npy`: how many rows there are, how wide, and whether the files agree; no frame is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.data.arrays import load_array
from mer.data.reading.found import FeatureFile, Reading
from mer.data.reading.json_text import short
from mer.errors import UserError, nearest
from mer.names import fault


def read_features(reading: Reading, declared: Mapping[str, object] | None) -> None:
    folder = reading.folder / "features"
    arrays = sorted(folder.glob("*.npy")) if folder.is_dir() else []
    for path in arrays:
        if path.name.endswith(".offsets.npy"):
            if not path.with_name(path.name.replace(".offsets.npy", ".npy")).exists():
                reading.add("warning", "features", "offsets without an array", f"features/{path.name}")
            continue
        if path.name.startswith("_"):
            continue
        if (wrong := fault(path.stem)) or "." in path.stem:
            problem = f"the modality {short(path.stem)} {wrong or 'has a dot in its name'}"
            reading.add("error", "features", problem, "features", expected="a name such as visual")
            continue
        file = _header(reading, path)
        if file is not None:
            reading.features[path.stem] = file
    for modality, width in (declared or {}).items():
        where = "corpus.json"
        file = reading.features.get(modality)
        if file is None and not os.path.exists(folder / f"{modality}.npy"):
            known = [path.stem for path in arrays if not path.name.endswith(".offsets.npy")]
            reading.add(
                "error", "features", f"features/{modality}.npy does not exist", where, nearest=nearest(modality, known)
            )
        elif file is not None and file.dim != width:
            reading.add(
                "error", "features", f"features/{modality}.npy is {file.dim} wide", where, expected=f"{width!r}"
            )
    if len({file.rows for file in reading.features.values()}) > 1:
        sizes = ", ".join(f"{name} {file.rows}" for name, file in reading.features.items())
        reading.add(
            "error",
            "features",
            f"modalities differ in their number of rows: {sizes}",
            "features",
            expected="one number",
        )


def _header(reading: Reading, path: Path) -> FeatureFile | None:
    array = _array(reading, path, "f", "[N, d] or [frames, d] of floats")
    if array is None:
        return None
    if array.ndim != 2 or 0 in array.shape:
        found, where = f"shape {tuple(array.shape)}, {array.dtype}", f"features/{path.name}"
        reading.add("error", "features", f"has {found}", where, expected="[N, d] or [frames, d] of floats")
        return None
    frames, dim = int(array.shape[0]), int(array.shape[1])
    offsets_path = path.with_name(f"{path.stem}.offsets.npy")
    if not os.path.lexists(offsets_path):
        return FeatureFile(path, frames, dim, frames)
    offsets = _array(reading, offsets_path, "iu", "int64 [N + 1]")
    if offsets is None:
        return None
    where = f"features/{offsets_path.name}"
    if offsets.ndim != 1 or len(offsets) < 1:
        found = f"shape {tuple(offsets.shape)}, {offsets.dtype}"
        reading.add("error", "features", f"has {found}", where, expected="int64 [N + 1]")
        return None
    lengths = np.diff(offsets.astype(np.int64))
    if offsets[0] != 0 or offsets[-1] != frames or (lengths < 0).any():
        reading.add(
            "error",
            "features",
            f"runs from {offsets[0]} to {offsets[-1]}" + (", not always upwards" if (lengths < 0).any() else ""),
            where,
            expected=f"0 to {frames} (the frames of {path.name}), never falling",
        )
        return None
    empty = frozenset(int(row) for row in np.flatnonzero(lengths == 0))
    return FeatureFile(path, len(lengths), dim, frames, empty)


def _array(reading: Reading, path: Path, kinds: str, expected: str) -> npt.NDArray[Any] | None:
    try:
        return load_array(path, kinds, reading.folder)
    except UserError as error:
        code = "path" if error.problem.startswith("leads out") else "features"
        reading.add("error", code, error.problem, f"features/{path.name}", expected=expected)
        return None
