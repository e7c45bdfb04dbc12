"""A plan of any size whose trials nobody trains: 20 cells, 24 draws and a confirm trial each in every study."""

from __future__ import annotations

from pathlib import Path

from experiments.slots import Cell
from experiments.space.hyper import Hyper
from experiments.space.plan import CorpusRef, Plan, Tuning

CELLS, DRAWS = 20, 24


def made_up_plan(space: str, studies: int, epochs: int, tuning: Tuning) -> Plan:
    cells = tuple(
        Cell(
            "demo",
            f"fusion=f{number}",
            {"fusion": f"f{number}"},
            {"encoders": {"text": {"name": "words"}}, "training": {"epochs": epochs}, "replica": number},
            tuning=f"t{number}",
        )
        for number in range(CELLS)
    )
    hypers = (Hyper("optimizer.lr", "loguniform", 1e-4, 1e-2), Hyper("projection.dropout", "uniform", 0.0, 0.5))
    return Plan(
        space=space,
        cells=cells,
        corpora={"demo": CorpusRef("demo", Path("demo"), "0" * 32, ("text",), True, True)},
        studies=studies,
        tuning=tuning,
        hypers={("demo", cell.name): hypers for cell in cells},
        factors={"fusion": tuple(cell.levels["fusion"] for cell in cells)},
    )
