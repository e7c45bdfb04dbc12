"""What CADGL and its parts are worth, through the project's own trainer. Everything is chosen on validation.

    python benchmarks/check_cadgl.py mosi [--data FOLDER] [--seeds 8]     accuracy, and what training for gaps brings
    python benchmarks/check_cadgl.py meld [--data FOLDER]                 the dialogue graph against none, text alone
    python benchmarks/check_cadgl.py demo                                 each part switched off, on synthetic dialogues

Seeds are paired: arm and arm share data order, initialisation streams and masks.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mer.data.conditions import conditions
from mer.data.corpus import Corpus, load_corpus
from mer.data.demo import demo_corpus
from mer.data.missing import availability
from mer.data.store import FeatureStore
from mer.evaluation import predict
from mer.recipe import Recipe
from mer.streams import streams
from mer.training import Trainer, split_loader

Scores = dict[str, float]
"""`condition metric` to points."""


def train_and_score(
    corpus: Corpus, recipe: Mapping[str, Any], seed: int, under: list[str], store: FeatureStore
) -> tuple[Scores, float]:
    """Test scores of the best validation epoch under each condition, and the validation value it was chosen by."""
    parsed = Recipe.model_validate(recipe)
    seeds = streams(0, corpus.info.name, seed, 0, "confirm")
    trainer = Trainer(parsed, corpus.train_valid(), seeds, store=store, device="cpu")
    for _ in trainer.run():
        pass
    model = trainer.best_model()
    test = split_loader(store, trainer.device)(corpus.info, corpus.test_set().test, model)
    found: Scores = {}
    for condition in conditions(under, test.modalities):
        masks = availability(condition.missing, test.ids, test.modalities, seeds.masks, present=test.present)
        for metric, value in predict(model, test, masks, dialogues=trainer.dialogues).scores().items():
            found[f"{condition.name} {metric}"] = 100 * value
    return found, 100 * trainer.best_value


def compare(
    corpus: Corpus, arms: Mapping[str, Mapping[str, Any]], seeds: int, under: list[str], metrics: list[str]
) -> dict[str, list[Scores]]:
    """Print a Markdown table: mean over seeds for each arm, and the paired difference to the first arm."""
    store = FeatureStore()
    results: dict[str, list[Scores]] = {name: [] for name in arms}
    columns = [f"{name} {metric}" for name in under for metric in metrics]
    print(f"| arm | valid | {' | '.join(columns)} | s |\n|{'---|' * (len(columns) + 3)}", flush=True)
    for name, recipe in arms.items():
        started, valid = time.perf_counter(), []
        for seed in range(seeds):
            scores, value = train_and_score(corpus, recipe, seed, under, store)
            results[name].append(scores)
            valid.append(value)
        cells = [_cell(name, column, results) for column in columns]
        print(
            f"| {name} | {np.mean(valid):.2f} | {' | '.join(cells)} | {time.perf_counter() - started:.0f} |", flush=True
        )
    return results


def _cell(name: str, column: str, results: Mapping[str, list[Scores]]) -> str:
    values = np.array([scores[column] for scores in results[name]])
    first = next(iter(results))
    if name == first:
        return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" if len(values) > 1 else f"{values.mean():.2f}"
    difference = values - np.array([scores[column] for scores in results[first]])
    return f"{values.mean():.2f} ({difference.mean():+.2f}, {(difference > 0).sum()} of {len(values)} above)"


def mosi(folder: Path, seeds: int) -> None:
    """Videos as dialogues. One speaker a video, so the relations are past and future.

    The extractors of these features saw the training videos: there visual features alone give nine answers in ten,
    elsewhere half. Training for gaps therefore hides them most, and noise takes away what is too good.
    """
    names = ("audio", "visual", "text")
    gaps = {"protocol": "per_modality", "rates": {"audio": 0.3, "visual": 0.9, "text": 0.5}}
    cadgl = {"name": "cadgl", "drop_rate": 0.0, "consistency": False, "step": 0.5}

    def recipe(missing: Mapping[str, Any], noise: float, fusion: Any = cadgl, context: str = "none") -> dict[str, Any]:
        return {
            "encoders": {name: {"name": "features", "noise": noise} for name in names},
            "projection": {"dim": 64, "dropout": 0.3},
            "fusion": fusion,
            "context": context,
            "classifier": {"hidden": [], "dropout": 0.1},
            "sampler": {"batch_size": 160},
            "missing": {"train": missing, "valid": {}},
            "optimizer": {"lr": 1e-3, "weight_decay": 1e-2},
            "training": {"epochs": 6, "metric": "wa"},
        }

    arms = {
        "cadgl, trained without gaps": recipe({}, 0.0),
        "cadgl, trained without gaps, noise 2": recipe({}, 2.0),
        "cadgl, trained with gaps, noise 2": recipe(gaps, 2.0),
        "concat + bilstm, trained without gaps": recipe({}, 0.0, "concat", "bilstm"),
        "concat + bilstm, trained with gaps, noise 2": recipe(gaps, 2.0, "concat", "bilstm"),
    }
    compare(load_corpus(folder), arms, seeds, ["complete", "random 0.5"], ["wa"])


def meld(folder: Path, seeds: int) -> None:
    """Transcripts alone, TF-IDF vectors: what does the dialogue bring?"""

    def recipe(**changed: Any) -> dict[str, Any]:
        return {
            "encoders": {"text": "tfidf"},
            "projection": {"dim": 64, "dropout": 0.3},
            "fusion": "none",
            "sampler": {"batch_size": 128},
            "optimizer": {"lr": 2e-3},
            "training": {"epochs": 8, "metric": "weighted_f1"},
        } | changed

    near = {
        "name": "graph",
        "layers": 1,
        "window_past": 2,
        "window_future": 2,
        "similarity_edges": False,
        "dropout": 0.3,
    }
    parts = dict.fromkeys(("reconstruction", "alignment", "consistency"), False)
    arms = {
        "without a graph": recipe(),
        "context graph": recipe(context=near),
        "fusion cadgl without its graph": recipe(fusion={"name": "cadgl", "graph": False, "ode": False, **parts}),
        "fusion cadgl, graph and ODE": recipe(fusion={"name": "cadgl", **parts}),
    }
    compare(load_corpus(folder), arms, seeds, ["complete"], ["weighted_f1", "wa"])


def demo(seeds: int) -> None:
    """Synthetic conversations; CADGL with consistency off (half the time), then each part switched off, or it on.

    A small setting: one layer, one step of the ODE, TF-IDF for text, 14 epochs of 12 batches.
    """
    small = {"name": "cadgl", "dropout": 0.1, "layers": 1, "step": 1.0, "consistency": False}

    def recipe(fusion: Any = small, context: Any = "none", **options: Any) -> dict[str, Any]:
        return {
            "encoders": {"text": {"name": "tfidf", "dim": 32, "buckets": 1024}, "audio": "logmel"},
            "projection": {"dim": 32},
            "fusion": {**fusion, **options} if options else fusion,
            "context": context,
            "sampler": {"batch_size": 30},
            "optimizer": {"lr": 5e-3},
            "training": {"epochs": 14},
        }

    arms = {"cadgl": recipe(), "nothing hidden in training": recipe(drop_rate=0.0, reconstruction=False)}
    for part in ("graph", "similarity_edges", "ode", "reconstruction", "alignment"):
        arms[f"without {part}"] = recipe(**{part: False})
    arms["with consistency"] = recipe(consistency=True)
    arms["concat"] = recipe("concat")
    arms["concat, context graph"] = recipe("concat", {"name": "graph", "layers": 1})
    compare(load_corpus(demo_corpus()), arms, seeds, ["complete", "random 0.4", "only audio", "only text"], ["ua"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=("mosi", "meld", "demo"))
    default = Path(os.environ.get("MER_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder that holds mosi and meld")
    parser.add_argument("--seeds", type=int, default=8)
    given = parser.parse_args()
    if given.corpus == "demo":
        demo(given.seeds)
    else:
        {"mosi": mosi, "meld": meld}[given.corpus](given.data / given.corpus, given.seeds)


if __name__ == "__main__":
    main()
