"""The level `fusion: cadgl`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mer import levels
from mer.batch import Batch, Dialogues, Sequence
from mer.data.corpus import Corpus
from mer.data.store import FeatureStore
from mer.errors import UserError
from mer.graph.fusion import CadglFusion
from mer.layers import set_generator
from mer.losses import disagreement
from mer.model import Output
from mer.recipe import Recipe
from mer.streams import streams
from mer.training import Trainer

PARTS = ("graph", "similarity_edges", "reconstruction", "alignment", "ode", "consistency")
NAMES = ("text", "audio")


def build(seed: int = 0, **options: Any) -> CadglFusion:
    torch.manual_seed(seed)
    return CadglFusion(NAMES, 8, **options).eval()


GARBAGE = (float("nan"), float("inf"), float("-inf"), 1e6, 1e30, torch.finfo(torch.float32).max)


def poisoned(batch: Batch, value: float) -> Batch:
    """Garbage wherever a mask is False: finite magnitudes with mixed signs, so that no mean or norm evens them out."""
    sign = torch.Generator().manual_seed(1)
    modalities = {
        name: Sequence(
            torch.where(x.mask.unsqueeze(-1), x.values, value * torch.randn(x.values.shape, generator=sign).sign()),
            x.mask,
        )
        for name, x in batch.modalities.items()
    }
    return Batch(modalities, batch.utterance_ids, batch.dialogue)


@pytest.mark.parametrize("off", [*PARTS, None])
@pytest.mark.parametrize("pool", ["mean", "attn"])
def test_what_is_masked_cannot_leak(off: str | None, pool: str, dialogue_batch: Any) -> None:
    fusion, batch = build(pool=pool, **({} if off is None else {off: False})), dialogue_batch()
    plain = fusion(batch).sequence.values
    assert plain.isfinite().all()
    for value in GARBAGE:
        assert torch.equal(fusion(poisoned(batch, value)).sequence.values, plain)


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("pool", ["mean", "attn"])
def test_what_is_masked_cannot_leak_in_training(pool: str, value: float, dialogue_batch: Any) -> None:
    def step(batch: Batch) -> tuple[Tensor, list[Tensor]]:
        fusion = build(pool=pool).train()
        set_generator(fusion, torch.Generator().manual_seed(0))
        fused = fusion(batch)
        assert fused.second is not None
        views = [fused.sequence.values.tanh().sum(), fused.second.values.tanh().sum()]
        total = torch.stack([*fused.losses.values(), *views]).sum()
        total.backward()
        return total.detach(), [p.grad for p in fusion.parameters() if p.grad is not None]

    (loss, gradients), (same_loss, same) = step(dialogue_batch()), step(poisoned(dialogue_batch(), value))
    assert torch.equal(loss, same_loss)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradients, same, strict=True))


def test_a_dialogue_alone_gives_the_same(dialogue_batch: Any) -> None:
    fusion, batch = build(), dialogue_batch((4, 1, 3))
    assert batch.dialogue is not None
    whole = fusion(batch).sequence.values
    rows = slice(5, 8)
    alone = Batch(
        {name: Sequence(x.values[rows], x.mask[rows]) for name, x in batch.modalities.items()},
        batch.utterance_ids[rows],
        Dialogues(batch.dialogue.index[rows] - 2, batch.dialogue.speaker[rows], batch.dialogue.turn[rows]),
    )
    torch.testing.assert_close(fusion(alone).sequence.values, whole[rows], atol=2e-6, rtol=1e-5)


def test_output_and_losses(dialogue_batch: Any) -> None:
    fusion, batch = build().train(), dialogue_batch((9, 4, 7))
    set_generator(fusion, torch.Generator().manual_seed(0))
    fused = fusion(batch)
    assert fused.sequence.values.shape == (20, 1, fusion.out_dim)
    assert fused.sequence.mask.all()
    assert set(fused.losses) == {"reconstruction", "alignment"}
    assert fused.second is not None
    assert fused.second.values.shape == fused.sequence.values.shape
    assert not torch.equal(fused.second.values, fused.sequence.values)
    assert fused.agreement == 0.5
    assert all(value.shape[0] == 20 for value in fused.aux.values())
    assert fused.aux["nfe"].unique().tolist() == [16.0]
    assert not (fused.aux["kept"] & ~torch.stack([batch.modalities[n].present for n in NAMES], 1)).any()
    assert fusion.eval()(batch).losses == {}
    assert fusion(batch).second is None
    assert build(consistency=False).train()(batch).second is None


def test_the_second_view_sees_all_that_there_is(dialogue_batch: Any) -> None:
    """With nothing random but hiding, it is what evaluation gives."""
    fusion, batch = build(dropout=0.0, drop_rate=0.7).train(), dialogue_batch((9, 4, 7))
    set_generator(fusion, torch.Generator().manual_seed(0))
    fused = fusion(batch)
    assert fused.second is not None
    torch.testing.assert_close(fused.second.values, fusion.eval()(batch).sequence.values)


def recipe(**options: Any) -> Recipe:
    """Text and audio features of the tiny corpus."""
    given = {
        "encoders": dict.fromkeys(("text", "audio"), "features"),
        "projection": {"dim": 8, "dropout": 0.0},
        "fusion": {"name": "cadgl", "drop_rate": 0.6, "dropout": 0.0, "reconstruction": False, "alignment": False},
        "classifier": {"hidden": [], "dropout": 0.0},
    }
    return Recipe.model_validate(given | options)


def test_both_views_learn_the_labels_and_the_first_agrees_with_the_second(
    tiny_corpus: Corpus, feature_store: FeatureStore
) -> None:
    data, seeds = tiny_corpus.train_valid(), streams(0, "tiny", 0, 0, "confirm")
    trainer = Trainer(recipe(), data, seeds, store=feature_store, device="cpu")
    model, rows = trainer.model.train(), np.arange(len(trainer.train))
    batch = trainer.train.batch(rows, trainer.train_available(0), dialogues=True)

    def seeded() -> Output:
        trainer.generator.manual_seed(1)
        return model(batch)

    output, labels = seeded(), trainer.train.labels
    assert output.second is not None
    assert set(output.losses) == {"consistency"}
    torch.testing.assert_close(output.losses["consistency"], 0.5 * disagreement(output.logits, output.second))
    trainer.generator.manual_seed(1)
    expected = (F.cross_entropy(output.logits, labels) + F.cross_entropy(output.second, labels)) / 2
    torch.testing.assert_close(trainer._loss(batch, labels), expected + output.losses["consistency"])
    assert model.eval()(batch).second is None


def test_any_set_of_modalities(dialogue_batch: Any) -> None:
    for names in (("text",), ("a", "b", "c", "d")):
        torch.manual_seed(0)
        fusion = CadglFusion(names, 8).train()
        fused = fusion(dialogue_batch(names=names))
        torch.stack([*fused.losses.values(), fused.sequence.values.tanh().sum()]).sum().backward()
        assert fused.sequence.values.isfinite().all()


def test_a_guide_is_never_hidden_or_imagined(dialogue_batch: Any) -> None:
    torch.manual_seed(0)
    fusion = CadglFusion(("text", "audio", "context"), 8, guide="context", drop_rate=0.9).train()
    batch = dialogue_batch((30,), names=("text", "audio", "context"))
    fused = fusion(batch)
    assert torch.equal(fused.aux["kept"][:, 2], batch.modalities["context"].present)
    assert {name for name in fused.aux if name.startswith("imagined/")} == {"imagined/text", "imagined/audio"}


def test_its_declaration_is_read_from_the_source() -> None:
    declaration = levels.declaration("mer.graph.fusion:CadglFusion")
    assert declaration.requires == frozenset({"dialogue"})
    assert set(PARTS) <= set(declaration.parameters)
    assert declaration.parameters["step"].default == 0.25


def test_people_are_told(dialogue_batch: Any) -> None:
    batch = dialogue_batch()
    with pytest.raises(UserError, match="without dialogues"):
        build()(Batch(batch.modalities))
    with pytest.raises(UserError, match="unknown pool 'max'"):
        build(pool="max")
    with pytest.raises(UserError, match=r"unknown guide 'txt'.*did you mean 'text'"):
        build(guide="txt")
