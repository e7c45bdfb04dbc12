"""concat, gated, weighted, none: the source's equations for two modalities, spelled out without masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mer.batch import Batch, Sequence
from mer.errors import UserError
from mer.fusion.simple import Concat, Gated, NoFusion, Weighted

TEXT, AUDIO, D = (5, 3, 4), (7, 2, 6), 8


def ragged(lengths: tuple[int, ...], seed: int) -> Sequence:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    x = torch.randn(*mask.shape, D, generator=torch.Generator().manual_seed(seed))
    return Sequence(torch.where(mask.unsqueeze(-1), x, torch.nan), mask)


def batch(text: tuple[int, ...] = TEXT, audio: tuple[int, ...] = AUDIO) -> Batch:
    return Batch({"text": ragged(text, 1), "audio": ragged(audio, 2)})


def row_means(found: Batch, row: int) -> list[torch.Tensor]:
    return [s.values[row][s.mask[row]].mean(0) for s in found.modalities.values()]


def output(module: Concat | Gated | Weighted, u: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module.norm(F.gelu(module.mix(u)))
    return found


def test_concat_is_its_sources_equation() -> None:
    module, x = Concat(("text", "audio"), D, layers=0).eval(), batch()
    found = module(x).sequence
    assert module.project["text"].out_features == D // 2
    for row in range(3):
        t, a = row_means(x, row)
        u = torch.cat([module.project["text"](t), module.project["audio"](a)])
        torch.testing.assert_close(found.values[row, 0], output(module, u))


def test_gated_is_its_sources_equation() -> None:
    module, x = Gated(("text", "audio"), D, layers=0).eval(), batch()
    fused = module(x)
    for row in range(3):
        v = [module.project[m](mean) for m, mean in zip(("text", "audio"), row_means(x, row), strict=True)]
        gates = [torch.sigmoid(module.gates[m](z)) for m, z in zip(("text", "audio"), v, strict=True)]
        torch.testing.assert_close(fused.aux["gate"][row], torch.stack(gates))
        u = gates[0] * v[0] + gates[1] * v[1]
        torch.testing.assert_close(fused.sequence.values[row, 0], output(module, u))


def test_weighted_is_its_sources_equation() -> None:
    module, x = Weighted(("text", "audio"), D, layers=0).eval(), batch()
    fused = module(x)
    for row in range(3):
        v = [module.project[m](mean) for m, mean in zip(("text", "audio"), row_means(x, row), strict=True)]
        weight = torch.softmax(torch.cat([module.score(z) for z in v]), 0)
        torch.testing.assert_close(fused.aux["weight"][row], weight)
        u = weight[0] * v[0] + weight[1] * v[1]
        torch.testing.assert_close(fused.sequence.values[row, 0], output(module, u))


def test_weights_are_renormalised_over_what_is_present() -> None:
    module = Weighted(("text", "audio"), D).eval()
    assert module(batch(audio=(7, 0, 6))).aux["weight"][1].tolist() == [1.0, 0.0]
    assert module(batch(text=(5, 0, 4), audio=(7, 0, 6))).aux["weight"][1].tolist() == [0.0, 0.0]


def test_an_absent_modality_doubles_the_gate_of_the_other() -> None:
    module, x = Gated(("text", "audio"), D, layers=0).eval(), batch(audio=(7, 0, 6))
    fused = module(x)
    v = module.project["text"](row_means(x, 1)[0])
    u = 2 * torch.sigmoid(module.gates["text"](v)) * v
    torch.testing.assert_close(fused.sequence.values[1, 0], output(module, u))
    assert (fused.aux["gate"][1, 1] == 0).all()


def test_an_utterance_with_nothing_has_no_frame() -> None:
    for module in (Concat, Gated, Weighted):
        sequence = module(("text", "audio"), D)(batch(text=(5, 0, 4), audio=(7, 0, 6))).sequence
        assert sequence.mask.squeeze(1).tolist() == [True, False, True]
        assert (sequence.values[1] == 0).all()


def test_concat_in_time_keeps_every_frame() -> None:
    x = batch()
    fused = Concat(("text", "audio"), D, axis="time", layers=0).eval()(x).sequence
    for row in range(3):
        expected = torch.cat([s.values[row][s.mask[row]] for s in x.modalities.values()])
        torch.testing.assert_close(fused.values[row][fused.mask[row]], expected)


def test_none_is_the_identity_on_the_modality_it_is_told() -> None:
    x = batch()
    fused = NoFusion(("text", "audio"), D, modality="audio")(x).sequence
    assert torch.equal(fused.values, x.modalities["audio"].filled())
    assert torch.equal(fused.mask, x.modalities["audio"].mask)


def test_none_does_not_choose_for_you() -> None:
    with pytest.raises(UserError, match="fusion 'none' with 2 modalities"):
        NoFusion(("text", "audio"), D)
    with pytest.raises(UserError, match="unknown modality 'vidoe'"):
        NoFusion(("text", "audio"), D, modality="vidoe")


def test_unknown_axis_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match="expected feature, time; did you mean 'time'"):
        Concat(("text",), D, axis="tim")


def test_a_modality_that_the_batch_does_not_carry_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'audio'"):
        Concat(("text", "audoi"), D)(batch())


def test_a_batch_without_a_single_frame_of_a_modality_is_fine() -> None:
    empty = Sequence(torch.zeros(3, 0, D), torch.zeros(3, 0, dtype=torch.bool))
    fused = Concat(("text", "audio"), D)(Batch({"text": ragged(TEXT, 1), "audio": empty}))
    assert torch.isfinite(fused.sequence.values).all()
