"""The search page: what each further draw brought, and what was pruned where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.reporting.figures.lines import looks
from experiments.reporting.figures.style import COLOURS, PAGE, canvas, legend_below, light_grid
from experiments.reporting.searching import expected
from experiments.reporting.tables.main import unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.reporting.run import Run


def _best_so_far(run: Run, corpus: str) -> dict[str, np.ndarray]:
    """Cell to the best validation score after each draw, mean over studies; pruned draws count as far as they went."""
    t = run.trials
    column = f"valid_{run.spec.metric}"
    part = t[(t["stage"] == "tune") & (t["corpus"] == corpus) & t[column].notna()]
    found = {}
    for cell, group in part.groupby("cell", sort=False):
        wide = group.pivot_table(index="draw", columns=["study", "fold"], values=column).sort_index()
        values = wide.cummax() if run.higher_is_better() else wide.cummin()
        values = values.ffill().dropna()
        if len(values):
            found[str(cell)] = np.stack([values.index.to_numpy() + 1.0, values.mean(axis=1).to_numpy() * run.scale])
    return found


def search_figure(run: Run, corpus: str) -> Figure | None:
    best = _best_so_far(run, corpus)
    if not best:
        return None
    d = run.decisions
    rungs = d[(d["corpus"] == corpus) & d["kind"].isin(["keep", "prune"]) & d["rung"].notna()] if len(d) else d
    cells = [c for c in run.cells(corpus) if c in best]
    style = looks(run, corpus, cells, {c: float(best[c][1][-1]) for c in cells})
    figure, grid = canvas(
        PAGE, 2.2, 1, 2 if len(rungs) else 1, squeeze=False, width_ratios=[1.6, 1] if len(rungs) else None
    )
    left = grid[0][0]
    evp = {c: expected(run, corpus, c) for c in cells}
    has_evp = all(curve is not None for curve in evp.values())
    for cell in sorted(cells, key=lambda c: style[c].front):
        look = style[cell]
        curve = evp[cell]
        x, y = best[cell]
        if has_evp and curve is not None:
            x, y = np.arange(1, curve.size + 1), curve * run.scale
        left.plot(
            x, y, color=look.colour, linestyle=look.line, marker=look.marker or None, label=look.label,
            drawstyle="default" if has_evp else "steps-post", linewidth=1.2 if look.front else 0.6,
            alpha=1 if look.front else 0.5, markevery=max(1, len(x) // 8),
        )  # fmt: skip
    left.set_xlabel("draws")
    what = "expected best" if has_evp else "best so far,"
    left.set_ylabel(f"{what} validation {unit(run)}")
    left.xaxis.get_major_locator().set_params(integer=True)
    light_grid(left, "y")
    if len(rungs):
        right = grid[0][1]
        table = rungs.groupby(["rung", "kind"]).size().unstack(fill_value=0).sort_index()
        places = np.arange(len(table))
        kept, pruned = (table[k].to_numpy() if k in table.columns else np.zeros(len(table)) for k in ("keep", "prune"))
        right.bar(places, kept, color=COLOURS[0], width=0.6, label="went on")
        right.bar(
            places, pruned, bottom=kept, color=COLOURS[4], width=0.6, label="pruned", hatch="///", edgecolor="white"
        )
        right.set_xticks(places, [f"{int(r)}" for r in table.index])
        right.set_xlabel("rung (epoch)")
        right.set_ylabel("draws judged")
        right.margins(y=0.25)
        right.legend(loc="upper right", ncols=2, handlelength=1.4)
    legend_below(figure, left, PAGE)
    return figure
