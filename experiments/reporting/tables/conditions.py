"""Scores under every test-time condition, and the area under the missing-rate curves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from experiments.reporting.numbers import count, decimals_for
from experiments.reporting.rates import rate_of, unlike
from experiments.reporting.rates import shown as shown_condition
from experiments.reporting.statistics.curves import normalised_auc
from experiments.reporting.statistics.family import holm
from experiments.reporting.statistics.paired import Comparison, mean_interval
from experiments.reporting.tables.main import (
    delta_heading,
    factor_columns,
    factor_values,
    ranked,
    spread_note,
    summarise,
    unit,
)
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
from experiments.reporting.tables.patterns import average_columns, rate_notes

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
    real: npt.NDArray[np.float64]
    """[cell, rate]: the rate that a cell really has at each; see `experiments.reporting.rates`."""

    @property
    def areas(self) -> npt.NDArray[np.float64]:
        """[cell, study], over the rates that a cell really has; NaN where these are all the same."""
        found = np.full((self.scores.shape[0], self.scores.shape[2]), np.nan)
        for i, rates in enumerate(self.real):
            if np.ptp(rates) > 0:
                found[i] = normalised_auc(rates.tolist(), self.scores[i].T)
        return found


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
        rates, cells = tuple(rate for rate, _ in members), tuple(run.cells(corpus))
        real = [
            [known if (known := rate_of(run, corpus, cell, name)) is not None else rate for rate, name in members]
            if family == "random"
            else rates
            for cell in cells
        ]
        found.append(Curve(family, rates, names, cells, np.stack(stacked, 1), np.array(real, dtype=np.float64)))
    return found


def area_tests(run: Run, corpus: str, curve: Curve) -> dict[str, tuple[Comparison, float | None]]:
    """Each cell's area against the baseline's: paired t, Holm over the rows. Declared nowhere, hence exploratory."""
    baseline = run.baseline.get(corpus)
    if baseline is None:
        return {}
    areas, base = curve.areas, curve.cells.index(baseline)
    reference = areas[base]
    results = {}
    unfinished = run.unfinished(corpus)
    for i, cell in enumerate(curve.cells):
        both = ~np.isnan(areas[i]) & ~np.isnan(reference)
        if {cell, baseline} & unfinished:
            continue
        if cell != baseline and both.any() and np.array_equal(curve.real[i], curve.real[base]):
            results[cell] = run.paired(cell, baseline, areas[i][both], reference[both])
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
        first = ranked(run, corpus, run.by_study(corpus, None, name), name)
        apart = unlike(run, corpus, name)
        shown = [replace(v, mark="d") if cell in apart else v for cell, v in zip(cells, shown, strict=True)]
        for row, value in zip(rows, emphasise(shown, run.higher_is_better(), first), strict=True):
            row[name] = value
        columns.append(Column(name, shown_condition(run, corpus, name), "spread" if spread else "number", unit(run)))
    notes = [
        spread_note(run)
        if spread
        else Note("Means over studies; intervals are in the figure of the curves and in the CSV of scores.")
    ]
    notes.append(
        Note("All conditions are of the same trained models. Bold: best mean under a condition; underlined: second.")
    )
    notes += rate_notes(run, corpus)
    notes += average_columns(run, corpus, rows, columns)
    found = curves(run, corpus)
    for curve in found:
        _areas(run, corpus, curve, rows, columns, notes, len(found) > 1)
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
    each = [ranked(run, corpus, run.by_study(corpus, None, name), name) for name in curve.conditions]
    most = [all(cell) for cell in zip(*each, strict=True)]
    for row, value in zip(rows, emphasise(values, run.higher_is_better(), most), strict=True):
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
    low, high = curve.real.min(), curve.real.max()
    text = (
        f"AUC: mean score over missing rates {low:g} to {high:g} (trapezoid rule, normalised), computed in each study."
    )
    if tests:
        text += f" p: paired t test of the area, Holm-adjusted over the {count(len(tests), 'row')}; exploratory."
    notes.append(Note(text))
