"""A small plan whose trials are fake: known curves, no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.slots import Cell
from experiments.space.hyper import Hyper
from experiments.space.plan import Condition, CorpusRef, Plan, Tuning

MakePlan = Callable[..., Plan]


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


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sync is for cannot be seen by a test that does not cut the power; it takes most of the time."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are named by the project's source, too, which may be edited while a test runs."""
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")


@pytest.fixture
def small_plan() -> MakePlan:
    return make_plan
