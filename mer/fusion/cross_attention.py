"""The fusion pipeline's cross-modal attention: every modality looks at the others, then one vector sums up."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mer.batch import Batch, Fused, Sequence
from mer.errors import unknown
from mer.fusion.base import Fusion, Modelling, PairwiseAttention, as_sequence, in_time, means, presence
from mer.layers import Dropout, zeroed


class CrossAttention(Fusion):
    """Bidirectional cross-attention with residual, masked means, concatenation and an output layer.

    Equation:
        p_m = W_m x_m + b_m                                x_m after its Transformer blocks
        c_m = LN(p_m + mean over present n != m of MHA_mn(p_m, p_n, p_n))
        F   = LN(drop(gelu(W [mean_t c_1; ...; mean_t c_M] + b)))
        axis: time    F = [c_1; ...; c_M] along time

    For two modalities this is the source's equation; for more the attention is pairwise. An absent modality answers
    nobody and leaves zeros in its slot; where no other is present, c_m = LN(p_m).

    Shapes: `[B, T_m, D]` each `-> [B, 1, D]`; with `axis: time` `-> [B, sum T_m, D]`, which leaves the pooling to the
        pooling. In evaluation the attention maps come back, `attention text<-audio [B, T_text, T_audio]` (mean over
        heads).
    When to choose: what matters is *which* frames of one modality go with which words of the other.
    Cost: 4 D^2 parameters per ordered pair of modalities and T_m T_n scores, beside the blocks before it.
    Source: the fusion pipeline for TESS (indrasn0wal/Multimodal-Emotion-Recognition); pairwise for more than two: MulT,
        Tsai et al. 2019, arXiv 1906.00295.

    Args:
        axis: `feature` (means side by side) or `time` (frames one after the other).
        layers: Transformer blocks per modality before the attention; 0: none.
        heads: attention heads, of the blocks and between modalities.
        expansion: hidden width of a block's feed-forward, in multiples of D.
        dropout: in the blocks, on attention weights, and before the output's normalisation.
        positions: add sinusoids before the first block.

    >>> import torch
    >>> x = Sequence(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    >>> fused = CrossAttention(("text", "audio"), 8).eval()(Batch({"text": x, "audio": x}))
    >>> tuple(fused.sequence.values.shape), sorted(fused.aux)
    ((2, 1, 8), ['attention audio<-text', 'attention text<-audio'])
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
        super().__init__(modalities, dim)
        if axis not in ("feature", "time"):
            raise unknown("axis of cross_attention", axis, ("feature", "time"))
        self.axis = axis
        self.modelling = Modelling(
            modalities, dim, layers=layers, heads=heads, expansion=expansion, dropout=dropout, positions=positions
        )
        self.project = nn.ModuleDict({name: nn.Linear(dim, dim) for name in modalities})
        self.attention = PairwiseAttention(modalities, dim, heads, dropout)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name in modalities})
        self.dropout = Dropout(dropout)
        if axis == "feature":
            self.mix, self.norm = nn.Linear(len(modalities) * dim, dim), nn.LayerNorm(dim)

    def forward(self, batch: Batch) -> Fused:
        modelled = self.modelling(self.sequences(batch))
        projected = {m: Sequence(self.project[m](s.values), s.mask) for m, s in modelled.items()}
        answers, _, maps = self.attention(projected, projected, need_weights=not self.training)
        crossed = {m: self._normed(m, s, answers[m]) for m, s in projected.items()}
        if self.axis == "time":
            return Fused(in_time(crossed), maps)
        out = self.norm(self.dropout(F.gelu(self.mix(means(crossed).flatten(1)))))
        return Fused(as_sequence(out, presence(crossed).any(1)), maps)

    def _normed(self, name: str, sequence: Sequence, answer: Tensor) -> Sequence:
        return Sequence(zeroed(self.norms[name](sequence.values + answer), sequence.mask), sequence.mask)
