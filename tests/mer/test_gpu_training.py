"""On a GPU: training gives what it gives on a CPU, alone and bundled, and nothing in its loop waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from mer import fusion
from mer.bundle.declared import why_not
from mer.bundle.trainer import BundleTrainer
from mer.data.corpus import Corpus
from mer.data.store import FeatureStore
from mer.recipe import Recipe
from mer.streams import streams
from mer.training import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SEEDS = [streams(0, "tiny", study, 0, "confirm") for study in range(3)]


def recipe_of(level: str, **changes: Any) -> Recipe:
    """Without anything random: a GPU's generator gives other numbers than a CPU's."""
    options: dict[str, Any] = {"modality": "text"} if level == "none" else {"dropout": 0.0}
    if level == "cadgl":
        options["drop_rate"] = 0.0
    base = {
        "encoders": {"text": "features", "audio": "features"},
        "projection": {"dim": 8, "dropout": 0.0},
        "classifier": {"hidden": [8], "dropout": 0.0},
        "fusion": {"name": level, **options},
        "sampler": {"batch_size": 9},
        "optimizer": {"lr": 3e-3},
        "training": {"epochs": 3},
    }
    return Recipe.model_validate({**base, **changes})


@contextmanager
def exact() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("level", fusion.LEVELS)
def test_the_same_training_as_on_a_cpu(tiny_corpus: Corpus, feature_store: FeatureStore, level: str) -> None:
    recipe, data = recipe_of(level), tiny_corpus.train_valid()
    found = []
    with exact():
        for device in ("cpu", "cuda"):
            trainer = Trainer(recipe, data, SEEDS[0], store=feature_store, device=device)
            losses = [report.train_loss for report in trainer.run()]
            found.append((losses, trainer.predict_valid().probabilities))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-3)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=5e-3)


@pytest.mark.parametrize("level", [name for name in fusion.LEVELS if why_not(recipe_of(name)) is None])
def test_a_bundle_as_each_alone(tiny_corpus: Corpus, feature_store: FeatureStore, level: str) -> None:
    """Dropout, too: each member draws from its own generator on the device."""
    recipe = recipe_of(level, projection={"dim": 8, "dropout": 0.2})
    data = tiny_corpus.train_valid()
    with exact():
        bundle = BundleTrainer([recipe] * 3, data, SEEDS, store=feature_store, device="cuda")
        list(bundle.run())
        for member, seeds in zip(bundle.members, SEEDS, strict=True):
            trainer = Trainer(recipe, data, seeds, store=feature_store, device="cuda")
            list(trainer.run())
            np.testing.assert_allclose(
                [report.train_loss for report in member.history],
                [report.train_loss for report in trainer.history],
                rtol=1e-3,
            )


WAITING = {"cadgl": "its edges depend on which modalities are there"}


@pytest.mark.parametrize("context", ["none", "bilstm"])
@pytest.mark.parametrize("level", [name for name in fusion.LEVELS if name not in WAITING])
def test_no_step_waits_for_the_device(
    tiny_corpus: Corpus, feature_store: FeatureStore, level: str, context: str
) -> None:
    recipe = recipe_of(level, context=context)
    trainer = Trainer(recipe, tiny_corpus.train_valid(), SEEDS[0], store=feature_store, device="cuda")
    trainer.epoch()
    available = trainer.train_available(1)
    batches = [trainer.train.batch(rows, available, dialogues=trainer.dialogues) for rows in trainer.sampler.batches(1)]
    labels = [torch.zeros(batch.size, dtype=torch.long, device="cuda") for batch in batches]
    trainer.model.train()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for rows, batch, label in zip(trainer.sampler.batches(1), batches, labels, strict=True):
            trainer.train.batch(rows, available, dialogues=trainer.dialogues)
            trainer.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(trainer._loss(batch, label))
            trainer._step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
