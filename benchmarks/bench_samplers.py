"""What the four samplers do to padding and to class shares, and what padding costs.

    python benchmarks/bench_samplers.py [--data FOLDER]

Synthetic lengths: 2000 utterances, log-normal around 7.9 s (the mean of VNEMOS), 3 words a second, five classes of
45, 25, 15, 10 and 5 %, rare ones longer. With `--data`, the training split of a corpus as well. Batches of 16.
Time: gathering an epoch's batches of 50 frames a second x 128 (fp16 to padded float32), one core; the samplers run
in turn within each round.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import torch

from mer.data.ragged import Ragged
from mer.data.sampling import LEVELS, SampleInfo, make_sampler, padding_ratio
from mer.recipe import Sampler as SamplerConfig

BATCH, EPOCHS, ROUNDS = 16, 20, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a corpus folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    info = synthetic()
    print("Synthetic lengths:\n")
    table(info, times(info))
    if args.data:
        print(f"\nTraining split of {args.data}:\n")
        table(of_corpus(args.data), {})


def synthetic(n: int = 2000) -> SampleInfo:
    rng = np.random.default_rng(0)
    labels = rng.choice(5, n, p=[0.45, 0.25, 0.15, 0.1, 0.05])
    seconds = np.clip(rng.lognormal(np.log(6.2) + 0.1 * labels, 0.6), 0.5, 40)
    return SampleInfo(labels, seconds, rng.poisson(3 * seconds) + 1, np.sort(rng.integers(0, n // 12, n)))


def of_corpus(folder: str) -> SampleInfo:
    from mer.data.corpus import load_corpus

    corpus = load_corpus(folder)
    train = corpus.train
    labels = np.array([corpus.info.labels.index(u.emotion) for u in train])
    seconds = np.array([(u.end - (u.start or 0.0)) if u.end is not None else 0.0 for u in train])
    words = np.array([len((u.transcript or "").split()) for u in train])
    return SampleInfo(labels, seconds, words)


def times(info: SampleInfo) -> dict[str, float]:
    """CPU seconds to gather an epoch."""
    lengths = np.round(50 * info.audio_seconds).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ragged = Ragged(np.zeros((offsets[-1], 128), np.float16), offsets)
    spent: dict[str, list[float]] = {name: [] for name in LEVELS}
    for epoch in range(ROUNDS):
        for name in LEVELS:
            batches = make_sampler(SamplerConfig(name=name, batch_size=BATCH), info, 0).batches(epoch)
            began = time.thread_time()
            for rows in batches:
                ragged.gather(rows)
            spent[name].append(time.thread_time() - began)
    return {name: float(np.median(values)) for name, values in spent.items()}


def table(info: SampleInfo, seconds: dict[str, float]) -> None:
    lengths = info.mixed_length(SamplerConfig().alpha)
    rarest = np.argmin(np.bincount(info.labels))
    print("| sampler | positions over real ones | share of the rarest class | CPU seconds to gather an epoch |")
    print("|---|---|---|---|")
    for name in LEVELS:
        for bucket in (8, 64) if "bucket" in name or name == "both" else (8,):
            config = SamplerConfig(name=name, batch_size=BATCH, bucket=bucket)
            epochs = [make_sampler(config, info, 0).batches(epoch) for epoch in range(EPOCHS)]
            padding = np.mean([padding_ratio(batches, lengths) for batches in epochs])
            share = np.mean([(info.labels[np.concatenate(batches)] == rarest).mean() for batches in epochs])
            shown = name if name in ("plain", "weighted") else f"{name}, bucket {bucket}"
            cost = f"{seconds[name]:.2f}" if name in seconds and bucket == 8 else ""
            print(f"| {shown} | {padding:.2f} | {100 * share:.1f} % | {cost} |")


if __name__ == "__main__":
    main()
