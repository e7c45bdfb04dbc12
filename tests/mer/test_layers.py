"""Layers against torch's own modules, loops, and the promise that masked content cannot matter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mer import layers
from mer.errors import UserError
from mer.layers import (
    Attention,
    Dropout,
    MaskedBiLSTM,
    Noise,
    TemporalConv,
    TransformerBlock,
    add_positions,
    masked_max,
    masked_mean,
    masked_min,
    set_generator,
)

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 1]], dtype=torch.bool)


def values(dim: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(*MASK.shape, dim, generator=torch.Generator().manual_seed(seed))


def test_dropout_takes_its_masks_from_its_generator_alone() -> None:
    model = nn.Sequential(Dropout(0.5), nn.Sequential(Dropout(0.3)))
    found = []
    for global_seed in (1, 2):
        set_generator(model, torch.Generator().manual_seed(5))
        torch.manual_seed(global_seed)
        found.append(model(torch.ones(50)))
    assert torch.equal(*found)
    assert not torch.equal(model(torch.ones(50)), found[0])


def test_dropout_drops_the_stated_share_keeps_the_mean_and_is_off_in_evaluation() -> None:
    layer = Dropout(0.25)
    set_generator(layer, torch.Generator().manual_seed(0))
    out = layer(torch.ones(40_000))
    assert sorted(set(out.tolist())) == pytest.approx([0.0, 4 / 3])
    assert (out == 0).float().mean() == pytest.approx(0.25, abs=0.01)  # 4.6 standard errors
    assert torch.equal(layer.eval()(torch.ones(3)), torch.ones(3))


def test_dropout_masks_are_the_same_in_half_precision() -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        layer = Dropout(0.5)
        set_generator(layer, torch.Generator().manual_seed(0))
        found.append(layer(torch.ones(64, dtype=dtype)).float())
    assert torch.equal(*found)


def test_dropout_refuses_a_probability_of_one() -> None:
    with pytest.raises(UserError, match=r"dropout 1.0; expected a probability in \[0, 1\)"):
        Dropout(1.0)


def test_masked_reductions_equal_loops() -> None:
    x = torch.where(MASK.unsqueeze(-1), values(), torch.nan)
    for row in range(len(MASK)):
        real = x[row][MASK[row]]
        expected = [real.mean(0), real.amax(0), real.amin(0)] if len(real) else [torch.zeros(8)] * 3
        for function, value in zip((masked_mean, masked_max, masked_min), expected, strict=True):
            torch.testing.assert_close(function(x, MASK)[row], value)


def test_masked_reductions_have_finite_gradients_on_nan_padding_and_empty_rows() -> None:
    for function in (masked_mean, masked_max, masked_min):
        x = torch.where(MASK.unsqueeze(-1), values(), torch.nan).requires_grad_()
        function(x, MASK).sum().backward()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        assert (x.grad[2] == 0).all()


def copied(dim: int, heads: int) -> tuple[Attention, nn.MultiheadAttention]:
    ours, theirs = Attention(dim, heads).eval(), nn.MultiheadAttention(dim, heads, batch_first=True).eval()
    with torch.no_grad():
        for linear in (ours.query, ours.value, ours.out):
            linear.bias.normal_()
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(dim), ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    return ours, theirs


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_equals_torch_where_a_key_is_valid(need_weights: bool) -> None:
    ours, theirs = copied(8, 2)
    query, key = torch.randn(4, 3, 8), values()
    out, weights = ours(query, key, key_mask=MASK, need_weights=need_weights)
    expected, expected_weights = theirs(query, key, key, key_padding_mask=~MASK, average_attn_weights=False)
    rows = MASK.any(1)
    torch.testing.assert_close(out[rows], expected[rows])
    if need_weights:
        torch.testing.assert_close(weights[rows], expected_weights[rows])


def test_attention_equals_loops_over_heads_queries_and_real_keys() -> None:
    layer, query, key = Attention(6, 2).eval(), torch.randn(4, 3, 6), values(6)
    out, weights = layer(query, key, key_mask=MASK, need_weights=True)
    for b in range(4):
        real = [t for t in range(5) if MASK[b, t]]
        for i in range(3):
            parts = []
            for h in range(2):
                s = slice(3 * h, 3 * h + 3)
                q = layer.query(query[b, i])[s]
                scores = [(q @ layer.key(key[b, t])[s]).item() / math.sqrt(3) for t in real]
                total = sum(math.exp(score) for score in scores)
                shares = [math.exp(score) / total for score in scores]
                assert weights[b, h, i, real].tolist() == pytest.approx(shares, abs=1e-6)
                mixed = [share * layer.value(key[b, t])[s] for share, t in zip(shares, real, strict=True)]
                parts.append(torch.stack(mixed).sum(0) if mixed else torch.zeros(3))
            expected = layer.out(torch.cat(parts)) if real else torch.zeros(6)
            torch.testing.assert_close(out[b, i], expected)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_attention_over_nan_and_nothing_is_finite_forward_and_backward(need_weights: bool, training: bool) -> None:
    layer = Attention(8, 2, dropout=0.2).train(training)
    nn.init.ones_(layer.out.bias)  # it must not reach a query that nobody answered
    query = torch.where(MASK.unsqueeze(-1), values(), torch.nan).requires_grad_()
    key = torch.where(MASK.flip(0).unsqueeze(-1), values(seed=1), torch.nan).requires_grad_()
    out, _ = layer(query, key, query_mask=MASK, key_mask=MASK.flip(0), need_weights=need_weights)
    assert (out[1] == 0).all(), "row 1 has queries but no key"
    assert (out[2] == 0).all(), "row 2 has keys but no query"
    out.square().sum().backward()
    for tensor in (query, key, *layer.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


def test_attention_kernels_agree() -> None:
    layer = Attention(8, 4).eval()
    fast, none = layer(values(), values(), query_mask=MASK, key_mask=MASK)
    slow, weights = layer(values(), values(), query_mask=MASK, key_mask=MASK, need_weights=True)
    assert none is None
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(weights.sum(-1), MASK[:, None, :].expand(-1, 4, -1).float())


def test_attention_in_half_precision_ignores_the_padding() -> None:
    layer = Attention(8, 2).to(torch.bfloat16).eval()
    x = torch.where(MASK.unsqueeze(-1), values(), 1e4).to(torch.bfloat16)
    out, weights = layer(x, x, query_mask=MASK, key_mask=MASK, need_weights=True)
    assert torch.isfinite(out).all()
    assert (weights[1, :, :, 2:] == 0).all()


def test_attention_names_the_divisors() -> None:
    with pytest.raises(UserError, match="3 attention heads do not divide the width 8; expected one of 1, 2, 4, 8"):
        Attention(8, 3)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_block_equals_torch(norm_first: bool) -> None:
    ours = TransformerBlock(8, 2, hidden=12, norm_first=norm_first).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=norm_first).train()
    attention, theirs.self_attn = copied(8, 2)
    ours.attention.load_state_dict(attention.state_dict())
    pairs = (
        (theirs.linear1, ours.feed_forward.inner),
        (theirs.linear2, ours.feed_forward.outer),
        (theirs.norm1, ours.norm_attention),
        (theirs.norm2, ours.norm_feed_forward),
    )
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    rows = MASK.any(1)
    expected = theirs(values()[rows], src_key_padding_mask=~MASK[rows])
    found = ours(values(), MASK)
    torch.testing.assert_close(found[MASK], expected[MASK[rows]])
    assert (found[~MASK] == 0).all()


@pytest.mark.parametrize("depth", [1, 2])
def test_bilstm_equals_torch_packed(depth: int) -> None:
    ours = MaskedBiLSTM(8, 5, layers=depth).eval()
    theirs = nn.LSTM(8, 5, num_layers=depth, bidirectional=True, batch_first=True)
    for layer in range(depth):
        for source, suffix in ((ours.ahead[layer], ""), (ours.back[layer], "_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(theirs, f"{name}_l{layer}{suffix}").data = getattr(source, f"{name}_l0").data.clone()
    found = ours(torch.where(MASK.unsqueeze(-1), values(), torch.nan), MASK)
    for row in range(len(MASK)):
        real = values()[row][MASK[row]]
        if len(real):
            packed = nn.utils.rnn.pack_sequence([real])
            expected = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)[0][0]
            torch.testing.assert_close(found[row][MASK[row]], expected)
    assert (found[~MASK] == 0).all()


def test_temporal_conv_equals_convolving_each_utterance_alone() -> None:
    layer = TemporalConv(8, layers=3, kernel=3).eval()
    for convolution in layer.convolutions:  # biases put something into the padding after the first layer
        nn.init.constant_(convolution.bias, 0.5)
    lengths = (5, 2, 0, 3)
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    found = layer(torch.where(mask.unsqueeze(-1), values(), torch.nan), mask)
    for row, length in enumerate(lengths):
        x = values()[row, :length].t()
        for convolution in layer.convolutions:
            x = nn.functional.gelu(convolution(x)) if length else x
        torch.testing.assert_close(found[row, :length], layer.norm(x.t()))
        assert (found[row, length:] == 0).all()


def test_temporal_conv_refuses_even_kernels() -> None:
    with pytest.raises(UserError, match="convolution kernel 4; expected an odd number"):
        TemporalConv(8, kernel=4)


def test_positions_count_real_frames_only() -> None:
    found = add_positions(torch.zeros(*MASK.shape, 4), MASK)
    for row in range(len(MASK)):
        for rank, frame in enumerate(found[row][MASK[row]]):
            expected = [math.sin(rank), math.cos(rank), math.sin(rank / 100), math.cos(rank / 100)]
            assert frame.tolist() == pytest.approx(expected, abs=1e-6)
    assert (found[~MASK] == 0).all()
    assert layers.sinusoids(3, 5, torch.ones(1)).shape == (3, 5)


def test_layers_work_under_vmap_over_stacked_replicas() -> None:
    """Replicas of one architecture can be stacked and run as one: no data-dependent control flow in the way."""
    models = [TransformerBlock(8, 2).eval() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    x = values()

    def call(p: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(models[0], (p, b), (x, MASK))
        return out

    stacked = torch.func.vmap(call)(parameters, buffers)
    for model, out in zip(models, stacked, strict=True):
        torch.testing.assert_close(out, model(x, MASK))


def test_noise_has_its_deviation_in_training_alone_and_comes_from_the_generator() -> None:
    noise, x = Noise(1.5), torch.full((200, 50), 3.0)
    found = []
    for ambient in (1, 2):
        torch.manual_seed(ambient)
        set_generator(noise, torch.Generator().manual_seed(7))
        found.append(noise(x))
    assert torch.equal(*found)
    assert abs(float(found[0].mean()) - 3.0) < 0.05
    assert abs(float(found[0].std()) - 1.5) < 0.05
    assert torch.equal(noise.eval()(x), x)
    assert torch.equal(Noise(0.0).train()(x), x)
