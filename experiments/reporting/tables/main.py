"""The main table of a corpus, and the table of methods and corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from experiments.reporting.levels import show_level
from experiments.reporting.numbers import count, decimals_for
from experiments.reporting.rates import unlike
from experiments.reporting.statistics.best import with_the_best
from experiments.reporting.statistics.corpora import FEWEST_CORPORA, Joint, random_effects
from experiments.reporting.statistics.family import holm
from experiments.reporting.statistics.paired import Comparison, mean_interval
from experiments.reporting.tables.model import (
    Column,
    Note,
    Table,
    Value,
    decimals_that_separate,
    difference,
    emphasise,
    integer,
    p_value,
    score,
    text,
)
from experiments.reporting.wording import family_sentence, interval_name, post_hoc_sentence, selection_rule, what_varies
from mer.metrics import metric as metric_of

if TYPE_CHECKING:
    import pandas as pd

    from experiments.reporting.claims import Claim
    from experiments.reporting.run import Run

SAME = "†"


@dataclass(frozen=True)
class Summary:
    """Mean and half-width of every cell, in one order."""

    cells: list[str]
    scores: npt.NDArray[np.float64]  # [cells, studies], NaN where missing
    means: list[float | None]
    halves: list[float | None]
    n: list[int]
    decimals: int


def summarise(run: Run, corpus: str, metric: str | None = None, condition: str = "complete") -> Summary:
    return summary_of(run, run.by_study(corpus, metric, condition))


def summary_of(run: Run, frame: pd.DataFrame) -> Summary:
    """The summary of scores [cell, study]."""
    scores = frame.to_numpy(dtype=np.float64)
    means: list[float | None] = []
    halves: list[float | None] = []
    for row in scores:
        known = row[~np.isnan(row)]
        mean, low, high = mean_interval(known, run.spec.level) if known.size else (None, None, None)
        means.append(mean)
        halves.append((high - low) / 2 if low is not None and high is not None else None)
    for i, cell in enumerate(frame.index):
        if cell in run.single:
            halves[i] = None
    decimals = decimals_that_separate(means, halves, run.scale)
    return Summary(list(frame.index), scores, means, halves, [int(k) for k in (~np.isnan(scores)).sum(1)], decimals)


def inseparable(run: Run, summary: Summary) -> list[bool] | None:
    """Which cells cannot be separated from the best; cells that lack studies or do not vary are not judged."""
    scores = summary.scores
    whole = ~np.isnan(scores).any(axis=1) & np.array([cell not in run.single for cell in summary.cells])
    if whole.sum() < 2:
        return None
    kept = with_the_best(scores[whole], run.spec.level, run.higher_is_better())
    if kept is None:
        return None
    found = np.zeros(len(scores), bool)
    found[whole] = kept
    return [bool(x) for x in found]


def ranked(run: Run, corpus: str, frame: pd.DataFrame, condition: str = "complete") -> list[bool]:
    """Which cells of [cell, study] may be called the best: those that have every study which any cell has, of which no
    study diverged or is still to be run, and from which the condition takes what it takes from the others."""
    known = frame.notna()
    whole = known.loc[:, known.any(axis=0)].all(axis=1)
    out = run.diverged(corpus) | run.unfinished(corpus) | unlike(run, corpus, condition)
    return [bool(all_there) and cell not in out for cell, all_there in whole.items()]


def factor_columns(run: Run) -> tuple[Column, ...]:
    if not run.factors:
        return (Column("cell", "cell", "text"),)
    short = {f: f.rsplit(".", 1)[-1] for f in run.factors}
    unique = list(short.values())
    return tuple(
        Column(f, (short[f] if unique.count(short[f]) == 1 else f).replace("_", " "), "text") for f in run.factors
    )


def factor_values(run: Run, corpus: str, cell: str) -> dict[str, Value]:
    if not run.factors:
        return {"cell": text(cell)}
    found = {f: text(show_level(run.level_of(cell, f, corpus), f)) for f in run.factors}
    if all(v.text == "–" for v in found.values()):  # a row that was imported has no levels
        found[run.factors[0]] = text(cell)
    return found


def unit(run: Run, metric: str | None = None) -> str:
    return f"{run.metric_name(metric)} (%)" if run.scale == 100 else run.metric_name(metric)


def delta_heading(run: Run, what: str = "Δ") -> str:
    """The heading of a difference: in points where scores are in per cent."""
    return f"{what} (points)" if run.scale == 100 else what


def spread_note(run: Run) -> Note:
    folds = f", each averaged over {run.spec.folds} test folds by {run.spec.fold_by}," if run.spec.folds > 1 else ""
    return Note(
        f"Mean over n studies{folds} ± half-width of the {interval_name(run)}. A study varies {what_varies(run)}; "
        "within a study they are the same for every row."
    )


def short_of(run: Run, corpus: str, summary: Summary) -> list[str]:
    """A mark for each cell: `a` where it lacks planned studies, `x` where a rule of the space leaves it out."""
    planned = summary.scores.shape[1]
    return [
        "x" if (corpus, cell) in run.spec.excluded else "a" if n < planned else ""
        for cell, n in zip(summary.cells, summary.n, strict=True)
    ]


def fewer_notes(run: Run, corpus: str, short: Sequence[str], planned: int) -> list[Note]:
    notes = []
    if "a" in short:
        text_a = f"Fewer than the {planned} planned studies; see the accounting for why. Not compared with the best."
        if run.unfinished(corpus):
            text_a += " Differences are withheld until all planned studies have been run."
        notes.append(Note(text_a, "a"))
    if "x" in short:
        why = dict.fromkeys(rule for (c, _), rule in run.spec.excluded.items() if c == corpus)
        notes.append(Note(f"Left out, by declaration: {'; '.join(why)}.", "x"))
    return notes


def main_table(run: Run, corpus: str) -> Table:
    """Every cell of a corpus: score, interval, n, difference to the baseline with interval, effect, adjusted p."""
    summary = summarise(run, corpus)
    planned = summary.scores.shape[1]
    same = inseparable(run, summary)
    baseline = run.baseline.get(corpus)
    others = [m for m in run.metrics if m != run.spec.metric]
    marks = []
    short = short_of(run, corpus, summary)
    for i, cell in enumerate(summary.cells):
        mark = SAME if same and same[i] else ""
        marks.append(mark + short[i] + ("b" if cell in run.imported else ""))
    values = [
        score(mean, summary.decimals, run.scale, half, mark)
        for mean, half, mark in zip(summary.means, summary.halves, marks, strict=True)
    ]
    first = ranked(run, corpus, run.by_study(corpus))
    values = emphasise(values, run.higher_is_better(), first)
    columns = [
        *factor_columns(run), Column("score", unit(run), "spread"), *(Column(m, unit(run, m)) for m in others),
        Column("n", "n"),
    ]  # fmt: skip
    rows: list[dict[str, Value]] = []
    for i, cell in enumerate(summary.cells):
        rows.append({**factor_values(run, corpus, cell), "score": values[i], "n": integer(summary.n[i])})
    for metric in others:
        means = summarise(run, corpus, metric).means
        decimals = min(summary.decimals, 2)
        for row, mean in zip(rows, means, strict=True):
            row[metric] = score(mean, decimals, run.scale)
        best = emphasise([r[metric] for r in rows], run.higher_is_better(metric), first)
        for row, value in zip(rows, best, strict=True):
            row[metric] = value
    meanings = [f"{m.printed}: {m.meaning}" for m in map(metric_of, [run.spec.metric, *others]) if m.meaning]
    notes = [spread_note(run), Note(selection_rule(run))]
    if meanings:
        notes.insert(0, Note("; ".join(meanings) + "."))
    emphasis = "Bold: best mean of the rows with every study; underlined: second (no test implied)."
    if same:
        emphasis += (
            f" {SAME}: cannot be separated from the best (one-sided paired t tests against every other row, Holm over "
            f"all pairs: with {run.spec.level * 100:g} % confidence, the best row is among the marked ones)."
        )
    notes.append(Note(emphasis))
    if baseline is not None:
        columns += _against(run, corpus, baseline, summary, rows, notes)
    notes += fewer_notes(run, corpus, short, planned)
    notes += [Note(run.spec.hidden)] if run.spec.hidden else []
    if run.imported & set(summary.cells):
        text_b = "Imported predictions, paired by utterance; how that system was trained and tuned is not known here."
        if run.single & set(summary.cells):
            text_b += (
                " One set of predictions stands in every study: intervals leave out how much that system varies, and "
                "there is no p."
            )
        notes.append(Note(text_b, "b"))
    suffix = f" on {corpus}" if len(run.corpora) > 1 or corpus != "demo" else " on the demo corpus"
    name = "main" if len(run.corpora) == 1 else f"main_{corpus}"
    tested = f"test folds by {run.spec.fold_by}" if run.spec.folds > 1 else "test split"
    return Table(name, f"{run.metric_name()}{suffix}, {tested}", tuple(columns), tuple(rows), tuple(notes))


def _against(
    run: Run, corpus: str, baseline: str, summary: Summary, rows: list[dict[str, Value]], notes: list[Note]
) -> list[Column]:
    """Differences to the declared baseline. p is the declared family's where a contrast was declared."""
    declared = _declared(run, corpus, baseline)
    results = _differences(run, corpus, summary, baseline)
    tests = {cell: r.p if r else None for cell, r in zip(summary.cells, results, strict=True) if cell != baseline}
    size = max(len(tests), run.spec.ever)
    adjusted = dict(zip(tests, holm([*tests.values()], size), strict=True)) if not declared else {}
    halves = [(r.high - r.low) / 2 if r and r.low is not None and r.high is not None else None for r in results]
    decimals = max(summary.decimals, decimals_for(halves, run.scale, most=2))
    for i, (cell, result) in enumerate(zip(summary.cells, results, strict=True)):
        if cell == baseline:
            rows[i]["delta"] = Value("baseline")
        if result is None:
            continue
        shown = difference(result.mean, result.low, result.high, decimals, run.scale)
        rows[i]["delta"], rows[i]["interval"] = shown
        if result.effect is not None:
            rows[i]["g"] = score(result.effect, 2, 1)
        if not declared:
            rows[i]["p"] = p_value(adjusted.get(cell))
        elif cell in declared:
            claim = declared[cell]
            rows[i]["p"] = p_value(claim.adjusted, "c" if claim.contrast.post_hoc else "")
    against = f"Δ: paired difference to the baseline ({run.label(baseline, corpus)}), with its uncorrected t interval; "
    g = "g: Hedges' g of the paired differences." if any("g" in row for row in rows) else ""
    notes.append(Note((against + g).rstrip("; ") + ("" if g else ".")))
    notes += _about_p(run, declared, size, any("p" not in row for row in rows if "interval" in row))
    columns = [Column("delta", delta_heading(run)), Column("interval", f"{run.spec.level * 100:g} % CI")]
    if any("g" in row for row in rows):
        columns.append(Column("g", "g"))
    return [*columns, Column("p", "p")]


def _declared(run: Run, corpus: str, baseline: str) -> dict[str, Claim]:
    """Cell to the declared claim that compares it with the baseline as this table does, whichever side it is on."""
    return {
        next(c for c in claim.contrast.weights if c != baseline): claim
        for claim in run.claims
        if claim.contrast.corpus == corpus
        and claim.contrast.metric == run.spec.metric
        and claim.contrast.condition == "complete"
        and claim.contrast.margin is None
        and claim.contrast.scope == "this test set"
        and len(claim.contrast.weights) == 2
        and abs(claim.contrast.weights.get(baseline, 0)) == 1
    }


def _differences(run: Run, corpus: str, summary: Summary, baseline: str) -> list[Comparison | None]:
    """One a cell, over the studies that it shares with the baseline; none while planned ones have not been run."""
    reference = summary.scores[summary.cells.index(baseline)]
    results: list[Comparison | None] = []
    unfinished = run.unfinished(corpus)
    for cell, scores in zip(summary.cells, summary.scores, strict=True):
        both = ~np.isnan(scores) & ~np.isnan(reference)
        if cell == baseline or not both.any() or {cell, baseline} & unfinished:
            results.append(None)
            continue
        results.append(run.paired(cell, baseline, scores[both], reference[both]))
    return results


def _about_p(run: Run, declared: Mapping[str, Claim], size: int, some_without: bool) -> list[Note]:
    if not declared:
        what = f"all {size} contrasts that were ever declared" if size == run.spec.ever else count(size, "row")
        return [
            Note(
                f"p: paired t test, Holm-adjusted over {what}; no difference to the baseline on this test set is "
                "declared here: exploratory."
            )
        ]
    without = " Rows without p: no such difference to the baseline was declared and tested." if some_without else ""
    notes = [Note(family_sentence(declared.values()) + without)]
    if any(claim.contrast.post_hoc for claim in declared.values()):
        notes.append(Note(post_hoc_sentence(declared.values()), "c"))
    return notes


def corpora_table(run: Run) -> Table | None:
    """Methods by corpora: each corpus on its own, and the joint difference to the baseline by random effects."""
    if len(run.corpora) < 2:
        return None
    names = list(dict.fromkeys(cell for corpus in run.corpora for cell in run.cells(corpus)))
    summaries = {corpus: summarise(run, corpus) for corpus in run.corpora}
    rows: list[dict[str, Value]] = []
    homes = {cell: next(c for c in run.corpora if cell in summaries[c].cells) for cell in names}
    for cell in names:
        rows.append(factor_values(run, homes[cell], cell))
    for corpus, summary in summaries.items():
        same = inseparable(run, summary)
        place = {cell: i for i, cell in enumerate(summary.cells)}
        short, first = short_of(run, corpus, summary), ranked(run, corpus, run.by_study(corpus))
        shown = []
        for cell in names:
            i = place.get(cell)
            if i is None:
                shown.append(score(None, 1, 1))
                continue
            mark = (SAME if same and same[i] else "") + short[i]
            shown.append(score(summary.means[i], summary.decimals, run.scale, summary.halves[i], mark))
        may = [cell in place and first[place[cell]] for cell in names]
        for row, value in zip(rows, emphasise(shown, run.higher_is_better(), may), strict=True):
            row[corpus] = value
    columns = [*factor_columns(run), *(Column(c, c, "spread", unit(run)) for c in run.corpora)]
    notes = [spread_note(run), Note(selection_rule(run))]
    notes.append(
        Note(f"Bold: best mean of a corpus; underlined: second; {SAME}: cannot be separated from the best there.")
    )
    joints = _joint_differences(run, names, summaries)
    if joints:
        halves = [(j.high - j.low) / 2 for j in joints.values()]
        decimals = decimals_for(halves, run.scale)
        for row, cell in zip(rows, names, strict=True):
            if cell in joints:
                j = joints[cell]
                row["delta"], row["interval"] = difference(j.mean, j.low, j.high, decimals, run.scale)
            elif cell in run.baseline.values():
                row["delta"] = Value("baseline")
        columns += [
            Column("delta", delta_heading(run), group="joint"),
            Column("interval", f"{run.spec.level * 100:g} % CI", group="joint"),
        ]  # fmt: skip
        notes.append(
            Note(
                "Joint Δ to the baseline: random effects over corpora (Paule-Mandel, Hartung-Knapp interval), for a "
                "new corpus like these; uncorrected."
            )
        )
    elif run.baseline:
        notes.append(Note(f"No joint estimate: at least {FEWEST_CORPORA} corpora are needed."))
    if any("a" in short_of(run, c, summaries[c]) for c in run.corpora):
        notes.append(Note("Fewer studies than planned; see the accounting.", "a"))
    return Table(
        "corpora", f"{run.metric_name()} of every method on every corpus", tuple(columns), tuple(rows), tuple(notes)
    )


def _joint_differences(run: Run, names: list[str], summaries: dict[str, Summary]) -> dict[str, Joint]:
    found = {}
    for cell in names:
        effects: list[float] = []
        variances: list[float] = []
        for corpus, summary in summaries.items():
            baseline = run.baseline.get(corpus)
            if baseline is None or cell == baseline or cell not in summary.cells:
                continue
            if {cell, baseline} & run.unfinished(corpus):
                effects.clear()
                break
            d = summary.scores[summary.cells.index(cell)] - summary.scores[summary.cells.index(baseline)]
            d = d[~np.isnan(d)]
            if d.size >= 2:
                effects.append(float(d.mean()))
                variances.append(float(d.var(ddof=1)) / d.size)
        joint = random_effects(effects, variances, run.spec.level) if effects else None
        if joint is not None:
            found[cell] = joint
    return found
