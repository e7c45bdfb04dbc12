"""cross_attention, xattn, bilstm_attn, cnn_bilstm_attn: equations for two modalities, utterance by utterance."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mer.batch import Batch, Sequence
from mer.errors import UserError
from mer.fusion.cross_attention import CrossAttention
from mer.fusion.mer_vn import BiLstmAttn, CnnBiLstmAttn, Xattn

TEXT, AUDIO, D = (5, 3, 4), (7, 2, 6), 8
BOTH = ("text", "audio")


def ragged(lengths: tuple[int, ...], seed: int) -> Sequence:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    x = torch.randn(*mask.shape, D, generator=torch.Generator().manual_seed(seed))
    return Sequence(torch.where(mask.unsqueeze(-1), x, torch.nan), mask)


def batch(text: tuple[int, ...] = TEXT, audio: tuple[int, ...] = AUDIO) -> Batch:
    return Batch({"text": ragged(text, 1), "audio": ragged(audio, 2)})


def frames(x: Batch, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    t, a = (s.values[row][s.mask[row]].unsqueeze(0) for s in x.modalities.values())
    return t, a


def test_cross_attention_is_its_sources_equation() -> None:
    module, x = CrossAttention(BOTH, D, layers=0).eval(), batch()
    found = module(x).sequence.values
    attention = module.attention.attention
    for row in range(3):
        t, a = (module.project[m](z) for m, z in zip(BOTH, frames(x, row), strict=True))
        c_t = module.norms["text"](t + attention["text<-audio"](t, a)[0])
        c_a = module.norms["audio"](a + attention["audio<-text"](a, t)[0])
        u = torch.cat([c_t.mean(1), c_a.mean(1)], dim=-1)
        torch.testing.assert_close(found[row], module.norm(F.gelu(module.mix(u))))


def test_xattn_is_its_sources_equation() -> None:
    module, x = Xattn(BOTH, D).eval(), batch()
    fused = module(x).sequence
    attention = module.attention.attention
    for row in range(3):
        t, a = frames(x, row)
        expected = torch.cat([attention["text<-audio"](t, a)[0], attention["audio<-text"](a, t)[0]], dim=1)[0]
        torch.testing.assert_close(fused.values[row][fused.mask[row]], expected)


def test_xattn_with_residual_normalises_the_sum() -> None:
    module, x = Xattn(BOTH, D, residual=True).eval(), batch()
    fused = module(x).sequence
    t, a = frames(x, 0)
    expected = module.norms["text"](t + module.attention.attention["text<-audio"](t, a)[0])[0]
    torch.testing.assert_close(fused.values[0, :5], expected)


def test_xattn_alone_asks_itself_what_the_other_would_have_asked() -> None:
    module, x = Xattn(BOTH, D).eval(), batch(audio=(7, 0, 6))
    fused = module(x).sequence
    t = frames(x, 1)[0]
    expected = module.attention.attention["audio<-text"](t, t)[0][0]
    torch.testing.assert_close(fused.values[1][fused.mask[1]], expected)


@pytest.mark.parametrize("residual", [False, True])
def test_xattn_learns_each_utterance_with_one_modality_too(residual: bool) -> None:
    """What it learns from is what it would make of that modality alone, also where training has gaps."""
    x = Batch({**batch(text=(5, 3, 0), audio=(7, 0, 0)).modalities, "visual": ragged((2, 2, 2), 3)})
    module = Xattn(("text", "audio", "visual"), D, dropout=0.0, residual=residual)
    kept = {"text": (5, 0, 0), "audio": (0, 0, 0), "visual": (0, 2, 2)}  # the first, of two the second, the only one
    left = {
        name: Sequence(s.values, s.mask & torch.tensor([[n > 0] for n in kept[name]]))
        for name, s in x.modalities.items()
    }
    second, expected = module.train()(x).second, module.eval()(Batch(left)).sequence
    assert second is not None
    torch.testing.assert_close(second.mask, expected.mask)
    torch.testing.assert_close(second.values, expected.values)
    assert module.eval()(x).second is None
    assert Xattn(("text", "audio", "visual"), D, learn_alone=False).train()(x).second is None


def test_xattn_of_three_averages_over_the_present_others() -> None:
    x = Batch({**batch(audio=(7, 0, 6)).modalities, "visual": ragged((2, 2, 2), 3)})
    module = Xattn(("text", "audio", "visual"), D).eval()
    fused, attention = module(x).sequence, module.attention.attention
    for row in range(3):
        t, *others = (s.values[row][s.mask[row]].unsqueeze(0) for s in x.modalities.values())
        heard = [
            attention[f"text<-{name}"](t, other)[0]
            for name, other in zip(("audio", "visual"), others, strict=True)
            if other.shape[1]
        ]
        torch.testing.assert_close(fused.values[row, : t.shape[1]], torch.stack(heard).mean(0)[0])


@pytest.mark.parametrize("merge", ["concat", "gate"])
@pytest.mark.parametrize("family", [BiLstmAttn, CnnBiLstmAttn])
def test_bilstm_families_are_their_sources_equation(family: type[BiLstmAttn], merge: str) -> None:
    module, x = family(BOTH, D, merge=merge, blocks=2).eval(), batch()
    fused = module(x)
    for row in range(3):
        h = {}
        for m, z in zip(BOTH, frames(x, row), strict=True):
            if isinstance(module, CnnBiLstmAttn):
                stack = module.convolutions[m]
                y = z.transpose(1, 2)
                for convolution in stack.convolutions:
                    y = F.gelu(convolution(y))
                z = stack.norm(y.transpose(1, 2))
            ahead, back = module.lstm[m].ahead[0], module.lstm[m].back[0]
            both = torch.cat([ahead(z)[0], back(z.flip(1))[0].flip(1)], dim=-1)
            h[m] = module.project[m](both)
        for block in module.blocks:
            new = {}
            for m, n in (BOTH, BOTH[::-1]):
                y = h[m] + block.attention.attention[f"{m}<-{n}"](block.norm_query[m](h[m]), h[n])[0]
                new[m] = y + block.feed_forward[m](block.norm_feed_forward[m](y))
            h = new
        if module.gates is not None:
            gates = {m: torch.sigmoid(module.gates[m](h[m])) for m in BOTH}
            expected_gate = torch.stack([gates[m].mean() for m in BOTH])
            torch.testing.assert_close(fused.aux["gate"][row], expected_gate)
            h = {m: gates[m] * h[m] for m in BOTH}
        expected = torch.cat([h["text"], h["audio"]], dim=1)[0]
        torch.testing.assert_close(fused.sequence.values[row][fused.sequence.mask[row]], expected)


@pytest.mark.parametrize("family", [CrossAttention, Xattn, BiLstmAttn])
def test_attention_maps_come_back_in_evaluation(family: type[Xattn]) -> None:
    module, x = family(BOTH, D), batch(audio=(7, 0, 6))
    assert not any(name.startswith("attention") for name in module.train()(x).aux)
    maps = module.eval()(x).aux["attention text<-audio"]
    sums = maps.sum(-1)
    text, audio = x.modalities.values()
    torch.testing.assert_close(sums, (text.mask & audio.present.unsqueeze(1)).float())


def test_unknown_merge_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match="unknown merge 'gated'; expected concat, gate; did you mean 'gate'"):
        BiLstmAttn(BOTH, D, merge="gated")
