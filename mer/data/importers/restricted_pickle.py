"""Reading pickles of numpy arrays and containers without running anything that is in them.

A pickle is a program: it may name any function and call it. Here every name that it may use is one of ours, and
numpy itself never sees the stream: arrays are rebuilt from their bytes, shape and type, each checked first.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from mer.errors import UserError
from mer.files import read_data

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
            items[number] = item
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


LARGEST = 100
"""How many parts a pickle's content may have for each step of its program, shared parts counted wherever they stand."""

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_CHANGED = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
"""Steps that change the container below what they take."""


def check_program(stream: IO[bytes]) -> None:
    """Read a pickle's program without running it, and refuse one that would grow or never end.

    Tuples of tuples that are used twice have as many parts as there are grains on a chess board, and to hash them is to
    visit each; a place in the memo, like the length of a number, is memory that is claimed. So each value on the stack
    is weighed: [parts, levels of nesting], the same list wherever the value is used again.
    """
    stack: list[list[int] | None] = []  # None is a mark
    memo: dict[int, list[int]] = {}
    count, total, name = 0, 0, ""
    while name != "STOP":
        opcode = _OPCODES[stream.read(1)]
        count, name = count + 1, opcode.name
        if name == "STRING":  # whose reader takes ASCII alone
            argument: Any = stream.readline()
        else:
            argument = opcode.arg and opcode.arg.reader(stream)
        if isinstance(argument, int) and abs(argument) >= 2**127:
            raise pickle.UnpicklingError("a number of more than 128 bits")
        if name == "MARK":
            stack.append(None)
        elif "PUT" in name or name == "MEMOIZE":
            place = len(memo) if argument is None else int(argument)
            if place > count:
                raise pickle.UnpicklingError(f"place {place} of a memo of {count}")
            memo[place] = _weighed(stack)
        elif "GET" in name:
            if argument not in memo:
                raise pickle.UnpicklingError(f"nothing at place {argument} of its memo")
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(_weighed(stack))
        elif name not in ("PROTO", "FRAME", "STOP"):
            kinds = [kind.name for kind in opcode.stack_before]
            taken: list[list[int]] = []
            if "mark" in kinds:
                while True:
                    if not stack:
                        raise pickle.UnpicklingError("no mark where one is needed")
                    item = stack.pop()
                    if item is None:
                        break
                    taken.append(item)
                kinds = kinds[: kinds.index("mark")]
            for _ in kinds:
                taken.append(_weighed(stack))
                stack.pop()
            changed = taken.pop() if name in _CHANGED else [0, 0]
            parts = 1 + sum(item[0] for item in taken)
            depth = 1 + max((item[1] for item in taken), default=0)
            total += parts
            if total > LARGEST * (count + 1000):
                raise pickle.UnpicklingError("its parts multiply")
            if depth > _DEPTH:
                raise RecursionError
            changed[:] = [changed[0] + parts, max(changed[1], depth)]
            stack += [changed] * len(opcode.stack_after)


def _weighed(stack: list[list[int] | None]) -> list[int]:
    found = stack[-1] if stack else None
    if found is None:
        raise pickle.UnpicklingError("nothing on the stack where something is needed")
    return found


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES["builtins" if module == "__builtin__" else module, name]  # Python 2's name for it
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def load_pickle(path: Path | str) -> Any:
    """The content of a pickle of containers, strings, numbers and numpy arrays; anything else is refused, unrun."""
    path = Path(path)
    data = read_data(path)
    try:
        return _load(data)
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


def _load(data: bytes) -> Any:
    check_program(io.BytesIO(data))
    return _Settling(LARGEST * (len(data) + 1000)).settled(_Restricted(io.BytesIO(data), encoding="latin1").load())[0]


class _Settling:
    """Replaces every stand-in by what it stands for, each value once, and counts the parts that whoever walks the
    content will meet."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.done: dict[int, tuple[Any, int]] = {}

    def settled(self, value: Any, depth: int = 0) -> tuple[Any, int]:
        if depth > _DEPTH:
            raise RecursionError
        if not isinstance(value, _Array | _Dtype | dict | list | tuple | set | frozenset):
            return value, 1
        if id(value) not in self.done:
            found, parts = self._anew(value, depth + 1)
            if parts > self.most:
                raise pickle.UnpicklingError("its parts multiply")
            self.done[id(value)] = found, parts
        return self.done[id(value)]

    def _anew(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, _Dtype):
            return value.dtype, 1
        if isinstance(value, _Array):
            if value.value is None:
                raise pickle.UnpicklingError("an array without content")
            if not value.value.dtype.hasobject:
                return value.value, 1
            items, parts = self._all(value.value.ravel(), depth)
            flat = np.empty(len(items), dtype=object)
            for number, item in enumerate(items):
                flat[number] = item
            return flat.reshape(value.value.shape), parts
        if isinstance(value, dict):
            items, parts = self._all(value.values(), depth)
            return dict(zip(value, items, strict=True)), parts
        items, parts = self._all(value, depth)
        return type(value)(items), parts

    def _all(self, values: Iterable[Any], depth: int) -> tuple[list[Any], int]:
        found = [self.settled(item, depth) for item in values]
        return [item for item, _ in found], 1 + sum(parts for _, parts in found)
