"""The trainer: paired by its streams, exact when resumed, blind to what is masked, and away from the test set."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer import fit, fusion
from mer.batch import Batch, Sequence
from mer.data.corpus import Corpus
from mer.data.store import FeatureStore
from mer.model import build_model, needs_dialogues
from mer.recipe import Recipe
from mer.streams import streams
from mer.training import Diverged, Plateau, Trainer, build_optimizer

FEATURES = {"text": {"name": "features"}, "audio": {"name": "features"}}
SEEDS = streams(0, "tiny", 0, 0, "confirm")


def make_recipe(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "encoders": FEATURES,
        "projection": {"dim": 8},
        "classifier": {"hidden": [8]},
        "sampler": {"batch_size": 8},
        "training": {"epochs": 4},
    }
    return Recipe.model_validate({**base, **changes})


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def make_trainer(corpus: Corpus, store: FeatureStore, recipe: Recipe | None = None, seeds: Any = SEEDS) -> Trainer:
    return Trainer(recipe or make_recipe(), corpus.train_valid(), seeds, store=store, device="cpu")


def test_same_streams_same_weights_bit_for_bit(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    one, two = make_trainer(tiny_corpus, feature_store), make_trainer(tiny_corpus, feature_store)
    list(one.run())
    torch.manual_seed(123)  # the global generator must not matter
    list(two.run())
    assert torch.equal(weights(one), weights(two))
    assert [r.valid for r in one.history] == [r.valid for r in two.history]


def test_each_stream_matters(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    recipe = make_recipe(missing={"train": {"protocol": "random", "rate": 0.3}}, training={"epochs": 1})
    reference = make_trainer(tiny_corpus, feature_store, recipe)
    reference.epoch()
    for name in ("order", "init", "dropout", "masks"):
        other = make_trainer(tiny_corpus, feature_store, recipe, dataclasses.replace(SEEDS, **{name: 7}))
        other.epoch()
        assert not torch.equal(weights(reference), weights(other)), name


@pytest.mark.parametrize("schedule", ["cosine", "plateau", "constant"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_interrupted_and_resumed_equals_undisturbed(
    tiny_corpus: Corpus, feature_store: FeatureStore, schedule: str, stop_after: int
) -> None:
    recipe = make_recipe(
        schedule={"name": schedule, "patience": 0}, missing={"train": {"protocol": "sample", "rate": 0.5}}
    )
    whole = make_trainer(tiny_corpus, feature_store, recipe)
    list(whole.run())
    first = make_trainer(tiny_corpus, feature_store, recipe)
    for _ in range(stop_after):
        first.epoch()
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second = make_trainer(tiny_corpus, feature_store, recipe)
    second.load_state_dict(torch.load(stream, weights_only=True))
    list(second.run())
    assert torch.equal(weights(whole), weights(second))
    assert whole.best_epoch == second.best_epoch
    for name, tensor in whole.best.items():
        assert torch.equal(tensor, second.best[name])
    strip = [dataclasses.replace(r, seconds=0, loading_seconds=0) for r in whole.history]
    assert strip == [dataclasses.replace(r, seconds=0, loading_seconds=0) for r in second.history]


def test_accumulation_equals_the_large_batch(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    still = {
        "fusion": {"name": "none", "modality": "text"},
        "projection": {"dim": 8, "dropout": 0.0},
        "classifier": {"hidden": [8], "dropout": 0.0},
    }
    large = make_recipe(**still, sampler={"batch_size": 20})
    small = make_recipe(**still, sampler={"batch_size": 10}, optimizer={"accumulate": 2})
    one, two = make_trainer(tiny_corpus, feature_store, large), make_trainer(tiny_corpus, feature_store, small)
    one.epoch(), two.epoch()
    torch.testing.assert_close(weights(one), weights(two), rtol=1e-4, atol=1e-6)


def test_early_stopping_and_best_model(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    recipe = make_recipe(training={"epochs": 50, "patience": 2}, optimizer={"lr": 0.01})
    trainer = make_trainer(tiny_corpus, feature_store, recipe)
    reports = list(trainer.run())
    assert len(reports) == trainer.best_epoch + 2 < 50
    values = [report.valid["ua"] for report in reports]
    assert trainer.best_epoch == int(np.argmax(values)) + 1
    trainer.model.load_state_dict(trainer.best_model().state_dict())
    assert trainer.predict_valid().scores()["ua"] == max(values)


def test_it_learns(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    trainer = make_trainer(tiny_corpus, feature_store, make_recipe(training={"epochs": 15}, optimizer={"lr": 0.01}))
    list(trainer.run())
    assert trainer.best_value > 0.7  # chance is 1/3


def test_a_lost_number_is_divergence(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    trainer = make_trainer(tiny_corpus, feature_store)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(math.nan)
    with pytest.raises(Diverged):
        trainer.epoch()


def test_the_test_split_is_out_of_reach(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    trainer = make_trainer(tiny_corpus, feature_store)
    seen = {*trainer.train.ids, *trainer.valid.ids}
    assert seen == {u.id for u in (*tiny_corpus.train, *tiny_corpus.valid)}
    assert not seen & {u.id for u in tiny_corpus.test}


def poisoned(batch: Batch) -> Batch:
    """The same batch with NaN wherever a mask is False."""
    found = {}
    for name, sequence in batch.modalities.items():
        values = torch.where(sequence.mask.unsqueeze(-1), sequence.values, torch.nan)
        found[name] = Sequence(values, sequence.mask)
    return Batch(found, batch.utterance_ids, batch.dialogue)


LEVELS = sorted(set(fusion.LEVELS) - {"none"})


@pytest.mark.parametrize("context", ["none", "bilstm", "graph"])
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_masked_cannot_change_a_bit(
    tiny_corpus: Corpus, feature_store: FeatureStore, level: str, context: str
) -> None:
    """The leak test, for every fusion and context, from batch to logits, and through a training step."""
    recipe = make_recipe(
        encoders={**FEATURES, "visual": {"name": "features"}},
        fusion=level,
        context=context,
        missing={"train": {"protocol": "random", "rate": 0.6}},
        training={"epochs": 1},
    )
    trainer = make_trainer(tiny_corpus, feature_store, recipe)
    rows = np.arange(12)
    batch = trainer.train.batch(rows, trainer_available(trainer), dialogues=needs_dialogues(recipe))
    assert any(not sequence.present.all() for sequence in batch.modalities.values())
    trainer.model.eval()
    with torch.no_grad():
        clean, dirty = trainer.model(batch), trainer.model(poisoned(batch))
    assert torch.isfinite(clean.logits).all()
    assert torch.equal(clean.logits, dirty.logits)
    trainer.model.train()
    trainer.generator.manual_seed(0)
    trainer._loss(poisoned(batch), trainer.train.labels[:12]).backward()
    for name, parameter in trainer.model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def trainer_available(trainer: Trainer) -> np.ndarray:
    from mer.data.missing import availability

    return availability(
        trainer.recipe.missing.train,
        trainer.train.ids,
        trainer.train.modalities,
        3,
        epoch=0,
        present=trainer.train.present,
    )


def test_plateau_halves_after_patience() -> None:
    plateau = Plateau(factor=0.5, patience=1)
    scales = []
    for value in (0.1, 0.2, 0.2, 0.1, 0.1, 0.1, 0.3):
        plateau.update(value)
        scales.append(plateau.scale)
    assert scales == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_representations_are_what_the_fusion_reads(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    """A baseline of one modality shows that one alone; blocks before the fusion are seen through."""
    for fusion_config, names in (
        ({"name": "none", "modality": "audio"}, {"audio", "fused"}),
        ({"name": "gated", "layers": 1}, {"audio", "text", "fused"}),
        ({"name": "xattn"}, {"audio", "text", "fused"}),
    ):
        trainer = make_trainer(tiny_corpus, feature_store, make_recipe(fusion=fusion_config))
        trainer.model.eval()
        batch = trainer.train.batch(np.arange(6), trainer_available(trainer), dialogues=False)
        with torch.no_grad():
            found = trainer.model(batch).representations
        assert set(found) == names
        assert all(value.shape == (6, 8) for value in found.values())


def test_the_optimizer_has_a_rate_for_encoders_one_for_the_head_and_decays_matrices_alone(tiny_corpus: Corpus) -> None:
    recipe = make_recipe(
        encoders={"audio": {"name": "fourier2vec", "dim": 8, "layers": 1, "heads": 2}},
        optimizer={"lr": 1e-3, "encoder_lr": 1e-5, "head_lr": 1e-2, "weight_decay": 0.1},
    )
    model = build_model(recipe, tiny_corpus.info, 0)
    groups = build_optimizer(model, recipe).param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        rate = {"encoders": 1e-5, "classifier": 1e-2}.get(name.split(".")[0], 1e-3)
        assert found[id(parameter)] == (rate, 0.1 if parameter.dim() >= 2 else 0.0), name
    assert {rate for rate, _ in found.values()} == {1e-5, 1e-3, 1e-2}


def test_where_less_is_better_the_trainer_keeps_the_lowest(
    tiny_corpus: Corpus, feature_store: FeatureStore, monkeypatch: pytest.MonkeyPatch, lower_is_better: Any
) -> None:
    """Best epoch, early stopping and plateau ask the metric which end is the better one."""
    schedule = {"name": "plateau", "warmup": 0.0, "patience": 0}
    recipe = make_recipe(training={"epochs": 6, "patience": 2, "metric": "ua"}, schedule=schedule)
    trainer = make_trainer(tiny_corpus, feature_store, recipe)
    assert trainer.best_value == math.inf
    given = iter([0.5, 0.2, 0.4, 0.3, 0.1, 0.0])
    epoch = trainer.conclude
    monkeypatch.setattr(
        trainer, "conclude", lambda loss, valid, *rest: epoch(loss, {**valid, "ua": next(given)}, *rest)
    )
    reports = list(trainer.run())
    assert [report.is_best for report in reports] == [True, True, False, False]
    assert (trainer.best_epoch, trainer.best_value) == (2, 0.2)
    assert trainer.plateau.scale == 0.25


def test_scores_of_a_metric_where_less_is_better_fall_in_training(
    tiny_corpus: Corpus, feature_store: FeatureStore, lower_is_better: Any
) -> None:
    recipe = make_recipe(training={"epochs": 8, "metric": "ua"}, optimizer={"lr": 3e-2})
    trainer = make_trainer(tiny_corpus, feature_store, recipe)
    values = [report.valid["ua"] for report in trainer.run()]
    assert trainer.best_value == min(values) < 1 / 2
    assert trainer.best_epoch == values.index(min(values)) + 1


@pytest.mark.parametrize("what", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
def test_what_breaks_off_the_writing_of_a_state_is_what_is_raised(
    what: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raises its own error of a half file instead."""

    class Broken(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell():
                raise what
            return super().write(data)

    monkeypatch.setattr("mer.fit.replacing", lambda path: contextlib.nullcontext(Broken()))
    with pytest.raises(type(what)) as found:
        fit._save({"model": torch.zeros(100_000)}, tmp_path / "state.pt")
    assert found.value is what
