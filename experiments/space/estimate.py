"""What a plan costs before it is run: epochs, time, disk, money."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from experiments.protocol.asha import Race
from experiments.slots import Cell, Slot, Stage, Status
from experiments.space.plan import Plan

LEDGER_BYTES = 12_000
"""One trial's record with its epochs, compressed."""

PREDICTION_BYTES = 60
"""One utterance under one condition, compressed."""


@dataclass(frozen=True)
class CellCost:
    """What was measured of a cell's architecture: seconds per epoch, trained parameters, peak memory."""

    epoch_seconds: float
    parameters: int = 0
    peak_mb: float = 0.0


Timings = Mapping[tuple[str, str], CellCost]
"""(corpus, cell) to its cost."""


@dataclass(frozen=True)
class Estimate:
    """`epochs` and `seconds` of device time per stage; `seconds` are None where nothing was timed."""

    epochs: Mapping[Stage, float]
    seconds: Mapping[Stage, float] | None
    disk_bytes: float
    peak_mb: float

    @property
    def total_seconds(self) -> float | None:
        return None if self.seconds is None else sum(self.seconds.values())


@functools.lru_cache(maxsize=1024)
def expected_epochs(draws: int, epochs: int, rungs: tuple[int, ...], eta: float, exempt: float) -> float:
    """Expected tune-stage epochs of one group, all its draws together.

    Measured on the real race with made-up values, so that it cannot drift from what is run. A draw's value at a rung is
    its own plus as much again by chance (a correlation of 0.5 between rungs).
    """
    if not rungs:
        return float(draws * epochs)
    source, total, repeats = random.Random(0), 0, 60
    slots = [Slot("", "", 0, 0, Stage.TUNE, draw) for draw in range(draws)]
    for _ in range(repeats):
        phase = source.random()
        free = [int((draw + 1) * exempt + phase) > int(draw * exempt + phase) for draw in range(draws)]
        race = Race(slots, free, rungs, eta, 1.0)
        for number in range(draws):
            own, curve = source.random(), [0.0] * epochs
            for rung in rungs:  # later rungs stand higher, so that the best value so far is the one at the rung
                curve[rung - 1] = 10.0 * rung + own + source.random()
            race.report(number, curve, Status.COMPLETE)
            draw = race.draws[number]
            total += draw.judged[-1].rung if draw.final is Status.PRUNED else epochs
    return total / repeats


def estimate(plan: Plan, timings: Timings | None = None, done: Collection[Slot] = ()) -> Estimate:
    """Cost of what is left of a plan. Pruning is expected as `expected_epochs` says; failures are not."""
    finished = set(done)
    left = {stage: list[tuple[Cell, float]]() for stage in Stage}
    for cell in plan.cells:
        if cell.skip is not None:
            continue
        studies = range(plan.studies)
        own = [Slot(cell.corpus, cell.name, s, f, Stage.CONFIRM) for s in studies for f in range(plan.folds.count)]
        left[Stage.CONFIRM].append((cell, plan.epochs(cell) * sum(slot not in finished for slot in own)))
        draws = plan.draws_of(cell)
        if draws and plan.is_lead(cell):
            tuned = [slot for slot in own if slot.study == 0 or not plan.tuning.once]
            group = expected_epochs(draws, plan.epochs(cell), plan.rungs(cell), plan.tuning.eta, plan.tuning.exempt)
            open_draws = sum(
                Slot(cell.corpus, cell.name, slot.study, slot.fold, Stage.TUNE, draw) not in finished
                for slot in tuned
                for draw in range(draws)
            )
            left[Stage.TUNE].append((cell, group * open_draws / draws))
    epochs = {stage: sum(count for _, count in found) for stage, found in left.items()}

    def cost(cell: Cell) -> CellCost | None:
        return (timings or {}).get((cell.corpus, cell.name))

    known = [cell for cell in plan.cells if cell.skip is None and cost(cell) is not None]
    seconds = None
    if known:
        mean = sum(c.epoch_seconds for cell in known if (c := cost(cell))) / len(known)
        seconds = {
            stage: sum(count * (c.epoch_seconds if (c := cost(cell)) else mean) for cell, count in found)
            for stage, found in left.items()
        }
    return Estimate(
        epochs, seconds, _disk(plan, cost), max((c.peak_mb for cell in known if (c := cost(cell))), default=0)
    )


def _disk(plan: Plan, cost: Callable[[Cell], CellCost | None]) -> float:
    """Ledger, predictions and kept checkpoints, in bytes."""
    total = float(LEDGER_BYTES * plan.n_slots)
    for cell in plan.cells:
        if cell.skip is None:
            confirms = plan.studies * plan.folds.count
            tested = plan.corpora[cell.corpus].sizes.get("test", 0) if plan.corpora else 0
            total += confirms * tested * len(plan.conditions) * PREDICTION_BYTES
            found = cost(cell)
            if found is not None and plan.keep != "none":
                total += 4.0 * found.parameters * confirms
    return total
