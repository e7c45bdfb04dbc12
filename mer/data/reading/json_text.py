"""Strict JSON, and JSON values in words."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

DEEPEST = 32
"""Levels of nesting. What is deeper is no data of this project, and would exhaust whatever walks it."""

_LARGEST = 2**63


def parse(text: str) -> Any:
    """JSON that any program can hold: no NaN or Infinity, no whole number beyond 64 bits, no key twice, no lone
    surrogate, no deep nesting. `ValueError` says what the text is or holds.

    >>> parse('{"a": 18446744073709551616}')
    Traceback (most recent call last):
    ValueError: is not JSON: the number 18446744073709551616 is too large
    """
    try:
        found = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=_whole,
            object_pairs_hook=_unique_keys,
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {one_line(error)}") from None
    if "\\u" in text or text.count("[") + text.count("{") > DEEPEST:
        _walk(found)
    return found


def _walk(value: object) -> None:
    layer = [value]
    for _ in range(DEEPEST):
        below: list[object] = []
        for item in layer:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and any("\ud800" <= character <= "\udfff" for character in item):
                raise ValueError(f"holds {short(item)}, expected text without lone surrogates")
        if not below:
            return
        layer = below
    raise ValueError("is nested too deeply")


def _whole(text: str) -> int:
    value = int(text) if len(text) < 21 else _LARGEST
    if not -_LARGEST <= value < _LARGEST:
        shown = text if len(text) <= 24 else f"{text[:8]}... of {len(text)} digits"
        raise ValueError(f"the number {shown} is too large")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return found


def kind_of(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def short(value: object, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
