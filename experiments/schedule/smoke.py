"""A timed smoke batch per distinct architecture: proves that each can run at all, and says what a trial will take."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mer.errors import UserError

if TYPE_CHECKING:
    from mer.data.corpus import TrainValid, Utterance
    from mer.data.store import FeatureStore
    from mer.recipe import Recipe


@dataclass(frozen=True)
class Timing:
    """What one architecture costs, extrapolated from a few batches.

    epoch_seconds    one epoch of training and validation on the whole corpus; of a bundle, one trial's share
    extract_seconds  frozen features of the whole corpus, once for the whole grid; 0 where they are in the store
    peak_mb          device memory on a GPU, growth of the process on a CPU
    parameters       trained parameters
    """

    epoch_seconds: float
    extract_seconds: float
    peak_mb: float
    parameters: int


def architecture(recipe: Recipe) -> str:
    """What determines a recipe's cost per epoch: everything but optimisation, seeds and the number of epochs."""
    data = recipe.canonical()
    for field in ("optimizer", "schedule", "loss", "training", "replica", "missing"):
        data.pop(field, None)
    return json.dumps([data, recipe.training.precision, recipe.training.threads], sort_keys=True)


def smoke_key(corpus: str, recipe: Recipe, members: int) -> str:
    return f"{corpus} x{members} {architecture(recipe)}"


def smoke(recipe: Recipe, data: TrainValid, store: FeatureStore, device: str | None = None, members: int = 1) -> Timing:
    """Train two epochs on a few utterances and extrapolate from the second. `members`: as a bundle of so many."""
    import torch

    from mer.bundle.trainer import BundleTrainer
    from mer.data.corpus import TrainValid
    from mer.streams import streams
    from mer.training import Trainer

    wanted = 2 * recipe.sampler.batch_size
    train, valid = _some(data.train, wanted), _some(data.valid, wanted)
    share = (len(train) + len(valid)) / (len(data.train) + len(data.valid))
    before = _memory_mb()
    started = time.perf_counter()
    seeds = [streams(0, "smoke", study, 0, "tune") for study in range(members)]
    some = TrainValid(data.info, train, valid)
    trainer: Trainer | BundleTrainer
    if members > 1:
        trainer = BundleTrainer([recipe] * members, some, seeds, store=store, device=device)
    else:
        trainer = Trainer(recipe, some, seeds[0], store=store, device=device)
    prepared = time.perf_counter() - started
    trainer.epoch()
    second = time.perf_counter()
    trainer.epoch()
    epoch = time.perf_counter() - second
    on_gpu = trainer.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else max(_memory_mb() - before, 0.0)
    model = trainer.members[0].model if isinstance(trainer, BundleTrainer) else trainer.model
    return Timing(
        epoch_seconds=epoch / share / members,
        extract_seconds=prepared / share if prepared > 1.0 else 0.0,
        peak_mb=peak,
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    )


def smoke_all(
    recipes: Iterable[tuple[str, Recipe, TrainValid, int]],
    store: FeatureStore,
    *,
    device: str | None = None,
    on_each: Callable[[str, Timing], None] = lambda name, timing: None,
) -> dict[str, Timing]:
    """One smoke run per distinct architecture and size of bundle (1: alone); keys as `smoke_key` makes them."""
    found: dict[str, Timing] = {}
    for cell, recipe, data, members in recipes:
        key = smoke_key(data.info.name, recipe, members)
        if key in found:
            continue
        try:
            found[key] = smoke(recipe, data, store, device, members)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the cell cannot be trained: {type(error).__name__}: {error}",
                where=cell,
                hint="This was a trial run of two batches. --no-smoke leaves it out; the cell would fail all the same.",
            ) from error
        on_each(cell, found[key])
    return found


def _some(utterances: tuple[Utterance, ...], wanted: int) -> tuple[Utterance, ...]:
    """The first few utterances, whole dialogues together, every label among them so that losses can be weighted."""
    chosen = {utterance.dialogue or utterance.id for utterance in utterances[:wanted]}
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.emotion not in seen:
            seen.add(utterance.emotion)
            chosen.add(utterance.dialogue or utterance.id)
    return tuple(utterance for utterance in utterances if (utterance.dialogue or utterance.id) in chosen)


def _memory_mb() -> float:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
