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
    """The first real frame of each utterance.

    For fused sequences that start with text this is the text's `[CLS]`; where the text is absent it is the first frame
    of what is there.

    Equation:
        z = x_t  at  t = min {t : mask_t}

    Shapes: `[B, T, D] -> [B, D]`.
    When to choose: behind encoders whose first frame was trained to summarise (PhoBERT and its kind).
    Cost: none.
    Source: BERT's `[CLS]`, Devlin et al. 2019, arXiv 1810.04805; MER-VN's `cls`.

    >>> x = Sequence(torch.tensor([[[5.0], [1.0], [2.0]]]), torch.tensor([[False, True, True]]))
    >>> Cls(1)(x)
    tensor([[1.]])
    """

    def forward(self, x: Sequence) -> Tensor:
        return take(x.filled(), front(x.mask)[:, :1])[:, 0]


class Mean(Pooling):
    """The mean over real frames.

    Equation:
        z = sum_t mask_t x_t / sum_t mask_t

    Shapes: `[B, T, D] -> [B, D]`.
    When to choose: the default; the safe one on small corpora.
    Cost: none.
    Source: common; MER-VN's `mean`.

    >>> x = Sequence(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    >>> Mean(1)(x)
    tensor([[2.]])
    """

    def forward(self, x: Sequence) -> Tensor:
        return masked_mean(x.values, x.mask)


class Max(Pooling):
    """The largest value of each dimension over real frames.

    Equation:
        z_d = max over t with mask_t of x_td

    Shapes: `[B, T, D] -> [B, D]`.
    When to choose: cues that are brief and strong; it picks single frames, noise among them.
    Cost: none.
    Source: common; MER-VN's `max`.

    >>> x = Sequence(torch.tensor([[[-1.0], [-3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    >>> Max(1)(x)
    tensor([[-1.]])
    """

    def forward(self, x: Sequence) -> Tensor:
        return masked_max(x.values, x.mask)


class Min(Pooling):
    """The smallest value of each dimension over real frames; the mirror image of `max`.

    Equation:
        z_d = min over t with mask_t of x_td

    Shapes: `[B, T, D] -> [B, D]`.
    When to choose: as an ablation. Behind a layer whose signs are free it can say nothing that `max` cannot.
    Cost: none.
    Source: MER-VN's `min`.

    >>> x = Sequence(torch.tensor([[[-1.0], [-3.0], [-9.0]]]), torch.tensor([[True, True, False]]))
    >>> Min(1)(x)
    tensor([[-3.]])
    """

    def forward(self, x: Sequence) -> Tensor:
        return masked_min(x.values, x.mask)


class Attn(Pooling):
    """Attention pooling with learned queries: a convex mixture of frames.

    Equation:
        s_ht = (K x_t) . q_h / sqrt(D)
        w_h  = softmax over t with mask_t of s_ht
        z    = mean_h sum_t w_ht x_t

    Queries start small, so that training starts near the mean.

    Shapes: `[B, T, D] -> [B, D]` for any number of queries.
    When to choose: where to look differs by utterance, and there are data to learn it from.
    Cost: D^2 + heads D parameters, one linear map per frame.
    Source: Lin et al. 2017, "A structured self-attentive sentence embedding", arXiv 1703.03130; MER-VN's `attn`.

    Args:
        heads: number of queries, averaged.
        dropout: on the weights.

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
