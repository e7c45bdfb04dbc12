"""Pooling: a fused sequence and its mask become one vector per utterance, `[B, T, D] -> [B, D]`.

Only real frames count; an utterance without any gets zeros, with zero gradient. Means are the safe default; `max` and
`min` pick single salient frames; `cls` suits encoders whose first frame was trained to summarise; `attn` learns where
to look and needs the most data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mer.batch import Sequence
from mer.errors import UserError
from mer.layers import Dropout, front, masked_max, masked_mean, masked_min, masked_softmax, take, zeroed

LEVELS: dict[str, str] = {
    "cls": "mer.pooling:Cls",
    "mean": "mer.pooling:Mean",
    "max": "mer.pooling:Max",
    "min": "mer.pooling:Min",
    "attn": "mer.pooling:Attn",
}


class Pooling(nn.Module):
    """What a pooling is: built from the width, called with a sequence, keeps the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Sequence) -> Tensor:
        raise NotImplementedError


class Cls(Pooling):
    """The first real frame of each utterance: `z = x_{min{t: mask_t}}`.

    For fused sequences that start with text this is the text's `[CLS]` (MER-VN); where the text is absent it is the
    first frame of what is there. Costs nothing.

    >>> x = Sequence(torch.tensor([[[5.0], [1.0], [2.0]]]), torch.tensor([[False, True, True]]))
    >>> Cls(1)(x)
    tensor([[1.]])
    """

    def forward(self, x: Sequence) -> Tensor:
        return take(x.filled(), front(x.mask)[:, :1])[:, 0]


class Mean(Pooling):
    """The mean over real frames: `z = sum_t mask_t x_t / sum_t mask_t`. The default; costs nothing.

    >>> x = Sequence(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    >>> Mean(1)(x)
    tensor([[2.]])
    """

    def forward(self, x: Sequence) -> Tensor:
        return masked_mean(x.values, x.mask)


class Max(Pooling):
    """The largest value of each dimension over real frames. For cues that are brief and strong; costs nothing.

    >>> x = Sequence(torch.tensor([[[-1.0], [-3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    >>> Max(1)(x)
    tensor([[-1.]])
    """

    def forward(self, x: Sequence) -> Tensor:
        return masked_max(x.values, x.mask)


class Min(Pooling):
    """The smallest value of each dimension over real frames; the mirror image of `max`, kept as MER-VN's ablation.

    >>> x = Sequence(torch.tensor([[[-1.0], [-3.0], [-9.0]]]), torch.tensor([[True, True, False]]))
    >>> Min(1)(x)
    tensor([[-3.]])
    """

    def forward(self, x: Sequence) -> Tensor:
        return masked_min(x.values, x.mask)


class Attn(Pooling):
    """Attention pooling with learned queries (MER-VN; the self-attentive pooling of Lin et al. 2017).

    `s_h = (K x) q_h`, `w_h = softmax_t(s_h)` over real frames, `z = mean_h sum_t w_ht x_t`: a convex mixture of frames,
    so that D stays D for any number of queries `heads`. Scores are divided by sqrt(D), and queries start small, so that
    training starts near the mean. Costs D^2 + heads * D parameters and one linear map per frame.

    >>> pool, x = Attn(2, heads=3), Sequence(torch.ones(1, 4, 2), torch.tensor([[True, True, False, False]]))
    >>> pool(x)
    tensor([[1., 1.]], grad_fn=<MeanBackward1>)
    """

    def __init__(self, dim: int, *, heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__(dim)
        if heads < 1:
            raise UserError(f"attn pooling with heads: {heads}", expected="at least 1")
        self.key = nn.Linear(dim, dim, bias=False)
        self.queries = nn.Parameter(torch.randn(heads, dim) * dim**-0.5)
        self.dropout = Dropout(dropout)

    def weights(self, x: Sequence) -> Tensor:
        """`[B, H, T]`: where each query looks; rows sum to 1, or to 0 where there is no frame."""
        scores = self.queries @ self.key(x.filled()).transpose(1, 2) * self.dim**-0.5
        return masked_softmax(scores, x.mask.unsqueeze(1))

    def forward(self, x: Sequence) -> Tensor:
        pooled: Tensor = self.dropout(self.weights(x)) @ zeroed(x.values, x.mask)
        return pooled.mean(1)
