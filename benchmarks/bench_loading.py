"""An epoch's batches from the feature store, against a `.pt` per utterance through torch's DataLoader.

    python benchmarks/bench_loading.py [--utterances 600] [--rounds 5]

Frozen features of a synthetic corpus: 50 to 300 frames x 768, fp16, in the page cache. Every way makes the padded
float32 batches of one epoch, 32 utterances each in the same random order, masks included; one thread, and for the
DataLoader also two worker processes. In turn in each round; medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from benchmarks.bench_store import BATCH, Random
from mer.data.store import FeatureStore


class Files(Dataset[torch.Tensor]):
    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> torch.Tensor:
        found: torch.Tensor = torch.load(self.folder / f"{number}.pt")
        return found


def collate(items: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(item) for item in items])
    values = pad_sequence([item.float() for item in items], batch_first=True)
    return values, torch.arange(values.shape[1]) < lengths[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    n = args.utterances
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = [str(number) for number in range(n)]
        ragged = FeatureStore(folder / "store").get(Random(), items)
        for number, frames in enumerate(Random().extract(items)):
            torch.save(torch.from_numpy(frames), folder / f"{number}.pt")

        def store(order: np.ndarray) -> None:
            for first in range(0, n, BATCH):
                ragged.gather(order[first : first + BATCH])

        def loader(workers: int) -> Callable[[np.ndarray], None]:
            def read(order: np.ndarray) -> None:
                batches = [order[first : first + BATCH].tolist() for first in range(0, n, BATCH)]
                for _ in DataLoader(Files(folder, n), batch_sampler=batches, collate_fn=collate, num_workers=workers):
                    pass

            return read

        ways = {
            "feature store": store,
            "`.pt` each, DataLoader": loader(0),
            "`.pt` each, DataLoader, 2 worker processes": loader(2),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        rng = np.random.default_rng(0)
        for number in range(args.rounds + 1):
            order = rng.permutation(n)
            for name, read in ways.items():
                started = time.perf_counter()
                read(order)
                if number:  # the first fills the page cache
                    took[name].append(time.perf_counter() - started)
    print(f"{n} utterances, batches of {BATCH}; median of {args.rounds} rounds; load {os.getloadavg()[0]:.1f}\n")
    print("| | s per epoch | utterances/s | the store's time over it |\n|---|---:|---:|---:|")
    for name, times in took.items():
        ratio = statistics.median(own / other for own, other in zip(took["feature store"], times, strict=True))
        middle = statistics.median(times)
        print(f"| {name} | {middle:.3f} | {n / middle:,.0f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
