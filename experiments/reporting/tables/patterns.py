"""Averages over the patterns of available modalities, and every metric under every condition.

Papers on missing modalities report one number over "all patterns", some with the complete one among them and some
without, and often do not say which. Here both are given, and named.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from experiments.reporting.rates import remarks, shown, unlike
from experiments.reporting.tables.main import factor_columns, factor_values, ranked, summary_of, unit
from experiments.reporting.tables.model import Column, Note, Table, Value, emphasise, score, text

if TYPE_CHECKING:
    from experiments.reporting.run import Run


@dataclass(frozen=True)
class Average:
    """A mean over conditions, taken within each study."""

    key: str
    header: str
    conditions: tuple[str, ...]

    def by_study(self, run: Run, corpus: str, metric: str | None = None) -> pd.DataFrame:
        """[cell, study]; NaN where a condition has no score."""
        frames = [run.by_study(corpus, metric, name) for name in self.conditions]
        return sum(frames[1:], frames[0]) / len(frames)


def averages(run: Run) -> tuple[Average, ...]:
    """With and without the complete condition; none unless every pattern of the modalities was scored."""
    scored = set(run.conditions)
    found = {
        frozenset(condition.missing.get("available") or ()): condition.name
        for condition in run.spec.conditions
        if condition.missing.get("protocol") == "pattern" and condition.name in scored
    }
    modalities = sorted(frozenset().union(*found))
    incomplete = [
        found.get(frozenset(kept))
        for size in range(1, len(modalities))
        for kept in itertools.combinations(modalities, size)
    ]
    names = tuple(name for name in incomplete if name is not None)
    if not names or len(names) < len(incomplete):
        return ()
    return (
        Average("average_incomplete", f"average over {len(names)} incomplete", names),
        Average("average_all", f"average over {len(names) + 1} with complete", ("complete", *names)),
    )


def average_columns(run: Run, corpus: str, rows: list[dict[str, Value]], columns: list[Column]) -> list[Note]:
    """Add the averages of the declared metric to the rows of a table of cells."""
    found = averages(run)
    for average in found:
        summary = summary_of(run, average.by_study(run, corpus))
        values = [
            score(mean, summary.decimals, run.scale, half)
            for mean, half in zip(summary.means, summary.halves, strict=True)
        ]
        first = ranked(run, corpus, average.by_study(run, corpus))
        for row, value in zip(rows, emphasise(values, run.higher_is_better(), first), strict=True):
            row[average.key] = value
        columns.append(Column(average.key, average.header, "spread", unit(run)))
    return [average_note(found)] if found else []


def rate_notes(run: Run, corpus: str) -> list[Note]:
    """What rates really are, and which rows are therefore not ranked (their scores carry the mark)."""
    return [Note(line, "d" if line.startswith("Not the same") else "") for line in remarks(run, corpus)]


def average_note(found: tuple[Average, ...]) -> Note:
    incomplete = found[0].conditions
    return Note(
        f"Averages are unweighted means of the {len(incomplete)} incomplete patterns ({', '.join(incomplete)}), and of "
        f"these and complete, taken within each study. Random rates are not in them."
    )


def metrics_table(run: Run, corpus: str) -> Table | None:
    """Rows: cells × metrics; columns: conditions, and the averages over patterns. Means alone."""
    if len(run.conditions) < 2 or len(run.metrics) < 2:
        return None
    found = averages(run)
    columns = [*factor_columns(run), Column("metric", "metric", "text")]
    columns += [Column(name, shown(run, corpus, name)) for name in run.conditions]
    columns += [Column(average.key, average.header) for average in found]
    rows: list[dict[str, Value]] = []
    for metric in run.metrics:
        block = [
            {**factor_values(run, corpus, cell), "metric": text(run.metric_name(metric))} for cell in run.cells(corpus)
        ]
        frames = {name: run.by_study(corpus, metric, name) for name in run.conditions}
        frames |= {average.key: average.by_study(run, corpus, metric) for average in found}
        for key, frame in frames.items():
            condition = key if key in run.conditions else "complete"
            apart = unlike(run, corpus, condition)
            values = [
                score(mean, 1, run.scale, mark="d" if cell in apart else "")
                for cell, mean in zip(frame.index, summary_of(run, frame).means, strict=True)
            ]
            first = ranked(run, corpus, frame, condition)
            for row, value in zip(block, emphasise(values, run.higher_is_better(metric), first), strict=True):
                row[key] = value
        rows += block
    notes = [Note("Means over studies. Bold: best mean of a metric under a condition; underlined: second.")]
    notes += rate_notes(run, corpus)
    notes += [average_note(found)] if found else []
    several = len(run.corpora) > 1
    size = len(run.cells(corpus))
    return Table(
        "conditions_by_metric" + (f"_{corpus}" if several else ""),
        f"Every metric under missing modalities{f' on {corpus}' if several else ''}",
        tuple(columns),
        tuple(rows),
        tuple(notes),
        tuple(range(size, len(rows), size)),
    )
