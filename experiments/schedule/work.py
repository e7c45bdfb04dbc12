"""What a worker does to a trial, as an interface: train some epochs, finish, save and restore.

The real one is `experiments.schedule.training_work`; `experiments.schedule.fake` follows known curves, for tests and
simulations. Everything a worker is told is plain, picklable data: `Spec` says what a trial is, `Order` what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from experiments.results.identity import TrialKey
from experiments.results.records import EpochRow, PredictionRow, ScoreRow
from experiments.slots import Slot, Status
from experiments.space.plan import Condition, CorpusRef, Folds


@dataclass(frozen=True)
class Spec:
    """A trial as a worker must know it: identity, recipe (canonical JSON), and where its data are.

    `slot` is the slot it is run for; the ledger keeps its names for people, nothing depends on them.
    """

    key: TrialKey
    recipe: str
    slot: Slot
    space: str
    epochs: int
    metric: str
    direction: str
    corpus: CorpusRef
    folds: Folds = field(default_factory=Folds)
    resplit: bool = False
    conditions: tuple[Condition, ...] = ()
    keep: str = "best"
    attempt: int = 0
    params: Mapping[str, object] = field(default_factory=dict)

    @property
    def trial(self) -> str:
        return self.key.trial


class Do(StrEnum):
    """What an order asks for."""

    TRAIN = "train"
    """Train until `until` epochs are done; commit the trial if that was the end of it."""
    PAUSE = "pause"
    """Save the state and let go of the trial."""
    CLOSE = "close"
    """Commit the trial as it is, under the order's status, and let go of it."""


@dataclass(frozen=True)
class Order:
    """One thing to do, complete in itself: any worker can carry it out, whatever it held before."""

    do: Do
    spec: Spec
    until: int = 0
    status: Status | None = None
    reason: str | None = None
    rung: int | None = None
    value: float | None = None
    cutoff: float | None = None


class Ended(StrEnum):
    """How carrying out an order ended."""

    REACHED = "reached"  # trained as far as was asked; the worker holds the trial
    PAUSED = "paused"  # saved, let go
    COMMITTED = "committed"  # in the ledger, under `status`
    OUT_OF_MEMORY = "out of memory"  # not committed: it may be tried once more with a larger share
    BROKEN = "broken"  # the worker's device or process is not to be trusted any more; the trial is not to blame
    INTERRUPTED = "interrupted"  # the budget or a person ended the run; the state is saved
    BLOCKED = "blocked"  # the results folder cannot be written; `reason` says what is needed


@dataclass(frozen=True)
class Outcome:
    """What a worker reports of one order. `curve`: the selection metric on validation after each epoch so far."""

    order: Order
    ended: Ended
    curve: tuple[float, ...] = ()
    status: Status | None = None
    reason: str | None = None
    trained_s: float = 0.0
    peak_memory_mb: float | None = None
    test: Mapping[str, float] = field(default_factory=dict)
    """Confirm stage: scores under the complete condition, for the progress page."""


@dataclass(frozen=True)
class Finished:
    """What a trained trial has to show. Scores and predictions are empty in the tune stage: it sees no test set."""

    valid: Mapping[str, float]
    best_epoch: int
    scores: Sequence[ScoreRow] = ()
    predictions: Sequence[PredictionRow] = ()
    labels: Sequence[str] = ()
    random_weights: bool | None = None
    synthetic: bool | None = None
    parameters: int | None = None


class Diverged(Exception):
    """A number was lost; `rows` are those of the epochs before."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Work(Protocol):
    """One trial in training."""

    @property
    def epochs_done(self) -> int: ...

    @property
    def finished(self) -> bool:
        """Is there no further epoch (the last one done, or patience run out)?"""

    def run_to(self, epoch: int) -> list[EpochRow]:
        """Train until `epoch` epochs are done or training is finished; the rows of the new epochs. May raise
        `Diverged`."""

    def finish(self) -> Finished:
        """The best epoch's scores; in the confirm stage the test split under every condition."""

    def save_checkpoint(self, folder: Path, keep: str) -> None:
        """Write the trained model (confirm stage) into a folder."""

    def state(self) -> bytes:
        """All that the next epoch depends on."""

    def restore(self, state: bytes) -> None: ...

    def memory_mb(self) -> float | None:
        """Peak device memory so far, or of the process where there is no device."""

    def close(self) -> None:
        """Let go of everything: the next trial of this process must not see a trace of this one."""


MakeWork = Callable[[Spec], Work]
"""How a worker makes the work of a trial: a module-level function, so that it can be sent to other machines."""
