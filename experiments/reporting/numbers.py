"""Numbers as a careful author writes them. Scores between 0 and 1 are shown in per cent (`scale` 100), differences of
them in points."""

from __future__ import annotations

import math
from collections.abc import Iterable

MINUS = "−"


def decimals_for(halves: Iterable[float | None], scale: float = 100.0, least: int = 1, most: int = 3) -> int:
    """Decimals for a column, by its typical uncertainty: two digits of it where it starts with 1 or 2, else one.

    >>> decimals_for([0.012, 0.013]), decimals_for([0.0021]), decimals_for([]), decimals_for([0.3], scale=1)
    (1, 2, 1, 1)
    """
    known = sorted(abs(h) * scale for h in halves if h is not None and math.isfinite(h) and h)
    if not known:
        return least
    typical = known[len(known) // 2]
    exponent = math.floor(math.log10(typical))
    leading = round(typical / 10**exponent, 9)
    return max(least, min(most, -exponent + (1 if leading < 3 else 0)))


def number(value: float | None, decimals: int = 1, scale: float = 1.0, sign: bool = False) -> str:
    """A fixed-point number with a real minus sign; no "−0.0".

    >>> number(-0.0123, 1, 100), number(0.0123, 1, 100, sign=True), number(-0.0001, 1, 100), number(None)
    ('−1.2', '+1.2', '0.0', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value * scale:.{decimals}f}"
    if float(text) == 0:
        return text.lstrip("-")
    if text.startswith("-"):
        return MINUS + text[1:]
    return f"+{text}" if sign else text


def p_text(p: float | None) -> str:
    """A p value to two digits that matter, never 0.

    >>> [p_text(p) for p in (0.0004, 0.0104, 0.25, 0.0625, 1.0, None)]
    ['< .001', '.010', '.25', '.062', '1', '–']
    """
    if p is None:
        return "–"
    if p < 0.001:
        return "< .001"
    if p >= 0.995:
        return "1"
    return f"{p:.{3 if p < 0.0995 else 2}f}".lstrip("0")


def interval_text(low: float | None, high: float | None, decimals: int = 1, scale: float = 1.0) -> str:
    """`[0.6, 3.0]`; an en dash where there is none."""
    if low is None or high is None:
        return "–"
    return f"[{number(low, decimals, scale)}, {number(high, decimals, scale)}]"


def points(value: float, scale: float = 100.0, decimals: int | None = None) -> str:
    """A size in points (or in the metric's own unit): `1.8 points`.

    >>> points(0.018), points(0.01), points(0.0004)
    ('1.8 points', '1.0 points', '0.04 points')
    """
    if decimals is None:
        shown = abs(value) * scale
        decimals = 1 if shown >= 0.095 or shown == 0 else min(4, -math.floor(math.log10(shown)))
    text = number(value, decimals, scale)
    return f"{text} points" if scale == 100 else text


def signed_interval(
    mean: float, low: float | None, high: float | None, level: float = 0.95, scale: float = 100.0
) -> str:
    """`+1.8 points, 95 % interval 0.6 to 3.0`"""
    half = None if low is None or high is None else (high - low) / 2
    decimals = decimals_for([half], scale) if half else 1
    unit = " points" if scale == 100 else ""
    text = f"{number(mean, decimals, scale, sign=True)}{unit}"
    if low is None or high is None:
        return f"{text}, no interval"
    return f"{text}, {level * 100:g} % interval {number(low, decimals, scale)} to {number(high, decimals, scale)}"


def seconds_text(seconds: float | None) -> str:
    """A duration: `41 s`, `12 min`, `3.2 h`, `140 h`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:.0f} h"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """`1 study`, `5 studies`.

    >>> count(1, "cell"), count(2, "study", "studies")
    ('1 cell', '2 studies')
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"
