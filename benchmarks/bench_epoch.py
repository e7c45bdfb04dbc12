"""One training epoch (validation included) per fusion, and the share of it that loading data takes.

    python -m benchmarks.bench_epoch FOLDER

FOLDER: a corpus with pre-extracted features of text, audio and visual, such as CMU-MOSI's.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.check_mosi import FUSIONS, MODALITIES, recipe
from mer.data.corpus import load_corpus
from mer.data.store import FeatureStore
from mer.streams import streams
from mer.training import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    corpus, store = load_corpus(args.corpus), FeatureStore()
    print("| fusion | s per epoch, median | of it loading |\n|---|---|---|")
    for fusion in FUSIONS:
        trainer = Trainer(
            recipe(fusion, MODALITIES),
            corpus.train_valid(),
            streams(0, "mosi", 0, 0, "tune"),
            store=store,
            device="cpu",
        )
        reports = [trainer.epoch() for _ in range(args.epochs)]
        share = float(np.median([report.loading_seconds / report.seconds for report in reports]))
        seconds = float(np.median([report.seconds for report in reports]))
        print(f"| {fusion} | {seconds:.2f} | {100 * share:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
