"""Every fusion and every single modality on CMU-MOSI's published utterance features, test accuracy over 8 seeds.

    python benchmarks/check_mosi.py ../shared/data/mosi

Known for these features (test, percent): majority 60.7; logistic regression on text 77.0, on all three 77.5; a small
MLP on all three 77.6. The standard error of the test set alone (534 utterances) is 1.8, so differences of less than
3 points between fusions say nothing. One setting serves all fusions; epochs are chosen on validation; the test split
is scored once per (fusion, seed).
"""

from __future__ import annotations

import argparse

import numpy as np

from mer.data.corpus import Corpus, load_corpus
from mer.data.loading import prepare_split
from mer.data.store import FeatureStore
from mer.evaluation import predict
from mer.recipe import Recipe
from mer.streams import streams
from mer.training import Trainer

MODALITIES = ("text", "audio", "visual")
FUSIONS = ("concat", "gated", "weighted", "cross_attention", "xattn", "bilstm_attn", "cnn_bilstm_attn", "tacfn")
SETTINGS = {
    "projection": {"dim": 64, "dropout": 0.5},
    "classifier": {"hidden": [32], "dropout": 0.3},
    "sampler": {"batch_size": 64},
    "optimizer": {"lr": 1e-3, "weight_decay": 0.05},
    "training": {"epochs": 12, "metric": "wa"},
}


def recipe(fusion: str, modalities: tuple[str, ...]) -> Recipe:
    encoders = {name: {"name": "features"} for name in modalities}
    return Recipe.model_validate({**SETTINGS, "encoders": encoders, "fusion": fusion})


def one(corpus: Corpus, chosen: Recipe, seed: int, store: FeatureStore) -> tuple[float, float, float]:
    """Validation accuracy of the chosen epoch, test accuracy of its model, seconds per epoch."""
    trainer = Trainer(chosen, corpus.train_valid(), streams(0, "mosi", seed, 0, "confirm"), store=store, device="cpu")
    reports = list(trainer.run())
    model = trainer.best_model()
    test = corpus.test_set()
    data = prepare_split(test.info, test.test, model.encoder_table(), store)
    found = predict(model, data, np.ones((len(data), len(data.modalities)), dtype=bool), dialogues=trainer.dialogues)
    return trainer.best_value, found.scores()["wa"], float(np.median([report.seconds for report in reports]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", nargs="*", help="these rows alone")
    args = parser.parse_args()
    corpus, store = load_corpus(args.corpus), FeatureStore()
    rows = [("none", (name,), f"{name} only") for name in MODALITIES] + [(f, MODALITIES, f) for f in FUSIONS]
    print("| model | valid WA | test WA, mean ± sd | seeds | s per epoch |\n|---|---|---|---|---|")
    for fusion, modalities, name in rows:
        if args.only and name not in args.only:
            continue
        results = [one(corpus, recipe(fusion, modalities), seed, store) for seed in range(args.seeds)]
        valid, test, seconds = (np.array(column) for column in zip(*results, strict=True))
        spread = (
            f"{100 * test.mean():.1f} ± {100 * test.std(ddof=1):.1f}" if len(test) > 1 else f"{100 * test.mean():.1f}"
        )
        print(f"| {name} | {100 * valid.mean():.1f} | {spread} | {len(test)} | {np.median(seconds):.2f} |", flush=True)


if __name__ == "__main__":
    main()
