"""TACFN-inspired fusion: a cross-modal Transformer, then an adaptive gate (per dimension) between the modalities.

Source: "TACFN-inspired Cross-Modal Fusion Network" (text and speech), after TACFN (Liu et al. 2023, arXiv 2505.06536).
`Tacfn` is the level for any number of modalities. `CrossModalTransformer`, `BetaGate` and `FusionClassifier` are the
source's own classes for audio and text, with its signatures: **their masks are True = PAD**, the opposite of ours, and
are turned at the door.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mer.batch import Batch, Fused, Sequence
from mer.errors import UserError
from mer.fusion.base import Fusion, PairwiseAttention, Sequences, means
from mer.fusion.gate import AdaptiveGate
from mer.layers import Attention, Dropout, FeedForward, masked_mean, zeroed

AUDIO_TEXT = ("audio", "text")


class CrossModalBlock(nn.Module):
    """One block for all modalities at once, post-norm: `[B, T_m, D] -> [B, T_m, D]` each.

        s_m = LN(h_m + MHA(h_m, h_m, h_m))                                  intra-modal self-attention
        c_m = LN(s_m + mean over present n != m of MHA_mn(s_m, s_n, s_n))   cross-modal attention, both directions
        h_m = LN(c_m + FFN(c_m)),  FFN = Linear(4D), ReLU, Linear(D)

    `self_attention` and `cross_attention` switch the first two off (with their norms).
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        heads: int,
        dropout: float,
        self_attention: bool = True,
        cross_attention: bool = True,
    ) -> None:
        super().__init__()

        def norms() -> nn.ModuleDict:
            return nn.ModuleDict({name: nn.LayerNorm(dim) for name in modalities})

        self.within, self.across = None, None
        if self_attention:
            self.within, self.norm_within = (
                nn.ModuleDict({m: Attention(dim, heads, dropout) for m in modalities}),
                norms(),
            )
        if cross_attention and len(modalities) > 1:
            self.across, self.norm_across = PairwiseAttention(modalities, dim, heads, dropout), norms()
        self.feed_forward = nn.ModuleDict({m: FeedForward(dim, 4 * dim, activation="relu") for m in modalities})
        self.norm_feed_forward = norms()
        self.dropout = Dropout(dropout)

    def forward(
        self, sequences: Sequences, need_weights: bool = False
    ) -> tuple[dict[str, Sequence], dict[str, Tensor]]:
        found, maps = dict(sequences), {}
        if self.within is not None:
            for m, s in found.items():
                out, weights = self.within[m](
                    s.values, s.values, query_mask=s.mask, key_mask=s.mask, need_weights=need_weights
                )
                found[m] = self._add(self.norm_within[m], s, out)
                if weights is not None:
                    maps[f"attention {m}<-{m}"] = weights.mean(1).detach()
        if self.across is not None:
            answers, _, crossed = self.across(found, found, need_weights)
            found = {m: self._add(self.norm_across[m], s, answers[m]) for m, s in found.items()}
            maps.update(crossed)
        found = {m: self._add(self.norm_feed_forward[m], s, self.feed_forward[m](s.values)) for m, s in found.items()}
        return found, maps

    def _add(self, norm: nn.Module, x: Sequence, out: Tensor) -> Sequence:
        return Sequence(zeroed(norm(x.values + self.dropout(out)), x.mask), x.mask)


class Tacfn(Fusion):
    """Cross-modal Transformer blocks, then an adaptive gate that weighs modalities per dimension.

    Equation:
        x_m <- LN(x_m + MHA_m(x_m, x_m, x_m))                                `self_attention`
        x_m <- LN(x_m + mean over present n != m of MHA_mn(x_m, x_n, x_n))   `cross_attention`
        x_m <- LN(x_m + FFN(x_m))                                            all `layers` times
        h_m = LN(x_m),  p_m = mean_t(h_m)
        g   = [p_1; ...; p_M; |p_i - p_j| ...; p_i * p_j ...]                all pairs i < j
        w   = softmax over present m of [MLP(g)_1, ..., MLP(g)_{M-1}, 0]     in [0, 1]^D
        F   = sum_m w_m * h_m                                                at the anchor's positions

    For two modalities the softmax is w = sigmoid(MLP [a; t; |a - t|; a * t]), the source's gate. How others come to the
    anchor's positions is `align`. An utterance without its anchor gives one frame, sum_m w_m * p_m.

    Shapes: `[B, T_m, D]` each `-> [B, L, D]`, L the anchor's length, or the sum of lengths with `align: concat`. For
        analysis `gate [B, M, D]`, its mean `beta [B, M]`, and in evaluation the attention maps of the last block.
    When to choose: modalities are redundant in part and their worth differs by utterance. On small corpora with few
        layers.
    Cost: the most parameters of the families here: per layer 12 D^2 per modality and 4 D^2 per ordered pair; T_m^2 +
        T_m T_n scores.
    Source: "TACFN-inspired Cross-Modal Fusion Network" (Makiato1999/HRI-EMO; D 768, 8 heads, 2 layers), after TACFN,
        Liu et al. 2023, arXiv 2505.06536.

    Args:
        layers: cross-modal blocks.
        heads: attention heads.
        dropout: on attention weights, in the feed-forward and on every residual.
        gate: `vector` (a weight per dimension), `scalar` (one per modality), or `none` (equal weights).
        gate_hidden: hidden width of the gate's MLP.
        align: `text_query` (one attention from the anchor's positions), `interp` (linear resampling of real frames),
            `concat` (not aligned, along time), or `truncate` (the first frames of each: what the source does, kept as a
            reference; with 20 tokens and 50 frames a second it fuses the first 0.4 s of speech).
        anchor: whose positions are kept; the first modality where there is no such one.
        self_attention: within each modality.
        cross_attention: between modalities.

    >>> text = Sequence(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    >>> audio = Sequence(torch.randn(2, 7, 8), torch.ones(2, 7, dtype=torch.bool))
    >>> fused = Tacfn(("text", "audio"), 8)(Batch({"text": text, "audio": audio}))
    >>> tuple(fused.sequence.values.shape), tuple(fused.aux["gate"].shape), tuple(fused.aux["beta"].shape)
    ((2, 3, 8), (2, 2, 8), (2, 2))
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        gate: Literal["vector", "scalar", "none"] = "vector",
        gate_hidden: int = 256,
        align: Literal["text_query", "interp", "concat", "truncate"] = "text_query",
        anchor: str = "text",
        self_attention: bool = True,
        cross_attention: bool = True,
    ) -> None:
        super().__init__(modalities, dim)
        self.blocks = nn.ModuleList(
            CrossModalBlock(modalities, dim, heads, dropout, self_attention, cross_attention) for _ in range(layers)
        )
        self.gate = AdaptiveGate(
            modalities, dim, hidden=gate_hidden, heads=heads, gate=gate, align=align, anchor=anchor
        )

    def forward(self, batch: Batch) -> Fused:
        found, maps = self.sequences(batch), {}
        for block in self.blocks:
            found, maps = block(found, need_weights=not self.training)
        fused, weights = self.gate(found)
        return Fused(fused, {"gate": weights.detach(), "beta": weights.detach().mean(-1), **maps})


# --- the source's own signatures: audio and text, masks True = PAD ---------------------------------------------------


def _sequences(h_a: Tensor, h_t: Tensor, mask_a: Tensor | None, mask_t: Tensor | None) -> dict[str, Sequence]:
    """`[B, L, d]` or `[B, d]` each, with a True = PAD mask or none, as our sequences."""
    found = {}
    for name, values, pad in zip(AUDIO_TEXT, (h_a, h_t), (mask_a, mask_t), strict=True):
        if values.dim() == 2:
            values = values.unsqueeze(1)
        if values.dim() != 3:
            raise UserError(f"{name} features of shape {tuple(values.shape)}", expected="[B, L, d] or [B, d]")
        real = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        if pad is not None:
            real = ~pad.bool().view(pad.shape[0], -1)
        if real.shape != values.shape[:2]:
            raise UserError(
                f"{name} mask of shape {tuple(real.shape)}", expected=f"{tuple(values.shape[:2])}, True = PAD"
            )
        found[name] = Sequence(Sequence(values, real).filled(), real)
    return found


class CrossModalTransformer(nn.Module):
    """The source's stack of cross-modal blocks for audio and text; masks True = PAD.

    `h_a [B, L_a, d]`, `h_t [B, L_t, d]` (or `[B, d]`) to the same shapes `[B, L, d]`; padded frames come out as zeros.

    >>> h_a, h_t = CrossModalTransformer(num_layers=1, d_model=8)(torch.randn(2, 5, 8), torch.randn(2, 3, 8))
    >>> tuple(h_a.shape), tuple(h_t.shape)
    ((2, 5, 8), (2, 3, 8))
    """

    def __init__(self, num_layers: int = 2, d_model: int = 768, n_heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossModalBlock(AUDIO_TEXT, d_model, n_heads, dropout) for _ in range(num_layers))

    def forward(
        self, h_a: Tensor, h_t: Tensor, mask_a: Tensor | None = None, mask_t: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        found = _sequences(h_a, h_t, mask_a, mask_t)
        for layer in self.layers:
            found, _ = layer(found)
        return found["audio"].values, found["text"].values


class BetaGate(nn.Module):
    """The source's vector gate for audio and text; masks True = PAD.

    `w = sigmoid(MLP [a, t, |a - t|, a * t])`, `h = w * LN(h_a) + (1 - w) * LN(h_t)`. Returns `h [B, L_f, d]` and
    `beta [B, 1]`, the mean of w (1: all audio). L_f is L_t (`align: concat`: L_a + L_t). Where a modality is absent
    (all PAD), the other one gets all the weight.

    >>> h, beta = BetaGate(d_model=8)(torch.randn(2, 5, 8), torch.randn(2, 3, 8))
    >>> tuple(h.shape), tuple(beta.shape)
    ((2, 3, 8), (2, 1))
    """

    def __init__(
        self,
        d_model: int = 768,
        hidden_dim: int = 256,
        *,
        n_heads: int = 8,
        align: str = "text_query",
        gate: str = "vector",
    ) -> None:
        super().__init__()
        self.gate = AdaptiveGate(
            AUDIO_TEXT, d_model, hidden=hidden_dim, heads=n_heads, gate=gate, align=align, anchor="text"
        )

    def forward(
        self, h_a: Tensor, h_t: Tensor, mask_a: Tensor | None = None, mask_t: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        fused, weights = self.gate(_sequences(h_a, h_t, mask_a, mask_t))
        return fused.values, weights[:, 0].mean(-1, keepdim=True)


class FusionClassifier(nn.Module):
    """The source's end-to-end model: `logits [B, C], beta [B, 1], h_fused [B, d]`; masks True = PAD.

    `[B, d]` features are accepted as `[B, 1, d]`. The fused sequence is averaged over its real frames (with
    `align: concat`, per modality, then added: a plain mean would favour the longer one); the head is
    LayerNorm, Linear, ReLU, Dropout, Linear.

    >>> model = FusionClassifier(d_model=8, num_classes=4)
    >>> nothing_padded = torch.zeros(2, 3, dtype=torch.bool)
    >>> logits, beta, h_fused = model(torch.randn(2, 8), torch.randn(2, 3, 8), mask_t=nothing_padded)
    >>> tuple(logits.shape), tuple(beta.shape), tuple(h_fused.shape)
    ((2, 4), (2, 1), (2, 8))
    """

    def __init__(
        self,
        d_model: int = 768,
        num_classes: int = 4,
        n_heads: int = 8,
        num_layers: int = 2,
        beta_hidden: int = 256,
        dropout: float = 0.2,
        *,
        align: Literal["text_query", "interp", "concat", "truncate"] = "text_query",
        gate: Literal["vector", "scalar", "none"] = "vector",
        self_attention: bool = True,
        cross_attention: bool = True,
    ) -> None:
        super().__init__()
        self.fusion = Tacfn(
            AUDIO_TEXT,
            d_model,
            layers=num_layers,
            heads=n_heads,
            dropout=dropout,
            gate=gate,
            gate_hidden=beta_hidden,
            align=align,
            self_attention=self_attention,
            cross_attention=cross_attention,
        )
        self.classifier = nn.Sequential(
            nn.LayerNorm(d_model),
            nn.Linear(d_model, d_model),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(d_model, num_classes),
        )

    def forward(
        self, h_a: Tensor, h_t: Tensor, mask_a: Tensor | None = None, mask_t: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        sequences = _sequences(h_a, h_t, mask_a, mask_t)
        found = dict(sequences)
        for block in self.fusion.blocks:
            found, _ = block(found)
        fused, weights = self.fusion.gate(found)
        if self.fusion.gate.align == "concat":
            cut = found["audio"].mask.shape[1]
            halves = {
                "audio": Sequence(fused.values[:, :cut], fused.mask[:, :cut]),
                "text": Sequence(fused.values[:, cut:], fused.mask[:, cut:]),
            }
            pooled = means(halves).sum(1)
        else:
            pooled = masked_mean(fused.values, fused.mask)
        return self.classifier(pooled), weights[:, 0].mean(-1, keepdim=True), pooled
