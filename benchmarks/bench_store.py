"""The feature store against one `.npy` and one `.pt` file per utterance.

    python benchmarks/bench_store.py [--utterances 800] [--rounds 30]

Utterances of 50 to 300 frames of 768 numbers, fp16, random; everything in the page cache; one core; batches of 32
utterances drawn at random, the same for every way of reading. All ways run in turn within each round, so that
whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import torch

from mer.data.audio import AudioClip
from mer.data.ragged import Ragged
from mer.data.store import FeatureStore

DIM, BATCH = 768, 32


class Random:
    """A frontend whose frames are random numbers that depend on the text alone."""

    dim, dtype = DIM, "float16"
    kind: Literal["audio", "text"] = "text"

    def identity(self) -> dict[str, object]:
        return {"frontend": "benchmark"}

    def extract(self, items: Sequence[AudioClip | str]) -> list[np.ndarray[Any, np.dtype[Any]]]:
        return [_frames(int(str(item))) for item in items]


def _frames(seed: int) -> np.ndarray[Any, np.dtype[Any]]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((int(rng.integers(50, 301)), DIM), dtype=np.float32).astype(np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="mer-bench-", dir=args.folder))
    try:
        _run(folder, args.utterances, args.rounds)
    finally:
        shutil.rmtree(folder)


def _run(folder: Path, n: int, rounds: int) -> None:
    items = [str(i) for i in range(n)]
    FeatureStore(folder / "store").get(Random(), items)
    for i in range(n):
        np.save(folder / f"{i}.npy", _frames(i))
        torch.save(torch.from_numpy(_frames(i)), folder / f"{i}.pt")
    began = time.thread_time()
    ragged = FeatureStore(folder / "store").get(Random(), items)
    opening = time.thread_time() - began
    one = Ragged(ragged.values, ragged.offsets)  # in memory: what the memory-mapped files cost on top

    def npy(rows: np.ndarray) -> list[np.ndarray]:
        return [np.load(folder / f"{row}.npy") for row in rows]

    def pt(rows: np.ndarray) -> list[torch.Tensor]:
        return [torch.load(folder / f"{row}.pt") for row in rows]

    def padded(tensors: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([tensor.float() for tensor in tensors], batch_first=True)

    ways: dict[str, dict[str, Callable[[np.ndarray], object]]] = {
        "to one ragged batch, fp16": {
            "feature store": ragged.flat,
            "(the same in memory)": one.flat,
            "`.npy` per utterance": lambda rows: np.concatenate(npy(rows)),
            "`.pt` per utterance": lambda rows: torch.cat(pt(rows)),
        },
        "to a padded float32 batch and mask": {
            "feature store": ragged.gather,
            "(the same in memory)": one.gather,
            "`.npy` per utterance": lambda rows: padded([torch.from_numpy(array) for array in npy(rows)]),
            "`.pt` per utterance": lambda rows: padded(pt(rows)),
        },
    }
    rng = np.random.default_rng(0)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        batches = [rng.integers(0, n, BATCH) for _ in range(8)]
        for goal, by in ways.items():
            for name, read in by.items():
                wall, cpu = time.perf_counter(), time.thread_time()
                for rows in batches:
                    read(rows)
                spent = time.perf_counter() - wall, time.thread_time() - cpu
                if number:  # the first round fills the page cache
                    times.setdefault((goal, name), []).append(spent)

    frames = int(ragged.lengths.sum())
    size = ragged.nbytes / 1e6
    print(
        f"{n} utterances, {frames} frames of {DIM} fp16, {size:.0f} MB; batches of {BATCH}; median of {rounds} rounds\n"
    )
    print("| | utterances per second of CPU | of wall clock | CPU time of the store over theirs |\n|---|---|---|---|")
    for goal, by in ways.items():
        print(f"| **{goal}** | | | |")
        own = np.array([cpu for _, cpu in times[goal, "feature store"]])
        for name in by:
            wall, cpu = np.array(times[goal, name]).T
            rates = [8 * BATCH / np.median(spent) for spent in (cpu, wall)]
            ratio = np.median(own / cpu)
            print(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {ratio:.3f} |")
    print(
        f"\nOpening: `get` of {n} utterances that are there takes {1000 * opening:.0f} ms of CPU, "
        f"every checksum verified ({size / 1000 / opening:.1f} GB/s)."
    )


if __name__ == "__main__":
    main()
