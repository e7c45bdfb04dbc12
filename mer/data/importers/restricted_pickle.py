"""Reading pickles of numpy arrays and containers without running anything that is in them.

A pickle is a program: it may name any function and call it. Here every name that it may use is one of ours, and
numpy itself never sees the stream: arrays are rebuilt from their bytes, shape and type, each checked first.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from mer.errors import UserError

_DEPTH = 50
_PLAIN = re.compile(r"^[<>|=]?([?]|[biuf][1248]|[bhilqBHILQefd]|[SU]\d{1,6}|O8?)$")


class _Dtype:
    """Stands for numpy.dtype: a plain type code and, from its state, a byte order."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not _PLAIN.match(code):
            raise pickle.UnpicklingError(f"the array type {code!r} is not plain")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        if order == "<":
            self.dtype = self.dtype.newbyteorder("<")
        elif order == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stands for numpy.ndarray until its state has come."""

    value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array with an unknown state")
        _, shape, dtype, fortran, data = state
        self.value = _build(data, dtype, shape, "F" if fortran else "C")


def _build(data: object, dtype: object, shape: object, order: object = "C") -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array without a plain type")
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise pickle.UnpicklingError("an array without a shape")
    count = math.prod(shape)
    if dtype.dtype.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise pickle.UnpicklingError("an array of objects whose content does not fit its shape")
        items = np.empty(count, dtype=object)
        for number, item in enumerate(data):
            items[number] = _settled(item)
        return items.reshape(shape, order=order)
    if isinstance(data, str):  # written by Python 2
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray) or len(data) != count * dtype.dtype.itemsize:
        raise pickle.UnpicklingError("an array whose content does not fit its shape")
    if count == 0:
        return np.empty(shape, dtype.dtype)
    return np.frombuffer(bytes(data), dtype.dtype).reshape(shape, order=order).copy()


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    return _Array()


def _frombuffer(data: object, dtype: object, shape: object, order: object) -> np.ndarray[Any, Any]:
    return _build(data, dtype, shape, order)


def _scalar(dtype: object, data: object = b"") -> Any:
    if not isinstance(dtype, _Dtype) or dtype.dtype.hasobject:
        raise pickle.UnpicklingError("a number without a plain type")
    return _build(data, dtype, ()).item()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Python 3 writes bytes for old protocols as `_codecs.encode(text, 'latin1')`."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("_codecs.encode with anything but latin1 text")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """Python 3 writes empty bytes for old protocols as `bytes()`; with an argument it could claim any memory."""
    return b""


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "bytes"): _no_bytes,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("builtins", "tuple"): tuple,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES["builtins" if module == "__builtin__" else module, name]  # Python 2's name for it
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def load_pickle(path: Path | str) -> Any:
    """The content of a pickle of containers, strings, numbers and numpy arrays; anything else is refused, unrun."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            return _load(stream)
    except FileNotFoundError:
        raise UserError("the pickle does not exist", where=str(path)) from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"the pickle is refused: {error}", where=str(path), expected="numpy arrays and containers, nothing else"
        ) from None
    except RecursionError:
        raise UserError("the pickle is nested too deeply", where=str(path)) from None
    except Exception as error:  # a damaged stream raises nearly anything
        raise UserError(
            f"the pickle cannot be read: {type(error).__name__}: {error}", where=str(path), expected="a whole pickle"
        ) from None


def _load(stream: IO[bytes]) -> Any:
    return _settled(_Restricted(stream, encoding="latin1").load())


def _settled(value: Any, depth: int = 0) -> Any:
    """The value with every stand-in replaced by what it stands for."""
    if depth > _DEPTH:
        raise RecursionError
    if isinstance(value, _Array):
        if value.value is None:
            raise pickle.UnpicklingError("an array without content")
        return value.value
    if isinstance(value, _Dtype):
        return value.dtype
    if isinstance(value, dict):
        return {key: _settled(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_settled(item, depth + 1) for item in value)
    return value
