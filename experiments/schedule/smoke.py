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

    epoch_seconds    one epoch of training and validation on the whole corpus
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


def smoke(recipe: Recipe, data: TrainValid, store: FeatureStore, device: str | None = None) -> Timing:
    """Train two epochs on a few utterances and extrapolate from the second."""
    import torch

    from mer.data.corpus import TrainValid
    from mer.streams import streams
    from mer.training import Trainer

    wanted = 2 * recipe.sampler.batch_size
    train, valid = _some(data.train, wanted), _some(data.valid, wanted)
    share = (len(train) + len(valid)) / (len(data.train) + len(data.valid))
    before = _memory_mb()
    started = time.perf_counter()
    trainer = Trainer(
        recipe, TrainValid(data.info, train, valid), streams(0, "smoke", 0, 0, "tune"), store=store, device=device
    )
    prepared = time.perf_counter() - started
    trainer.epoch()
    second = time.perf_counter()
    trainer.epoch()
    epoch = time.perf_counter() - second
    on_gpu = trainer.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else max(_memory_mb() - before, 0.0)
    return Timing(
        epoch_seconds=epoch / share,
        extract_seconds=prepared / share if prepared > 1.0 else 0.0,
        peak_mb=peak,
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad),
    )


def smoke_all(
    recipes: Iterable[tuple[str, Recipe, TrainValid]],
    store: FeatureStore,
    *,
    device: str | None = None,
    on_each: Callable[[str, Timing], None] = lambda name, timing: None,
) -> dict[str, Timing]:
    """One smoke run per distinct architecture; keys are `architecture(recipe)` with the corpus's name before it."""
    found: dict[str, Timing] = {}
    for cell, recipe, data in recipes:
        key = f"{data.info.name} {architecture(recipe)}"
        if key in found:
            continue
        try:
            found[key] = smoke(recipe, data, store, device)
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
