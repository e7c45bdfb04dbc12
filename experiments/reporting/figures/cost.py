"""Cost against score, with the cells that no other beats in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.reporting.figures.lines import looks
from experiments.reporting.figures.style import COLUMN, GREY, canvas, legend_below, light_grid
from experiments.reporting.tables.main import summarise, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.reporting.run import Run


def pareto(points: dict[str, tuple[float, float]], higher_is_better: bool = True) -> list[str]:
    """Names that no other beats in both cost (lower) and score, cheapest first.

    >>> pareto({"a": (1, 0.7), "b": (2, 0.8), "c": (3, 0.75)})
    ['a', 'b']
    """
    sign = 1 if higher_is_better else -1
    ranked = sorted(points, key=lambda name: (points[name][0], -sign * points[name][1], name))
    front: list[str] = []
    for name in ranked:
        if not front or sign * points[name][1] > sign * points[front[-1]][1]:
            front.append(name)
    return front


def cost_figure(run: Run, corpus: str) -> Figure | None:
    """Median device time of a confirmed trial against its mean score; the Pareto front is named in the legend."""
    part = run.confirm[run.confirm["corpus"] == corpus]
    if "device_s" not in part.columns or part["device_s"].isna().all():
        return None
    cost = part.groupby("cell")["device_s"].median().dropna()
    summary = summarise(run, corpus)
    points = {
        cell: (float(cost[cell]), mean * run.scale)
        for cell, mean in zip(summary.cells, summary.means, strict=True)
        if mean is not None and cell in cost.index
    }
    if len(points) < 2:
        return None
    front = pareto(points, run.higher_is_better())
    style = looks(run, corpus, front, {cell: points[cell][1] for cell in front})
    figure, axes = canvas(COLUMN, 2.1)
    rest = [cell for cell in points if cell not in front]
    if rest:
        label = f"{len(rest)} other cell{'s' if len(rest) > 1 else ''}"
        axes.plot(
            *zip(*(points[c] for c in rest), strict=True), "o", color=GREY, markersize=3, label=label, linestyle=""
        )
    axes.step(*zip(*(points[c] for c in front), strict=True), where="post", color="black", linewidth=0.7)
    for cell in front:
        x, y = points[cell]
        look = style[cell]
        half = summary.halves[summary.cells.index(cell)]
        if half is not None:
            axes.errorbar([x], [y], yerr=half * run.scale, color=look.colour, linewidth=0.8, capsize=0)
        axes.plot([x], [y], look.marker or "o", color=look.colour, label=look.label, linestyle="", markersize=5)
    costs = [x for x, _ in points.values()]
    if max(costs) > 10 * min(costs) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # its own are formulas
        axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("device time of a trial (s)")
    axes.set_ylabel(unit(run))
    light_grid(axes, "both")
    legend_below(figure, axes, COLUMN)
    return figure
