"""Scores under every test-time condition, and the area under the missing-rate curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from experiments.reporting.numbers import count, decimals_for
from experiments.reporting.statistics.curves import normalised_auc
from experiments.reporting.statistics.family import holm
from experiments.reporting.statistics.paired import Comparison, compare, mean_interval
from experiments.reporting.tables.main import delta_heading, factor_columns, factor_values, spread_note, summarise, unit
from experiments.reporting.tables.model import (
    Column,
    Note,
    Table,
    Value,
    difference,
    emphasise,
    p_value,
    score,
)
from experiments.reporting.tables.patterns import average_columns
from experiments.reporting.wording import cautions

if TYPE_CHECKING:
    from experiments.reporting.run import Run


@dataclass(frozen=True)
class Curve:
    """One family of missing rates: scores [cell, rate, study], NaN where missing; rate 0 is the complete condition."""

    family: str
    rates: tuple[float, ...]
    conditions: tuple[str, ...]
    cells: tuple[str, ...]
    scores: npt.NDArray[np.float64]

    @property
    def areas(self) -> npt.NDArray[np.float64]:
        """[cell, study]"""
        return normalised_auc(self.rates, np.moveaxis(self.scores, 1, -1))


def curves(run: Run, corpus: str) -> list[Curve]:
    """Families of conditions that differ by their rate alone, with at least three points."""
    families: dict[str, list[tuple[float, str]]] = {}
    for name in run.conditions:
        condition = run.spec.condition(name)
        if name != "complete" and condition.rate:  # a rate of 0 is the complete condition once more
            families.setdefault(condition.family, []).append((condition.rate, name))
    found = []
    for family, members in families.items():
        members = sorted([(0.0, "complete"), *members])
        if len(members) < 3 or len({rate for rate, _ in members}) < len(members):
            continue
        names = tuple(name for _, name in members)
        stacked = [run.by_study(corpus, None, name).to_numpy(dtype=np.float64) for name in names]
        rates = tuple(rate for rate, _ in members)
        found.append(Curve(family, rates, names, tuple(run.cells(corpus)), np.stack(stacked, 1)))
    return found


def area_tests(run: Run, corpus: str, curve: Curve) -> dict[str, tuple[Comparison, float | None]]:
    """Each cell's area against the baseline's: paired t, Holm over the rows. Declared nowhere, hence exploratory."""
    baseline = run.baseline.get(corpus)
    if baseline is None:
        return {}
    areas = curve.areas
    reference = areas[curve.cells.index(baseline)]
    results = {}
    for i, cell in enumerate(curve.cells):
        both = ~np.isnan(areas[i]) & ~np.isnan(reference)
        if cell != baseline and both.any():
            results[cell] = compare(
                areas[i][both], reference[both], level=run.spec.level, higher_is_better=run.higher_is_better()
            )
    adjusted = holm([r.p for r in results.values()])
    return {cell: (r, p) for (cell, r), p in zip(results.items(), adjusted, strict=True)}


def conditions_table(run: Run, corpus: str) -> Table | None:
    """Rows: cells; columns: conditions; averages over patterns; then the area under the curve and its test."""
    if len(run.conditions) < 2:
        return None
    cells = run.cells(corpus)
    rows = [factor_values(run, corpus, cell) for cell in cells]
    spread = len(run.conditions) <= 4
    columns = [*factor_columns(run)]
    for name in run.conditions:
        summary = summarise(run, corpus, None, name)
        shown = [
            score(m, summary.decimals if spread else max(1, min(summary.decimals, 1)), run.scale, h if spread else None)
            for m, h in zip(summary.means, summary.halves, strict=True)
        ]
        for row, value in zip(rows, emphasise(shown, run.higher_is_better()), strict=True):
            row[name] = value
        columns.append(Column(name, name, "spread" if spread else "number", unit(run)))
    notes = [
        spread_note(run)
        if spread
        else Note("Means over studies; intervals are in the figure of the curves and in the CSV of scores.")
    ]
    notes.append(
        Note("All conditions are of the same trained models. Bold: best mean under a condition; underlined: second.")
    )
    notes += average_columns(run, corpus, rows, columns)
    found = curves(run, corpus)
    for curve in found:
        _areas(run, corpus, curve, rows, columns, notes, len(found) > 1)
    notes += [Note(line) for line in cautions(run)]
    suffix = f"_{corpus}" if len(run.corpora) > 1 else ""
    where = f" on {corpus}" if len(run.corpora) > 1 else ""
    title = f"{run.metric_name()} under missing modalities{where}"
    return Table("conditions" + suffix, title, tuple(columns), tuple(rows), tuple(notes))


def _areas(
    run: Run,
    corpus: str,
    curve: Curve,
    rows: list[dict[str, Value]],
    columns: list[Column],
    notes: list[Note],
    several: bool,
) -> None:
    intervals = []
    for area in curve.areas:
        known = area[~np.isnan(area)]
        intervals.append(mean_interval(known, run.spec.level) if known.size else (None, None, None))
    halves = [(high - low) / 2 if low is not None and high is not None else None for _, low, high in intervals]
    decimals = decimals_for(halves, run.scale)
    values = [score(m, decimals, run.scale, h) for (m, _, _), h in zip(intervals, halves, strict=True)]
    key = f"auc_{curve.family}"
    for row, value in zip(rows, emphasise(values, run.higher_is_better()), strict=True):
        row[key] = value
    group = f"curve ({curve.family})" if several else "curve"
    columns.append(Column(key, "AUC (%)" if run.scale == 100 else "AUC", "spread", group))
    tests = area_tests(run, corpus, curve)
    baseline = run.baseline.get(corpus)
    if tests:
        d = decimals_for(
            [(r.high - r.low) / 2 for r, _ in tests.values() if r.low is not None and r.high is not None], run.scale
        )
        for row, cell in zip(rows, curve.cells, strict=True):
            if cell == baseline:
                row[f"delta_{key}"] = Value("baseline")
            elif cell in tests:
                r, p = tests[cell]
                row[f"delta_{key}"], row[f"interval_{key}"] = difference(r.mean, r.low, r.high, d, run.scale)
                row[f"p_{key}"] = p_value(p)
        columns += [
            Column(f"delta_{key}", delta_heading(run, "Δ AUC"), group=group),
            Column(f"interval_{key}", f"{run.spec.level * 100:g} % CI", group=group),
            Column(f"p_{key}", "p", group=group),
        ]
    low, high = curve.rates[0], curve.rates[-1]
    text = (
        f"AUC: mean score over missing rates {low:g} to {high:g} (trapezoid rule, normalised), computed in each study."
    )
    if tests:
        text += f" p: paired t test of the area, Holm-adjusted over the {count(len(tests), 'row')}; exploratory."
    notes.append(Note(text))
