"""One table, before it is LaTeX, Markdown, CSV or HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.reporting.numbers import decimals_for, interval_text, number, p_text


@dataclass(frozen=True)
class Value:
    """One entry.

    text   as shown; with `half` it reads `text ± half`
    raw    the number behind it, for CSV and sorting
    more   further raw numbers for CSV: `low`, `high`, `half`
    mark   letters of the footnotes that it carries
    """

    text: str
    raw: float | int | str | None = None
    half: str = ""
    bold: bool = False
    underline: bool = False
    mark: str = ""
    more: Mapping[str, float | None] = field(default_factory=dict)


EMPTY = Value("–")


@dataclass(frozen=True)
class Column:
    """`kind`: text | number | spread (mean ± half); `group` puts neighbours of one name under a common heading."""

    key: str
    header: str
    kind: str = "number"
    group: str = ""


@dataclass(frozen=True)
class Note:
    """A footnote: `mark` empty for one that holds for the whole table."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """Rows are mappings from column key to `Value`; an absent key is an empty entry. `rules`: row numbers above which a
    thin line is drawn."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Value], ...]
    notes: tuple[Note, ...] = ()
    rules: tuple[int, ...] = ()
    cautions: tuple[str, ...] = ()
    """What must stand beside its numbers wherever they go: the last notes, and a column of the CSV."""

    def with_cautions(self, lines: Sequence[str]) -> Table:
        return replace(self, notes=(*self.notes, *(Note(line) for line in lines)), cautions=tuple(lines))

    def value(self, row: int, key: str) -> Value:
        return self.rows[row].get(key, EMPTY)


def text(value: Any, mark: str = "") -> Value:
    shown = "–" if value is None else str(value)
    return Value(shown, shown, mark=mark)


def integer(value: int | None, mark: str = "") -> Value:
    return EMPTY if value is None else Value(f"{value:,}".replace(",", " "), value, mark=mark)


def p_value(p: float | None, mark: str = "") -> Value:
    return EMPTY if p is None else Value(p_text(p), p, mark=mark)


def score(value: float | None, decimals: int, scale: float, half: float | None = None, mark: str = "") -> Value:
    """A score, with its half-width where there is one."""
    if value is None or value != value:
        return EMPTY
    shown = number(half, decimals, scale) if half is not None else ""
    return Value(number(value, decimals, scale), value, half=shown, mark=mark, more={"half": half} if shown else {})


def difference(
    value: float | None, low: float | None, high: float | None, decimals: int, scale: float
) -> tuple[Value, Value]:
    """A signed difference and its interval."""
    if value is None:
        return EMPTY, EMPTY
    interval = EMPTY
    if low is not None and high is not None:
        shown = interval_text(low, high, decimals, scale)
        interval = Value(shown, None, more={"low": low, "high": high})
    return Value(number(value, decimals, scale, sign=True), value), interval


def decimals_that_separate(values: list[float | None], halves: list[float | None], scale: float) -> int:
    """Decimals by uncertainty, one more where the best two would read the same though they differ."""
    decimals = decimals_for(halves, scale)
    best = sorted((v for v in values if v is not None), reverse=True)[:2]
    if len(best) == 2 and best[0] != best[1]:
        while decimals < 3 and number(best[0], decimals, scale) == number(best[1], decimals, scale):
            decimals += 1
    return decimals


def emphasise(values: list[Value], higher_is_better: bool = True, ranked: Sequence[bool] | None = None) -> list[Value]:
    """Best bold, second underlined; equal numbers share the emphasis; nothing stands out where all are equal.

    `ranked`: which of them may stand out at all; the others make nothing second either.
    """
    chosen = [True] * len(values) if ranked is None else ranked
    numbers = {v.raw for v, r in zip(values, chosen, strict=True) if r and isinstance(v.raw, int | float)}
    known = sorted(numbers, reverse=higher_is_better)
    if len(known) < 2:
        return values
    return [
        replace(v, bold=v.raw == known[0], underline=v.raw == known[1] and len(known) > 2) if r else v
        for v, r in zip(values, chosen, strict=True)
    ]
