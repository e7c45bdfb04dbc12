"""What a condition is called says what it means: scores and trials of another meaning are never taken for its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.protocol.actions import Unit
from experiments.results.ledger import Ledger
from experiments.schedule.fake import MakeFake
from experiments.schedule.naming import Names
from experiments.schedule.run import execute
from experiments.slots import Slot, Stage
from experiments.space.plan import COMPLETE, Condition, Plan
from mer.data.mask_files import freeze

IDS = ["u0", "u1", "u2"]


def scored_under(plan: Plan, folder: Path, missing: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The scores and predictions of a run whose one condition beside the complete one is called `noisy`; and how many
    trials were trained for it."""
    plan = dataclasses.replace(plan, conditions=(COMPLETE, Condition("noisy", missing)))
    done = execute(plan, Ledger(str(folder)), executor="inline", make_work=MakeFake(utterances=2), progress=False)
    assert done.exit_code == 0
    out = folder / plan.folder
    files = [out / "scores.parquet", *sorted((out / "predictions").glob("[!_]*.parquet"))]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert {row["condition"] for row in rows} == {"complete", "noisy"}
    return rows, sum(done.done.values())


def masks(folder: Path, seed: int) -> dict[str, Any]:
    there = np.random.default_rng(seed).integers(0, 2, (len(IDS), 2)).astype(bool)
    there[~there.any(1)] = True
    freeze(folder / "masks.json", IDS, ["audio", "text"], there)
    return {"protocol": "file", "file": "masks.json"}


def at_rate(folder: Path, number: int) -> dict[str, Any]:
    return {"protocol": "random", "rate": 0.2 * (number + 1)}


def from_outside(folder: Path, number: int) -> dict[str, Any]:
    (folder / "lost_somehow.py").write_text(f"def lost(config, ids, modalities, seed):\n    return {number}\n")
    return {"protocol": "lost_somehow:lost"}


@pytest.mark.parametrize("meaning", [at_rate, masks, from_outside])
def test_a_condition_that_means_something_else_is_scored_anew(
    meaning: Callable[[Path, int], dict[str, Any]],
    small_plan: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = small_plan(cells=1, studies=1, draws=1)
    ref = dataclasses.replace(plan.corpora["demo"], folder=tmp_path)
    plan = dataclasses.replace(plan, corpora={"demo": ref})
    first, _ = scored_under(plan, tmp_path / "results", meaning(tmp_path, 0))
    second, trained = scored_under(plan, tmp_path / "results", meaning(tmp_path, 1))
    fresh, _ = scored_under(plan, tmp_path / "fresh", meaning(tmp_path, 1))
    assert (trained, second) == (1, fresh)
    assert second != first
    assert scored_under(plan, tmp_path / "results", meaning(tmp_path, 0)) == (first, 0)


@pytest.mark.parametrize("when", ["train", "valid"])
def test_another_file_of_masks_makes_other_trials(when: str, small_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = small_plan(cells=1, studies=1)
    (cell,) = plan.cells
    ref = dataclasses.replace(plan.corpora["demo"], folder=tmp_path)
    slot = Slot("demo", cell.name, 0, 0, Stage.TUNE, 0)

    def trial(number: int) -> str:
        missing = {when: masks(tmp_path, number)}
        changed = dataclasses.replace(cell, recipe={**cell.recipe, "missing": missing})
        names = Names(dataclasses.replace(plan, cells=(changed,), corpora={"demo": ref}))
        return names.trial(slot, Unit((slot,), ({},), ()))

    assert trial(0) == trial(0) != trial(1)
