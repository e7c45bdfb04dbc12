"""What cells cost, and where all slots of the plan went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments.reporting.numbers import seconds_text
from experiments.reporting.tables.main import factor_columns, factor_values
from experiments.reporting.tables.model import EMPTY, Column, Note, Table, Value, integer, text

if TYPE_CHECKING:
    from experiments.reporting.run import Run

STATUSES = ("complete", "pruned", "diverged", "oom", "failed", "skipped", "missing")


def _seconds(value: Any) -> Value:
    return EMPTY if value is None or pd.isna(value) else Value(seconds_text(float(value)), float(value))


def cost_table(run: Run, corpus: str) -> Table | None:
    """Parameters, device time, memory of a confirmed trial (medians), and all device time that a cell used."""
    t = run.own[run.own["corpus"] == corpus]
    confirm = run.confirm[run.confirm["corpus"] == corpus]
    if "device_s" not in t.columns or t["device_s"].isna().all():
        return None
    medians = confirm.groupby("cell")[["parameters", "device_s", "epochs", "peak_memory_mb"]].median(numeric_only=True)
    totals = t.groupby("cell")[["device_s", "wall_s"]].sum(min_count=1)
    energy = t.groupby("cell")["energy_j"].sum(min_count=1) if "energy_j" in t.columns else None
    counts = t[~t["status"].isin(["missing", "skipped"])].groupby("cell").size()
    rows: list[dict[str, Value]] = []
    for cell in (c for c in run.cells(corpus) if c not in run.imported):
        row = factor_values(run, corpus, cell)
        row["trials"] = integer(int(counts.get(cell, 0)))
        if cell in medians.index:
            m = medians.loc[cell]
            for key in ("parameters", "epochs", "peak_memory_mb"):
                row[key] = EMPTY if pd.isna(m[key]) else integer(round(float(m[key])))
            row["device_s"] = _seconds(m["device_s"])
        if cell in totals.index:
            row["total"] = _seconds(totals.at[cell, "device_s"])
        if energy is not None and cell in energy.index and not pd.isna(energy[cell]):
            row["energy"] = Value(f"{energy[cell] / 3.6e6:.3g}", float(energy[cell]))
        rows.append(row)
    columns = [
        *factor_columns(run), Column("parameters", "parameters", group="a confirmed trial (median)"),
        Column("epochs", "epochs", group="a confirmed trial (median)"),
        Column("device_s", "device time", group="a confirmed trial (median)"),
        Column("peak_memory_mb", "peak memory (MB)", group="a confirmed trial (median)"),
        Column("trials", "trials run", group="all of the cell"),
        Column("total", "device time", group="all of the cell"),
    ]  # fmt: skip
    if any("energy" in row for row in rows):
        columns.append(Column("energy", "energy (kWh)", group="all of the cell"))
    hardware = sorted(str(h) for h in t["hardware"].dropna().unique()) if "hardware" in t.columns else []
    notes = [Note("All of the cell: every trial that was run for it, pruned and failed ones included.")]
    if hardware:
        notes.append(Note(f"Hardware: {'; '.join(hardware)}."))
    if len(hardware) > 1:
        notes.append(Note("Times of different hardware are mixed: compare them with care."))
    if "bundle_size" in t.columns and (t["bundle_size"] > 1).any():
        notes.append(
            Note(
                "Trials that were trained in one step (bundles) count an equal share of its time each, and its whole "
                "peak memory; times of cells that were bundled and of cells that were not do not compare."
            )
        )
    suffix = f"_{corpus}" if len(run.corpora) > 1 else ""
    where = f" on {corpus}" if len(run.corpora) > 1 else ""
    return Table("cost" + suffix, f"Cost{where}", tuple(columns), tuple(rows), tuple(notes))


def accounting_table(run: Run) -> Table:
    """Every planned slot by stage and status, with the device time of each status."""
    t = run.own
    stages = [stage for stage in ("tune", "confirm") if (t["stage"] == stage).any()]
    columns = [Column("status", "status", "text")]
    for stage in stages:
        columns += [Column(f"{stage}_n", "slots", group=stage), Column(f"{stage}_s", "device time", group=stage)]
    columns += [Column("all_n", "slots", group="all"), Column("all_s", "device time", group="all")]
    rows = []
    for status in (*STATUSES, "planned"):
        part = t if status == "planned" else t[t["status"] == status]
        if part.empty:
            continue
        row = {"status": text(status)}
        for stage in (*stages, "all"):
            here = part if stage == "all" else part[part["stage"] == stage]
            row[f"{stage}_n"] = integer(len(here))
            seconds = here["device_s"].sum(min_count=1) if "device_s" in here.columns else None
            row[f"{stage}_s"] = _seconds(None if seconds is None else float(seconds))
        rows.append(row)
    notes = [Note("Every planned slot is in exactly one line. Device time: seconds of all devices that a trial held.")]
    return Table("accounting", "Accounting", tuple(columns), tuple(rows), tuple(notes), (len(rows) - 1,))


def reasons_table(run: Run) -> Table | None:
    """Why slots have no result: one line a status and reason."""
    t = run.own[~run.own["status"].isin(["complete", "pruned"])]
    if t.empty:
        return None
    grouped = t.assign(reason=t["reason"].fillna("–")).groupby(["status", "stage", "reason"], sort=True)
    rows = []
    for (status, stage, reason), part in grouped:
        cells = sorted({run.label(c, k) for c, k in zip(part["cell"], part["corpus"], strict=True)})
        shown = ", ".join(cells[:4]) + (f" and {len(cells) - 4} more" if len(cells) > 4 else "")
        rows.append(
            {
                "status": text(status),
                "stage": text(stage),
                "reason": text(reason),
                "slots": integer(len(part)),
                "cells": text(shown),
            }
        )
    columns = (
        Column("status", "status", "text"), Column("stage", "stage", "text"), Column("reason", "reason", "text"),
        Column("slots", "slots"), Column("cells", "cells", "text"),
    )  # fmt: skip
    return Table("reasons", "Slots without a result, and why", columns, tuple(rows))
