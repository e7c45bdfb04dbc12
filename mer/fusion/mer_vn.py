"""MER-VN's fusions: bidirectional cross-attention, behind nothing, BiLSTMs, or temporal convolutions and BiLSTMs.

Source: MER-VN, a framework for Vietnamese text and speech. All three return the fused sequence F = [x_1'; ...; x_M']
along time, `[B, sum T_m, D]` with its mask, so the pooling is a real factor (`cls` takes the first frame of the first
modality that is present). Absent modalities are masked: they answer no query and add no frame. In evaluation the
attention maps come back, `attention text<-audio [B, T_text, T_audio]` (mean over heads; one per block).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mer.batch import Batch, Fused, Sequence
from mer.errors import unknown
from mer.fusion.base import Fusion, PairwiseAttention, Sequences, in_time, presence
from mer.layers import Dropout, FeedForward, MaskedBiLSTM, TemporalConv, masked_mean, zeroed


class Xattn(Fusion):
    """Bidirectional cross-attention, and the answers one after the other in time.

    Equation:
        T' = MHA(T, A, A)      A' = MHA(A, T, T)      F = [T'; A']
        M modalities:          x_m' = mean over present n != m of MHA_mn(x_m, x_n, x_n)
        m alone:               x_m' = mean over n != m of MHA_nm(x_m, x_m, x_m)
        residual: true         x_m' = LN(x_m + ...)

    The source does not say what becomes of an utterance with one modality, which nobody asks and nobody answers. Here
    it asks itself what the others would ask of it. The classifier has to learn to read that, also where training has
    no gaps: in training each utterance is seen twice, whole and with one of its modalities, taken in turn, and the
    loss is the mean of both. `learn_alone: false` trains as the source does; then one modality alone is hardly read.
    A recipe with one modality hands it on as it is.

    Shapes: `[B, T_m, D]` each `-> [B, sum T_m, D]`. In evaluation the attention maps come back.
    When to choose: the lightest interaction between sequences. `residual: true` trains more easily and keeps what the
        modality itself says; it departs from the source.
    Cost: 4 D^2 parameters per ordered pair of modalities and T_m T_n scores.
    Source: MER-VN (taptanhcoder/MER), its fusion `xattn`.

    Args:
        heads: attention heads.
        dropout: on attention weights.
        residual: add the modality itself, then normalise.
        learn_alone: in training, see each utterance with one of its modalities too.

    >>> x = Sequence(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    >>> y = Sequence(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
    >>> tuple(Xattn(("text", "audio"), 8)(Batch({"text": x, "audio": y})).sequence.values.shape)
    (2, 8, 8)
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        heads: int = 4,
        dropout: float = 0.1,
        residual: bool = False,
        learn_alone: bool = True,
    ) -> None:
        super().__init__(modalities, dim)
        self.attention = PairwiseAttention(modalities, dim, heads, dropout)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name in modalities}) if residual else None
        self.dropout = Dropout(dropout)
        self.learn_alone = learn_alone

    def forward(self, batch: Batch) -> Fused:
        sequences = self.sequences(batch)
        if len(sequences) == 1:
            ((name, sequence),) = sequences.items()
            return Fused(in_time({name: self._with(name, sequence, sequence.values)}))
        answers, answered, maps = self.attention(sequences, sequences, need_weights=not self.training)
        own = {name: self.attention.alone(name, sequence) for name, sequence in sequences.items()}
        heard = {name: torch.where(answered[name][:, None, None], answers[name], own[name]) for name in sequences}
        fused = in_time({name: self._with(name, sequence, heard[name]) for name, sequence in sequences.items()})
        second = None
        if self.training and self.learn_alone:
            second = in_time({name: self._with(name, one, own[name]) for name, one in one_left(sequences).items()})
        return Fused(fused, maps, second=second)

    def _with(self, name: str, sequence: Sequence, answer: Tensor) -> Sequence:
        """What a modality becomes with the answer it got."""
        answer = self.dropout(answer)
        x = answer if self.norms is None else self.norms[name](sequence.values + answer)
        return Sequence(zeroed(x, sequence.mask), sequence.mask)


def one_left(sequences: Sequences) -> dict[str, Sequence]:
    """Each utterance with one of the modalities it has, in turn: its first, the next one's second, and so on.

    >>> x = Sequence(torch.ones(3, 2, 8), torch.ones(3, 2, dtype=torch.bool))
    >>> {name: left.present.tolist() for name, left in one_left({"text": x, "audio": x}).items()}
    {'text': [True, False, True], 'audio': [False, True, False]}
    """
    there = presence(sequences)
    turn = torch.arange(len(there), device=there.device) % there.sum(1).clamp(min=1)
    kept = there & (there.cumsum(1) == turn[:, None] + 1)
    return {name: Sequence(s.values, s.mask & kept[:, m, None]) for m, (name, s) in enumerate(sequences.items())}


class CrossBlock(nn.Module):
    """One pre-norm cross-attention block: `x_m += MHA(LN x_m, x_n)`, then `x_m += FFN(LN x_m)`; all m at once."""

    def __init__(self, modalities: tuple[str, ...], dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = PairwiseAttention(modalities, dim, heads, dropout)
        several = len(modalities) > 1  # one modality attends to nobody: a norm of its queries could not learn
        self.norm_query = nn.ModuleDict({m: nn.LayerNorm(dim) for m in modalities}) if several else None
        self.norm_feed_forward = nn.ModuleDict({m: nn.LayerNorm(dim) for m in modalities})
        self.feed_forward = nn.ModuleDict({m: FeedForward(dim, 4 * dim, dropout) for m in modalities})
        self.dropout = Dropout(dropout)

    def forward(self, sequences: Sequences, need_weights: bool) -> tuple[dict[str, Sequence], dict[str, Tensor]]:
        queries, maps = sequences, {}
        if self.norm_query is not None:
            queries = {m: Sequence(self.norm_query[m](s.values), s.mask) for m, s in sequences.items()}
        answers, _, maps = self.attention(queries, sequences, need_weights)
        found = {}
        for m, sequence in sequences.items():
            x = sequence.values + self.dropout(answers[m])
            x = x + self.dropout(self.feed_forward[m](self.norm_feed_forward[m](x)))
            found[m] = Sequence(zeroed(x, sequence.mask), sequence.mask)
        return found, maps


class BiLstmAttn(Fusion):
    """A BiLSTM per modality, then cross-attention blocks, then optionally gates.

    Equation:
        h_m = LN(W_m BiLSTM_m(x_m) + b_m)
        h_m <- h_m + CrossAttention(LN h)_m;  h_m <- h_m + FFN(LN h_m)     `blocks` times
        merge: concat    x_m' = h_m
        merge: gate      x_m' = sigmoid(V_m gelu(U_m h_m)) * h_m      per frame and dimension
        F = [x_1'; ...; x_M'] along time

    BiLSTMs read the real frames only, from both ends.

    Shapes: `[B, T_m, D]` each `-> [B, sum T_m, D]`. With `merge: gate`, `gate [B, M]` is the mean gate over frames and
        dimensions, 0 where absent; in evaluation the attention maps come back.
    When to choose: order in time matters and data are few: recurrence needs no positions to learn.
    Cost: the LSTMs are sequential in T, which makes it the slowest family on long audio.
    Source: MER-VN (taptanhcoder/MER), its fusion `bilstm_attn`.

    Args:
        merge: `concat`, or `gate` before it.
        hidden: width of an LSTM per direction; null: D / 2 (the source: 384 at 768).
        lstm_layers: layers of each BiLSTM.
        blocks: cross-attention blocks.
        heads: attention heads.
        dropout: between LSTM layers, on attention weights and in the feed-forward.

    >>> x = Sequence(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    >>> fused = BiLstmAttn(("text", "audio"), 8, merge="gate")(Batch({"text": x, "audio": x}))
    >>> tuple(fused.sequence.values.shape), tuple(fused.aux["gate"].shape)
    ((2, 6, 8), (2, 2))
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        merge: Literal["concat", "gate"] = "concat",
        hidden: int | None = None,
        lstm_layers: int = 1,
        blocks: int = 1,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(modalities, dim)
        if merge not in ("concat", "gate"):
            raise unknown("merge", merge, ("concat", "gate"))
        hidden = hidden or -(-dim // 2)
        self.lstm = nn.ModuleDict({m: MaskedBiLSTM(dim, hidden, lstm_layers, dropout) for m in modalities})
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(2 * hidden, dim), nn.LayerNorm(dim)) for m in modalities}
        )
        self.blocks = nn.ModuleList(CrossBlock(modalities, dim, heads, dropout) for _ in range(blocks))
        self.gates: nn.ModuleDict | None = None
        if merge == "gate":
            self.gates = nn.ModuleDict(
                {m: nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)) for m in modalities}
            )
        self.dropout = Dropout(dropout)

    def before(self, sequences: dict[str, Sequence]) -> dict[str, Sequence]:
        """What happens to the sequences before the BiLSTMs; nothing here."""
        return sequences

    def forward(self, batch: Batch) -> Fused:
        found, aux = {}, {}
        for m, sequence in self.before(self.sequences(batch)).items():
            x = self.project[m](self.lstm[m](sequence.values, sequence.mask))
            found[m] = Sequence(zeroed(x, sequence.mask), sequence.mask)
        for number, block in enumerate(self.blocks):
            found, maps = block(found, need_weights=not self.training)
            suffix = f" block {number}" if len(self.blocks) > 1 else ""
            aux.update({name + suffix: weights for name, weights in maps.items()})
        if self.gates is not None:
            gates = {m: torch.sigmoid(self.gates[m](sequence.values)) for m, sequence in found.items()}
            aux["gate"] = torch.stack([masked_mean(g, found[m].mask).mean(-1) for m, g in gates.items()], 1).detach()
            found = {m: Sequence(gates[m] * sequence.values, sequence.mask) for m, sequence in found.items()}
        fused = in_time(found)
        return Fused(Sequence(self.dropout(fused.values), fused.mask), aux)


class CnnBiLstmAttn(BiLstmAttn):
    """A temporal CNN per modality before `bilstm_attn`.

    Equation:
        x_m <- LN(drop(gelu(conv(x_m))))         `conv_layers` times, length kept
        then as `bilstm_attn`

    Padding is zeroed before every convolution.

    Shapes: `[B, T_m, D]` each `-> [B, sum T_m, D]`, as `bilstm_attn`.
    When to choose: over `bilstm_attn` for frame-level acoustic features, where local patterns come before order.
    Cost: kernel D^2 parameters per layer and modality, beside `bilstm_attn`.
    Source: MER-VN (taptanhcoder/MER), its fusion `cnn_bilstm_attn`.

    Args:
        conv_layers: convolutions before the BiLSTM.
        kernel: frames that a convolution sees.

    >>> x = Sequence(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    >>> tuple(CnnBiLstmAttn(("text", "audio"), 8)(Batch({"text": x, "audio": x})).sequence.values.shape)
    (2, 6, 8)
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        conv_layers: int = 2,
        kernel: int = 3,
        merge: Literal["concat", "gate"] = "concat",
        hidden: int | None = None,
        lstm_layers: int = 1,
        blocks: int = 1,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(
            modalities,
            dim,
            merge=merge,
            hidden=hidden,
            lstm_layers=lstm_layers,
            blocks=blocks,
            heads=heads,
            dropout=dropout,
        )
        self.convolutions = nn.ModuleDict({m: TemporalConv(dim, conv_layers, kernel, dropout) for m in modalities})

    def before(self, sequences: dict[str, Sequence]) -> dict[str, Sequence]:
        return {m: Sequence(self.convolutions[m](s.values, s.mask), s.mask) for m, s in sequences.items()}
