"""Pictures of trained models. Each says which model it shows and whether its data or weights are not real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from experiments.analysis.calibration import Calibration
from experiments.analysis.separability import Separation, sample
from experiments.analysis.variant import FloatArray, SplitView, Variant
from mer.files import replacing
from mer.metrics import metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by colour-blind readers; beyond eight the markers go on telling.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.hashsalt": "mer",
}


def new_figure(width: float, height: float) -> Figure:
    """A figure of our style without pyplot's global state."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams.update(cast(Any, STYLE))
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG without a date, so that the same results give the same bytes."""
    with replacing(path) as stream:
        figure.savefig(stream, format=path.suffix[1:], metadata={"Software": None})
    return path


def training_curves(variant: Variant) -> Figure:
    """Training loss and validation score per epoch; every study a thin line, the model shown in bold."""
    figure = new_figure(6.75, 2.6)
    left, right = figure.subplots(1, 2)
    for curve in variant.curves:
        shown = curve.study == variant.study
        look: dict[str, Any] = {"linewidth": 1.8 if shown else 0.7, "alpha": 1 if shown else 0.45}
        label = f"study {curve.study} (shown elsewhere)" if shown else None
        left.plot(curve.epochs, curve.train_loss, color=COLOURS[0], **look)
        right.plot(curve.epochs, 100 * curve.valid, color=COLOURS[1], label=label, **look)
    chosen = next((curve for curve in variant.curves if curve.study == variant.study), None)
    if chosen is not None and len(chosen.valid):
        best = int(np.argmax(metric(variant.metric).sign * chosen.valid))
        right.plot(
            chosen.epochs[best], 100 * chosen.valid[best], "o", color=COLOURS[1], markersize=5, label="best epoch"
        )
    left.set(xlabel="epoch", ylabel="training loss", title="Training")
    right.set(xlabel="epoch", ylabel=f"{metric(variant.metric).printed} (%)", title="Validation")
    right.legend(frameon=False)
    figure.suptitle(f"{variant.name}: {len(variant.curves)} studies ({variant.caption})", fontsize=9)
    return figure


def confusion_matrix(variant: Variant, splits: Sequence[str]) -> Figure:
    """Row-normalised confusion with counts, one panel per split (`valid`, `test`)."""
    classes = len(variant.labels)
    size = max(2.4, 0.42 * classes + 1.2)
    figure = new_figure(size * len(splits) + 0.6, size + 0.5)
    axes = figure.subplots(1, len(splits), squeeze=False)[0]
    for axis, split in zip(axes, splits, strict=True):
        view: SplitView = getattr(variant, split)
        _confusion(axis, view, variant.labels, {"valid": "Validation", "test": "Test"}[split])
    figure.suptitle(f"{variant.name} ({variant.caption})", fontsize=8)
    return figure


def counts(view: SplitView, classes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`[C, C]` counts, true class by row."""
    found = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(found, (view.labels, view.predicted), 1)
    return found


def _confusion(axis: Axes, view: SplitView, labels: Sequence[str], title: str) -> None:
    table = counts(view, len(labels))
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for true in range(len(labels)):
        for predicted in range(len(labels)):
            colour = "white" if share[true, predicted] > 0.55 else "black"
            text = f"{100 * share[true, predicted]:.0f}\n({table[true, predicted]})"
            axis.text(predicted, true, text, ha="center", va="center", fontsize=6, color=colour)
    accuracy = float((view.predicted == view.labels).mean())
    axis.set(xlabel="predicted", ylabel="true", title=f"{title}: {100 * accuracy:.1f} % of {len(view.labels)}")
    axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def scatter(axis: Axes, points: FloatArray, view: SplitView, labels: Sequence[str]) -> None:
    """Points by true class; misclassified ones hollow."""
    drawn = sample(view.labels)
    true, missed = view.labels[drawn], view.wrong[drawn]
    for number, label in enumerate(labels):
        rows = true == number
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        right, wrong = rows & ~missed, rows & missed
        axis.scatter(points[right, 0], points[right, 1], s=9, color=colour, marker=marker, linewidths=0, label=label)
        axis.scatter(
            points[wrong, 0], points[wrong, 1], s=9, facecolors="none", edgecolors=colour, marker=marker, linewidths=0.6
        )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(True)
    axis.spines[:].set_linewidth(0.5)


def embedding(variant: Variant, part: str, projections: dict[str, FloatArray], numbers: Separation | None) -> Figure:
    """One representation under every projection that could be made, with the numbers in the title."""
    figure = new_figure(2.4 * len(projections) + 1.1, 2.9)
    axes = figure.subplots(1, len(projections), squeeze=False)[0]
    for axis, (method, points) in zip(axes, projections.items(), strict=True):
        scatter(axis, points, variant.test, variant.labels)
        axis.set_title({"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}[method])
    _legend(figure, axes[0], len(variant.labels))
    said = str(numbers) if numbers else "too few utterances for numbers"
    figure.suptitle(f"{variant.name}, {part}: {said}\nhollow: misclassified; {variant.caption}", fontsize=8)
    return figure


def _legend(figure: Figure, axis: Axes, classes: int) -> None:
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(classes, 7), frameon=False, markerscale=1.5)


def embedding_sheet(cells: Sequence[tuple[Variant, dict[str, tuple[FloatArray, Separation | None]]]]) -> Figure:
    """All variants (rows) by all representations (columns), by t-SNE: the sheet to look at first."""
    parts = list(dict.fromkeys(part for _, found in cells for part in found))
    figure = new_figure(2.1 * len(parts) + 0.5, 2.15 * len(cells) + 0.7)
    axes = figure.subplots(len(cells), len(parts), squeeze=False)
    for row, (variant, found) in enumerate(cells):
        for column, part in enumerate(parts):
            axis = axes[row, column]
            if column == 0:
                axis.text(-0.05, 0.5, variant.name, rotation=90, ha="right", va="center", transform=axis.transAxes)
            if part not in found:
                axis.set_axis_off()
                axis.text(0.5, 0.5, "not part of this variant", ha="center", va="center", fontsize=7, color="0.4")
                continue
            points, numbers = found[part]
            scatter(axis, points, variant.test, variant.labels)
            note = f": silhouette {numbers.silhouette:+.2f}, probe {100 * numbers.probe:.0f} %" if numbers else ""
            axis.set_title(f"{part}{note}", fontsize=7)
    _legend(figure, axes[0, 0] if axes[0, 0].has_data() else axes[0, -1], len(cells[0][0].labels))
    synthetic = " (synthetic data)" if cells[0][0].synthetic else ""
    figure.suptitle(f"Test representations by t-SNE; hollow: misclassified{synthetic}", fontsize=8)
    return figure


def comparison(names: Sequence[str], values: Mapping[str, Sequence[Sequence[float]]], note: str) -> Figure:
    """Mean over studies with every study as a point, one panel per metric; `values[metric][variant]` are studies."""
    height = max(2.0, 0.26 * len(names) + 1.1)
    figure = new_figure(6.75, height)
    axes = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
    positions = np.arange(len(names))
    for axis, (name, per_variant) in zip(axes, values.items(), strict=True):
        for position, studies in zip(positions, per_variant, strict=True):
            shown = 100 * np.asarray(studies)
            axis.plot(shown, np.full(len(shown), position), "o", color=COLOURS[0], alpha=0.4, markersize=3.5)
            axis.plot([shown.mean()], [position], "|", color="black", markersize=14, markeredgewidth=1.6)
        axis.set_title(metric(name).printed)
        axis.set_xlabel("test, %")
        axis.grid(axis="x", linewidth=0.3)
    axes[0].set_yticks(positions, names)
    axes[0].invert_yaxis()
    figure.suptitle(f"Every study a point, their mean a bar{note}", fontsize=8)
    return figure


def reliability(variants: Sequence[Variant], calibrations: Sequence[Calibration]) -> Figure:
    """Accuracy against confidence; a calibrated model lies on the diagonal. Small bins are faint."""
    columns = min(4, len(variants))
    rows = -(-len(variants) // columns)
    figure = new_figure(1.7 * columns + 0.5, 1.8 * rows + 0.5)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis in axes[len(variants) :]:
        axis.set_axis_off()
    for axis, variant, found in zip(axes, variants, calibrations, strict=False):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, linestyle="--")
        total = sum(entry.n for entry in found.bins)
        for entry in found.bins:
            axis.plot(
                entry.confidence, entry.accuracy, "o", color=COLOURS[0], alpha=0.3 + 0.7 * min(1, 5 * entry.n / total)
            )
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.set_title(f"{variant.name}\nECE {100 * found.error:.1f} %", fontsize=7)
    figure.supxlabel("confidence", fontsize=8)
    figure.supylabel("accuracy", fontsize=8)
    return figure


def gates(name: str, values: dict[str, FloatArray], view: SplitView, labels: Sequence[str], caption: str) -> Figure:
    """Gate or modality weight per true class: median, quartiles and range."""
    figure = new_figure(max(4.0, min(6.75, 2.4 * len(values) + 0.8)), 2.5)
    axes = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axis, (part, weights) in zip(axes, values.items(), strict=True):
        groups = [weights[view.labels == number] for number in range(len(labels))]
        kept = [(label, group) for label, group in zip(labels, groups, strict=True) if len(group)]
        axis.boxplot([group for _, group in kept], showfliers=False, widths=0.6, medianprops={"color": COLOURS[1]})
        axis.set_xticks(range(1, len(kept) + 1), [label for label, _ in kept], rotation=45, ha="right")
        axis.set_title(part)
        axis.set_ylim(-0.02, 1.02)
    axes[0].set_ylabel("weight")
    figure.suptitle(f"{name}: weights per true class on test\n{caption}", fontsize=8)
    return figure
