"""What a contract is run on: how to build a level, feed it a batch and read one result per utterance.

Fusions, poolings and contexts differ in what they take and return. A `Subject` hides that, so that each check is
written once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mer import context, encoders, fusion, levels, losses, pooling
from mer.batch import Batch, Dialogues, Fused, Sequence
from mer.contracts.report import Violation
from mer.data import sampling
from mer.errors import UserError, unknown

TABLES: Mapping[str, Mapping[str, str]] = {
    "fusion": fusion.LEVELS,
    "pooling": pooling.LEVELS,
    "context": context.LEVELS,
    "loss": losses.LEVELS,
    "encoder": encoders.LEVELS,
    "sampler": sampling.LEVELS,
}
MODALITIES = (("text",), ("text", "audio"), ("text", "audio", "visual"))
DIM = 16
LENGTHS = {  # frames per utterance; 0: absent. Row 3 has nothing at all; rows 0 to 2 and 3 to 6 are two dialogues.
    "text": (5, 3, 4, 0, 0, 1, 2),
    "audio": (7, 9, 1, 0, 4, 0, 3),
    "visual": (2, 0, 6, 0, 5, 3, 4),
}
STARTS = (0, 3)


@dataclass(frozen=True)
class Outcome:
    """Per utterance the real frames of the output `[n, D]`, and everything returned, for shape checks."""

    rows: list[Tensor]
    losses: Tensor
    returned: object


@dataclass(frozen=True)
class Subject:
    """A level under test. `call` reads a module's output; `dialogue`: utterances of one dialogue may see each other."""

    name: str
    kind: str
    target: str | None
    modalities: tuple[str, ...]
    build: Callable[[], nn.Module]
    call: Callable[[nn.Module, Batch], Outcome]
    dialogue: bool = False
    masked: bool = True

    def batch(self, seed: int = 0) -> Batch:
        """A batch with every case that matters: full and short rows, a row lacking each modality, one lacking all."""
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for name in self.modalities:
            lengths = torch.tensor(LENGTHS[name] if self.masked else (1,) * len(LENGTHS["text"]))
            mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
            found[name] = Sequence(torch.randn(*mask.shape, DIM, generator=generator), mask)
        size = len(LENGTHS["text"])
        index = torch.zeros(size, dtype=torch.long)
        index[STARTS[1] :] = 1
        turn = torch.tensor([float(i - STARTS[int(d)]) for i, d in enumerate(index)])
        speaker = torch.arange(size) % 2 + 2 * index
        return Batch(found, tuple(f"u{i}" for i in range(size)), Dialogues(index, speaker, turn))

    def units(self) -> list[range]:
        """What must not depend on batch-mates: one utterance, or one dialogue where utterances may see each other."""
        size = len(LENGTHS["text"])
        return (
            [range(STARTS[0], STARTS[1]), range(STARTS[1], size)]
            if self.dialogue
            else [range(i, i + 1) for i in range(size)]
        )


def select(batch: Batch, rows: range) -> Batch:
    """Some rows of a batch as a batch of their own, without the padding that only their batch-mates needed."""
    keep, found = slice(rows.start, rows.stop), {}
    for name, sequence in batch.modalities.items():
        length = max(1, int(sequence.mask[keep].sum(1).max()))
        found[name] = Sequence(sequence.values[keep, :length], sequence.mask[keep, :length])
    d = batch.dialogue
    structure = None
    if d is not None:
        structure = Dialogues(
            d.index[keep] - d.index[rows.start], d.speaker[keep] - d.speaker[keep].min(), d.turn[keep]
        )
    return Batch(found, batch.utterance_ids[keep], structure)


def subjects(target: str | type, kind: str, options: dict[str, Any]) -> list[Subject]:
    """The subjects of a target: one for each set of modalities (fusions), else one."""
    if kind not in TABLES:
        raise unknown("kind of contract", kind, TABLES)
    cls, name, path = find(target, kind)
    sets = MODALITIES if kind == "fusion" else (("text",),)
    return [_subject(cls, kind, name, path, modalities, options) for modalities in sets]


def find(target: str | type, kind: str) -> tuple[type, str, str | None]:
    """The class, its name, and its `module:Class` where its source can be read."""
    if isinstance(target, type):
        return target, target.__name__, None
    path = levels.target(TABLES[kind], target, kind)
    levels.declaration(path)  # finds the module and the class without importing, with errors for people
    try:
        cls = levels.load(path)
    except ImportError as error:
        raise UserError(f"importing {path} failed: {error}") from error
    if not inspect.isclass(cls):
        raise UserError(f"{path} is no class", expected=f"a {kind}: a subclass of torch.nn.Module")
    return cls, target, path


def _subject(
    cls: Callable[..., nn.Module],
    kind: str,
    name: str,
    path: str | None,
    modalities: tuple[str, ...],
    options: dict[str, Any],
) -> Subject:
    def build() -> nn.Module:
        torch.manual_seed(0)
        if kind == "fusion":
            return cls(modalities, DIM, **options)
        return cls(**options) if kind == "loss" else cls(DIM, **options)

    call = {"fusion": _call_fusion, "pooling": _call_pooling, "context": _call_context, "loss": _call_nothing}[kind]
    dialogue = "dialogue" in getattr(cls, "requires", frozenset())
    return Subject(name, kind, path, modalities, build, call, dialogue=dialogue, masked=kind != "context")


def _call_fusion(module: nn.Module, batch: Batch) -> Outcome:
    fused = module(batch)
    if not isinstance(fused, Fused):
        raise Violation(f"returned {type(fused).__name__}, expected mer.batch.Fused")
    values, mask = fused.sequence.values, fused.sequence.mask
    rows = [values[i][mask[i]] for i in range(values.shape[0])]
    losses = sum(fused.losses.values(), torch.zeros(()))
    if fused.second is not None:  # learns too
        losses = losses + torch.tanh(fused.second.values[fused.second.mask]).sum()
    return Outcome(rows, losses, fused)


def _call_pooling(module: nn.Module, batch: Batch) -> Outcome:
    pooled = module(batch.modalities["text"])
    return Outcome(list(pooled.unsqueeze(1)), torch.zeros(()), pooled)


def _call_context(module: nn.Module, batch: Batch) -> Outcome:
    out = module(batch.modalities["text"].values[:, 0], batch)
    return Outcome(list(out.unsqueeze(1)), torch.zeros(()), out)


def _call_nothing(module: nn.Module, batch: Batch) -> Outcome:
    raise TypeError("a loss takes logits, not a batch")
