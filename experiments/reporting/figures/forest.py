"""The declared contrasts as a forest plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.reporting.figures.style import COLOURS, GREY, PAGE, canvas, light_grid, shorten
from experiments.reporting.numbers import p_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.reporting.run import Run


def _p(p: float | None) -> str:
    return "" if p is None else f"p = {p_text(p)}".replace("= <", "<")


def forest_figure(run: Run) -> Figure | None:
    """Difference and interval of every declared contrast, one dot a study; filled where the family's test decides."""
    claims = [c for c in run.claims if c.interval is not None]
    if not claims:
        return None
    several = len(run.corpora) > 1
    figure, axes = canvas(PAGE, 0.2 * len(claims) + 0.75)
    names = []
    for i, claim in enumerate(claims):
        scope = claim.interval
        assert scope is not None
        assert scope.mean is not None
        decided = claim.verdict in ("better", "worse", "equivalent")
        colour = COLOURS[0] if decided else GREY
        if claim.scope == "this test set":
            points = [d * run.scale for d in claim.differences]
            axes.plot(points, [i] * len(points), "|", color=colour, alpha=0.55, markersize=4, markeredgewidth=0.7)
        if scope.low is not None and scope.high is not None:
            axes.plot([scope.low * run.scale, scope.high * run.scale], [i, i], color=colour, linewidth=1.4)
        face = colour if decided else "white"
        axes.plot([scope.mean * run.scale], [i], "o", color=colour, markerfacecolor=face, markersize=4.5, zorder=4)
        if claim.contrast.margin is not None:
            margin = claim.contrast.margin * run.scale
            axes.plot([-margin, -margin, margin, margin], [i, i, i, i], "|", color=COLOURS[1], markersize=8)
        first, second = claim.sides
        name = f"{first} – {second}" if first and second else claim.contrast.name
        extra = [claim.contrast.condition] if claim.contrast.condition != "complete" else []
        extra += [" + ".join(claim.corpora)] if several else []
        extra += [run.metric_name(claim.contrast.metric)] if claim.contrast.metric != run.spec.metric else []
        extra += ["post hoc"] if claim.contrast.post_hoc else []
        names.append(shorten(name + (f" ({', '.join(extra)})" if extra else ""), 52))
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_yticks(range(len(claims)), names)
    axes.set_ylim(len(claims) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    light_grid(axes)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(claims)), [_p(c.adjusted) for c in claims])
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    unit = "points" if run.scale == 100 else run.metric_name()
    axes.set_xlabel(
        f"difference in {run.metric_name()} ({unit}), {run.spec.level * 100:g} % interval; Holm p at the right"
    )
    return figure
