from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.reporting.data import document, to_json
from experiments.reporting.figures import drawings
from experiments.reporting.figures.style import COLUMN, PAGE, inline_svg, settle, styled, write
from experiments.reporting.page import render
from experiments.reporting.run import Run

MakeRun = Callable[..., Run]
FEW = {
    "factors": {"fusion": ("concat", "gated", "weighted", "tacfn"), "pooling": ("mean", "attn", "max")},
    "studies": 3,
}
MANY = {"factors": {"fusion": [f"a_fusion_family_{i:02d}" for i in range(40)]}, "studies": 3}


def drawn(run: Run) -> dict[str, Figure]:
    found = {}
    for drawing in drawings(run):
        with styled():
            figure = drawing.draw()
        if figure is not None:
            found[drawing.name] = settle(figure)
    return found


def texts(figure: Figure) -> list[Text]:
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_visible() and text.get_text().strip()
    ]


@pytest.mark.parametrize("world", [FEW, MANY], ids=["few", "many"])
def test_no_text_overlaps_or_leaves_the_figure(make_run: MakeRun, world: dict[str, Any]) -> None:
    figures = drawn(make_run(**world, predictions=False, draws=2, epochs=4))
    assert {"forest", "effects", "missing", "learning", "search", "cost"} <= set(figures)
    for name, figure in figures.items():
        assert figure.get_figwidth() in (COLUMN, PAGE), name
        with styled():
            figure.draw_without_rendering()
        boxes = []
        for text in texts(figure):
            if not _in_view(text, figure):
                continue  # a tick label beyond the axis limits is not drawn
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
            assert inside, (name, text.get_text())
            boxes.append((box, text.get_text()))
        for i, (a, one) in enumerate(boxes):
            for b, other in boxes[:i]:
                across = min(a.x1, b.x1) - max(a.x0, b.x0)
                down = min(a.y1, b.y1) - max(a.y0, b.y0)
                assert not (across > 1 and down > 2.5), (name, one, other)


def _in_view(text: Text, figure: Figure) -> bool:
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in axis.get_major_ticks():
                if text in (tick.label1, tick.label2):
                    low, high = sorted(axis.get_view_interval())
                    return bool(low <= tick.get_loc() <= high)
    return True


def test_svg_stands_alone_in_a_page(make_run: MakeRun) -> None:
    run = make_run(**FEW, predictions=False, draws=2, epochs=4)
    figure = drawn(run)["forest"]
    svg = inline_svg(figure, "forest", 'a "quoted" <caption>')
    assert svg.startswith("<svg")
    assert 'role="img"' in svg
    assert "<caption>" not in svg
    assert "currentColor" in svg
    assert svg == inline_svg(figure, "forest", 'a "quoted" <caption>')
    assert write(figure, "png") == write(figure, "png")


@pytest.mark.parametrize(
    "world",
    [
        {"lose": [(f"fusion={f}", s) for f in ("concat", "tacfn", "gated") for s in range(2)], "studies": 2},
        {"factors": {"fusion": ("concat",)}, "contrasts": "none", "studies": 2},
        {"draws": 0, "prune": False, "studies": 2},
        {"factors": {"fusion.self_attention": (True, False), "rate": (0.1, 0.2)}, "studies": 3},
        {"corpora": ("a/b", "../c"), "studies": 2, "predictions": False},
        {"studies": 1, "prune": False, "rates": (0.0,)},
    ],
    ids=["nothing-finished", "one-cell", "no-draws", "switches", "odd-names", "one-study"],
)
def test_odd_runs_still_get_a_page(make_run: MakeRun, world: dict[str, Any]) -> None:
    run = make_run(**world)
    for figure in drawn(run).values():
        assert figure.axes
    assert to_json(document(run, []))
    assert '<h2 id="accounting-title">' in render(run, [], {})
