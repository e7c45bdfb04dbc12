"""Every declared contrast as a line: difference, interval, p, adjusted p, verdict, scope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.reporting.numbers import decimals_for, points
from experiments.reporting.statistics.paired import TESTS
from experiments.reporting.tables.main import delta_heading
from experiments.reporting.tables.model import Column, Note, Table, Value, difference, integer, p_value, score, text
from experiments.reporting.wording import family_sentence, post_hoc_sentence

if TYPE_CHECKING:
    from experiments.reporting.run import Run

VERDICTS = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "undecided": "cannot be told apart",
    "undecidable": "not decidable",
    "untested": "not tested",
    "refused": "refused",
    "withheld": "withheld",
}


def claims_table(run: Run) -> Table | None:
    if not run.claims:
        return None
    intervals = [c.interval for c in run.claims]
    halves = [(s.high - s.low) / 2 if s and s.low is not None and s.high is not None else None for s in intervals]
    decimals = decimals_for(halves, run.scale, most=2)
    shown_for = {
        key: len({getattr(c.contrast, key) for c in run.claims}) > 1
        for key in ("corpus", "condition", "metric", "test", "scope", "family")
    }
    rows: list[dict[str, Value]] = []
    for claim, scope in zip(run.claims, intervals, strict=True):
        c = claim.comparison
        first, second = claim.sides
        mark = "c" if claim.contrast.post_hoc else ""
        row = {
            "contrast": text(f"{first} – {second}" if first and second else claim.contrast.name, mark),
            "corpus": text(" + ".join(claim.corpora)), "condition": text(claim.contrast.condition),
            "metric": text(run.metric_name(claim.contrast.metric)), "test": text(TESTS[claim.contrast.test]),
            "scope": text(claim.contrast.scope), "family": text(claim.contrast.family),
        }  # fmt: skip
        if c is not None:
            if scope is not None:
                row["delta"], row["interval"] = difference(scope.mean, scope.low, scope.high, decimals, run.scale)
            row["n"] = integer(c.n)
            row["g"] = score(c.effect, 2, 1)
            row["better"] = score(c.better, 2, 1)
            row["mde"] = score(c.detectable, decimals, run.scale)
            row["p"] = p_value(claim.p)
            row["holm"] = p_value(claim.adjusted)
        verdict = VERDICTS[claim.verdict]
        if claim.contrast.margin is not None:
            verdict += f" (margin {points(claim.contrast.margin, run.scale)})"
        row["verdict"] = text(verdict)
        rows.append(row)
    heads = {
        "corpus": "corpus",
        "condition": "condition",
        "metric": "metric",
        "test": "test",
        "scope": "scope",
        "family": "family",
    }
    columns = [Column("contrast", "contrast", "text")]
    columns += [Column(key, head, "text") for key, head in heads.items() if shown_for[key]]
    columns += [
        Column("delta", delta_heading(run)), Column("interval", f"{run.spec.level * 100:g} % CI"), Column("n", "n"),
        Column("g", "g"), Column("better", "P(A>B)"), Column("mde", delta_heading(run, "MDE")), Column("p", "p"),
        Column("holm", "Holm p"), Column("verdict", "verdict", "text"),
    ]  # fmt: skip
    notes = [
        Note(family_sentence(run.claims)),
        Note(
            "Intervals are uncorrected. g: Hedges' g of the paired differences; P(A>B): share of studies in which the "
            "first was better. MDE: smallest true difference that a t test at the family's strictest step finds with "
            "80 % power if studies vary as they did here."
        ),
    ]
    if any(c.contrast.post_hoc for c in run.claims):
        notes.append(Note(post_hoc_sentence(run.claims), "c"))
    if any(c.comparison is not None and c.comparison.constant and c.comparison.mean for c in run.claims):
        notes.append(Note("Where the difference was the same in every study, p is what their signs alone can tell."))
    return Table("claims", "Declared contrasts", tuple(columns), tuple(rows), tuple(notes))
