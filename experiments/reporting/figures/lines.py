"""Which cells of many a figure draws in colour, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.reporting.figures.style import COLOURS, GREY, LINES, MARKERS, MOST, shorten

if TYPE_CHECKING:
    from experiments.reporting.run import Run


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str
    line: Any
    label: str
    front: bool


def looks(run: Run, corpus: str, cells: Sequence[str], value: Mapping[str, float]) -> dict[str, Look]:
    """Up to seven cells in colour: all of them where they fit, else the baseline and the best; the others grey, and
    named together in one legend entry."""
    baseline = run.baseline.get(corpus)
    chosen = list(cells)
    if len(cells) > MOST:
        ranked = sorted((c for c in cells if c in value), key=lambda c: value[c], reverse=run.higher_is_better())
        keep = {baseline, *[c for c in ranked if c != baseline][: MOST - 2]}
        chosen = [c for c in cells if c in keep]
    found = {}
    others = len(cells) - len(chosen)
    for cell in cells:
        if cell in chosen:
            i = chosen.index(cell)
            label = shorten(run.label(cell, corpus)) + (" (baseline)" if cell == baseline else "")
            found[cell] = Look(COLOURS[i], MARKERS[i], LINES[i], label, True)
        else:
            label = f"{others} other cells" if not any(not look.front for look in found.values()) else "_"
            found[cell] = Look(GREY, "", "-", label, False)
    return found
