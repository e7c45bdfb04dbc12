"""Fusions of one vector per modality: none, concat, gated, weighted (the fusion pipeline's four, less cross-attention).

Source: the fusion pipeline for TESS (speech and text). Notation: x_m `[B, T_m, D]` are the modalities after the
Transformer blocks that the source puts before every fusion (`Modelling`), v_m = W_m mean_t(x_m) + b_m their projected
means, M the number of modalities, n the number that the utterance has. All but `none` end in the source's
`out = LN(drop(gelu(W u + b)))` and return a sequence of length 1, so that every pooling returns it unchanged.
Defaults are the source's where it states them (2 layers); it uses 8 heads and dropout 0.4 at a width of 768.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mer.batch import Batch, Fused, Sequence
from mer.errors import UserError, unknown
from mer.fusion.base import Fusion, Modelling, as_sequence, in_time, means, presence
from mer.layers import Dropout, masked_softmax


class NoFusion(Fusion):
    """One modality alone, untouched: the speech-only and text-only baselines.

    With several modalities in the recipe, `modality` says which one is used; there is no silent choice.

    Equation:
        F = x_m

    Shapes: `[B, T, D] -> [B, T, D]`.
    When to choose: as the baseline that a fusion must beat. With `layers` above 0 the modality passes through the
        fusion pipeline's Transformer blocks ("temporal" or "contextual" modelling alone), which makes it the exact
        ablation of that pipeline's fusions.
    Cost: no parameters with `layers: 0`; per block 4 D^2 for the attention and 2 expansion D^2 for the feed-forward.
    Source: the speech-only and text-only baselines of the fusion pipeline for TESS
        (indrasn0wal/Multimodal-Emotion-Recognition).

    Args:
        modality: which one, where the recipe has several.
        layers: Transformer blocks before it is handed on.
        heads: attention heads of a block.
        expansion: hidden width of a block's feed-forward, in multiples of D.
        dropout: in the blocks.
        positions: add sinusoids before the first block.

    >>> from mer.batch import Batch
    >>> x = Sequence(torch.ones(1, 3, 4), torch.tensor([[True, True, False]]))
    >>> NoFusion(("text",), 4)(Batch({"text": x})).sequence.values[0, :, 0]
    tensor([1., 1., 0.])
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        modality: str | None = None,
        layers: int = 0,
        heads: int = 4,
        expansion: float = 2.0,
        dropout: float = 0.1,
        positions: bool = True,
    ) -> None:
        super().__init__(modalities, dim)
        if modality is None and len(modalities) > 1:
            raise UserError(
                f"fusion 'none' with {len(modalities)} modalities ({', '.join(modalities)})",
                expected="one modality",
                hint="Give the recipe one encoder, or say which is used: fusion: {name: none, modality: text}.",
            )
        self.modality = modality or modalities[0]
        if self.modality not in modalities:
            raise unknown("modality", self.modality, modalities)
        self.modelling = Modelling(
            (self.modality,),
            dim,
            layers=layers,
            heads=heads,
            expansion=expansion,
            dropout=dropout if layers else 0.0,
            positions=positions,
        )

    def forward(self, batch: Batch) -> Fused:
        sequence = self.sequences(batch)[self.modality]
        return Fused(self.modelling({self.modality: sequence})[self.modality])


class _VectorFusion(Fusion):
    """Shared by the three below: Transformer blocks, a projection per modality, the output layer.

    Source: the fusion pipeline for TESS (indrasn0wal/Multimodal-Emotion-Recognition), whose two layers are the default;
        it uses 8 heads and dropout 0.4 at a width of 768.

    Args:
        layers: Transformer blocks per modality before the fusion, "temporal" for speech and "contextual" for text in
            the source; 0 leaves the sequences as they are.
        heads: attention heads of a block.
        expansion: hidden width of a block's feed-forward, in multiples of D.
        dropout: in the blocks and before the output's normalisation.
        positions: add sinusoids before the first block.
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        width: int,
        mixed: int,
        layers: int,
        heads: int,
        expansion: float,
        dropout: float,
        positions: bool,
    ) -> None:
        super().__init__(modalities, dim)
        self.modelling = Modelling(
            modalities, dim, layers=layers, heads=heads, expansion=expansion, dropout=dropout, positions=positions
        )
        self.project = nn.ModuleDict({name: nn.Linear(dim, width) for name in modalities})
        self.mix, self.dropout, self.norm = nn.Linear(mixed, self.out_dim), Dropout(dropout), nn.LayerNorm(self.out_dim)

    def vectors(self, sequences: dict[str, Sequence]) -> tuple[Tensor, Tensor]:
        """`v [B, M, width]`, zeros where absent (the bias too), and `present [B, M]`."""
        present = presence(sequences)
        pooled = means(sequences).unbind(1)
        v = torch.stack([self.project[m](x) for m, x in zip(self.modalities, pooled, strict=True)], dim=1)
        return torch.where(present.unsqueeze(-1), v, 0.0), present

    def output(self, u: Tensor, present: Tensor) -> Sequence:
        return as_sequence(self.norm(self.dropout(F.gelu(self.mix(u)))), present.any(1))


class Concat(_VectorFusion):
    """Concatenation: one vector per modality, side by side, through one layer.

    Equation:
        v_m = W_m mean_t(x_m) + b_m                        each of width ceil(D / M)
        F   = LN(drop(gelu(W [v_1; ...; v_M] + b)))
        axis: time    F = [x_1; ...; x_M] along time       no parameters behind the blocks

    An absent modality leaves zeros in its slot (or no frame).

    Shapes: `[B, T_m, D]` each `-> [B, 1, D]`; with `axis: time` `-> [B, sum T_m, D]`, where the pooling is a real
        factor (a longer modality weighs more in `mean`).
    When to choose: as the baseline that every other fusion must beat. Strong where the modalities are independent
        evidence, blind to what happens between them in time.
    Cost: D^2 for the projections together and D^2 for the output, beside the blocks before it.

    Args:
        axis: `feature` (vectors side by side) or `time` (frames one after the other).

    >>> from mer.batch import Batch
    >>> x = Sequence(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    >>> batch = Batch({"text": x, "audio": x})
    >>> tuple(Concat(("text", "audio"), 8)(batch).sequence.values.shape)
    (2, 1, 8)
    >>> tuple(Concat(("text", "audio"), 8, axis="time")(batch).sequence.values.shape)
    (2, 6, 8)
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        axis: Literal["feature", "time"] = "feature",
        layers: int = 2,
        heads: int = 4,
        expansion: float = 2.0,
        dropout: float = 0.1,
        positions: bool = True,
    ) -> None:
        if axis not in ("feature", "time"):
            raise unknown("axis of concat", axis, ("feature", "time"))
        width = -(-dim // len(modalities))
        super().__init__(
            modalities,
            dim,
            width=width,
            mixed=width * len(modalities),
            layers=layers,
            heads=heads,
            expansion=expansion,
            dropout=dropout,
            positions=positions,
        )
        self.axis = axis
        if axis == "time":  # nothing is projected or mixed: keep no parameters that could not learn
            del self.project, self.mix, self.norm

    def forward(self, batch: Batch) -> Fused:
        sequences = self.modelling(self.sequences(batch))
        if self.axis == "time":
            return Fused(in_time(sequences))
        v, present = self.vectors(sequences)
        return Fused(self.output(v.flatten(1), present))


class Gated(_VectorFusion):
    """Independent gates: each modality decides from itself how much of it passes.

    Equation:
        v_m = W_m mean_t(x_m) + b_m
        g_m = sigmoid(U2 tanh(U1 v_m))                     in (0, 1)^D
        F   = LN(drop(gelu(W (M / n) sum_m g_m * v_m + b)))

    As in the source a gate sees its own modality alone and the gates are not convex: all may open or close. Where a
    modality is absent its gate is 0 and the others are scaled by M / n (n: how many are there), as inverted dropout
    does, so that the output layer sees the same magnitude.

    Shapes: `[B, T_m, D]` each `-> [B, 1, D]`, and `gate [B, M, D]` for analysis.
    When to choose: a modality may be noise (its gate can close) while the others still count in full.
    Cost: 3 D^2 per modality and D^2 for the output, beside the blocks before it.

    >>> from mer.batch import Batch
    >>> x = Sequence(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    >>> fused = Gated(("text", "audio"), 8)(Batch({"text": x, "audio": x}))
    >>> tuple(fused.sequence.values.shape), tuple(fused.aux["gate"].shape)
    ((2, 1, 8), (2, 2, 8))
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        layers: int = 2,
        heads: int = 4,
        expansion: float = 2.0,
        dropout: float = 0.1,
        positions: bool = True,
    ) -> None:
        super().__init__(
            modalities,
            dim,
            width=dim,
            mixed=dim,
            layers=layers,
            heads=heads,
            expansion=expansion,
            dropout=dropout,
            positions=positions,
        )
        self.gates = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim)) for name in modalities}
        )

    def forward(self, batch: Batch) -> Fused:
        v, present = self.vectors(self.modelling(self.sequences(batch)))
        gates = [self.gates[name](v[:, m]) for m, name in enumerate(self.modalities)]
        gate = torch.where(present.unsqueeze(-1), torch.sigmoid(torch.stack(gates, dim=1)), 0.0)
        scale = len(self.modalities) / present.sum(1, keepdim=True).clamp(min=1).to(v.dtype)
        return Fused(self.output((gate * v).sum(1) * scale, present), {"gate": gate.detach()})


class Weighted(_VectorFusion):
    """Weighted average: one weight per modality and utterance, adding up to 1.

    Equation:
        v_m = W_m mean_t(x_m) + b_m
        a   = softmax_m(u' tanh(U v_m))                    over the modalities that are present
        F   = LN(drop(gelu(W sum_m a_m v_m + b)))

    One scorer is shared by all modalities, as in the source.

    Shapes: `[B, T_m, D]` each `-> [B, 1, D]`, and `weight [B, M]` for analysis.
    When to choose: one weight per modality is what the analysis needs.
    Cost: D^2 per modality, D^2 / 2 for the scorer and D^2 for the output, beside the blocks before it.

    >>> from mer.batch import Batch
    >>> x = Sequence(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    >>> fused = Weighted(("text", "audio"), 8)(Batch({"text": x, "audio": x}))
    >>> bool(torch.allclose(fused.aux["weight"].sum(1), torch.ones(2)))
    True
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        layers: int = 2,
        heads: int = 4,
        expansion: float = 2.0,
        dropout: float = 0.1,
        positions: bool = True,
    ) -> None:
        super().__init__(
            modalities,
            dim,
            width=dim,
            mixed=dim,
            layers=layers,
            heads=heads,
            expansion=expansion,
            dropout=dropout,
            positions=positions,
        )
        if len(modalities) > 1:  # one modality always weighs 1; a scorer would never get a gradient
            self.score = nn.Sequential(nn.Linear(dim, -(-dim // 2)), nn.Tanh(), nn.Linear(-(-dim // 2), 1, bias=False))

    def forward(self, batch: Batch) -> Fused:
        v, present = self.vectors(self.modelling(self.sequences(batch)))
        scores = self.score(v).squeeze(-1) if len(self.modalities) > 1 else v.new_zeros(v.shape[:2])
        weight = masked_softmax(scores, present)
        mixed = (weight.unsqueeze(-1) * v).sum(1)
        return Fused(self.output(mixed, present), {"weight": weight.detach()})
