"""Every table of a report: one model, written as LaTeX, Markdown, CSV and HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.reporting.tables.ablation import ablation_tables, effects_table
from experiments.reporting.tables.claims import claims_table
from experiments.reporting.tables.classes import classes_table
from experiments.reporting.tables.conditions import conditions_table
from experiments.reporting.tables.cost import accounting_table, cost_table, reasons_table
from experiments.reporting.tables.main import corpora_table, main_table
from experiments.reporting.tables.patterns import metrics_table
from experiments.reporting.tables.search import boundaries_table, pruning_table
from experiments.reporting.wording import cautions

if TYPE_CHECKING:
    from experiments.reporting.run import Run
    from experiments.reporting.tables.model import Table


def tables_of(run: Run) -> list[Table]:
    """In the order of the report; what a run has no data for is left out."""
    found: list[Table | None] = [accounting_table(run), reasons_table(run), claims_table(run), corpora_table(run)]
    for corpus in run.corpora:
        found.append(main_table(run, corpus))
        found += ablation_tables(run, corpus)
        found.append(effects_table(run, corpus))
        found += [conditions_table(run, corpus), metrics_table(run, corpus)]
        found.append(classes_table(run, corpus))
        found.append(cost_table(run, corpus))
    found += [boundaries_table(run), pruning_table(run)]
    lines = cautions(run)
    return [table.with_cautions(lines) for table in found if table is not None]
