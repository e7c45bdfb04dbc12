"""Per-class scores from the predictions of the confirm stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from experiments.reporting.statistics.confusion import per_class
from experiments.reporting.statistics.paired import mean_interval
from experiments.reporting.tables.main import factor_columns, factor_values, ranked, spread_note
from experiments.reporting.tables.model import Column, Note, Table, decimals_that_separate, emphasise, score

if TYPE_CHECKING:
    from experiments.reporting.run import Run


def confusions(run: Run, corpus: str) -> tuple[list[str], dict[str, npt.NDArray[np.float64]]]:
    """Labels, and cell to confusion counts [study, C, C] under the complete condition (folds summed)."""
    frames = {cell: run.predictions(corpus, cell) for cell in run.cells(corpus)}
    frames = {cell: frame for cell, frame in frames.items() if len(frame)}
    labels = sorted(set().union(*(set(f["label"].unique()) | set(f["prediction"].unique()) for f in frames.values())))
    place = {label: i for i, label in enumerate(labels)}
    found = {}
    for cell, frame in frames.items():
        studies = sorted(frame["study"].unique())
        shape = (len(studies), len(labels), len(labels))
        index = (
            np.searchsorted(studies, frame["study"].to_numpy()),
            frame["label"].map(place).to_numpy(dtype=np.int64),
            frame["prediction"].map(place).to_numpy(dtype=np.int64),
        )
        counts = np.bincount(np.ravel_multi_index(index, shape), minlength=int(np.prod(shape)))
        found[cell] = counts.reshape(shape).astype(np.float64)
    return labels, found


def classes_table(run: Run, corpus: str) -> Table | None:
    """F1 of every class and cell, mean over studies."""
    if not (run.folder / "predictions").is_dir():
        return None
    labels, counts = confusions(run, corpus)
    if not counts:
        return None
    cells = [cell for cell in run.cells(corpus) if cell in counts]
    rows = [factor_values(run, corpus, cell) for cell in cells]
    first = ranked(run, corpus, run.by_study(corpus).loc[cells])
    spread = len(labels) <= 4
    columns = [*factor_columns(run)]
    support = per_class(next(iter(counts.values())))["support"][0]
    for j, label in enumerate(labels):
        means, halves = [], []
        for cell in cells:
            f1 = per_class(counts[cell])["f1"][:, j]
            mean, low, high = mean_interval(f1, run.spec.level)
            means.append(mean)
            halves.append((high - low) / 2 if low is not None and high is not None else None)
        decimals = decimals_that_separate(list(means), halves, 100) if spread else 1
        values = [score(m, decimals, 100, h if spread else None) for m, h in zip(means, halves, strict=True)]
        for row, value in zip(rows, emphasise(values, ranked=first), strict=True):
            row[f"class_{label}"] = value
        columns.append(
            Column(f"class_{label}", f"{label} ({support[j]:.0f})", "spread" if spread else "number", "F1 (%)")
        )
    notes = [spread_note(run) if spread else Note("Means over studies.")]
    notes.append(
        Note("In brackets: test utterances of the class. Bold: best mean of a class; underlined: second (no test).")
    )
    suffix = f"_{corpus}" if len(run.corpora) > 1 else ""
    where = f" on {corpus}" if len(run.corpora) > 1 else ""
    return Table("classes" + suffix, f"F1 of each class{where}", tuple(columns), tuple(rows), tuple(notes))
