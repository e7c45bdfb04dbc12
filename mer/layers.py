"""Building blocks that know about masks, and dropout that knows whose random numbers it may use.

Two rules hold for everything here, and every fusion rests on them:

- what stands where a mask is False cannot matter, NaN included, forward or backward;
- random masks come from the generator that `set_generator` was given, so that the numbers of a trial do not depend
  on what else runs in its process.

Shapes: B utterances, T frames, D width, H heads, Q queries, K keys. Masks are True where a frame is real.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mer.errors import UserError
from mer.precision import lowered

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}


class Dropout(nn.Module):
    """Zero each element with probability `p`, scale the rest by 1 / (1 - p); nothing in evaluation.

    The random numbers come from `generator` (see `set_generator`), drawn in float32 on the generator's own device:
    the same generator gives the same masks whatever the precision, and on a GPU the same as on a CPU if it lives there.

    >>> layer = Dropout(0.5)
    >>> set_generator(layer, torch.Generator().manual_seed(0))
    >>> layer(torch.ones(6))
    tensor([0., 2., 0., 0., 0., 2.])
    >>> layer.eval()(torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UserError(f"dropout {p!r}", expected="a probability in [0, 1)")
        self.p = p
        self.generator: torch.Generator | None = None

    @property
    def active(self) -> bool:
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        device = x.device if self.generator is None else self.generator.device
        noise = torch.rand(x.shape, generator=self.generator, device=device)
        # A product with 0 and 1 / (1 - p): a choice by a mask takes twice the time, backwards too.
        kept = noise.ge_(self.p).to(x.device, x.dtype, non_blocking=True)
        return x * kept.mul_(1 / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Noise(Dropout):
    """Adds Gaussian noise of the given deviation in training; nothing in evaluation.

    For features whose extractor has seen the training part: there each modality alone gives the answer away, so a
    model trusts what is worth little elsewhere and never needs its context. Noise takes the excess off.

    A `Dropout` in that its random numbers come from the trial's generator, in float32.

    >>> Noise(0.5).eval()(torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, deviation: float) -> None:
        super().__init__(0.0)
        if deviation < 0:
            raise UserError(f"noise {deviation!r}", expected="a deviation of 0 or more")
        self.deviation = deviation

    @property
    def active(self) -> bool:
        return self.training and self.deviation > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        device = x.device if self.generator is None else self.generator.device
        noise = torch.randn(x.shape, generator=self.generator, device=device)
        noise = noise.to(x.device, x.dtype, non_blocking=True)
        return x + self.deviation * noise

    def extra_repr(self) -> str:
        return f"deviation={self.deviation}"


class Swap(Dropout):
    """Gives a share of the rows, in training, what another row of the batch holds; nothing in evaluation.

    "Swap noise": what comes out is distributed as the features are, and wrong as often as half the share and more.
    For features whose extractor has seen the training part, where they are right nearly always: a model that trains on
    them trusts them as it should not, and its context little.

    Only rows that are there give and take. A `Dropout` in that its random numbers come from the trial's generator.

    >>> swap = Swap(0.5).eval()
    >>> swap.donors(torch.tensor([True, True, False])).tolist()
    [0, 1, 2]
    """

    def __init__(self, share: float) -> None:
        super().__init__(0.0)
        if not 0 <= share <= 1:
            raise UserError(f"swap {share!r}", expected="a share, 0 to 1")
        self.share = share

    @property
    def active(self) -> bool:
        return self.training and self.share > 0

    def donors(self, there: Tensor) -> Tensor:
        """`[B]`: the row that each row's content comes from, its own for most."""
        own = torch.arange(len(there), device=there.device)
        if not self.active:
            return own
        device = there.device if self.generator is None else self.generator.device
        draws = torch.rand((2, len(there)), generator=self.generator, device=device)
        draws = draws.to(there.device, non_blocking=True)
        # Those that are there in front, however many: counting them on the host would mean waiting.
        members, count = front(there.unsqueeze(0)).squeeze(0), there.sum()
        drawn = members[(draws[0] * count).long().minimum(count - 1).clamp(min=0)]
        return torch.where(there & (draws[1] < self.share), drawn, own)

    def extra_repr(self) -> str:
        return f"share={self.share}"


def set_generator(model: nn.Module, generator: torch.Generator | None) -> None:
    """Give every `Dropout` in the model its source of randomness; None: torch's global generator."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generator = generator


# --- functions of (values, mask) ---------------------------------------------------------------------------------


def zeroed(x: Tensor, mask: Tensor) -> Tensor:
    """`[B, T, D]` with exact zeros where the mask `[B, T]` is False; unlike a product, this also removes NaN."""
    return torch.where(mask.unsqueeze(-1), x, 0.0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over real frames, `[B, T, D] -> [B, D]`; zeros for an utterance without any.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [float("nan")]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    return zeroed(x, mask).sum(1) / mask.sum(1, keepdim=True).clamp(min=1).to(x.dtype)


def masked_max(x: Tensor, mask: Tensor) -> Tensor:
    """Maximum over real frames, `[B, T, D] -> [B, D]`; zeros for an utterance without any."""
    lowest = torch.where(mask.unsqueeze(-1), x, torch.finfo(x.dtype).min).amax(1)
    return torch.where(mask.any(1, keepdim=True), lowest, 0.0)


def masked_min(x: Tensor, mask: Tensor) -> Tensor:
    """Minimum over real frames, `[B, T, D] -> [B, D]`; zeros for an utterance without any."""
    return -masked_max(-x, mask)


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the entries where the mask is True; zeros, not NaN, where there is none. In float32 at least.

    >>> masked_softmax(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    wide = scores if scores.dtype == torch.float64 else scores.float()
    weights = torch.softmax(torch.where(mask, wide, torch.finfo(wide.dtype).min), dim)
    return torch.where(mask, weights, 0.0).to(scores.dtype)


def ranks(mask: Tensor) -> Tensor:
    """`[B, T]`: the number of a frame among its utterance's real frames, counted from 0 (0 where there is none)."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def front(mask: Tensor) -> Tensor:
    """`[B, T]` indices that bring the real frames of each utterance to the front, in order."""
    return torch.argsort((~mask).long(), dim=1, stable=True)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Frames `index [B, S]` of `x [B, T, D]`: `[B, S, D]`."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def sinusoids(length: int, dim: int, like: Tensor) -> Tensor:
    """The fixed positions of Vaswani et al. 2017, `[length, dim]`: sines in even columns, cosines in odd ones.

    >>> sinusoids(2, 4, torch.ones(1))[1]
    tensor([0.8415, 0.5403, 0.0100, 0.9999])
    """
    steps = torch.arange((dim + 1) // 2, device=like.device, dtype=torch.float32) * (-2 * math.log(10_000.0) / dim)
    angles = torch.arange(length, device=like.device, dtype=torch.float32).unsqueeze(1) * steps.exp()
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim].to(like.dtype)


def add_positions(x: Tensor, mask: Tensor) -> Tensor:
    """Add sinusoids by rank among the real frames, so that padding moves nothing; zeros where the mask is False."""
    table = sinusoids(x.shape[1], x.shape[2], x)
    return zeroed(x + table[ranks(mask)], mask)


# --- modules -----------------------------------------------------------------------------------------------------


class FeedForward(nn.Module):
    """`y = W2 drop(act(W1 x))`, the position-wise network of a Transformer; `[..., D] -> [..., D]`."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0, activation: str = "gelu") -> None:
        super().__init__()
        self.inner, self.outer, self.dropout = nn.Linear(dim, hidden), nn.Linear(hidden, dim), Dropout(dropout)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.outer(self.dropout(self.activation(self.inner(x))))
        return y


class Attention(nn.Module):
    """Multi-head attention, `softmax(q k' / sqrt(d)) v` per head, then an output projection (Vaswani et al. 2017).

    A query with no valid key gets exactly 0, forward and backward; so does a masked query. Masked queries and keys
    may hold anything. Dropout on the weights is ours. Without weights asked for and without active dropout the fused
    kernel of torch runs (about half the time of the explicit one on a CPU).

    query `[B, Q, D]`, key `[B, K, D]` (keys and values are the same sequence), masks `[B, Q]` and `[B, K]`; returns
    `[B, Q, D]` and, with `need_weights`, the weights `[B, H, Q, K]` (before dropout), else None.

    >>> layer = Attention(4, heads=2)
    >>> x, nothing = torch.randn(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool)
    >>> out, weights = layer(x, x, key_mask=nothing, need_weights=True)
    >>> bool((out == 0).all()), tuple(weights.shape)
    (True, (1, 2, 3, 3))
    """

    fused = True
    """May torch's fused kernel run? Not under vmap, which has no rule for it (`mer.bundle`)."""

    def __init__(self, dim: int, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(f"{heads} attention heads do not divide the width {dim}", expected=_divisors(dim))
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(dim, dim) for _ in range(3))
        self.key = nn.Linear(dim, dim, bias=False)  # a bias would add the same to all scores of a query
        self.dropout = Dropout(dropout)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.query, self.value, self.out):
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        query_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        need_weights: bool = False,
        drop: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """drop: False leaves the dropout out, and draws nothing."""
        dropping = drop and self.dropout.active
        if query_mask is not None:
            query = zeroed(query, query_mask)
        if key_mask is not None:
            key = zeroed(key, key_mask)
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(key))
        allowed, answered = None, None  # [B, 1, 1, K], [B, 1]
        if key_mask is not None:
            answered = key_mask.any(1, keepdim=True)
            # A row that may attend to nothing attends to everything, and is zeroed at the end: no NaN on the way.
            allowed = (key_mask | ~answered)[:, None, None, :]
        weights = None
        if need_weights or dropping or not self.fused:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            weights = masked_softmax(scores, scores.new_ones((), dtype=torch.bool) if allowed is None else allowed)
            mixed = (self.dropout(weights) if dropping else weights) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        real = query_mask if answered is None else answered if query_mask is None else query_mask & answered
        if real is not None:
            out = zeroed(out, real)
            weights = weights if weights is None else torch.where(real[:, None, :, None], weights, 0.0)
        return out, weights if need_weights else None

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


def _divisors(dim: int) -> str:
    return "one of " + ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward network, each with a residual and LayerNorm; `[B, T, D] -> [B, T, D]`.

    Post-norm (`LN(x + f(x))`, as `nn.TransformerEncoderLayer`'s default) or pre-norm (`x + f(LN(x))`, steadier when
    deep). Masked frames come out as zeros.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        hidden: int | None = None,
        dropout: float = 0.0,
        activation: str = "gelu",
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.feed_forward = FeedForward(dim, hidden or 4 * dim, dropout, activation)
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop_attention, self.drop_feed_forward = Dropout(dropout), Dropout(dropout)
        self.norm_first = norm_first

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = zeroed(x, mask)
        if self.norm_first:
            x = x + self._attend(self.norm_attention(x), mask)
            x = x + self.drop_feed_forward(self.feed_forward(self.norm_feed_forward(x)))
        else:
            x = self.norm_attention(x + self._attend(x, mask))
            x = self.norm_feed_forward(x + self.drop_feed_forward(self.feed_forward(x)))
        return zeroed(x, mask)

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        out, _ = self.attention(x, x, query_mask=mask, key_mask=mask)
        dropped: Tensor = self.drop_attention(out)
        return dropped


class MaskedBiLSTM(nn.Module):
    """A bidirectional LSTM over the real frames of each utterance, `[B, T, D] -> [B, T, 2 * hidden]`.

    Equal to packing (`pack_padded_sequence`) for any mask, gaps included: real frames are brought to the front, the
    backward direction reads them reversed, and the results go back to where the frames were; zeros elsewhere. Two
    unpacked LSTMs are used because torch's packed one is 2 to 3 times slower on a CPU and needs lengths on the host.

    >>> layer, x = MaskedBiLSTM(3, 5), torch.randn(2, 4, 3)
    >>> mask = torch.tensor([[True, True, False, False], [False, False, False, False]])
    >>> y = layer(x, mask)
    >>> tuple(y.shape), bool((y[0, 2:] == 0).all()), bool((y[1] == 0).all())
    ((2, 4, 10), True, True)
    """

    def __init__(self, dim: int, hidden: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [dim] + [2 * hidden] * (layers - 1)
        self.ahead = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.back = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.dropout = Dropout(dropout)
        self.out_dim = 2 * hidden

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        order, rank = front(mask), ranks(mask)
        length = mask.sum(1, keepdim=True)
        steps = torch.arange(mask.shape[1], device=mask.device)
        reversed_steps = torch.where(steps < length, length - 1 - steps, steps)  # its own inverse
        x = take(zeroed(x, mask), order)
        for depth, (ahead, back) in enumerate(zip(self.ahead, self.back, strict=True)):
            # A CPU without half-precision LSTMs computes what comes in half precision another way, the rest not at all.
            x = lowered(self.dropout(x) if depth else x)
            x = torch.cat([ahead(x)[0], take(back(take(x, reversed_steps))[0], reversed_steps)], dim=-1)
        return zeroed(take(x, rank), mask)


class TemporalConv(nn.Module):
    """Convolutions over time that keep the length, `[B, T, D] -> [B, T, D]`, then LayerNorm.

    Each layer is `drop(gelu(conv(x)))`. Padded positions are zeroed before every convolution: after the first one
    they hold biases and spill-over, which the next would carry back into real frames.
    """

    def __init__(self, dim: int, layers: int = 2, kernel: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise UserError(f"convolution kernel {kernel}", expected="an odd number, so that the length stays the same")
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, dim, kernel, padding=kernel // 2) for _ in range(layers))
        self.dropout, self.norm = Dropout(dropout), nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = self.dropout(F.gelu(convolution(zeroed(x, mask).transpose(1, 2)).transpose(1, 2)))
        return zeroed(self.norm(zeroed(x, mask)), mask)
