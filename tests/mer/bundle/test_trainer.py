"""A bundle's members get what they get alone: weights, losses, scores, epochs; for every level that bundles."""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from mer import encoders, fusion
from mer.bundle.declared import why_not
from mer.bundle.trainer import BundleTrainer
from mer.data.corpus import Corpus, TrainValid, load_corpus
from mer.data.demo import demo_corpus
from mer.data.store import FeatureStore
from mer.errors import UserError
from mer.recipe import Recipe
from mer.streams import Streams, streams
from mer.training import Diverged, Trainer

FEATURES = {"text": {"name": "features"}, "audio": {"name": "features"}}
SEEDS = [streams(0, "tiny", study, 0, "confirm") for study in range(3)]


def make_recipe(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "encoders": FEATURES,
        "projection": {"dim": 8},
        "classifier": {"hidden": [8]},
        "sampler": {"batch_size": 9},  # the last batch is smaller
        "training": {"epochs": 2},
        "missing": {"train": {"protocol": "random", "rate": 0.3}},
    }
    return Recipe.model_validate({**base, **changes})


def make_bundle(
    data: TrainValid | list[TrainValid],
    store: FeatureStore,
    recipes: list[Recipe],
    seeds: list[Streams] = SEEDS,
    double: bool = False,
) -> BundleTrainer:
    bundle = BundleTrainer(recipes, data, seeds[: len(recipes)], store=store, device="cpu")
    return bundle.double() if double else bundle


def alone(data: TrainValid, store: FeatureStore, recipe: Recipe, seeds: Streams, double: bool = False) -> Trainer:
    trainer = Trainer(recipe, data, seeds, store=store, device="cpu")
    if double:
        trainer.model.double()
        trainer.loss.double()
    return trainer


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def assert_equal(bundle: BundleTrainer, i: int, trainer: Trainer, tolerance: float) -> None:
    """Everything that a report and a winner depend on. In float64, `tolerance` is rounding."""
    member = bundle.members[i]
    torch.testing.assert_close(weights(member.model), weights(trainer.model), rtol=0, atol=tolerance)
    torch.testing.assert_close(weights(bundle.best_model(i)), weights(trainer.best_model()), rtol=0, atol=tolerance)
    assert len(member.history) == len(trainer.history)
    for ours, theirs in zip(member.history, trainer.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=tolerance)
        assert (ours.valid, ours.epoch, ours.is_best) == (theirs.valid, theirs.epoch, theirs.is_best)
        assert ours.learning_rate == theirs.learning_rate


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "none": [{"modality": "audio"}, {"modality": "text", "layers": 1}],
    "concat": [{}, {"axis": "time"}],
    "cross_attention": [{}, {"axis": "time", "layers": 1}],
    "xattn": [{}, {"residual": True}],
    "bilstm_attn": [{}, {"merge": "gate", "lstm_layers": 2, "blocks": 2}],
    "tacfn": [{"align": align, "layers": 1} for align in ("text_query", "interp", "concat", "truncate")],
}
BUNDLED = [level for level in sorted(fusion.LEVELS) if why_not(make_recipe(fusion=level)) is None]
CASES = [(level, options) for level in BUNDLED for options in OPTIONS.get(level, [{}])]


@pytest.mark.parametrize(("level", "options"), CASES, ids=[f"{a}-{'-'.join(map(str, b.values()))}" for a, b in CASES])
def test_every_fusion_step_for_step_as_alone(
    tiny_corpus: Corpus, feature_store: FeatureStore, level: str, options: dict[str, Any]
) -> None:
    """Float64; dropout, missing masks, orders, learning rates and decays of each member's own."""
    pooling = {"name": "attn", "dropout": 0.2}
    recipes = [
        make_recipe(
            fusion={"name": level, **options},
            pooling=pooling,
            optimizer={"lr": 1e-3 * (i + 1), "weight_decay": 0.1 * i, "grad_clip": [1.0, 0.05, 0.0][i]},
        )
        for i in range(3)
    ]
    data = tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, recipes, double=True)
    list(bundle.run())
    for i, recipe in enumerate(recipes):
        trainer = alone(data, feature_store, recipe, SEEDS[i], double=True)
        list(trainer.run())
        assert_equal(bundle, i, trainer, 1e-9)


def test_what_bundles() -> None:
    assert set(BUNDLED) == set(fusion.LEVELS) - {"cadgl"}
    assert "whole dialogues" in str(why_not(make_recipe(fusion="cadgl")))
    for context in ("bilstm", "graph"):
        assert context in str(why_not(make_recipe(context=context)))
    assert "fp16" in str(why_not(make_recipe(training={"precision": "fp16"})))


@pytest.mark.parametrize("pooling", ["cls", "max", "min", "mean"])
def test_poolings(tiny_corpus: Corpus, feature_store: FeatureStore, pooling: str) -> None:
    recipes = [make_recipe(fusion={"name": "concat", "axis": "time", "layers": 1}, pooling=pooling)] * 2
    data = tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, recipes, double=True)
    list(bundle.run())
    trainer = alone(data, feature_store, recipes[0], SEEDS[1], double=True)
    list(trainer.run())
    assert_equal(bundle, 1, trainer, 1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"name": "sgd", "lr": 0.05}},
        {"optimizer": {"name": "adam", "weight_decay": 0.1}},
        {"optimizer": {"accumulate": 3, "head_lr": 0.01}},
        {"loss": {"name": "focal", "class_weights": "balanced", "label_smoothing": 0.1}},
        {"sampler": {"name": "both", "batch_size": 8, "bucket": 2}},
        {"schedule": {"name": "plateau", "patience": 0, "factor": 0.1}, "training": {"epochs": 4}},
        {"encoders": {**FEATURES, "visual": {"name": "features"}}, "fusion": "tacfn"},
        {"encoders": {"text": "words", "audio": "features"}},
        {"encoders": {"text": {"name": "tfidf", "buckets": 64}, "audio": {"name": "features", "noise": 0.5}}},
    ],
    ids=str,
)
def test_the_rest_of_a_recipe(tiny_corpus: Corpus, feature_store: FeatureStore, changes: dict[str, Any]) -> None:
    recipe, data = make_recipe(**changes), tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, [recipe] * 2, double=True)
    list(bundle.run())
    for i in range(2):
        trainer = alone(data, feature_store, recipe, SEEDS[i], double=True)
        list(trainer.run())
        assert_equal(bundle, i, trainer, 1e-9)


def test_members_with_dropout_of_their_own(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    """Strengths differ in every place where there is one, 0 included; the architecture is the same."""
    recipes = [
        make_recipe(
            encoders={"text": {"name": "features", "noise": noise}, "audio": {"name": "features"}},
            projection={"dim": 8, "dropout": p},
            classifier={"hidden": [8], "dropout": 0.5 - p},
            fusion={"name": "concat", "axis": "time", "layers": 1, "dropout": p},
            pooling={"name": "attn", "dropout": p / 2},
        )
        for p, noise in ((0.0, 0.0), (0.1, 0.3), (0.5, 1.0))
    ]
    data = tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, recipes, double=True)
    list(bundle.run())
    for i, recipe in enumerate(recipes):
        trainer = alone(data, feature_store, recipe, SEEDS[i], double=True)
        list(trainer.run())
        assert_equal(bundle, i, trainer, 1e-9)


def test_a_member_that_is_stopped_costs_nothing_and_touches_no_other(
    tiny_corpus: Corpus, feature_store: FeatureStore
) -> None:
    recipe, data = make_recipe(training={"epochs": 4}), tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, [recipe] * 3, double=True)
    bundle.epoch()
    bundle.stop(1)
    assert [report is None for report in bundle.epoch()] == [False, True, False]
    assert len(bundle.weights.flat) == 2
    list(bundle.run())
    assert [member.epochs_done for member in bundle.members] == [4, 1, 4]
    for i, epochs in enumerate((4, 1, 4)):
        trainer = alone(data, feature_store, recipe, SEEDS[i], double=True)
        for _ in range(epochs):
            trainer.epoch()
        assert_equal(bundle, i, trainer, 1e-9)


def test_in_float32_within_its_noise(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    recipe, data = make_recipe(fusion="gated"), tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, [recipe] * 3)
    list(bundle.run())
    for i in range(3):
        trainer = alone(data, feature_store, recipe, SEEDS[i])
        list(trainer.run())
        ours, theirs = weights(bundle.members[i].model), weights(trainer.model)
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
        assert [r.valid for r in bundle.members[i].history] == [r.valid for r in trainer.history]


def test_members_with_data_and_lengths_of_their_own(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    """Splits of different size: one member has fewer batches, and another ends earlier."""
    whole = tiny_corpus.train_valid()
    less = TrainValid(whole.info, whole.train[:21], whole.valid[3:])
    data = [whole, less, whole]
    recipes = [make_recipe(training={"epochs": epochs}) for epochs in (4, 3, 2)]
    bundle = make_bundle(data, feature_store, recipes, double=True)
    reports = list(bundle.run())
    assert [[report is not None for report in row] for row in reports] == [
        [True, True, True],
        [True, True, True],
        [True, True, False],
        [True, False, False],
    ]
    for i in range(3):
        trainer = alone(data[i], feature_store, recipes[i], SEEDS[i], double=True)
        list(trainer.run())
        assert_equal(bundle, i, trainer, 1e-9)


def test_each_stops_early_for_itself(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    recipes = [make_recipe(training={"epochs": 30, "patience": 2}, optimizer={"lr": lr}) for lr in (0.02, 0.005, 0.001)]
    data = tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, recipes, double=True)
    list(bundle.run())
    lengths = [len(member.history) for member in bundle.members]
    assert len(set(lengths)) > 1, "a test of nothing: choose other rates"
    assert max(lengths) < 30
    for i in range(3):
        trainer = alone(data, feature_store, recipes[i], SEEDS[i], double=True)
        list(trainer.run())
        assert_equal(bundle, i, trainer, 1e-9)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_resumed_equals_undisturbed_bit_for_bit(tiny_corpus: Corpus, feature_store: FeatureStore, name: str) -> None:
    """Members that ended for themselves or were stopped included."""
    seeds = [*SEEDS, streams(0, "tiny", 3, 0, "confirm")]
    recipes = [make_recipe(training={"epochs": epochs}, optimizer={"name": name}) for epochs in (4, 1, 4, 4)]
    data = tiny_corpus.train_valid()
    whole, first, second = (make_bundle(data, feature_store, recipes, seeds) for _ in range(3))
    whole.epoch(), whole.stop(3)
    list(whole.run())
    first.epoch(), first.stop(3), first.epoch()
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second.load_state_dict(torch.load(stream, weights_only=True))
    list(second.run())
    for one, other in zip(whole.members, second.members, strict=True):
        assert torch.equal(weights(one.model), weights(other.model))
        assert all(torch.equal(one.best[key], other.best[key]) for key in one.best)
        strip = [dataclasses.replace(r, seconds=0, loading_seconds=0) for r in one.history]
        assert strip == [dataclasses.replace(r, seconds=0, loading_seconds=0) for r in other.history]


def test_a_members_state_is_that_of_the_trial_alone(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    """Taken out of a bundle after one epoch, a trial goes on alone to the same end."""
    recipe, data = make_recipe(training={"epochs": 3}), tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, [recipe] * 2, double=True)
    bundle.epoch()
    trainer = alone(data, feature_store, recipe, SEEDS[1], double=True)
    trainer.load_state_dict(bundle.state_dict()["members"][1])
    list(trainer.run()), list(bundle.run())
    assert_equal(bundle, 1, trainer, 1e-9)


def test_a_member_that_diverges_ends_alone(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    recipes, data = [make_recipe(training={"epochs": 3})] * 3, tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, recipes, double=True)
    with torch.no_grad():
        bundle.weights.flat[1].fill_(math.nan)
    reports = list(bundle.run())
    assert [report is None for report in reports[0]] == [False, True, False]
    assert isinstance(bundle.diverged[1], Diverged)
    assert "epoch 1" in str(bundle.diverged[1])
    assert bundle.members_finished == [True, True, True]
    for i in (0, 2):
        trainer = alone(data, feature_store, recipes[i], SEEDS[i], double=True)
        list(trainer.run())
        assert_equal(bundle, i, trainer, 1e-9)


def test_predictions_of_each(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    recipe, data = make_recipe(fusion="tacfn"), tiny_corpus.train_valid()
    bundle = make_bundle(data, feature_store, [recipe] * 2)
    bundle.epoch()
    for i, predictions in enumerate(bundle.predict_valid()):
        expected = bundle.members[i].predict_valid()
        np.testing.assert_allclose(predictions.probabilities, expected.probabilities, atol=1e-6)
        assert (predictions.ids, predictions.labels.tolist()) == (expected.ids, expected.labels.tolist())


def test_no_operation_falls_back_to_a_loop(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    """Operations without a rule for vmap would run member by member, and warn of it."""
    for level in BUNDLED:
        options = {"modality": "text"} if level == "none" else {}
        for dropout in (0.0, 0.1):
            fused = {"name": level, **options} | ({} if level == "none" else {"dropout": dropout})
            bundle = make_bundle(tiny_corpus.train_valid(), feature_store, [make_recipe(fusion=fused)] * 2)
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*performance drop.*")
                bundle.epoch()


def test_refusals(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    data = tiny_corpus.train_valid()
    with pytest.raises(UserError, match="whole dialogues"):
        make_bundle(data, feature_store, [make_recipe(context="bilstm")] * 2)
    with pytest.raises(UserError, match="another architecture"):
        make_bundle(data, feature_store, [make_recipe(), make_recipe(fusion="gated")])
    with pytest.raises(UserError, match="2 recipes, 2 splits and 1 streams"):
        BundleTrainer([make_recipe()] * 2, data, SEEDS[:1], store=feature_store)
    two, three = (make_bundle(data, feature_store, [make_recipe()] * n) for n in (2, 3))
    state = two.state_dict()
    with pytest.raises(UserError, match="bundle of 2"):
        three.load_state_dict(state)


TEXT = {"phobert", "videberta", "hf_text", "words", "tfidf", "llm_context"}
TINY = {name for name in encoders.LEVELS if name not in {"features", "words", "tfidf", "logmel", "fourier2vec"}}


@pytest.mark.parametrize("name", sorted(set(encoders.LEVELS) - {"features"}))
def test_an_encoder_bundles_or_says_why_not(name: str, feature_store: FeatureStore) -> None:
    """What a plan reads from an encoder's source is what a bundle does with it."""
    modality = "text" if name in TEXT else "audio"
    config = {"name": name} | ({"weights": "tiny"} if name in TINY else {})
    recipe = make_recipe(encoders={modality: config}, fusion="none", missing={}, training={"epochs": 1})
    data = load_corpus(demo_corpus()).train_valid()
    data = TrainValid(data.info, data.train[:12], data.valid[:6])
    if why_not(recipe) is not None:
        with pytest.raises(UserError, match="cannot be bundled"):
            make_bundle(data, feature_store, [recipe] * 2)
        return
    bundle = make_bundle(data, feature_store, [recipe] * 2)
    bundle.epoch()
    trainer = alone(data, feature_store, recipe, SEEDS[1])
    trainer.epoch()
    torch.testing.assert_close(weights(bundle.members[1].model), weights(trainer.model), rtol=0, atol=1e-5)
