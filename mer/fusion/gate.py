"""The adaptive gate of TACFN for any number of modalities, and the four ways to bring them to one length."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mer.batch import Sequence
from mer.errors import UserError, unknown
from mer.fusion.base import Sequences, in_time, means, presence
from mer.layers import front, masked_softmax, ranks, take, zeroed

ALIGN = ("text_query", "interp", "concat", "truncate")
GATE = ("vector", "scalar", "none")


class SoftAlign(nn.Module):
    """Bring `x [B, T, D]` to the positions of `anchor [B, S, D]` by attention: `softmax(Q anchor (K x)' / sqrt(d)) x`.

    Per head on its slice of D, with no value or output projection: each result is a convex mixture of the frames of x
    themselves, so the gate weighs the same normalised features as in its equation, and a single frame (an utterance
    vector) is handed to every position as it is.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(f"{heads} attention heads do not divide the width {dim}", expected=f"a divisor of {dim}")
        self.query, self.key, self.heads = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), heads

    def forward(self, anchor: Sequence, x: Sequence) -> Tensor:
        q, k, v = self._split(self.query(anchor.values)), self._split(self.key(x.values)), self._split(x.values)
        weights = masked_softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), x.mask[:, None, None, :])
        return zeroed((weights @ v.to(weights.dtype)).transpose(1, 2).flatten(2), anchor.mask)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


def interpolate(x: Sequence, mask: Tensor) -> Tensor:
    """Resample the real frames of each utterance linearly to the number of real frames in `mask [B, S]`: `[B, S, D]`.

    Positions as in `F.interpolate(mode="linear", align_corners=False)` on that utterance alone, so neither padding nor
    batch-mates matter.

    >>> x = Sequence(torch.tensor([[[0.0], [2.0], [4.0], [99.0]]]), torch.tensor([[True, True, True, False]]))
    >>> interpolate(x, torch.tensor([[True, True, False]])).flatten()
    tensor([0.5000, 3.5000, 0.0000])
    """
    source, target = x.lengths.unsqueeze(1), mask.sum(1, keepdim=True).clamp(min=1)
    position = (ranks(mask) + 0.5) * (source / target) - 0.5
    position = position.clamp(min=0).minimum((source - 1).clamp(min=0))
    low = position.floor().long()
    high = torch.minimum(low + 1, (source - 1).clamp(min=0))
    packed, share = take(x.filled(), front(x.mask)), (position - low).unsqueeze(-1).to(x.values.dtype)
    return zeroed(take(packed, low) * (1 - share) + take(packed, high) * share, mask)


class AdaptiveGate(nn.Module):
    """Weigh modalities per dimension and add them up; the BetaGate of TACFN, for M modalities.

    With h_m' = LN(h_m), pooled p_m = masked mean of h_m', and the anchor (text, where there is one) last:

        g = [p_1, ..., p_M, |p_i - p_j| ..., p_i * p_j ...]          all pairs i < j
        w = softmax over present m of [MLP(g)_1, ..., MLP(g)_{M-1}, 0], per dimension
        h = sum_m w_m * h_m'  at the anchor's positions

    For two modalities the softmax of [z, 0] is sigmoid(z): the source's equation. `gate: scalar` has one weight per
    modality, `none` equal weights without an MLP. Lengths:

        text_query  each other modality is brought to the anchor's positions by attention (`SoftAlign`)
        interp      ... by linear resampling of its real frames
        concat      [w_1 * h_1'; ...; w_M * h_M'] along time, not aligned; a longer modality weighs more in a mean
        truncate    the first frames of each, weights renormalised where one has run out: what the source does, kept as
                    a reference; with 20 tokens and 50 frames a second it fuses the first 0.4 s of speech

    Weights are renormalised over what is present. An utterance without its anchor has no positions to align to: its
    fused sequence is one frame, sum_m w_m * p_m (`concat` needs no anchor and keeps all frames).
    Returns the fused `Sequence` and the weights `[B, M, D]` in the order of `modalities`.
    """

    left: Tensor
    right: Tensor

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        hidden: int,
        heads: int,
        gate: str,
        align: str,
        anchor: str,
    ) -> None:
        super().__init__()
        if align not in ALIGN:
            raise unknown("align", align, ALIGN)
        if gate not in GATE:
            raise unknown("gate", gate, GATE)
        self.modalities, self.dim, self.align = modalities, dim, align
        self.anchor = anchor if anchor in modalities else modalities[0]
        self.others = tuple(name for name in modalities if name != self.anchor)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name in modalities})
        count, parts = len(modalities), len(modalities) + len(modalities) * (len(modalities) - 1)
        # All pairs i < j, on the device from the start: lists would be copied there each time, and waited for.
        left, right = torch.triu_indices(count, count, 1)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.mlp: nn.Sequential | None = None
        if gate != "none" and self.others:
            outputs = (count - 1) * (dim if gate == "vector" else 1)
            self.mlp = nn.Sequential(nn.Linear(parts * dim, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
        if align == "text_query":
            self.aligners = nn.ModuleDict({name: SoftAlign(dim, heads) for name in self.others})

    def forward(self, sequences: Sequences) -> tuple[Sequence, Tensor]:
        order = (*self.others, self.anchor)
        normed = {
            m: Sequence(zeroed(self.norms[m](sequences[m].values), sequences[m].mask), sequences[m].mask) for m in order
        }
        pooled, present = means(normed), presence(normed)
        weights = self.weights(pooled, present)
        fused = self._concat(normed, weights) if self.align == "concat" else self._at_anchor(normed, pooled, weights)
        return fused, torch.stack([weights[:, order.index(name)] for name in self.modalities], dim=1)

    def weights(self, pooled: Tensor, present: Tensor) -> Tensor:
        """`[B, M, D]`, anchor last: convex over the modalities that are present, zeros where none is."""
        count = pooled.shape[1]
        logits = pooled.new_zeros(pooled.shape)
        if self.mlp is not None:
            left, right = pooled[:, self.left], pooled[:, self.right]
            features = torch.cat([pooled, (left - right).abs(), left * right], dim=1)
            raw = self.mlp(features.flatten(1)).view(pooled.shape[0], count - 1, -1).expand(-1, -1, self.dim)
            logits = torch.cat([raw, torch.zeros_like(raw[:, :1])], dim=1)
        return masked_softmax(logits, present.unsqueeze(-1).expand_as(logits), dim=1)

    def _concat(self, normed: Mapping[str, Sequence], weights: Tensor) -> Sequence:
        parts = zip(normed.items(), weights.unbind(1), strict=True)
        return in_time({m: Sequence(s.values * w.unsqueeze(1), s.mask) for (m, s), w in parts})

    def _at_anchor(self, normed: Mapping[str, Sequence], pooled: Tensor, weights: Tensor) -> Sequence:
        anchor = normed[self.anchor]
        aligned = [*(self._aligned(m, anchor, normed[m]) for m in self.others), anchor.values]
        stacked, spread = torch.stack(aligned, dim=1), weights.unsqueeze(2)  # [B, M, S, D], [B, M, 1, D]
        if self.align == "truncate":
            length = anchor.mask.shape[1]
            there = torch.stack([_cut(normed[m].mask, length) for m in (*self.others, self.anchor)], dim=1)
            spread = torch.where(there.unsqueeze(-1), spread, 0.0)
            spread = spread / spread.sum(1, keepdim=True).clamp(min=torch.finfo(spread.dtype).tiny)
        fused = (spread * stacked).sum(1)
        # Without the anchor: one frame made of the pooled modalities, where its first frame would have been.
        summary = F.pad((weights * pooled).sum(1, keepdim=True), (0, 0, 0, fused.shape[1] - 1))
        alone = presence(normed).any(1) & ~anchor.present
        first = torch.arange(fused.shape[1], device=fused.device) == 0
        mask = torch.where(alone.unsqueeze(1), first, anchor.mask)
        return Sequence(zeroed(torch.where(alone[:, None, None], summary, fused), mask), mask)

    def _aligned(self, name: str, anchor: Sequence, x: Sequence) -> Tensor:
        if self.align == "text_query":
            aligned: Tensor = self.aligners[name](anchor, x)
            return aligned
        if self.align == "interp":
            return interpolate(x, anchor.mask)
        return zeroed(_cut(x.values, anchor.mask.shape[1]), anchor.mask)


def _cut(x: Tensor, length: int) -> Tensor:
    """The first `length` frames, with zeros (False) where there are fewer."""
    missing = length - x.shape[1]
    if missing <= 0:
        return x[:, :length]
    return F.pad(x, (0, 0, 0, missing) if x.dim() == 3 else (0, missing))
