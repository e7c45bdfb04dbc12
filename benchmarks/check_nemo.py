"""Real speech: Fourier2Vec from scratch on nEMO (audio), and text alone, which carries nothing there.

    python benchmarks/check_nemo.py FOLDER [--seeds 4] [--epochs 60] [--text]

Everything is chosen on the validation split: the recipe below, and each seed's epoch. The test split is scored once
per seed, with the chosen epoch; the mean over seeds is what is reported.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from mer.data.corpus import Corpus, load_corpus
from mer.data.loading import prepare_split
from mer.data.store import FeatureStore
from mer.evaluation import predict
from mer.recipe import Recipe
from mer.streams import streams
from mer.training import Trainer

AUDIO: dict[str, Any] = {
    "audio": {
        "name": "fourier2vec",
        "dim": 96,
        "layers": 2,
        "hop_ms": 20.0,
        "patch": 4,
        "stem": "conv",
        "time_masks": 1,
        "time_width": 10,
        "freq_masks": 1,
        "freq_width": 8,
        "stretch": 0.1,
        "shift": 2,
        "gain": 0.5,
    }
}
TEXT: dict[str, Any] = {"text": {"name": "words", "ngrams": 5}}


def recipe(encoders: dict[str, Any], epochs: int) -> Recipe:
    return Recipe.model_validate(
        {
            "encoders": encoders,
            "fusion": "none",
            "projection": {"dim": 96, "dropout": 0.1},
            "pooling": "mean",
            "classifier": {"hidden": [64], "dropout": 0.3},
            "loss": {"label_smoothing": 0.1},
            "sampler": {"name": "length_bucket", "batch_size": 16},
            "optimizer": {"lr": 1e-3, "weight_decay": 0.05},
            "training": {"epochs": epochs, "metric": "ua"},
        }
    )


def run(corpus: Corpus, encoders: dict[str, Any], seed: int, epochs: int, store: FeatureStore) -> dict[str, float]:
    """Train one seed; validation and test scores of the epoch that was best on validation."""
    started = time.perf_counter()
    trainer = Trainer(
        recipe(encoders, epochs), corpus.train_valid(), streams(seed, corpus.info.name, 0, 0, "tune"), store=store
    )
    for report in trainer.run():
        if report.epoch % 10 == 0:
            print(
                f"  seed {seed} epoch {report.epoch}: loss {report.train_loss:.3f}, valid UA {report.valid['ua']:.3f}"
            )
    model = trainer.best_model()
    data = prepare_split(corpus.info, corpus.test_set().test, model.encoder_table(), store, trainer.device)
    test = predict(model, data, np.ones((len(data), 1), dtype=bool), dialogues=False).scores()
    return {
        "valid UA": trainer.best_value,
        "epoch": trainer.best_epoch,
        "test UA": test["ua"],
        "test WA": test["wa"],
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--text", action="store_true", help="text alone instead: must stay at chance (16.7 %%)")
    arguments = parser.parse_args()
    corpus, store = load_corpus(arguments.folder), FeatureStore()
    encoders = TEXT if arguments.text else AUDIO
    rows = []
    for seed in range(arguments.seeds):
        rows.append(run(corpus, encoders, seed, arguments.epochs, store))
        print(f"  seed {seed}: {rows[-1]}", flush=True)
    print(f"\n| {'text' if arguments.text else 'audio'} | " + " | ".join(rows[0]) + " |")
    print("|---|" + "---|" * len(rows[0]))
    for seed, row in enumerate(rows):
        print(f"| seed {seed} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")
    means = [float(np.mean([row[name] for row in rows])) for name in rows[0]]
    print("| mean | " + " | ".join(f"{value:.3f}" for value in means) + " |")


if __name__ == "__main__":
    main()
