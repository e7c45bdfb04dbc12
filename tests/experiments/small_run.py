"""A small plan whose trials are fake (known curves, no torch), and the tables of its runs as values to compare."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from experiments.slots import Cell
from experiments.space.hyper import Hyper
from experiments.space.plan import Condition, CorpusRef, Plan, Tuning

VOLATILE = {
    "wall_s", "device_s", "energy_j", "peak_memory_mb", "started", "ended", "attempt", "host", "dirty", "commit",
}  # fmt: skip
"""What a clock or a machine decides."""


def make_plan(cells: int = 3, studies: int = 2, draws: int = 4, epochs: int = 9, **changes: Any) -> Plan:
    found = tuple(
        Cell(
            "demo",
            f"fusion=f{number}",
            {"fusion": f"f{number}"},
            {"encoders": {"audio": {"name": "features"}}, "training": {"epochs": epochs}, "replica": number},
            tuning=f"t{number}",
        )
        for number in range(cells)
    )
    hypers = (Hyper(path="optimizer.lr", kind="loguniform", low=1e-4, high=1e-2),)
    settings: dict[str, Any] = {
        "space": "small",
        "cells": found,
        "corpora": {"demo": CorpusRef("demo", Path("demo"), "f00d", ("audio",), False, True, {"train": 10})},
        "studies": studies,
        "tuning": Tuning(draws=draws, grace=1),
        "hypers": {("demo", cell.name): hypers for cell in found},
        "factors": {"fusion": tuple(f"f{number}" for number in range(cells))},
        "conditions": (Condition("complete"), Condition("half", {"protocol": "random", "rate": 0.5})),
    }
    return Plan(**{**settings, **changes})


def tables(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The tables in a run's folder without what is measured by a clock."""
    found = {}
    for name in ("trials", "epochs", "scores", "decisions"):
        rows = pq.read_table(io.BytesIO((out / f"{name}.parquet").read_bytes())).to_pylist()
        found[name] = [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]
    for file in sorted((out / "predictions").glob("[!_]*.parquet")):
        found[file.name] = pq.read_table(io.BytesIO(file.read_bytes())).to_pylist()
    return found
