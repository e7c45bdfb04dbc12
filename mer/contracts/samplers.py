"""The checks for samplers: classes built as `(config, info, seed, by_dialogue)` that give batches of row numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mer import levels
from mer.contracts.report import Report, Result, Violation
from mer.data.sampling import LEVELS, Rows, SampleInfo, Sampler
from mer.recipe import Sampler as SamplerConfig

ROWS, BATCH, EPOCHS = 90, 8, 30


def run(target: str | type, options: dict[str, Any]) -> Report:
    """Every check on a sampler; `options` are fields of the recipe's `sampler`."""
    kind = target if isinstance(target, type) else levels.load(levels.target(LEVELS, target, "sampler"))
    name = target if isinstance(target, str) else target.__name__
    config = SamplerConfig.model_validate({"name": "mylab.any:Sampler", "batch_size": BATCH, **options})

    def build(seed: int = 0, by_dialogue: bool = False) -> Sampler:
        sampler: Sampler = kind(config, training_rows(), seed, by_dialogue)
        return sampler

    results = []
    for check, meaning, test in CHECKS:
        seen = None
        try:
            test(build)
        except Violation as violation:
            seen = str(violation)
        except Exception as error:  # a sampler that raises has broken the promise, whatever it raised
            seen = f"{type(error).__name__}: {error}"
        results.append(Result(check, meaning, seen))
    return Report(name, "sampler", tuple(results))


def training_rows() -> SampleInfo:
    """Unbalanced classes, lengths over two orders of magnitude, dialogues of one to twelve turns."""
    rng = np.random.default_rng(0)
    return SampleInfo(
        labels=rng.choice(4, ROWS, p=(0.6, 0.2, 0.15, 0.05)),
        audio_seconds=rng.lognormal(1.0, 1.0, ROWS),
        text_words=rng.integers(1, 40, ROWS),
        dialogue=np.repeat(np.arange(20), rng.multinomial(ROWS - 20, np.full(20, 1 / 20)) + 1),
    )


Build = Callable[..., Sampler]


def _rows(build: Build) -> None:
    for rows in build().batches(0):
        if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype.kind != "i":
            raise Violation(f"a batch is {type(rows).__name__}, expected a one-dimensional array of whole numbers")
        if not len(rows) or rows.min() < 0 or rows.max() >= ROWS:
            raise Violation(f"a batch has rows {rows.tolist()}, expected some of 0 to {ROWS - 1}")


def _size(build: Build) -> None:
    largest = max(len(rows) for rows in build().batches(0))
    if largest > BATCH:
        raise Violation(f"a batch of {largest} rows, although batch_size is {BATCH}")


def _pure(build: Build) -> None:
    forward, backward = build(), build()
    np.random.seed(1)
    first = [forward.batches(epoch) for epoch in range(3)]
    np.random.seed(2)
    second = [backward.batches(epoch) for epoch in reversed(range(3))][::-1]
    if any(not _same(a, b) for a, b in zip(first, second, strict=True)):
        raise Violation(
            "the batches of an epoch depend on what was asked before, or on numpy's global generator: resuming would "
            "train on other batches",
        )


def _fresh(build: Build) -> None:
    sampler = build()
    if _same(sampler.batches(0), sampler.batches(1)):
        raise Violation("two epochs have the same batches in the same order")
    if _same(sampler.batches(0), build(seed=1).batches(0)):
        raise Violation("two seeds have the same batches in the same order")


def _everyone(build: Build) -> None:
    sampler = build()
    seen = np.unique(np.concatenate([rows for epoch in range(EPOCHS) for rows in sampler.batches(epoch)]))
    if len(seen) < ROWS:
        raise Violation(f"{ROWS - len(seen)} of {ROWS} utterances are in none of {EPOCHS} epochs")


def _dialogues(build: Build) -> None:
    dialogue = training_rows().dialogue
    assert dialogue is not None
    whole = {tuple(np.flatnonzero(dialogue == number).tolist()) for number in np.unique(dialogue)}
    for rows in build(by_dialogue=True).batches(0):
        parts = np.split(rows, np.flatnonzero(np.diff(dialogue[rows])) + 1)
        found = [tuple(part.tolist()) for part in parts]
        if len(set(found)) < len(found) or not set(found) <= whole:
            raise Violation(f"a batch has rows {rows.tolist()}, expected whole dialogues in turn order, each once")


def _same(a: Iterable[Rows], b: Iterable[Rows]) -> bool:
    return [rows.tolist() for rows in a] == [rows.tolist() for rows in b]


CHECKS: tuple[tuple[str, str, Callable[[Build], None]], ...] = (
    ("rows", "batches are arrays of row numbers of the training split", _rows),
    ("size", "no batch holds more than batch_size utterances", _size),
    ("pure", "an epoch's batches are a function of the seed and its number alone", _pure),
    ("fresh", "epochs differ, and so do seeds", _fresh),
    ("everyone", "every utterance is met sooner or later", _everyone),
    ("dialogues", "asked for whole dialogues, it gives them whole, in turn order, each once a batch", _dialogues),
)
