"""A model trained without gaps, scored with one modality left, is no worse than a model of that modality alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mer.checkpoint import Checkpoint
from mer.data.conditions import conditions
from mer.data.corpus import Corpus, load_corpus
from mer.data.store import FeatureStore
from mer.recipe import Recipe
from mer.streams import streams
from mer.training import Trainer

SEEDS = range(3)
SIZES = {"train": 160, "valid": 80, "test": 800}
MARGIN = 0.02
"""Of accuracy, the same for all fusions and written down before any was scored on these sizes."""
MODALITIES = ("text", "audio")


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Four classes: text tells the first two from the last two, audio the odd from the even."""
    folder = tmp_path_factory.mktemp("halves")
    rng = np.random.default_rng(0)
    marks = {name: rng.normal(size=(2, 6)) for name in MODALITIES}
    frames: dict[str, list[np.ndarray]] = {name: [] for name in MODALITIES}
    row = 0
    for split, size in SIZES.items():
        lines = []
        for number in range(size):
            halves = {"text": int(rng.integers(2)), "audio": int(rng.integers(2))}
            label = "abcd"[2 * halves["text"] + halves["audio"]]
            lines.append({"utterance_id": f"{split}{number}", "speaker_id": split, "emotion": label, "row": row})
            for name in MODALITIES:
                x = 0.7 * rng.normal(size=(int(rng.integers(2, 7)), 6))
                x[rng.integers(len(x))] += 2 * marks[name][halves[name]]  # one frame says it
                frames[name].append(x)
            row += 1
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (folder / "features").mkdir()
    for name, arrays in frames.items():
        np.save(folder / "features" / f"{name}.npy", np.concatenate(arrays).astype(np.float32))
        np.save(folder / "features" / f"{name}.offsets.npy", np.cumsum([0, *map(len, arrays)]).astype(np.int64))
    described = {"name": "halves", "labels": list("abcd"), "features": dict.fromkeys(MODALITIES, 6), "synthetic": True}
    (folder / "corpus.json").write_text(json.dumps(described), "utf-8")
    return load_corpus(folder)


def told(
    corpus: Corpus, store: FeatureStore, fusion: str | dict[str, object], modalities: tuple[str, ...]
) -> np.ndarray:
    """`[seeds, modalities]`: how often a model says rightly what a modality tells, with that one left. Chance: 0.5."""
    recipe = Recipe.model_validate(
        {
            "encoders": dict.fromkeys(modalities, "features"),
            "projection": {"dim": 16},
            "fusion": fusion,
            "optimizer": {"lr": 5e-3},
            "training": {"epochs": 12},
        }
    )
    names = [f"only {name}" for name in modalities] if len(modalities) > 1 else ["complete"]
    found = []
    for seed in SEEDS:
        seeds = streams(seed, "halves", 0, 0, "confirm")
        trainer = Trainer(recipe, corpus.train_valid(), seeds, store=store, device="cpu")
        list(trainer.run())
        model = Checkpoint(trainer.best_model(), recipe, corpus.info, {})
        said = model.predict(corpus.info, corpus.test, conditions(names, modalities), store=store)
        rows = []
        for name, condition in zip(modalities, names, strict=True):
            # Labels are numbered 2 * text + audio.
            predicted, labels = said[condition].predicted, said[condition].labels
            rows.append((predicted // 2 == labels // 2 if name == "text" else predicted % 2 == labels % 2).mean())
        found.append(rows)
    return np.array(found)


@pytest.fixture(scope="module")
def alone(halves: Corpus, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """`[modalities]`: the same of a model that never had another."""
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    return np.array([told(halves, store, "none", (name,)).mean() for name in MODALITIES])


@pytest.mark.parametrize(
    "fusion",
    ["concat", "cross_attention", "bilstm_attn", "tacfn", "xattn", {"name": "xattn", "residual": True}],
    ids=str,
)
def test_no_worse_than_the_modality_alone(
    halves: Corpus, feature_store: FeatureStore, alone: np.ndarray, fusion: str | dict[str, object]
) -> None:
    found = told(halves, feature_store, fusion, MODALITIES).mean(0)
    assert (found >= alone - MARGIN).all(), (found, alone)


def test_without_learning_it_xattn_is_worse(halves: Corpus, feature_store: FeatureStore, alone: np.ndarray) -> None:
    """So the test above finds it."""
    found = told(halves, feature_store, {"name": "xattn", "learn_alone": False}, MODALITIES).mean(0)
    assert (found < alone - MARGIN).any(), (found, alone)
