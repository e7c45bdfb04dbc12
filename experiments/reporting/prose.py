"""The paragraph "Experimental protocol" and the checklist answers, from what was really run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from experiments.reporting.numbers import count, seconds_text
from experiments.reporting.searching import unequal
from experiments.reporting.statistics.levels import FEWEST_UNITS
from experiments.reporting.tables.latex import escape
from experiments.reporting.tables.main import summarise
from experiments.reporting.wording import (
    cautions,
    listed,
    post_hoc_sentence,
    selection_rule,
    tests_of,
    training_sentences,
    what_varies,
)
from mer.names import MASKS

if TYPE_CHECKING:
    from experiments.reporting.run import Run


def _space(run: Run) -> str:
    cells = {corpus: len(run.chosen(corpus)) for corpus in run.corpora}
    factors = listed(
        f"{f.rsplit('.', 1)[-1].replace('_', ' ')} ({count(len(run.levels(f)), 'level')})" for f in run.factors
    )
    compared = f" that differ in {factors}" if factors else ""
    where = listed(run.corpora)
    sizes = sorted(set(cells.values()))
    number = count(sizes[0], "cell") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} cells"
    corpora = f" on each of {len(run.corpora)} corpora ({where})" if len(run.corpora) > 1 else f" on {where}"
    out = sum(corpus in run.corpora for corpus, _ in run.spec.excluded)
    rules = listed(dict.fromkeys(run.spec.excluded.values()))
    left_out = f" {count(out, 'cell')} left out by declaration: {rules}." if out else ""
    return f"We compare {number}{compared}{corpora}.{left_out}"


def _studies(run: Run) -> str:
    t = run.own
    planned = t.loc[t["stage"] == "confirm", "study"].nunique()
    done = run.confirm.loc[~run.confirm["cell"].isin(run.imported), "study"].nunique()
    many = count(done, "independent study", "independent studies")
    many += f" of {planned} that are planned" if done < planned else ""
    folds = f" and {run.spec.folds} test folds by {run.spec.fold_by}" if run.spec.folds > 1 else ""
    return (
        f"The whole experiment is repeated in {many}{folds}; "
        f"studies differ in {what_varies(run)}, which within a study are the same for all cells, so that comparisons "
        "are paired."
    )


def _pruning(run: Run) -> str:
    t = run.own
    tune = t[t["stage"] == "tune"]
    pruned = int((tune["status"] == "pruned").sum())
    if not len(tune):
        return ""
    if not pruned:
        return "No draw was pruned."
    grace, eta = run.spec.tuning.get("grace"), run.spec.tuning.get("eta")
    rule = f" (successive halving, first judgement after {grace} epochs, factor {eta:g})" if grace and eta else ""
    return (
        f"Draws were pruned against earlier draws of their own cell only{rule}: {pruned} of {len(tune)} draws ended "
        "early. "
        "Pruned and tuning trials enter no reported mean."
    )


def _tests(run: Run) -> str:
    claims = run.claims
    level = f"{run.spec.level * 100:g} %"
    if not claims:
        undeclared = "This space declares no contrast: tests are exploratory"
        return f"{undeclared}; intervals are {level} t intervals over studies."
    declared = [c for c in claims if not c.contrast.post_hoc]
    families = {c.contrast.family: c.family for c in declared}
    sizes = listed(f"{name} ({size})" for name, size in families.items())
    what = (
        f"{count(next(iter(families.values())), 'contrast')} declared before the first test score"
        if len(families) == 1
        else f"families declared before the first test score: {sizes}"
    )
    text = (
        (
            f"Decisive test: {tests_of(declared)}; α = {run.spec.alpha:g}, Holm-adjusted over {what}; intervals are "
            f"{level} "
            "Student's t intervals of the paired differences."
        )
        if declared
        else f"All contrasts are post hoc. {post_hoc_sentence(claims)}"
    )
    scopes = sorted({c.scope for c in claims} - {"this test set"})
    if scopes:
        text += f" Claims for {listed(scopes)} use intervals over both sources of variation."
    else:
        text += " Claims are about this test set."
    post = len(claims) - len(declared)
    if post and declared:
        text += f" {count(post, 'contrast')} declared later {'is' if post == 1 else 'are'} marked post hoc."
        text += f" {post_hoc_sentence(claims)}"
    return text


def _wanted(run: Run) -> pd.DataFrame:
    """The confirm slots that were to be run: what a rule of the space leaves out is not missing."""
    t = run.own[run.own["stage"] == "confirm"]
    return t[[key not in run.spec.excluded for key in zip(t["corpus"], t["cell"], strict=True)]]


def _lost(run: Run) -> str:
    confirm = _wanted(run)
    bad = confirm[~confirm["status"].isin(["complete"])]
    if bad.empty:
        return f"All {len(confirm)} planned confirm trials completed."
    parts = listed(f"{n} {status}" for status, n in bad["status"].value_counts(sort=False).sort_index().items())
    have = "has" if len(bad) == 1 else "have"
    return f"Of {len(confirm)} planned confirm trials, {len(bad)} {have} no result ({parts}); see the accounting."


def protocol(run: Run) -> str:
    """The paragraph, as plain text."""
    parts = [
        _space(run), _studies(run), selection_rule(run), *training_sentences(run), _pruning(run), _tests(run),
        _lost(run), run.spec.hidden, run.spec.others, *cautions(run),
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def compute(run: Run) -> str:
    """The answer about compute resources, failed and pruned trials included."""
    t = run.own
    parts = []
    hardware = sorted(str(h) for h in t["hardware"].dropna().unique()) if "hardware" in t.columns else []
    if hardware:
        parts.append(f"Hardware: {'; '.join(hardware)}.")
    if "device_s" in t.columns and t["device_s"].notna().any():
        by = t.groupby("status")["device_s"].sum()
        total = float(by.sum())
        wasted = {s: float(by[s]) for s in ("pruned", "diverged", "oom", "failed") if by.get(s, 0) > 0}
        share = listed(f"{seconds_text(v)} {s}" for s, v in wasted.items())
        parts.append(
            f"Total device time {seconds_text(total)} over {int(t['device_s'].notna().sum())} trials"
            + (f", of which {share}" if wasted else "")
            + "; it includes all tuning, not only the reported trials."
        )
        confirm = run.confirm["device_s"].dropna()
        if len(confirm):
            parts.append(f"A reported trial takes {seconds_text(float(confirm.median()))} of device time (median).")
    if "peak_memory_mb" in t.columns and t["peak_memory_mb"].notna().any():
        parts.append(f"Peak memory of a trial: {t['peak_memory_mb'].max():.0f} MB.")
    if "energy_j" in t.columns and t["energy_j"].notna().any():
        parts.append(f"Measured energy: {t['energy_j'].sum() / 3.6e6:.3g} kWh.")
    return " ".join(parts) or "Cost was not recorded."


def _beyond_range(run: Run) -> str:
    """Whether a symmetric interval leaves the range of a score."""
    if run.scale != 100:
        return ""
    beyond = 0
    for corpus in run.corpora:
        summary = summarise(run, corpus)
        known = [(m, h) for m, h in zip(summary.means, summary.halves, strict=True) if m is not None and h is not None]
        beyond += sum(m - h < 0 or m + h > 1 for m, h in known)
    if not beyond:
        return " and stay within the range of the metric"
    leave = "1 interval leaves" if beyond == 1 else f"{beyond} intervals leave"
    return f"; {leave} the range of the metric and should be read as cut off there"


def checklist(run: Run) -> list[tuple[str, str]]:
    """NeurIPS checklist: (question, answer) about statistical significance and compute."""
    level = f"{run.spec.level * 100:g} %"
    n = run.own.loc[run.own["stage"] == "confirm", "study"].nunique()
    bars = (
        f"Yes. Error bars are {level} Student's t intervals of the mean over {count(n, 'study', 'studies')} (not "
        f"standard deviations or standard errors). They capture {what_varies(run)}. They assume approximately "
        f"normal study means; they are symmetric{_beyond_range(run)}. Differences between cells are paired by "
        "study and reported with their own intervals."
    )
    refused = [c for c in run.claims if c.verdict == "refused"]
    scope = (
        "Intervals over studies describe this test set. For new dialogues or speakers two-level intervals are given "
        f"where none of the test set's was trained on and they weigh as much as {FEWEST_UNITS} equal ones."
        + (f" {count(len(refused), 'claim')} refused, with the reason." if refused else "")
    )
    return [
        ("Experiment statistical significance: error bars", bars),
        ("Experiment statistical significance: tests", _tests(run)),
        ("Experiment statistical significance: scope", scope),
        ("Experiments compute resources", compute(run)),
    ]


def as_text(run: Run) -> str:
    lines = ["Experimental protocol", "", protocol(run), "", "NeurIPS checklist", ""]
    for question, answer in checklist(run):
        lines += [f"{question}.", answer, ""]
    return "\n".join(lines)


def as_latex(run: Run) -> str:
    """A fragment to `\\input`."""
    lines = [
        "\\paragraph{Experimental protocol.}",
        escape(protocol(run)),
        "",
        "\\paragraph{Checklist.}",
        "\\begin{description}",
    ]
    lines += [f"\\item[{escape(question)}.] {escape(answer)}" for question, answer in checklist(run)]
    return "\n".join([*lines, "\\end{description}", ""])


def warnings(run: Run) -> list[str]:
    """What a reader must know before the first number."""
    found = cautions(run)
    t = run.own
    counts = t["status"].value_counts()
    confirm = _wanted(run)
    gaps = confirm[confirm["status"] != "complete"]
    if len(gaps):
        cells = sorted({run.label(c, k) for c, k in zip(gaps["cell"], gaps["corpus"], strict=True)})
        shown = ", ".join(cells[:6]) + (f" and {len(cells) - 6} more" if len(cells) > 6 else "")
        found.append(f"Incomplete: {len(gaps)} of {len(confirm)} confirm slots without a result ({shown}).")
    if counts.get("missing", 0):
        found.append(f"{counts['missing']} planned slots have not been run; the same command continues the run.")
    ran = t[t["trial"].notna()] if "trial" in t.columns else t
    for column, what in (
        ("hardware", "hardware"),
        ("commit", "git commits"),
        ("versions", "package versions"),
        ("code", "code digests"),
    ):
        if column in ran.columns:
            values = ran[column].dropna()
            mixed = values.nunique() > 1 if column != "code" else _mixed_code(run, ran)
            if mixed:
                found.append(f"Different {what} are mixed in one table: {listed(_shown(values))}.")
    if "dirty" in ran.columns and ran["dirty"].fillna(False).astype(bool).any():
        found.append("Some trials ran from a working tree with uncommitted changes.")
    data = (
        ran["data"].str.partition(MASKS)[0].groupby(ran["corpus"]).nunique()
        if "data" in ran.columns and run.spec.folds == 1 and not run.spec.resplit
        else pd.Series(dtype=int)
    )
    found += [f"Trials of corpus {c} used different data (by digest)." for c, n in data.items() if n > 1]
    found += unequal(run) + _same_models(run)
    if run.spec.folds == 1:
        corpora = run.spec.document.get("corpora") or {}
        found += [f"{c}, {text}." for c in run.corpora for text in (corpora.get(c) or {}).get("caveats") or ()]
    found += [line for line in (run.spec.hidden, run.spec.others) if line]
    return found + [n for n in run.spec.notices if n not in found]


def _same_models(run: Run) -> list[str]:
    """Cells that learned the same numbers, epoch by epoch in every study: a level that does nothing beside another."""
    done = run.confirm[~run.confirm["cell"].isin(run.imported)]
    epochs = run.epochs[run.epochs["trial"].isin(done["trial"])].sort_values(["split", "metric", "epoch"])
    curves = epochs.groupby("trial")["value"].agg(tuple)
    done = done.assign(curve=done["trial"].map(curves)).dropna(subset="curve").sort_values(["study", "fold"])
    found: list[str] = []
    for corpus, here in done.groupby("corpus", sort=False):
        alike: dict[tuple[object, ...], list[str]] = {}
        for cell, own in here.groupby("cell", sort=False):
            curves_of = tuple(zip(own["study"], own["fold"], own["curve"], strict=True))
            alike.setdefault(curves_of, []).append(run.label(str(cell), str(corpus)))
        found += [
            f"{listed(names)} are the same model: what tells them apart changes nothing here, and averages over them "
            "are diluted."
            for names in alike.values()
            if len(names) > 1
        ]
    return found


def _mixed_code(run: Run, ran: pd.DataFrame) -> bool:
    """Whether trials that run the same source have different digests of it. A digest covers what a recipe imports: that
    of its cell's levels, of levels that a draw chooses, and the bundle's where several are trained in one step."""
    named = {h.name for hypers in run.spec.tuned.values() for h in hypers if h.name in ran.columns}
    chosen = [name for name in sorted(named) if ran[name].dtype == object]
    bundled = ran["bundle"].notna() if "bundle" in ran.columns else pd.Series(False, index=ran.index)
    same = ran.assign(_bundled=bundled).groupby(["corpus", "cell", "_bundled", *chosen], dropna=False)
    return bool((same["code"].nunique() > 1).any())


def _shown(values: pd.Series) -> list[str]:
    names = sorted({str(v) for v in values})
    return [*names[:4], *([f"{len(names) - 4} more"] if len(names) > 4 else [])]


def provenance(run: Run) -> list[tuple[str, str]]:
    """What was run, with what, where."""
    t = run.own
    found = [("Space", run.spec.name)]
    if run.spec.description:
        found.append(("Description", run.spec.description.strip()))
    names = {
        "commit": "Git commit", "versions": "Packages", "hardware": "Hardware", "host": "Hosts",
        "data": "Data digests", "code": "Code digests",
    }  # fmt: skip
    for column, name in names.items():
        if column in t.columns and t[column].notna().any():
            found.append((name, listed(_shown(t[column].dropna()))))
    for column, name, pick in (("started", "First trial started", "min"), ("ended", "Last trial ended", "max")):
        if column in t.columns and t[column].notna().any():
            found.append((name, getattr(t[column], pick)().strftime("%Y-%m-%d %H:%M:%S UTC")))
    return found
