"""Sentences that footnotes and paragraphs share, made from what was run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from experiments.reporting.numbers import count
from experiments.reporting.searching import Ran, between, ran
from experiments.reporting.statistics.paired import TESTS

if TYPE_CHECKING:
    from experiments.reporting.claims import Claim
    from experiments.reporting.run import Run


def listed(items: Iterable[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    found = list(items)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} {last} {found[-1]}" if found else ""


def what_varies(run: Run) -> str:
    """What differs between studies, and is the same for every cell of one."""
    parts = ["initialisation", "data order"]
    if len(run.conditions) > 1 or any("missing" in name for name in run.spec.factors):
        parts.append("missing-modality masks")
    if run.draws_each:
        parts.append("the hyperparameter draws" if not run.spec.tuning.get("once") else "")
    if run.spec.resplit:
        parts.append("the train/validation split")
    return listed(part for part in parts if part)


def interval_name(run: Run) -> str:
    return f"{run.spec.level * 100:g} % Student's t interval over studies"


def selection_rule(run: Run) -> str:
    """How the number in the table came to be, by what was run."""
    if run.confirm.empty:
        return "No model has been scored on test yet."
    metric = run.metric_name()
    epoch = f"the epoch with the best validation {metric}"
    counts = {ran(run, corpus, cell).draws for corpus in run.corpora for cell in run.chosen(corpus)}
    if not any(high for _, high in counts):
        when = "once, in the first study" if run.spec.tuning.get("once") else "once in each study"
        values = f"drawn {when}, without selection" if any(run.spec.tuned.values()) else "fixed beforehand"
        return f"Hyperparameters were {values}; test scores are of {epoch}, scored once."
    where = "in every cell, study and fold" if run.spec.folds > 1 else "in every cell and study"
    where = "once, in the first study" if run.spec.tuning.get("once") else where
    sampler = {"sobol": "scrambled Sobol", "random": "random", "tpe": "TPE"}.get(
        str(run.spec.tuning.get("sampler", "sobol")), str(run.spec.tuning.get("sampler"))
    )
    draws = between((min(low for low, _ in counts), max(high for _, high in counts)))
    return (
        f"Hyperparameters were chosen by validation {metric} among {draws} {sampler} draws {where}; the "
        f"winner was retrained at full budget and its test score, at {epoch}, taken once."
    )


def by_cell(run: Run, of: Callable[[Ran], str | None]) -> str:
    """One text for all cells, or `A and B: one; C: another`; empty where nothing is known."""
    groups: dict[str, list[str]] = {}
    for corpus in run.corpora:
        for cell in run.chosen(corpus):
            found = of(ran(run, corpus, cell))
            if found:
                label = run.label(cell, corpus) + (f" on {corpus}" if len(run.corpora) > 1 else "")
                groups.setdefault(found, []).append(label)
    if len(groups) == 1:
        return next(iter(groups))
    shown = (f"{listed([*names[:6], *(['others'] if len(names) > 6 else [])])}: {x}" for x, names in groups.items())
    return "; ".join(shown)


def training_sentences(run: Run) -> list[str]:
    """Ranges and epochs as they were, by cell where cells differ."""
    ranges = by_cell(run, lambda one: ", ".join(f"{path} {text}" for path, text in one.ranges.items()) or None)
    epochs = by_cell(run, lambda one: between(one.epochs) if one.epochs else None)
    found = [f"Tuned: {ranges}."] if ranges else []
    return [*found, f"Epochs of the confirmed trials: {epochs}."] if epochs else found


def tests_of(claims: Iterable[Claim]) -> str:
    """The tests that decide some claims: an equivalence, and what is claimed beyond this test set, has its own."""
    contrasts = [claim.contrast for claim in claims]
    here = [c for c in contrasts if c.scope == "this test set"]
    plain = listed(sorted({TESTS[c.test] for c in here if c.margin is None}))
    found = [f"{plain}, two-sided"] if plain else []
    if any(c.margin is not None for c in here):
        found.append("two one-sided t tests where a margin is given")
    if beyond := listed(sorted({c.scope for c in contrasts} - {"this test set"})):
        found.append(f"that of the interval for {beyond}, two-sided")
    return "; ".join(found)


def family_sentence(claims: Iterable[Claim]) -> str:
    """The declared family and its test."""
    declared = [c for c in claims if not c.contrast.post_hoc]
    if not declared:
        return "No contrast here was declared before the first test score."
    tests = tests_of(declared)
    sizes = {c.contrast.family: c.family for c in declared}
    if len(sizes) == 1:
        [size] = sizes.values()
        return f"p: {tests}; Holm-adjusted over the {count(size, 'declared contrast')}."
    parts = listed(f"{name} ({size})" for name, size in sizes.items())
    return f"p: {tests}; Holm-adjusted within each declared family: {parts}."


def post_hoc_sentence(claims: Iterable[Claim]) -> str:
    """What the mark of a post hoc contrast means, and for how many its p is corrected."""
    late = [claim for claim in claims if claim.contrast.post_hoc]
    sizes = listed(str(size) for size in sorted({claim.family for claim in late}))
    return (
        f"Post hoc: declared or changed after the first confirm result; p: {tests_of(late)}; Holm-adjusted over all "
        f"{sizes} that were ever declared."
    )


def cautions(run: Run) -> list[str]:
    """What must stand beside every number: synthetic data, random weights, what was done after a look."""
    found = []
    confirm = run.confirm[~run.confirm["cell"].isin(run.imported)]
    for column, text in (
        ("synthetic", "Synthetic data: these numbers say nothing about real speech."),
        ("random_weights", "Encoders with random weights (tiny or scratch): not the pretrained models of these names."),
    ):
        if column in confirm.columns:
            marked = confirm[column].fillna(False).astype(bool)
            if marked.all() and len(marked):
                found.append(text)
            elif marked.any():
                which = "corpus" if column == "synthetic" else "cell"
                names = sorted(set(confirm.loc[marked, which]))
                shown = [n if which == "corpus" else run.label(n, corpus_of(run, n)) for n in names]
                found.append(f"{text} Here: {listed(shown[:8])}{' and others' if len(shown) > 8 else ''}.")
    if run.spec.tuning.get("once"):
        found.append("Given these hyperparameters: they were tuned once, in the first study.")
    if run.second_look():
        found.append("Second look: studies or draws were added after the first test score had been seen.")
    if run.spec.marks:
        found.append(f"Changed after the first results: {'; '.join(run.spec.marks)}.")
    if run.spec.metric_post_hoc:
        found.append("Post hoc: the metric was declared or changed after the first confirm result.")
    return found


def corpus_of(run: Run, cell: str) -> str:
    """A corpus that has a cell."""
    return next((c for c in run.corpora if cell in run.cells(c)), run.corpora[0])
