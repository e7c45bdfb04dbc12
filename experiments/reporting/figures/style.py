"""How figures look and how they are written: print sizes, colours that colour-blind readers can tell apart, and bytes
that depend on nothing but the data."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.25, 6.75
#: Okabe and Ito's palette, dark ones first; yellow is left out (too light on paper).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
GREY = "#8A8A8A"
GRID = "#D8D8D8"
#: Black that stays black on a dark page (on a bright patch).
INK = "#111111"
MOST = len(COLOURS)

RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "axes.unicode_minus": True,
    "text.parse_math": False,  # names are shown as they are: `$` in one is no formula
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "mer",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "path.simplify": True,
}


@contextmanager
def styled() -> Iterator[None]:
    """The style for as long as a figure is made or written; the user's own settings are left alone."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)  # type: ignore[arg-type]
        yield


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure without pyplot (no state, no windows), and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def write(figure: Figure, kind: str) -> bytes:
    """A figure as `pdf`, `png` or `svg`, without dates."""
    out = io.BytesIO()
    metadata: dict[str, Any] = {
        "pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
    }[kind]
    with styled():
        # inside a page the page's own background shows
        figure.savefig(out, format=kind, metadata=metadata, transparent=kind == "svg")
    return out.getvalue()


def inline_svg(figure: Figure, name: str, alternative: str) -> str:
    """SVG to stand inside a page: ids of its own, text and lines in the page's colour, a description."""
    from html import escape

    text = write(figure, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'\1="#{name}-\2"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = (
        text.replace("#000000", "currentColor")
        .replace(GRID.lower(), "var(--line)")
        .replace(COLOURS[0].lower(), "var(--blue)")
    )
    head_end = text.index(">")
    head = re.sub(r'\b(width|height)="([\d.]+)pt"', r'data-\1="\2"', text[:head_end])
    label = f'role="img" aria-label="{escape(alternative, quote=True)}" class="figure"'
    return f"{head} {label}>{text[head_end + 1 :]}".strip()


def shorten(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def light_grid(axes: Axes, axis: str = "x") -> None:
    axes.grid(axis=axis, color=GRID, linewidth=0.5)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def legend_below(figure: Figure, axes: Axes, width: float, **options: Any) -> None:
    """A legend under the axes in as many columns as its longest entry allows; the figure grows by its height."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    longest = max(len(label) for label in labels)
    columns = max(1, min(len(labels), int(width / (0.062 * longest + 0.42))))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.14 * rows + 0.05)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.4, **options)


def settle(figure: Figure) -> Figure:
    """Compute the layout once; writing it in three formats then need not."""
    with styled():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure
