"""Poolings against loops over the real frames."""

from __future__ import annotations

import pytest
import torch

from mer.batch import Sequence
from mer.errors import UserError
from mer.pooling import Attn, Cls, Max, Mean, Min, Pooling

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)


def sequence() -> Sequence:
    x = torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(0))
    return Sequence(torch.where(MASK.unsqueeze(-1), x, torch.nan), MASK)


@pytest.mark.parametrize(
    ("pooling", "reference"),
    [
        (Cls, lambda frames: frames[0]),
        (Mean, lambda frames: frames.mean(0)),
        (Max, lambda frames: frames.amax(0)),
        (Min, lambda frames: frames.amin(0)),
    ],
)
def test_equals_a_loop(pooling: type[Pooling], reference: object) -> None:
    x = sequence()
    found = pooling(6)(x)
    for row in range(4):
        frames = x.values[row][MASK[row]]
        expected = reference(frames) if len(frames) else torch.zeros(6)  # type: ignore[operator]
        torch.testing.assert_close(found[row], expected)


def test_attention_pooling_equals_a_loop_and_is_convex() -> None:
    x, pool = sequence(), Attn(6, heads=3)
    found, weights = pool(x), pool.weights(x)
    for row in range(4):
        frames = x.values[row][MASK[row]]
        heads = []
        for h in range(3):
            if not len(frames):
                heads.append(torch.zeros(6))
                continue
            scores = torch.stack([pool.queries[h] @ pool.key(frame) for frame in frames]) / 6**0.5
            shares = torch.softmax(scores, 0)
            torch.testing.assert_close(weights[row, h][MASK[row]], shares)
            heads.append(sum(share * frame for share, frame in zip(shares, frames, strict=True)))
        torch.testing.assert_close(found[row], torch.stack(heads).mean(0))


def test_attention_pooling_is_registered_and_trained() -> None:
    pool = Attn(6, heads=2)
    assert {name for name, _ in pool.named_parameters()} == {"queries", "key.weight"}
    pool(sequence()).square().sum().backward()
    for parameter in pool.parameters():
        assert parameter.grad is not None
        assert (parameter.grad != 0).any()
        assert torch.isfinite(parameter.grad).all()


def test_attention_pooling_needs_a_head() -> None:
    with pytest.raises(UserError, match="heads: 0; expected at least 1"):
        Attn(6, heads=0)
