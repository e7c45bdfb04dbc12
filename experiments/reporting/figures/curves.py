"""Scores over missing rates, and learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.reporting.figures.lines import looks
from experiments.reporting.figures.style import COLUMN, PAGE, canvas, legend_below, light_grid
from experiments.reporting.statistics.paired import mean_interval
from experiments.reporting.tables.conditions import curves
from experiments.reporting.tables.main import unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.reporting.run import Run


def _band(run: Run, rows: list[tuple[float, float | None, float | None]]) -> tuple[np.ndarray, np.ndarray]:
    """The ends of intervals, cut off at the ends of the metric's range."""
    ends = np.array([(low, high) for _, low, high in rows], dtype=np.float64)
    if run.scale == 100:
        ends = ends.clip(0, 100)
    return ends[:, 0], ends[:, 1]


def missing_figure(run: Run, corpus: str) -> Figure | None:
    """Mean and interval band over missing rates, one panel a family of rates."""
    found = curves(run, corpus)
    if not found:
        return None
    width = COLUMN if len(found) == 1 else PAGE
    figure, grid = canvas(width, 2.1, 1, len(found), squeeze=False, sharey=True)
    for axes, curve in zip(grid[0], found, strict=True):
        areas = {
            c: float(np.nanmean(a)) for c, a in zip(curve.cells, curve.areas, strict=True) if not np.isnan(a).all()
        }
        style = looks(run, corpus, curve.cells, areas)
        bands = sum(look.front for look in style.values()) <= 5
        # grey first, so that colours lie on top
        for cell in sorted(curve.cells, key=lambda c: style[c].front):
            scores = curve.scores[curve.cells.index(cell)] * run.scale  # [rate, study]
            rates = curve.real[curve.cells.index(cell)]
            scores = scores[:, ~np.isnan(scores).any(axis=0)]
            if not scores.size:
                continue
            look = style[cell]
            rows = [mean_interval(row, run.spec.level) for row in scores]
            means = [mean for mean, _, _ in rows]
            axes.plot(
                rates, means, color=look.colour, linestyle=look.line, marker=look.marker or None,
                label=look.label, linewidth=1.2 if look.front else 0.6, alpha=1 if look.front else 0.5,
            )  # fmt: skip
            if look.front and bands and rows[0][1] is not None:
                low, high = _band(run, rows)
                axes.fill_between(rates, low, high, color=look.colour, alpha=0.13, linewidth=0)
        axes.set_xlabel("missing rate at test time, as it really was")
        axes.set_xticks(sorted({round(float(rate), 3) for rate in curve.real.flat}))
        if len(found) > 1:
            axes.set_title(curve.family.replace("_", " "), loc="left")
        light_grid(axes, "y")
    grid[0][0].set_ylabel(unit(run))
    legend_below(figure, grid[0][0], width)
    return figure


def learning_figure(run: Run, corpus: str) -> Figure | None:
    """Validation score by epoch in the confirm stage: mean over studies, for as long as all of them train."""
    e = run.epochs
    part = run.confirm[(run.confirm["corpus"] == corpus)]
    if e.empty or part.empty:
        return None
    e = e[(e["split"] == "valid") & (e["metric"] == run.spec.metric)]
    e = e[e["trial"].isin(set(part["trial"]))].merge(part[["trial", "cell", "study", "fold"]], on="trial")
    if e.empty:
        return None
    cells = [c for c in run.cells(corpus) if (e["cell"] == c).any()]
    tables = {}
    for cell in cells:
        wide = e[e["cell"] == cell].pivot_table(index="epoch", columns="trial", values="value").dropna() * run.scale
        if len(wide):
            tables[cell] = wide
    final = {cell: float(wide.iloc[-1].mean()) for cell, wide in tables.items()}
    style = looks(run, corpus, list(tables), final)
    width = COLUMN
    figure, axes = canvas(width, 2.1)
    bands = sum(look.front for look in style.values()) <= 5
    for cell in sorted(tables, key=lambda c: style[c].front):
        wide, look = tables[cell], style[cell]
        every = max(1, len(wide) // 8)
        axes.plot(
            wide.index, wide.mean(axis=1), color=look.colour, linestyle=look.line, marker=look.marker or None,
            markevery=every, label=look.label, linewidth=1.2 if look.front else 0.6, alpha=1 if look.front else 0.5,
        )  # fmt: skip
        if look.front and bands and wide.shape[1] > 1:
            rows = [mean_interval(row, run.spec.level) for row in wide.to_numpy()]
            low, high = _band(run, rows)
            axes.fill_between(wide.index, low, high, color=look.colour, alpha=0.13, linewidth=0)
    axes.set_xlabel("epoch (confirm stage)")
    axes.set_ylabel(f"validation {unit(run)}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    light_grid(axes, "y")
    legend_below(figure, axes, width)
    return figure
