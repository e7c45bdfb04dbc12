"""Ablation tables: leave one out, add one in, factor by factor; and main effects with interactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.reporting.factorials import slices
from experiments.reporting.levels import show_level
from experiments.reporting.numbers import count, decimals_for, number
from experiments.reporting.statistics.paired import compare
from experiments.reporting.tables.main import Summary, delta_heading, spread_note, summarise, unit
from experiments.reporting.tables.model import (
    EMPTY,
    Column,
    Note,
    Table,
    Value,
    difference,
    integer,
    p_value,
    score,
    text,
)
from experiments.reporting.wording import listed

if TYPE_CHECKING:
    from experiments.reporting.run import Run


def _short(factor: str) -> str:
    return factor.rsplit(".", 1)[-1].replace("_", " ")


def _levels(run: Run, corpus: str, cell: str) -> dict[str, Any]:
    return {f: run.level_of(cell, f, corpus) for f in run.factors}


def _find(run: Run, corpus: str, levels: Mapping[str, Any]) -> str | None:
    for cell in run.cells(corpus):
        if _levels(run, corpus, cell) == dict(levels):
            return cell
    return None


def chosen_on_validation(run: Run, corpus: str) -> str | None:
    """The cell with the best mean validation score of its confirmed trials: the full model of the ablation."""
    part = run.confirm[(run.confirm["corpus"] == corpus) & ~run.confirm["cell"].isin(run.imported)]
    column = f"valid_{run.spec.metric}"
    if column not in part.columns or part[column].isna().all():
        return None
    means = part.groupby("cell", sort=False)[column].mean()
    return str(means.idxmax() if run.higher_is_better() else means.idxmin())


def _row(
    run: Run, corpus: str, summary: Summary, cell: str, against: str | None, name: str, decimals: int
) -> dict[str, Value]:
    i = summary.cells.index(cell)
    row = {"change": text(name), "score": score(summary.means[i], summary.decimals, run.scale, summary.halves[i])}
    row["n"] = integer(summary.n[i])
    if against is None:
        row["delta"] = Value("reference")
        return row
    a, b = summary.scores[i], summary.scores[summary.cells.index(against)]
    both = ~np.isnan(a) & ~np.isnan(b)
    if both.any() and not {cell, against} & run.unfinished(corpus):
        r = compare(a[both], b[both], level=run.spec.level, higher_is_better=run.higher_is_better())
        row["delta"], row["interval"] = difference(r.mean, r.low, r.high, decimals, run.scale)
    return row


def _table(
    run: Run,
    corpus: str,
    name: str,
    title: str,
    entries: list[tuple[str, str | None, str]],
    rules: tuple[int, ...],
    notes: list[Note],
    head: str,
) -> Table:
    summary = summarise(run, corpus)
    spreads = []
    for cell, against, _ in entries:
        if against is not None:
            d = summary.scores[summary.cells.index(cell)] - summary.scores[summary.cells.index(against)]
            d = d[~np.isnan(d)]
            spreads.append(2 * float(d.std(ddof=1)) / d.size**0.5 if d.size > 1 else None)
    decimals = max(summary.decimals, decimals_for(spreads, run.scale, most=2))
    rows = [_row(run, corpus, summary, cell, against, label, decimals) for cell, against, label in entries]
    columns = (
        Column("change", head, "text"), Column("score", unit(run), "spread"), Column("n", "n"),
        Column("delta", delta_heading(run)), Column("interval", f"{run.spec.level * 100:g} % CI"),
    )  # fmt: skip
    everything = [spread_note(run), *notes]
    if run.unfinished(corpus) & {cell for cell, _, _ in entries}:
        everything.append(Note("Differences are withheld until all planned studies have been run."))
    suffix = f"_{corpus}" if len(run.corpora) > 1 else ""
    where = f" on {corpus}" if len(run.corpora) > 1 else ""
    return Table(name + suffix, title + where, columns, tuple(rows), tuple(everything), rules)


def ablation_tables(run: Run, corpus: str) -> list[Table]:
    baseline = run.baseline.get(corpus)
    if len(run.factors) < 2 or baseline is None:
        return []
    found = []
    delta = Note("Δ: paired difference with its uncorrected t interval; declared contrasts are tested in the claims.")
    full = chosen_on_validation(run, corpus)
    base = _levels(run, corpus, baseline)
    if full is not None and full != baseline:
        best = _levels(run, corpus, full)
        changed = [f for f in run.factors if best[f] != base[f]]
        out: list[tuple[str, str | None, str]] = [(full, None, "full: " + run.label(full, corpus))]
        in_: list[tuple[str, str | None, str]] = [(baseline, None, "baseline: " + run.label(baseline, corpus))]
        for f in changed:
            without = _find(run, corpus, {**best, f: base[f]})
            if without is not None and len(changed) > 1:
                out.append((without, full, f"− {_short(f)} ({show_level(best[f], f)} → {show_level(base[f], f)})"))
            added = _find(run, corpus, {**base, f: best[f]})
            if added is not None:
                in_.append((added, baseline, f"+ {_short(f)} ({show_level(base[f], f)} → {show_level(best[f], f)})"))
        what = Note(
            "Full model: the cell with the best mean validation score (the test split had no say). A factor left "
            "out returns to the baseline's level."
        )
        if len(out) > 1:
            found.append(_table(run, corpus, "leave_one_out", "Leave one out", out, (1,), [delta, what], "variant"))
        if len(in_) > 1 and len(changed) > 1:
            found.append(_table(run, corpus, "add_one_in", "Add one in", in_, (1,), [delta, what], "variant"))
    by: list[tuple[str, str | None, str]] = [(baseline, None, "baseline: " + run.label(baseline, corpus))]
    rules = []
    for f in run.factors:
        rules.append(len(by))
        for level in run.levels(f):
            cell = _find(run, corpus, {**base, f: level})
            if cell is not None and cell != baseline:
                by.append((cell, baseline, f"{_short(f)}: {show_level(level, f)}"))
    if len(by) > 1:
        note = Note("One factor at a time, the others at the baseline.")
        kept = tuple(dict.fromkeys(r for r in rules if r < len(by)))
        found.append(_table(run, corpus, "factor_by_factor", "Factor by factor", by, kept, [delta, note], "change"))
    return found


def effects_table(run: Run, corpus: str) -> Table | None:
    """Analysis of variance of every complete part of the grid, and what was refused."""
    found, refused = slices(run, corpus)
    if len(run.factors) < 2 and not found:
        return None
    rows: list[dict[str, Value]] = []
    rules = []
    for part in found:
        rules.append(len(rows))
        fixed = ", ".join(f"{_short(f)} {show_level(v, f)}" for f, v in part.fixed.items())
        result = part.anova
        for effect in result.effects:
            rows.append(
                {
                    "effect": text(" × ".join(_short(f) for f in effect.factors)),
                    "slice": text(fixed or "all cells"),
                    "df": Value(f"{effect.df}, {result.error_df}", effect.df),
                    "f": Value(number(effect.f, 2), effect.f) if effect.f is not None else EMPTY,
                    "p": p_value(effect.p),
                    "omega2": Value(number(effect.omega2, 3), effect.omega2) if effect.omega2 is not None else EMPTY,
                }
            )
    notes = [
        Note(
            "Analysis of variance, type II, study as block; interactions of two factors, higher ones in the error. "
            "ω²: share of variance, corrected for chance. p uncorrected: exploratory."
        )
    ]
    for refusal in refused:
        which = listed(_short(f) for f in refusal.factors)
        notes.append(
            Note(f"Refused for {which}: {refusal.why}. Marginal means over an incomplete grid compare nothing.")
        )
    if not rows and not refused:
        return None
    studies = {part.scores.shape[-1] for part in found}
    if len(studies) == 1 and found:
        notes.append(Note(f"Over {count(studies.pop(), 'study', 'studies')} with every combination."))
    columns = (
        Column("effect", "effect", "text"), Column("slice", "others held at", "text"), Column("df", "df"),
        Column("f", "F"), Column("p", "p"), Column("omega2", "ω²"),
    )  # fmt: skip
    suffix = f"_{corpus}" if len(run.corpora) > 1 else ""
    where = f" on {corpus}" if len(run.corpora) > 1 else ""
    return Table(
        "effects" + suffix,
        "Main effects and interactions" + where,
        columns,
        tuple(rows),
        tuple(notes),
        tuple(rules[1:]),
    )
