"""TACFN: the source's equations and signatures, with loops; unequal lengths; absent modalities."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from mer.batch import Batch, Sequence
from mer.errors import UserError
from mer.fusion.gate import ALIGN, AdaptiveGate, SoftAlign, interpolate
from mer.fusion.tacfn import BetaGate, CrossModalTransformer, FusionClassifier, Tacfn

D = 8


def lengths_mask(lengths: tuple[int, ...], width: int | None = None) -> torch.Tensor:
    return torch.arange(width or max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def ragged(lengths: tuple[int, ...], seed: int) -> Sequence:
    mask = lengths_mask(lengths)
    x = torch.randn(*mask.shape, D, generator=torch.Generator().manual_seed(seed))
    return Sequence(torch.where(mask.unsqueeze(-1), x, torch.nan), mask)


def gate_by_hand(gate: AdaptiveGate, a: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """w of the source for one utterance: a `[L_a, d]`, t `[L_t, d]`, already normalised."""
    a, t = a.mean(0), t.mean(0)
    assert gate.mlp is not None
    return torch.sigmoid(gate.mlp(torch.cat([a, t, (a - t).abs(), a * t])))


def test_beta_gate_is_its_sources_equation_with_loops() -> None:
    """Equal lengths and positions (`truncate` is the source's own alignment)."""
    module = BetaGate(D, hidden_dim=5, align="truncate")
    h_a, h_t, real = torch.randn(3, 4, D), torch.randn(3, 4, D), (4, 2, 3)
    pad = ~lengths_mask(real)
    h, beta = module(h_a, h_t, pad, pad)
    for row, n in enumerate(real):
        a, t = module.gate.norms["audio"](h_a[row, :n]), module.gate.norms["text"](h_t[row, :n])
        w = gate_by_hand(module.gate, a, t)
        assert ((w >= 0) & (w <= 1)).all()
        for i, j in itertools.product(range(n), range(D)):
            expected = w[j] * a[i, j] + (1 - w[j]) * t[i, j]
            assert h[row, i, j].item() == pytest.approx(expected.item(), abs=1e-5)
        assert beta[row].item() == pytest.approx(float(w.mean()), abs=1e-6)
        assert (h[row, n:] == 0).all()
    assert beta.shape == (3, 1)


@pytest.mark.parametrize("align", ["text_query", "interp", "truncate"])
def test_at_utterance_level_every_alignment_is_the_sources_equation(align: str) -> None:
    module = BetaGate(D, align=align)
    h_a, h_t = torch.randn(3, D), torch.randn(3, D)
    h, _ = module(h_a, h_t)
    for row in range(3):
        a, t = module.gate.norms["audio"](h_a[row : row + 1]), module.gate.norms["text"](h_t[row : row + 1])
        w = gate_by_hand(module.gate, a, t)
        torch.testing.assert_close(h[row], w * a + (1 - w) * t)


def test_text_query_brings_audio_to_the_positions_of_the_text() -> None:
    module = BetaGate(D, n_heads=2)
    text, audio = ragged((4, 2), 1), ragged((9, 3), 2)
    h, _ = module(audio.values, text.values, ~audio.mask, ~text.mask)
    assert h.shape == (2, 4, D)
    align = module.gate.aligners["audio"]
    for row, (n_t, n_a) in enumerate(((4, 9), (2, 3))):
        a, t = module.gate.norms["audio"](audio.values[row, :n_a]), module.gate.norms["text"](text.values[row, :n_t])
        w = gate_by_hand(module.gate, a, t)
        for i in range(n_t):
            parts = []
            for s in (slice(0, 4), slice(4, 8)):
                scores = torch.stack([align.query(t[i])[s] @ align.key(frame)[s] / 4**0.5 for frame in a])
                parts.append((torch.softmax(scores, 0).unsqueeze(1) * a[:, s]).sum(0))
            torch.testing.assert_close(h[row, i], w * torch.cat(parts) + (1 - w) * t[i])


def test_interpolation_equals_torchs_on_each_utterance_alone() -> None:
    pairs = ((9, 4), (3, 7), (5, 5), (1, 3), (4, 1))
    x = ragged(tuple(source for source, _ in pairs), 0)
    found = interpolate(x, lengths_mask(tuple(target for _, target in pairs)))
    for row, (source, target) in enumerate(pairs):
        alone = x.values[row, :source].t().unsqueeze(0)
        expected = F.interpolate(alone, size=target, mode="linear", align_corners=False)[0].t()
        torch.testing.assert_close(found[row, :target], expected)
        assert (found[row, target:] == 0).all()


def test_concat_keeps_every_weighted_frame() -> None:
    module = BetaGate(D, align="concat")
    text, audio = ragged((4, 2), 1), ragged((9, 3), 2)
    h, _ = module(audio.values, text.values, ~audio.mask, ~text.mask)
    assert h.shape == (2, 13, D)
    a, t = module.gate.norms["audio"](audio.values[1, :3]), module.gate.norms["text"](text.values[1, :2])
    w = gate_by_hand(module.gate, a, t)
    torch.testing.assert_close(h[1, :3], w * a)
    torch.testing.assert_close(h[1, 9:11], (1 - w) * t)


def test_truncate_gives_text_all_the_weight_where_audio_has_run_out() -> None:
    module = BetaGate(D, align="truncate")
    h_a, h_t = torch.randn(1, 2, D), torch.randn(1, 5, D)
    h, _ = module(h_a, h_t)
    torch.testing.assert_close(h[0, 2:], module.gate.norms["text"](h_t[0, 2:]))


def test_soft_align_of_a_single_frame_is_that_frame() -> None:
    x, anchor = ragged((1, 1), 0), ragged((4, 2), 1)
    x, anchor = Sequence(x.filled(), x.mask), Sequence(anchor.filled(), anchor.mask)
    found = SoftAlign(D, 2)(anchor, x)
    torch.testing.assert_close(found, torch.where(anchor.mask.unsqueeze(-1), x.values, 0.0))


@pytest.mark.parametrize("kind", ["vector", "scalar", "none"])
def test_gates_are_convex_over_what_is_present(kind: str) -> None:
    x = {"text": ragged((4, 0, 2, 0), 1), "audio": ragged((9, 3, 0, 0), 2), "visual": ragged((1, 2, 3, 0), 3)}
    fused = Tacfn(tuple(x), D, gate=kind)(Batch(x))
    gate = fused.aux["gate"]
    assert gate.shape == (4, 3, D)
    torch.testing.assert_close(gate.sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0]).unsqueeze(1).expand(4, D))
    absent = ~torch.stack([s.present for s in x.values()], dim=1)
    assert (gate[absent] == 0).all()
    if kind != "vector":
        torch.testing.assert_close(gate, gate[..., :1].expand_as(gate))
    if kind == "none":
        torch.testing.assert_close(gate[0], torch.full((3, D), 1 / 3))
    torch.testing.assert_close(fused.aux["beta"], gate.mean(-1))


@pytest.mark.parametrize("align", ["text_query", "interp", "truncate"])
def test_without_text_the_rest_is_one_frame_not_lost(align: str) -> None:
    x = {"text": ragged((4, 0), 1), "audio": ragged((9, 3), 2)}
    module = Tacfn(("text", "audio"), D, align=align, layers=0).eval()
    fused = module(Batch(x)).sequence
    assert fused.mask.tolist() == [[True] * 4, [True, False, False, False]]
    expected = module.gate.norms["audio"](x["audio"].values[1, :3]).mean(0)
    torch.testing.assert_close(fused.values[1, 0], expected)


def test_cross_modal_block_is_its_sources_equation() -> None:
    module = CrossModalTransformer(num_layers=2, d_model=D, n_heads=2).eval()
    audio, text = ragged((9, 3), 2), ragged((4, 2), 1)
    found_a, found_t = module(audio.values, text.values, ~audio.mask, ~text.mask)
    for row, (n_a, n_t) in enumerate(((9, 4), (3, 2))):
        h = {"audio": audio.values[row : row + 1, :n_a], "text": text.values[row : row + 1, :n_t]}
        for layer in module.layers:
            s = {m: layer.norm_within[m](x + layer.within[m](x, x)[0]) for m, x in h.items()}
            h = {}
            for m, n in (("audio", "text"), ("text", "audio")):
                c = layer.norm_across[m](s[m] + layer.across.attention[f"{m}<-{n}"](s[m], s[n])[0])
                ffn = layer.feed_forward[m]
                h[m] = layer.norm_feed_forward[m](c + ffn.outer(torch.relu(ffn.inner(c))))
        torch.testing.assert_close(found_a[row, :n_a], h["audio"][0])
        torch.testing.assert_close(found_t[row, :n_t], h["text"][0])


def test_fusion_classifier_keeps_its_sources_promise() -> None:
    model = FusionClassifier(d_model=768, num_classes=4).eval()
    logits, beta, h_fused = model(torch.randn(2, 768), torch.randn(2, 768), mask_a=None, mask_t=None)
    assert (logits.shape, beta.shape, h_fused.shape) == ((2, 4), (2, 1), (2, 768))


@pytest.mark.parametrize("align", ALIGN)
def test_fusion_classifier_does_not_see_padding(align: str) -> None:
    """The source averages over time without a mask: 13 more padded tokens changed its logits by .126."""
    model = FusionClassifier(d_model=D, num_classes=4, align=align).eval()
    text, audio = ragged((4, 2), 1), ragged((9, 3), 2)
    expected = model(audio.values, text.values, ~audio.mask, ~text.mask)
    wider = (F.pad(audio.values, (0, 0, 0, 5), value=7.0), F.pad(text.values, (0, 0, 0, 13), value=-7.0))
    masks = (F.pad(~audio.mask, (0, 5), value=True), F.pad(~text.mask, (0, 13), value=True))
    for a, b in zip(model(*wider, *masks), expected, strict=True):
        torch.testing.assert_close(a, b)
        assert torch.isfinite(a).all()


def test_fusion_classifier_with_an_absent_or_no_modality() -> None:
    model = FusionClassifier(d_model=D, num_classes=4)
    nan, x = torch.full((2, 3, D), torch.nan), torch.randn(2, 3, D)
    gone = torch.ones(2, 3, dtype=torch.bool)
    _, beta, _ = model(x, nan, mask_t=gone)
    assert beta.tolist() == [[1.0], [1.0]]
    _, beta, _ = model(nan, x, mask_a=gone)
    assert beta.tolist() == [[0.0], [0.0]]
    logits, _, _ = model(nan, nan, gone, gone)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_switches_remove_parameters() -> None:
    names = {name for name, _ in Tacfn(("text", "audio"), D, self_attention=False).named_parameters()}
    assert not any("within" in name for name in names)
    names = {name for name, _ in Tacfn(("text", "audio"), D, cross_attention=False).named_parameters()}
    assert not any("across" in name for name in names)
    names = {name for name, _ in Tacfn(("text", "audio"), D, gate="none").named_parameters()}
    assert not any("mlp" in name for name in names)


def test_mistakes_name_what_is_valid() -> None:
    with pytest.raises(UserError, match="did you mean 'text_query'"):
        Tacfn(("text", "audio"), D, align="text_querry")
    with pytest.raises(UserError, match="unknown gate 'vectors'"):
        Tacfn(("text", "audio"), D, gate="vectors")
    with pytest.raises(UserError, match=r"audio mask of shape \(2, 4\); expected \(2, 3\), True = PAD"):
        FusionClassifier(d_model=D)(torch.randn(2, 3, D), torch.randn(2, 3, D), torch.zeros(2, 4, dtype=torch.bool))
