"""The search in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.reporting.numbers import number
from experiments.reporting.searching import EDGE, boundaries, pruning_effect
from experiments.reporting.tables.model import Column, Note, Table, Value, integer, text

if TYPE_CHECKING:
    from experiments.reporting.run import Run


def boundaries_table(run: Run) -> Table | None:
    """Winners at the edge of a range: the range should perhaps be wider."""
    found = boundaries(run)
    if not found:
        return None
    rows = [
        {
            "name": text(b.name),
            "range": text(f"{b.range[0]:g} to {b.range[1]:g}"),
            "low": integer(b.low),
            "high": integer(b.high),
            "winners": integer(b.winners),
            "share": Value(f"{100 * (b.low + b.high) / b.winners:.0f}", (b.low + b.high) / b.winners),
        }
        for b in found
    ]
    columns = (
        Column("name", "hyperparameter", "text"), Column("range", "range", "text"), Column("low", "at low end"),
        Column("high", "at high end"), Column("winners", "winners"), Column("share", "% at an end"),
    )  # fmt: skip
    note = Note(
        f"At an end: within the outer {EDGE * 100:g} % of the range on its own scale; by chance {2 * EDGE * 100:g} %."
    )
    return Table("boundaries", "Winners at the boundary of their range", columns, tuple(rows), (note,))


def pruning_table(run: Run) -> Table | None:
    effect = pruning_effect(run)
    if effect is None:
        return None
    lines = [
        ("tune-stage epochs saved", "–" if effect.saved is None else f"{100 * effect.saved:.0f} %", effect.saved),
        ("draws exempt from pruning that were judged", str(effect.exempt), effect.exempt),
        ("of these, would have been pruned", str(effect.condemned), effect.condemned),
        ("of these, ended at least as good as the winner", str(effect.regretted), effect.regretted),
        (
            "rank correlation of first rung and final value (Kendall's τ)",
            number(effect.correlation, 2),
            effect.correlation,
        ),
    ]
    rows = tuple({"what": text(name), "value": Value(shown, raw)} for name, shown, raw in lines)
    columns = (Column("what", "quantity", "text"), Column("value", "value"))
    return Table(
        "pruning", "What pruning did", columns, rows, (Note("Measured on the draws that were exempt from pruning."),)
    )
