"""What every fusion is, and the two pieces that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mer.batch import Batch, Fused, Sequence
from mer.errors import UserError, unknown
from mer.layers import Attention, Dropout, TransformerBlock, add_positions, masked_mean, zeroed

Sequences = Mapping[str, Sequence]


class Fusion(nn.Module):
    """From one sequence per modality, each `[B, T_m, dim]`, to one fused sequence `[B, L, out_dim]`.

    A subclass sets `out_dim`, starts its `forward` with `self.sequences(batch)`, and makes sure that a modality that
    an utterance lacks contributes nothing. `requires` names what a corpus must have (`dialogue`). Options are
    keyword-only and have literal defaults, so that a plan can read them without importing this file.
    """

    requires: frozenset[str] = frozenset()
    unbundled: str = ""
    out_dim: int

    def __init__(self, modalities: tuple[str, ...], dim: int) -> None:
        super().__init__()
        if not modalities or len(set(modalities)) < len(modalities):
            raise UserError(f"fusion of the modalities {modalities}", expected="at least one, each once")
        self.modalities, self.dim, self.out_dim = tuple(modalities), dim, dim

    def sequences(self, batch: Batch) -> dict[str, Sequence]:
        """The modalities in the fusion's own order, with zeros wherever the mask is False."""
        for name in self.modalities:
            if name not in batch.modalities:
                raise unknown("modality in this batch:", name, batch.modalities)
        found = {name: _nonempty(batch.modalities[name]) for name in self.modalities}
        return {name: Sequence(sequence.filled(), sequence.mask) for name, sequence in found.items()}

    def forward(self, batch: Batch) -> Fused:
        raise NotImplementedError


def _nonempty(sequence: Sequence) -> Sequence:
    """At least one (masked) frame: a batch in which nobody has a modality may come with none at all."""
    if sequence.mask.shape[1]:
        return sequence
    return Sequence(F.pad(sequence.values, (0, 0, 0, 1)), F.pad(sequence.mask, (0, 1)))


def presence(sequences: Sequences) -> Tensor:
    """`[B, M]`: which utterance has which modality."""
    return torch.stack([sequence.present for sequence in sequences.values()], dim=1)


def means(sequences: Sequences) -> Tensor:
    """`[B, M, D]`: the masked mean of each modality, zeros where absent."""
    return torch.stack([masked_mean(s.values, s.mask) for s in sequences.values()], dim=1)


def in_time(sequences: Sequences) -> Sequence:
    """The modalities one after the other in time: `[B, sum T_m, D]`."""
    values = torch.cat([sequence.values for sequence in sequences.values()], dim=1)
    return Sequence(values, torch.cat([sequence.mask for sequence in sequences.values()], dim=1))


def as_sequence(vector: Tensor, real: Tensor) -> Sequence:
    """One vector per utterance `[B, D]` as a sequence of length 1, real where `real` `[B]` is."""
    return Sequence(zeroed(vector.unsqueeze(1), real.unsqueeze(1)), real.unsqueeze(1))


class Modelling(nn.Module):
    """The fusion pipeline's blocks before its fusions: one Transformer encoder per modality.

    The source calls it temporal for speech and contextual for text; it is the same network twice. Sinusoidal positions
    are added first (encoders that already know positions lose nothing). `layers=0` leaves the sequences as they are.
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        layers: int,
        heads: int,
        expansion: float,
        dropout: float,
        positions: bool,
    ) -> None:
        super().__init__()
        hidden = max(1, round(expansion * dim))
        self.blocks = nn.ModuleDict(
            {
                name: nn.ModuleList(TransformerBlock(dim, heads, hidden, dropout) for _ in range(layers))
                for name in modalities
            }
        )
        self.positions = positions and layers > 0
        self.dropout = Dropout(dropout)

    def forward(self, sequences: Sequences) -> dict[str, Sequence]:
        found = {}
        for name, sequence in sequences.items():
            x = add_positions(sequence.values, sequence.mask) if self.positions else sequence.values
            for block in cast(nn.ModuleList, self.blocks[name]):
                x = block(x, sequence.mask)
            found[name] = Sequence(self.dropout(x), sequence.mask)
        return found


class PairwiseAttention(nn.Module):
    """Every modality attends to every other, and averages what the present ones answer.

    x_m' = mean over present n != m of MHA_mn(x_m, x_n, x_n). For two modalities this is bidirectional cross-attention;
    for more it is MulT's pairwise scheme (Tsai et al. 2019). Also returns whether anyone could answer, `[B]` per
    modality, and on request the weights per pair, mean over heads, `[B, T_m, T_n]`, named `text<-audio`.
    """

    def __init__(self, modalities: tuple[str, ...], dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.pairs = [(m, n) for m in modalities for n in modalities if m != n]
        self.attention = nn.ModuleDict({f"{m}<-{n}": Attention(dim, heads, dropout) for m, n in self.pairs})

    def forward(
        self, queries: Sequences, keys: Sequences, need_weights: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        sums = {name: torch.zeros_like(sequence.values) for name, sequence in queries.items()}
        counts = {name: torch.zeros_like(sequence.present, dtype=torch.long) for name, sequence in queries.items()}
        maps = {}
        for m, n in self.pairs:
            out, weights = self.attention[f"{m}<-{n}"](
                queries[m].values,
                keys[n].values,
                query_mask=queries[m].mask,
                key_mask=keys[n].mask,
                need_weights=need_weights,
            )
            sums[m] = sums[m] + out
            counts[m] = counts[m] + keys[n].present
            if weights is not None:
                maps[f"attention {m}<-{n}"] = weights.mean(1).detach()
        answers = {name: sums[name] / counts[name].clamp(min=1).to(sums[name].dtype)[:, None, None] for name in sums}
        return answers, {name: count > 0 for name, count in counts.items()}, maps

    def alone(self, name: str, x: Sequence) -> Tensor:
        """What `x` answers to its own questions, put as the others put theirs to it: mean_n MHA_nm(x_m, x_m, x_m).

        For an utterance that has nothing else. What the others would have heard of it is what a network behind this
        attention has learned to read of it. Draws no dropout: what is random must not depend on who is there.
        """
        others = [self.attention[f"{n}<-{m}"] for n, m in self.pairs if m == name]
        found = [other(x.values, x.values, query_mask=x.mask, key_mask=x.mask, drop=False)[0] for other in others]
        return torch.stack(found).mean(0)
