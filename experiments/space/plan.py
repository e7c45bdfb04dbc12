"""The plan: every slot of a space in the order in which it is wanted, and the settings of every decision.

A plan is plain frozen data. Its methods are pure functions of it: the same plan names the same slots, the same
hyperparameters and the same seeds on every machine.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.slots import Cell, Scalar, Slot, Stage
from experiments.space import units
from experiments.space.hyper import Hyper, sobol_value
from mer.metrics import metric
from mer.streams import Streams, derive, streams

if TYPE_CHECKING:
    from mer.recipe import Recipe

Params = Mapping[str, Scalar]
"""Recipe path to the value that a draw gives it."""


@dataclass(frozen=True)
class CorpusRef:
    """A corpus as a plan knows it: enough to check cells against it, without its utterances."""

    name: str
    folder: Path
    fingerprint: str
    modalities: tuple[str, ...]
    has_dialogues: bool
    synthetic: bool
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Split to number of utterances."""
    offers: frozenset[str] = frozenset()
    """What an encoder may read: `audio` (wavs), `text` (transcripts), `features/<modality>`, and `vectors/<modality>`
    where those are one frame an utterance."""
    address: str | None = None
    """What any machine finds it by (`s3://...`, `demo`), where that is not its folder."""
    labels: tuple[str, ...] = ()
    utterances: str = ""
    """Digest of the test split's utterance ids: the same under whatever labels."""
    shared: Mapping[str, int] | None = None
    """How many `speakers` and `dialogues` the test split shares with train or valid, and how many speakers are in
    several `sessions`; None: not known. Without a kind that the corpus does not name."""
    caveats: tuple[str, ...] = ()
    """What must be said of scores on its own test split; see `mer.data.check.caveats`."""


@dataclass(frozen=True)
class Condition:
    """One test-time situation. `missing` is a `mer.recipe.MissingConfig` as plain data; {} is the complete input."""

    name: str
    missing: Mapping[str, Any] = field(default_factory=dict)


COMPLETE = Condition("complete")


@dataclass(frozen=True)
class Contrast:
    """A declared comparison on one corpus: per study the weighted sum of cell scores, `sum(w * score)`.

    A difference has weights +1/n over the cells of one side and -1/n over those of the other; an interaction has
    four groups. `margin` (in the metric's unit, 0..1) makes it a question of equivalence.
    """

    name: str
    corpus: str
    weights: Mapping[str, float]
    metric: str
    condition: str = "complete"
    test: str = "paired_t"
    margin: float | None = None
    family: str = "main"
    scope: str = "this test set"


@dataclass(frozen=True)
class Tuning:
    """How the nuisance hyperparameters of each cell are chosen. Defaults are the ones that benchmarks/protocol.md
    measured."""

    draws: int = 8
    once: bool = False
    per: tuple[str, ...] | None = None
    sampler: str = "sobol"
    batch: int = 1
    startup: int = 4
    pruner: str = "asha"
    grace: int = 2
    eta: float = 4.0
    exempt: float = 0.25


@dataclass(frozen=True)
class Bundling:
    """How many trials are trained in one step at most, and how many studies are planned together for that."""

    size: int = 1
    studies: int = 1


@dataclass(frozen=True)
class Folds:
    """Outer test folds. `by` is None: the corpus's own test split, one fold numbered 0."""

    by: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Resources:
    """What one trial asks for. `gpus` None: by measured peak memory (`auto`)."""

    cpus: float = 1.0
    gpus: float | None = 0.0
    memory: int | None = None


@dataclass(frozen=True)
class Limits:
    """What a run may use: seconds, finished trials, a price per hour for the plan's estimate."""

    seconds: float | None = None
    trials: int | None = None
    price_per_hour: float | None = None
    currency: str = "USD"


@dataclass(frozen=True, order=True, slots=True)
class Group:
    """The draws that compete with each other: one tuning of one study and fold on one corpus."""

    corpus: str
    tuning: str
    study: int
    fold: int

    def __str__(self) -> str:
        return f"{self.corpus} | {self.tuning} | study {self.study} fold {self.fold}"


@dataclass(frozen=True)
class Plan:
    """A space made definite.

    cells      in planned order, skipped ones (`cell.skip`) included: they are slots too, with a reason
    hypers     (corpus, cell) to its tuned hyperparameters
    bundling   how trials are put together, in the cells (corpus, cell) of `bundled`; see `experiments.space.units`
    alone      why other cells are not bundled, and how many they are
    notices    what the user should read before a run (tiny weights, levels from outside, ...)
    """

    space: str
    cells: tuple[Cell, ...]
    corpora: Mapping[str, CorpusRef]
    studies: int
    root_seed: int = 0
    folds: Folds = Folds()
    resplit: bool = False
    tuning: Tuning = Tuning()
    bundling: Bundling = Bundling()
    bundled: frozenset[tuple[str, str]] = frozenset()
    alone: Mapping[str, int] = field(default_factory=dict)
    hypers: Mapping[tuple[str, str], tuple[Hyper, ...]] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = (COMPLETE,)
    contrasts: tuple[Contrast, ...] = ()
    baseline: Mapping[str, Scalar] = field(default_factory=dict)
    factors: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    metric: str = "ua"
    resources: Resources = Resources()
    limits: Limits = Limits()
    keep: str = "best"
    alpha: float = 0.05
    expected_sd: float | None = None
    notices: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    """The space as the user wrote it, merged with its includes and `--set`, as plain data."""
    options: tuple[str, ...] = ()
    """What was asked for beside the space's file: `--only`, `--set`, `--seed`."""
    declaration: str = ""
    """The id under which it was declared in a results folder; see `experiments.results.declared`."""

    @property
    def folder(self) -> str:
        """The folder of its tables in the results folder. A part of a space, or one with other settings, has its own,
        so that it replaces nothing of the whole.

        >>> Plan("fusion", (), {}, 1, options=("--set studies=2", "--only fusion=concat,tacfn")).folder
        'fusion@fusion-concat,tacfn+studies-2'
        """
        if not self.options:
            return self.space
        # Without `=`, which readers of Parquet take for a partition.
        options = sorted(option.partition(" ")[2].replace("=", "-", 1) for option in self.options)
        parts = [re.sub(r"[^A-Za-z0-9._,-]+", "_", option) for option in options]
        name = "+".join(parts)[: min(80, 240 - len(self.space.encode()))]  # a file name has 255 bytes
        if "+".join(options) != name or parts != options:
            name += f"-{hashlib.blake2b('+'.join(options).encode(), digest_size=4).hexdigest()}"
        return f"{self.space}@{name}"

    # ---- cells -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _by_key(self) -> dict[tuple[str, str], Cell]:
        return {(cell.corpus, cell.name): cell for cell in self.cells}

    def cell(self, corpus: str, name: str) -> Cell:
        return self._by_key[corpus, name]

    def cell_of(self, slot: Slot) -> Cell:
        return self._by_key[slot.corpus, slot.cell]

    @functools.cached_property
    def _leads(self) -> dict[tuple[str, str], str]:
        """(corpus, tuning) to the cell that carries the draws: the first runnable one in planned order."""
        leads: dict[tuple[str, str], str] = {}
        for cell in self.cells:
            if cell.skip is None:
                leads.setdefault((cell.corpus, cell.tuning or cell.name), cell.name)
        return leads

    @functools.cached_property
    def n_draws(self) -> Mapping[tuple[str, str], int]:
        """(corpus, cell) to its number of tune slots per study and fold. Choosing among fewer than two is no choice."""
        return {
            key: self.tuning.draws if hypers and self.tuning.draws > 1 else 0 for key, hypers in self.hypers.items()
        }

    def draws_of(self, cell: Cell) -> int:
        return self.n_draws.get((cell.corpus, cell.name), 0)

    def is_lead(self, cell: Cell) -> bool:
        return self._leads.get((cell.corpus, cell.tuning or cell.name)) == cell.name

    def epochs(self, cell: Cell) -> int:
        """The full budget of a cell's trials."""
        training = cell.recipe.get("training", {})
        if isinstance(training, Mapping) and "epochs" in training:
            return int(training["epochs"])
        from mer.recipe import Training

        return Training().epochs

    def rungs(self, cell: Cell) -> tuple[int, ...]:
        """Epochs after which a draw of this cell is judged: grace, grace * eta, ... below the full budget."""
        if self.tuning.pruner == "none":
            return ()
        found: list[int] = []
        epoch, last = float(self.tuning.grace), self.epochs(cell)
        while round(epoch) < last:
            found.append(round(epoch))
            epoch *= self.tuning.eta
        return tuple(dict.fromkeys(found))

    # ---- slots -----------------------------------------------------------------------------------------------

    def slots(self) -> Iterator[Slot]:
        """Every slot in planned order: see `experiments.space.units`."""
        return units.slots(self)

    def shaping(self, cell: Cell) -> tuple[str, ...]:
        """The tuned paths of a cell that change its architecture, so that trials with other values cannot be trained
        in one step with it."""
        key = (cell.corpus, cell.name)
        if key not in self._shaping:
            from mer.bundle.declared import is_own

            recipe = self.recipe(Slot(cell.corpus, cell.name, 0, 0, Stage.CONFIRM), {})
            paths = (hyper.path for hyper in self.hypers.get(key, ()))
            self._shaping[key] = tuple(path for path in paths if not is_own(path, recipe))
        return self._shaping[key]

    @functools.cached_property
    def _shaping(self) -> dict[tuple[str, str], tuple[str, ...]]:
        return {}

    @functools.cached_property
    def n_slots(self) -> int:
        return sum(self.counts().values())

    def counts(self) -> dict[Stage, int]:
        """Planned trials per stage."""
        tuned = sum(self.draws_of(cell) for cell in self.cells if self.is_lead(cell))
        tune_studies = min(1, self.studies) if self.tuning.once else self.studies
        return {
            Stage.TUNE: tuned * tune_studies * self.folds.count,
            Stage.CONFIRM: len(self.cells) * self.studies * self.folds.count,
        }

    def group(self, slot: Slot) -> Group:
        """The draws that a slot belongs to (tune) or is chosen from (confirm)."""
        tuning = self.cell_of(slot).tuning or slot.cell
        return Group(slot.corpus, tuning, 0 if self.tuning.once else slot.study, slot.fold)

    def draws(self, group: Group) -> tuple[Slot, ...]:
        """The tune slots of a group, by number."""
        name = self._leads[group.corpus, group.tuning]
        count = self.n_draws.get((group.corpus, name), 0)
        return tuple(Slot(group.corpus, name, group.study, group.fold, Stage.TUNE, draw) for draw in range(count))

    def exempt(self, slot: Slot) -> bool:
        """Is this draw never pruned? One of every `1/exempt`, drawn by study; later draws change no earlier one."""
        share = self.tuning.exempt
        if share <= 0:
            return False
        if share >= 1:
            return True
        block = int(slot.draw * share)
        first, end = _ceil(block / share), _ceil((block + 1) / share)
        return slot.draw == first + derive("exempt", self.root_seed, slot.study, block) % (end - first)

    # ---- what a slot runs --------------------------------------------------------------------------------------

    def params(self, slot: Slot, history: Sequence[Any] = ()) -> dict[str, Scalar]:
        """The hyperparameters of a draw: point k of study s, the same for every cell.

        `history` is what an adaptive sampler has been told: `experiments.space.sampling.Told`, by draw. A confirm
        slot without draws (nothing tuned, or one draw) gets point 0.
        """
        hypers = self.hypers.get((slot.corpus, slot.cell), ())
        if self.tuning.sampler != "sobol" and slot.stage is Stage.TUNE:
            from experiments.space.sampling import propose

            return propose(
                hypers, self.tuning, self._draw_seed(slot.study), slot.draw, history, metric(self.metric).direction
            )
        seed = self._draw_seed(0 if self.tuning.once else slot.study)
        return {hyper.path: sobol_value(hyper, seed, max(slot.draw, 0)) for hyper in hypers}

    def _draw_seed(self, study: int) -> int:
        """The seed of a study's hyperparameters: no corpus, cell or fold is in it (`mer.streams.streams`)."""
        if study not in self._draw_seeds:
            self._draw_seeds[study] = streams(self.root_seed, "", study, 0, "").draws
        return self._draw_seeds[study]

    @functools.cached_property
    def _draw_seeds(self) -> dict[int, int]:
        return {}

    def recipe(self, slot: Slot, params: Params) -> Recipe:
        """The recipe of a slot once its hyperparameters are known: the cell's, with the draw laid over it."""
        from experiments.space.layers import canonical
        from mer.recipe import Recipe

        data: dict[str, Any] = _thaw(self.cell_of(slot).recipe)
        for path, value in params.items():
            _set_path(data, path, value)
        return Recipe.model_validate(canonical(data, {}))

    def streams(self, slot: Slot) -> Streams:
        replica = self.cell_of(slot).recipe.get("replica", 0)
        return streams(self.root_seed, slot.corpus, slot.study, slot.fold, slot.stage.value, int(str(replica)))


def _ceil(value: float) -> int:
    return int(-(-value // 1))


def _thaw(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thaw(item) for key, item in value.items()}
    return [_thaw(item) for item in value] if isinstance(value, list | tuple) else value


def _set_path(data: dict[str, Any], path: str, value: Scalar) -> None:
    *parents, last = path.split(".")
    for name in parents:
        child = data.setdefault(name, {})
        if isinstance(child, str):  # `fusion: tacfn` is short for `fusion: {name: tacfn}`
            child = data[name] = {"name": child}
        data = child
    data[last] = value
