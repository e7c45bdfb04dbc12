"""Main effects with raw points, and interaction heat maps, on complete parts of the grid alone."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from experiments.reporting.factorials import Slice, slices
from experiments.reporting.figures.style import COLOURS, COLUMN, INK, PAGE, canvas, light_grid, shorten
from experiments.reporting.levels import named_level, show_level
from experiments.reporting.numbers import number
from experiments.reporting.statistics.paired import mean_interval
from experiments.reporting.tables.main import unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.reporting.run import Run


def _home(parts: list[Slice]) -> dict[str, Slice]:
    """Each factor with the complete part that crosses most of the others."""
    found: dict[str, Slice] = {}
    for part in sorted(parts, key=lambda p: -len(p.factors)):
        for factor in part.factors:
            found.setdefault(factor, part)
    return found


def _panel(run: Run, axes: Axes, part: Slice, factor: str) -> None:
    axis = part.factors.index(factor)
    others = tuple(i for i in range(len(part.factors)) if i != axis)
    values = part.scores.mean(axis=others) * run.scale  # [levels, studies]
    levels = part.levels[axis]
    # What studies share is taken out of the intervals and points: only differences within a study are compared.
    centred = values - values.mean(axis=0, keepdims=True) + values.mean()
    for i in range(len(levels)):
        mean, low, high = mean_interval(centred[i], run.spec.level)
        offsets = np.linspace(-0.22, 0.22, centred.shape[1]) if centred.shape[1] > 1 else np.zeros(1)
        axes.plot(centred[i], i + offsets, ".", color=COLOURS[5], markersize=4.5, markeredgewidth=0, zorder=2)
        if low is not None and high is not None:
            axes.plot([low, high], [i, i], color=COLOURS[0], linewidth=1.6, solid_capstyle="butt", zorder=3)
        axes.plot([mean], [i], "o", color=COLOURS[0], markersize=3.8, zorder=4)
    axes.set_yticks(range(len(levels)), [shorten(show_level(v, factor), 26) for v in levels])
    axes.set_ylim(len(levels) - 0.5, -0.5)
    axes.set_title(factor.rsplit(".", 1)[-1].replace("_", " "), loc="left")
    light_grid(axes)
    axes.tick_params(axis="y", length=0)


def effects_figure(run: Run, corpus: str) -> Figure | None:
    """Marginal mean of every level with its interval (studies' common part removed), one dot a study."""
    home = _home(slices(run, corpus)[0])
    factors = [f for f in run.factors if f in home]
    if not factors:
        return None
    counts = [len(home[f].levels[home[f].factors.index(f)]) for f in factors]
    columns = 1 if len(factors) == 1 else 2
    width = COLUMN if columns == 1 else PAGE
    if columns == 1 and counts[0] > 20:
        columns_height = 0.135 * counts[0] + 0.7
    else:
        columns_height = 0.0
    rows = -(-len(factors) // columns)
    heights = [max(counts[r * columns : (r + 1) * columns]) for r in range(rows)]
    height = columns_height or sum(0.19 * h + 0.45 for h in heights) + 0.25
    figure, grid = canvas(
        width, height, rows, columns, squeeze=False, sharex=True, height_ratios=[h + 1.2 for h in heights]
    )
    for i, factor in enumerate(factors):
        axes = grid[i // columns][i % columns]
        _panel(run, axes, home[factor], factor)
        if i + columns >= len(factors):
            axes.set_xlabel(unit(run))
            axes.tick_params(labelbottom=True)
    for j in range(len(factors), rows * columns):
        grid[j // columns][j % columns].set_visible(False)
    return figure


def interaction_pairs(run: Run, corpus: str) -> list[tuple[str, str, Slice]]:
    """Pairs of factors in complete parts, largest interaction (ω²) first; up to three."""
    found: dict[tuple[str, str], tuple[float, Slice]] = {}
    for part in slices(run, corpus)[0]:
        size = {effect.factors: effect.omega2 or 0.0 for effect in part.anova.effects}
        for a, b in itertools.combinations(part.factors, 2):
            if (a, b) not in found:
                found[a, b] = (size.get((a, b), 0.0), part)
    ranked = sorted(found.items(), key=lambda item: -item[1][0])
    return [(a, b, part) for (a, b), (_, part) in ranked[:3]]


def interaction_figure(run: Run, corpus: str, a: str, b: str, part: Slice) -> Figure:
    """Means of every pair of levels; rows are the factor with more of them."""
    ia, ib = part.factors.index(a), part.factors.index(b)
    if len(part.levels[ia]) < len(part.levels[ib]):
        a, b, ia, ib = b, a, ib, ia
    others = tuple(i for i in range(part.scores.ndim) if i not in (ia, ib))
    means = part.scores.mean(axis=others)
    means = (means if ia < ib else means.T) * run.scale
    rows, columns = means.shape
    names_a = [shorten(show_level(v, a), 26) for v in part.levels[ia]]
    names_b = [shorten(show_level(v, b), 22) for v in part.levels[ib]]
    width = COLUMN if columns <= 5 else PAGE
    figure, axes = canvas(width, 0.2 * rows + 0.75 + (0.35 if columns > 4 else 0))
    image = axes.imshow(means, cmap="cividis", aspect="auto")
    label_width = 0.075 * max(map(len, names_a)) + 0.9
    room = (width - label_width) / columns
    turned = max(map(len, names_b)) * 0.07 > room
    axes.set_xticks(range(columns), names_b, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(range(rows), names_a)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(b.rsplit(".", 1)[-1].replace("_", " "))
    axes.set_ylabel(a.rsplit(".", 1)[-1].replace("_", " "))
    if room >= 0.3:
        middle = (means.max() + means.min()) / 2
        for i, j in np.ndindex(rows, columns):
            colour = INK if means[i, j] > middle else "white"
            axes.text(j, i, number(means[i, j], 1), ha="center", va="center", color=colour, fontsize=6.5)
    bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.06)
    bar.outline.set_visible(False)
    bar.set_label(unit(run))
    fixed = ", ".join(named_level(v, f) for f, v in part.fixed.items())
    if fixed:
        axes.set_title(f"others at {shorten(fixed, 40)}", loc="left")
    return figure
