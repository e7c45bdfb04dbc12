"""Plans and executors made up of plain numbers: the whole method without training anything."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.protocol.actions import Action, Confirm, Continue, Fact, Pause, Select, Start, Stop, Unit
from experiments.protocol.state import State
from experiments.slots import Cell, Slot, Stage, Status
from experiments.space.hyper import Hyper
from experiments.space.plan import Bundling, CorpusRef, Plan, Tuning

Curve = Callable[[Slot], tuple[tuple[float, ...], Status]]


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    def make(
        cells: int = 2,
        studies: int = 2,
        epochs: int = 9,
        skip: str | None = None,
        bundling: tuple[int, int] | None = None,
        **tuning: object,
    ) -> Plan:
        lr = (Hyper("optimizer.lr", "loguniform", 1e-4, 1e-2),)
        made = tuple(
            Cell(
                "demo",
                f"cell{i}",
                {"fusion": i},
                {"encoders": {"text": "features"}, "training": {"epochs": epochs}},
                skip=skip if i == 1 else None,
            )
            for i in range(cells)
        )
        settings = {"draws": 4, "grace": 1, "eta": 3.0, "exempt": 0.25, **tuning}
        return Plan(
            "made_up",
            made,
            {"demo": CorpusRef("demo", Path(), "0", ("text",), False, True)},
            studies,
            tuning=Tuning(**settings),  # type: ignore[arg-type]
            hypers={("demo", cell.name): lr for cell in made},
            bundling=Bundling() if bundling is None else Bundling(*bundling),
            bundled=frozenset() if bundling is None else frozenset(("demo", c.name) for c in made if c.skip is None),
        )

    return make


class Executor:
    """Runs a plan with `workers` workers that finish in random order; loses some workers on the way."""

    def __init__(self, plan: Plan, curve: Curve, workers: int, seed: int, losses: float = 0.0) -> None:
        self.plan, self.curve, self.workers, self.losses = plan, curve, workers, losses
        self.random = random.Random(seed)
        self.state = State(plan)
        self.log: list[Action] = []
        self.epochs: dict[Slot, int] = {}
        self.facts: dict[Slot, Fact] = {}
        self.ended: set[Slot] = set()
        """Slots whose training has ended, judged or not."""

    def run(self) -> Executor:
        running: dict[Slot, tuple[Unit, int]] = {}
        held: set[Slot] = set()
        while True:
            while actions := self.state.next_actions(self.workers - len(running) - len(held)):
                for action in actions:
                    self.log.append(action)
                    if isinstance(action, Start | Confirm | Continue):
                        assert action.unit.slot not in running, "handed out twice"
                        held.discard(action.unit.slot)
                        running[action.unit.slot] = (action.unit, action.until)
                    elif isinstance(action, Pause):
                        held.remove(action.unit.slot)
                    elif isinstance(action, Stop):
                        trained = action.slot not in self.ended
                        assert not trained or all(action.slot not in unit.slots for unit, _ in running.values())
                        unit = self.state.unit(action.slot)
                        if unit and all(self.state.status(slot) is not Status.MISSING for slot in unit.slots):
                            held.discard(unit.slot)
                    else:
                        assert isinstance(action, Select)
            assert len(running) + len(held) <= self.workers
            if not running:
                assert self.state.finished, "nothing runs and something is left"
                return self
            unit, until = running.pop(self.random.choice(sorted(running)))
            if self.random.random() < self.losses:
                self.state.lost(unit.slot)
                continue
            live = [s for s in unit.slots if self.state.status(s) is Status.MISSING and s not in self.ended]
            goes_on = [self._train(slot, until) for slot in self.random.sample(live, len(live))]
            if any(goes_on):
                held.add(unit.slot)

    def _train(self, slot: Slot, until: int) -> bool:
        """Report a slot at `until`; does its worker keep it?"""
        curve, ending = self.curve(slot)
        known = curve[:until]
        ended = until >= len(curve)
        self.epochs[slot] = max(self.epochs.get(slot, 0), len(known))
        fact = Fact(slot, known, ending if ended else None, self.state.params(slot) or {})
        self.facts[slot] = fact
        if ended:
            self.ended.add(slot)
        self.state.observe(fact)
        return not ended

    def outcome(self) -> dict[Slot, Status]:
        return {slot: self.state.status(slot) for slot in self.plan.slots()}


@pytest.fixture(scope="session")
def executor() -> type[Executor]:
    return Executor


@pytest.fixture(scope="session")
def random_curve() -> Callable[..., Curve]:
    """Made-up training: a curve as a function of (seed, slot), with failures of every kind."""

    def make(seed: int, epochs: int = 9, trouble: float = 0.15, coarse: bool = True) -> Curve:
        def curve(slot: Slot) -> tuple[tuple[float, ...], Status]:
            source = random.Random(f"{seed} {slot.cell} {slot.study} {slot.fold} {slot.stage} {slot.draw}")
            values = tuple(round(source.random(), 1 if coarse else 6) for _ in range(epochs))
            if slot.stage is Stage.CONFIRM or source.random() > trouble:
                stops_early = source.random() < 0.2
                return (values[: source.randint(1, epochs)] if stops_early else values), Status.COMPLETE
            ending = source.choice([Status.DIVERGED, Status.OOM, Status.FAILED])
            kept = values[: source.randint(0, epochs - 1)]
            return kept + ((float("nan"),) if ending is Status.DIVERGED else ()), ending

        return curve

    return make
