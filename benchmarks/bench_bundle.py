"""One cell x 8 studies trained as a bundle, against the same 8 one after another, for every fusion that bundles.

    python benchmarks/bench_bundle.py [--device cuda] [--members 8] [--rounds 5] [--levels concat tacfn]

Two synthetic corpora of features, 256 utterances to train on and 64 to validate: `vectors`, one frame each of text and
audio, and `frames`, 4 to 12 frames of text and 10 to 40 of audio; width 64, batches of 32. A round trains one epoch of
each of the 8 alone, then one epoch of the bundle, so that ratios are paired. Processor time of the process is the
steadier figure on a shared machine; wall time is what one waits. Numbers learned mean nothing here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mer import fusion
from mer.bundle.declared import why_not
from mer.bundle.trainer import BundleTrainer
from mer.data.corpus import Corpus, load_corpus
from mer.data.store import FeatureStore
from mer.recipe import Recipe
from mer.streams import streams
from mer.training import Trainer

WIDTH = 64
FRAMES = {"vectors": {"text": (1, 1), "audio": (1, 1)}, "frames": {"text": (4, 12), "audio": (10, 40)}}
SIZES = {"train": 256, "valid": 64, "test": 8}


def make_corpus(folder: Path, frames: dict[str, tuple[int, int]], turns: int = 0) -> Corpus:
    """turns: of a dialogue, between two speakers; 0: no dialogues."""
    rng = np.random.default_rng(0)
    lines: dict[str, list[str]] = {split: [] for split in SIZES}
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in frames}
    row = 0
    for split, size in SIZES.items():
        for number in range(size):
            entry: dict[str, Any] = {"utterance_id": f"{split}{number}", "speaker_id": split, "row": row}
            if turns:
                said = {"dialogue_id": f"{split}{number // turns}", "turn": number % turns}
                entry |= said | {"speaker_id": f"{split}{number % 2}"}
            lines[split].append(json.dumps({**entry, "transcript": "a b", "emotion": "abcd"[number % 4]}))
            for name, (low, high) in frames.items():
                arrays[name].append(rng.normal(size=(rng.integers(low, high + 1), WIDTH)) + number % 4 * 0.2)
            row += 1
        (folder / f"{split}.jsonl").write_text("\n".join(lines[split]) + "\n", "utf-8")
    (folder / "features").mkdir()
    for name, found in arrays.items():
        np.save(folder / "features" / f"{name}.npy", np.concatenate(found).astype(np.float32))
        np.save(folder / "features" / f"{name}.offsets.npy", np.cumsum([0, *map(len, found)]))
    info = {"name": "bench", "labels": list("abcd"), "features": dict.fromkeys(frames, WIDTH), "synthetic": True}
    (folder / "corpus.json").write_text(json.dumps(info), "utf-8")
    return load_corpus(folder)


def fusions() -> dict[str, dict[str, Any]]:
    """Every fusion with its defaults, and the MLP-like ones: without Transformer blocks before them."""
    found: dict[str, dict[str, Any]] = {}
    for name in fusion.LEVELS:
        if name == "none":
            found["none (MLP)"] = {"name": "none", "modality": "audio"}
        else:
            if name in ("concat", "gated", "weighted"):
                found[f"{name}, layers 0 (MLP)"] = {"name": name, "layers": 0}
            found[name] = {"name": name}
    return found


def make_recipe(level: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(
        {
            "encoders": {"text": "features", "audio": "features"},
            "projection": {"dim": WIDTH},
            "fusion": level,
            "training": {"epochs": 1000},
        }
    )


def compare(recipe: Recipe, corpus: Corpus, store: FeatureStore, args: argparse.Namespace) -> list[float]:
    """Milliseconds of processor time per epoch alone and bundled; then the ratios of processor and of wall time."""
    data, seeds = corpus.train_valid(), [streams(0, "bench", n, 0, "confirm") for n in range(args.members)]
    singles = [Trainer(recipe, data, s, store=store, device=args.device) for s in seeds]
    bundle = BundleTrainer([recipe] * args.members, data, seeds, store=store, device=args.device)
    alone, together = [], []
    for number in range(args.rounds + 1):
        one = timed(lambda: [single.epoch() for single in singles], args.device)
        two = timed(bundle.epoch, args.device)
        if number:  # the first warms up
            alone.append(one)
            together.append(two)
    ratios = [[b / a for a, b in zip(x, y, strict=True)] for x, y in zip(alone, together, strict=True)]
    return [
        1e3 * statistics.median(cpu for cpu, _ in alone),
        1e3 * statistics.median(cpu for cpu, _ in together),
        statistics.median(cpu for cpu, _ in ratios),
        statistics.median(wall for _, wall in ratios),
    ]


def timed(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds of the processor, and of the clock on the wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--levels", nargs="*", default=None, help="fusions whose name begins so; default: all")
    parser.add_argument("--corpora", nargs="*", default=list(FRAMES), choices=list(FRAMES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| fusion | corpus | alone, ms | bundled, ms | ratio, processor | ratio, wall |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        corpora = {}
        for name in args.corpora:
            (Path(folder) / name).mkdir()
            corpora[name] = make_corpus(Path(folder) / name, FRAMES[name])
        store = FeatureStore(Path(folder) / "store")
        for label, level in fusions().items():
            if args.levels and not label.startswith(tuple(args.levels)):
                continue
            for name, corpus in corpora.items():
                recipe = make_recipe(level)
                if why_not(recipe) is not None:
                    print(f"| {label} | {name} | not bundled | | | |", flush=True)
                    continue
                a, b, cpu, wall = compare(recipe, corpus, store, args)
                print(f"| {label} | {name} | {a:.0f} | {b:.0f} | {cpu:.2f} | {wall:.2f} |", flush=True)


if __name__ == "__main__":
    main()
