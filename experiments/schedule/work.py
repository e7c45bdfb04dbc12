"""What a worker does to a trial, as an interface: train some epochs, finish, save and restore.

The real one is `experiments.schedule.training_work`; `experiments.schedule.fake` follows known curves, for tests and
simulations. Everything a worker is told is plain, picklable data: `Spec` says what a trial is, `Order` what to do.

A work item is one trial, or a bundle of them that are trained in one step. Nothing but the work itself knows how.
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
    corpus: CorpusRef
    folds: Folds = field(default_factory=Folds)
    resplit: bool = False
    conditions: tuple[Condition, ...] = ()
    keep: str = "best"
    attempt: int = 0
    params: Mapping[str, object] = field(default_factory=dict)
    declaration: str = ""

    @property
    def trial(self) -> str:
        return self.key.trial


class Do(StrEnum):
    """What an order asks for."""

    TRAIN = "train"
    """Train until `until` epochs are done; commit each trial for which that was the end."""
    PAUSE = "pause"
    """Save the state and let go of the item."""
    CLOSE = "close"
    """Commit some of its trials as they are, under the statuses of `closings`."""


@dataclass(frozen=True)
class Member:
    """One trial of a work item.

    last      the epoch after which it takes no further part, because it was pruned there; None: as long as it trains
    recorded  it is on record: computed along where others need it, and not written again
    """

    spec: Spec
    last: int | None = None
    recorded: bool = False


@dataclass(frozen=True)
class Closing:
    """How one member of an item ends by decision: pruned at a rung, or given up."""

    member: int
    status: Status
    reason: str | None = None
    rung: int | None = None
    value: float | None = None
    cutoff: float | None = None


@dataclass(frozen=True)
class Order:
    """One thing to do, complete in itself: any worker can carry it out, whatever it held before.

    item  the name of the work item: its trial, or its bundle's layout
    """

    do: Do
    item: str
    members: tuple[Member, ...]
    until: int = 0
    closings: tuple[Closing, ...] = ()

    @property
    def specs(self) -> tuple[Spec, ...]:
        return tuple(member.spec for member in self.members)

    @property
    def spec(self) -> Spec:
        """The first trial, which stands for all where one is named."""
        return self.members[0].spec


class Ended(StrEnum):
    """How carrying out an order ended."""

    REACHED = "reached"  # trained as far as was asked; the worker holds the item
    PAUSED = "paused"  # saved, let go
    COMMITTED = "committed"  # all that was to be written is in the ledger, and nothing is held
    OUT_OF_MEMORY = "out of memory"  # not committed: it may be tried once more with a larger share
    BROKEN = "broken"  # its device, its memory or the files it reads failed under it; the trial is not to blame
    INTERRUPTED = "interrupted"  # the budget or a person ended the run; the state is saved
    BLOCKED = "blocked"  # the results folder cannot be written or read; `reason` says what is needed


@dataclass(frozen=True)
class Result:
    """What an order brought for one member. `curve`: the selection metric on validation after each epoch so far.

    status  what it was committed under by this order; None: it goes on, or was on record before
    test    confirm stage: scores under the complete condition, for the progress page
    """

    curve: tuple[float, ...] = ()
    status: Status | None = None
    reason: str | None = None
    test: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a worker reports of one order: how it ended, and a result for each member where anything was done."""

    order: Order
    ended: Ended
    results: tuple[Result, ...] = ()
    reason: str | None = None
    trained_s: float = 0.0
    peak_memory_mb: float | None = None
    notes: tuple[str, ...] = ()
    """What a person should know of the worker's side outputs."""


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


@dataclass(frozen=True)
class Epoch:
    """One epoch of one member: its rows, or how its numbers were lost (a reason)."""

    rows: Sequence[EpochRow] = ()
    diverged: str | None = None


class Work(Protocol):
    """One work item in training: its members go from epoch to epoch together, as long as each of them trains."""

    @property
    def epochs_done(self) -> int:
        """Epochs that those have trained that go on."""

    @property
    def ended(self) -> Sequence[bool]:
        """Which members have no further epoch: the last one done, patience run out, diverged, or stopped."""

    def stop(self, member: int) -> None:
        """A member takes part in no further epoch."""

    def epoch(self) -> Sequence[Epoch | None]:
        """Train one more epoch of every member that has not ended; None for the others."""

    def finish(self, member: int) -> Finished:
        """The best epoch's scores; in the confirm stage the test split under every condition."""

    def save_checkpoint(self, member: int, folder: Path, keep: str) -> None:
        """Write a trained model (confirm stage) into a folder."""

    def state(self) -> bytes:
        """All that the next epoch depends on."""

    def restore(self, state: bytes) -> None: ...

    def memory_mb(self) -> float | None:
        """Peak device memory so far, or of the process where there is no device."""

    def close(self) -> None:
        """Let go of everything: the next trial of this process must not see a trace of this one."""


MakeWork = Callable[[tuple[Spec, ...]], Work]
"""How a worker makes the work of an item: a module-level function, so that it can be sent to other machines."""
