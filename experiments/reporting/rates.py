"""What a condition really takes away from a cell, and between which cells it is the same condition.

Masks are drawn over the modalities that a cell uses, and an utterance keeps at least one of them. `random 0.667` takes
half of the modalities of a cell that uses two, and nothing at all from one that uses text alone: under one name these
are three situations. Cells are ranked and compared under a condition only where it takes as much of the modalities
that they share. (`only text` does: whoever uses text keeps all of it.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mer.data.missing import attainable, availability, realised
from mer.errors import UserError
from mer.recipe import MissingConfig

if TYPE_CHECKING:
    from experiments.reporting.run import Run

COMPLETE = "complete"
_MANY = tuple(f"utterance {i}" for i in range(20_000))
_ALIKE = 0.03
"""Shares nearer than this are the same: what is drawn for 20 000 utterances is off by 0.01 at most."""


def taken(run: Run, corpus: str, cell: str, condition: str) -> Mapping[str, float] | None:
    """The share of each of a cell's modalities that a condition takes away, by drawing it for many utterances; where
    that cannot be drawn (masks from a file or from outside), the share that the predictions name. None: not known."""
    key = (corpus, cell, condition)
    if key not in run.taken_known:
        run.taken_known[key] = _taken(run, corpus, cell, condition)
    return run.taken_known[key]


def _taken(run: Run, corpus: str, cell: str, condition: str) -> Mapping[str, float] | None:
    modalities = run.spec.modalities.get((corpus, cell), ())
    if not modalities or cell in run.imported:
        return None
    if condition == COMPLETE:
        return dict.fromkeys(modalities, 0.0)
    missing = run.spec.condition(condition).missing
    if missing.get("protocol") != "file" and ":" not in str(missing.get("protocol", "")):
        try:
            config = MissingConfig.model_validate(dict(missing), strict=False)
            return realised(availability(config, _MANY, modalities, 0), modalities).per_modality
        except (UserError, ValueError):
            return None
    return _named(run, corpus, cell, condition, modalities)


def _named(run: Run, corpus: str, cell: str, condition: str, modalities: Iterable[str]) -> Mapping[str, float] | None:
    frame = run.predictions(corpus, cell, condition)
    if frame.empty or "lacking" not in frame.columns:
        return None
    gone = frame["lacking"].fillna("").str.split("+")
    return {name: float(gone.map(lambda names, name=name: name in names).mean()) for name in modalities}


def rate_of(run: Run, corpus: str, cell: str, condition: str) -> float | None:
    """The share of all of a cell's modalities that a condition takes away."""
    shares = taken(run, corpus, cell, condition)
    if shares is None:
        return None
    missing = run.spec.condition(condition).missing
    if missing.get("protocol") == "random":  # in closed form, without what chance adds
        return attainable(float(missing.get("rate", 0.0)), len(shares))
    return sum(shares.values()) / len(shares)


def alike(run: Run, corpus: str, condition: str, one: str, other: str) -> bool:
    """Does a condition take as much of the modalities that two cells share? What is not known is not doubted."""
    first, second = taken(run, corpus, one, condition), taken(run, corpus, other, condition)
    if first is None or second is None:
        return True
    return all(abs(first[name] - second[name]) <= _ALIKE for name in first if name in second)


def unlike(run: Run, corpus: str, condition: str) -> set[str]:
    """The cells from which a condition takes another share than from the one with the most modalities."""
    cells = run.cells(corpus)
    most = max(cells, key=lambda cell: len(run.spec.modalities.get((corpus, cell), ())))
    return {cell for cell in cells if not alike(run, corpus, condition, cell, most)}


def nominal(run: Run, condition: str) -> float | None:
    """The rate in a condition's settings, for those that are plain missing rates."""
    found = run.spec.condition(condition)
    return found.rate if found.missing.get("protocol") == "random" else None


def shown(run: Run, corpus: str, condition: str, cells: Iterable[str] | None = None) -> str:
    """A condition's name, with the rate that it really has for these cells where that is another one.

    `random 0.667 (really 0.5)`
    """
    asked = nominal(run, condition)
    if asked is None:
        return condition
    left_out = unlike(run, corpus, condition) if cells is None else set()
    rates = {rate_of(run, corpus, c, condition) for c in (cells or run.cells(corpus)) if c not in left_out} - {None}
    real = sorted({f"{rate:.3g}" for rate in rates if rate is not None and abs(rate - asked) > 1e-9})
    return f"{condition} (really {' or '.join(real)})" if real else condition


def remarks(run: Run, corpus: str) -> list[str]:
    """What a reader of a table of conditions must be told about rates that are not what they are called."""
    found = []
    short = [shown(run, corpus, name) for name in run.conditions if shown(run, corpus, name) != name]
    if short:
        found.append(f"An utterance keeps at least one of the modalities that its cell uses: {', '.join(short)}.")
    apart: dict[tuple[str, ...], list[str]] = {}
    for name in run.conditions:
        if out := unlike(run, corpus, name):
            apart.setdefault(tuple(c for c in run.cells(corpus) if c in out), []).append(name)
    for cells, names in apart.items():
        rates = [rate_of(run, corpus, cell, name) for cell in cells for name in names]
        low, high = (f"{100 * pick(r for r in rates if r is not None):.0f} %" for pick in (min, max))
        what = f"{low} of their modalities" if low == high else f"{low} to {high} of their modalities"
        rows = ", ".join(run.label(cell, corpus) for cell in cells)
        found.append(
            f"Not the same condition, and therefore not ranked: {', '.join(names)} takes {what} from {rows}, and "
            "another share from the other rows."
        )
    return found
