"""The model of a trial: encoders, projection, fusion, pooling, context, classifier.

corpus -> encoder -> Sequence per modality -> LN(x W) -> fusion -> pooling -> context -> classifier -> logits
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from mer import context as contexts
from mer import fusion as fusions
from mer import levels
from mer import pooling as poolings
from mer.batch import Batch, Sequence
from mer.classifier import Classifier
from mer.data.corpus import CorpusInfo
from mer.encoders import build_encoder
from mer.encoders.base import Encoder
from mer.layers import Dropout, masked_mean
from mer.losses import disagreement
from mer.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Output:
    """What a model returns.

    logits           `[B, C]`
    representations  `fused` and, unless `details=False`, one per modality, `[B, D]`: what separability plots look at
    aux              gates, modality weights, attention maps of the fusion; B first
    losses           auxiliary losses, already weighted
    second           logits of the fusion's second view, in training where it has one: learned from as `logits` are
    """

    logits: Tensor
    representations: Mapping[str, Tensor]
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    second: Tensor | None = None


class Projection(nn.Module):
    """`LN(x W)`: brings a modality `[B, T, D_in]` to the common width `[B, T, D]`.

    >>> x = Sequence(torch.ones(2, 3, 5), torch.ones(2, 3, dtype=torch.bool))
    >>> Projection(5, 8, dropout=0.0)(x).values.shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, in_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Sequence) -> Sequence:
        return Sequence(self.dropout(self.norm(self.linear(x.filled()))), x.mask)


class Model(nn.Module):
    """One recipe as a module. Masked frames and absent modalities cannot change its logits, whatever they hold."""

    def __init__(self, recipe: Recipe, encoders: Mapping[str, Encoder], num_classes: int) -> None:
        super().__init__()
        dim = recipe.projection.dim
        self.modalities = recipe.modalities
        self.encoders = nn.ModuleDict(dict(encoders))
        self.projections = nn.ModuleDict(
            {name: Projection(encoder.out_dim, dim, recipe.projection.dropout) for name, encoder in encoders.items()}
        )
        fusion = levels.load(levels.target(fusions.LEVELS, recipe.fusion.name, "fusion"), "fusion")
        pooling = levels.load(levels.target(poolings.LEVELS, recipe.pooling.name, "pooling"), "pooling")
        context = levels.load(levels.target(contexts.LEVELS, recipe.context.name, "context"), "context")
        self.fusion = fusion(self.modalities, dim, **recipe.fusion.params)
        self.pooling = pooling(self.fusion.out_dim, **recipe.pooling.params)
        self.context = context(self.fusion.out_dim, **recipe.context.params)
        self.classifier = Classifier(
            self.context.out_dim,
            num_classes,
            hidden=recipe.classifier.hidden,
            dropout=recipe.classifier.dropout,
            activation=recipe.classifier.activation,
        )

    def encoder_table(self) -> dict[str, Encoder]:
        """Modality to encoder."""
        return {name: cast(Encoder, encoder) for name, encoder in self.encoders.items()}

    def forward(self, batch: Batch, details: bool = True) -> Output:
        """details: False spares what training does not look at, two passes over the frames of every modality."""
        projected = {
            name: self.projections[name](self.encoders[name](batch.modalities[name])) for name in self.modalities
        }
        with watched(self.fusion, details) as modelled:
            fused = self.fusion(Batch(projected, batch.utterance_ids, batch.dialogue))
        pooled = self.pooling(fused.sequence)
        logits = self.classifier(self.context(pooled, batch))
        losses, second = dict(fused.losses), None
        if fused.second is not None:
            second = self.classifier(self.context(self.pooling(fused.second), batch))
            if fused.agreement:
                losses["consistency"] = fused.agreement * disagreement(logits, second)
        if not details:
            return Output(logits, {"fused": pooled}, {}, losses, second)
        described = modelled or projected
        representations = {name: masked_mean(x.filled(), x.mask) for name, x in described.items()}
        return Output(logits, {**representations, "fused": pooled}, fused.aux, losses, second)


@contextmanager
def watched(fusion: nn.Module, wanted: bool) -> Iterator[dict[str, Sequence]]:
    """What a fusion's own blocks make of each modality before it fuses (the temporal and contextual representations
    of the fusion pipeline); empty for fusions that have none, whose modalities are then seen as they came in."""
    found: dict[str, Sequence] = {}
    blocks = getattr(fusion, "modelling", None)
    if not wanted or blocks is None:
        yield found
        return
    handle = blocks.register_forward_hook(lambda module, inputs, output: found.update(output))
    try:
        yield found
    finally:
        handle.remove()


def needs_dialogues(recipe: Recipe) -> bool:
    """Must batches consist of whole dialogues?"""
    targets = (
        levels.target(fusions.LEVELS, recipe.fusion.name, "fusion"),
        levels.target(contexts.LEVELS, recipe.context.name, "context"),
    )
    return any("dialogue" in levels.declaration(target).requires for target in targets)


def build_model(
    recipe: Recipe, info: CorpusInfo, seed: int, ready: Mapping[str, Encoder] = MappingProxyType({})
) -> Model:
    """Build a recipe's model on the CPU, its initialisation a function of `seed` alone, the global RNG untouched.

    ready  encoders that are built already, by modality
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = {
            name: ready[name] if name in ready else build_encoder(name, config, info)
            for name, config in recipe.encoders.items()
        }
        return Model(recipe, encoders, len(info.labels))
