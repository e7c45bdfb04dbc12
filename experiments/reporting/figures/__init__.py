"""Every figure of a report. matplotlib is imported with the first one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.reporting.figures.style import styled
from mer.errors import UserError, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.reporting.run import Run

#: What `run.figure(...)` knows. With several corpora, `corpus=` chooses one.
FIGURES = {
    "forest": "Declared contrasts: difference and interval; filled where the family's test decides, one tick a study.",
    "effects": "Main effects: mean and interval of every level, one dot a study; what studies share is removed.",
    "interaction": "Means of every pair of levels of the two factors that interact most.",
    "missing": "Score over the missing rate at test time: mean and interval band over studies.",
    "learning": "Validation score by epoch in the confirm stage: mean and interval band over studies.",
    "search": "The search: what further draws brought, and how many were pruned at each rung.",
    "cost": "Device time of a trial against its score; the line is the Pareto front.",
}


@dataclass(frozen=True)
class Drawing:
    """A figure that a run has the data for; `name` is its file name."""

    name: str
    caption: str
    draw: Callable[[], Figure | None]


def drawings(run: Run) -> list[Drawing]:
    from experiments.reporting.figures import cost, curves, effects, forest, search

    found = [Drawing("forest", FIGURES["forest"], lambda: forest.forest_figure(run))]
    makers: dict[str, Callable[[Run, str], Figure | None]] = {
        "effects": effects.effects_figure,
        "missing": curves.missing_figure,
        "learning": curves.learning_figure,
        "search": search.search_figure,
        "cost": cost.cost_figure,
    }
    for corpus in run.corpora:
        suffix, where = (f"_{corpus}", f" Corpus: {corpus}.") if len(run.corpora) > 1 else ("", "")
        for name, maker in makers.items():
            found.append(
                Drawing(name + suffix, FIGURES[name] + where, lambda m=maker, c=corpus: m(run, c))  # type: ignore[misc]
            )
            if name == "effects":
                for i, (a, b, part) in enumerate(effects.interaction_pairs(run, corpus)):
                    which = f"interaction_{i + 1}" if i else "interaction"
                    caption = f"Means of every pair of levels of {a} and {b}.{where}"

                    def pair(a: str = a, b: str = b, part: Any = part, c: str = corpus) -> Figure:
                        return effects.interaction_figure(run, c, a, b, part)

                    found.append(Drawing(which + suffix, caption, pair))
    return found


def draw(run: Run, name: str, corpus: str | None = None) -> Figure:
    """One figure by name, as a matplotlib `Figure`."""
    available = {d.name: d for d in drawings(run)}
    wanted = name if name == "forest" or len(run.corpora) == 1 else f"{name}_{run.corpus(corpus)}"
    chosen = available.get(name) or available.get(wanted)
    if chosen is None:
        raise unknown("figure", name, {*available, *FIGURES})
    with styled():
        figure = chosen.draw()
    if figure is None:
        raise UserError(f"the run has no data for the figure {name!r}", hint=FIGURES.get(name, ""))
    return figure
