"""Arrays in `.npy` files that others wrote: the header is believed only as far as the file bears it out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mer.errors import UserError
from mer.files import data_file

KINDS = {"f": "floats", "iu": "whole numbers", "biuf": "numbers"}
"""What elements may be, by numpy's letters, in words. Of at most 8 bytes, in this machine's order."""


def load_array(path: Path, kinds: str, root: Path | None = None) -> npt.NDArray[Any]:
    """The array of a file, memory-mapped and read-only.

    kinds  what its elements may be: one of `KINDS`
    root   the folder that the file must lie in, links followed
    """
    path, where = data_file(path, root), str(path)
    try:
        with path.open("rb") as stream:
            if np.lib.format.read_magic(stream) == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
            offset = stream.tell()
    except Exception as error:  # numpy parses the header as Python: a damaged one raises nearly anything
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"cannot be read: {reason}", where=where, expected="a .npy array") from None
    if dtype.hasobject:
        raise UserError("cannot be read: holds objects (a pickle)", where=where, expected=KINDS[kinds])
    if dtype.kind not in kinds or dtype.itemsize > 8 or not dtype.isnative:
        raise UserError(f"has shape {shape}, {dtype}", where=where, expected=KINDS[kinds])
    if any(size < 0 for size in shape):
        raise UserError(f"cannot be read: has shape {shape}", where=where, expected="a .npy array")
    promised, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
    if promised > there:
        raise UserError(
            f"cannot be read: is truncated, its header promises {promised} bytes of shape {shape}, {there} are there",
            where=where,
        )
    order: Literal["F", "C"] = "F" if fortran else "C"
    if promised == 0:
        return np.empty(shape, dtype, order=order)
    return np.memmap(path, dtype, "r", offset, shape, order)
