"""What a GPU makes of every level, in one table: `sh benchmarks/gpu_check.sh`.

A row is a process of its own, so that one that fails, or that ruins the device for its process, costs no other. Steps:
training steps of one batch (32 utterances in dialogues of 8, synthetic features, width 64, nothing random in them), on
the CPU and on the device from the same weights; `differs` is the largest difference of any weight after three steps,
`waits` how often a step waits for the device as torch counts it. Bundles: epochs of 8 and 32 trials in one step against
the same one after another. With `--device cpu` it is a dry run: the device is a CPU too, and nothing waits.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SECONDS = 450
HEAD = "| row | CPU, ms | device, ms | differs | waits | |\n|---|---:|---:|---:|---:|---|"
STEPS = ("none", "concat", "gated", "weighted", "cross_attention", "xattn", "bilstm_attn", "cnn_bilstm_attn", "tacfn",
         "cadgl", "context bilstm", "context graph")  # fmt: skip
BUNDLED = ("concat", "xattn", "bilstm_attn")
ROWS = (*STEPS, *(f"bundle of {k}, {name}" for k in (8, 32) for name in BUNDLED), "tests marked gpu")


def step_row(row: str, device: str, tiny: bool) -> str:
    from benchmarks.bench_bundle import FRAMES, make_corpus
    from mer.data.store import FeatureStore
    from mer.recipe import Recipe
    from mer.streams import streams
    from mer.training import Trainer

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    kind, _, name = row.rpartition(" ")
    fusion: dict[str, Any] = {"name": "concat" if kind else name, "dropout": 0.0}
    if name == "none":
        fusion = {"name": "none", "modality": "text"}
    if name == "cadgl":
        fusion["drop_rate"] = 0.0
    dim = 8 if tiny else 64
    recipe = Recipe.model_validate(
        {
            "encoders": {"text": "features", "audio": "features"},
            "projection": {"dim": dim, "dropout": 0.0},
            "classifier": {"dropout": 0.0},
            "fusion": fusion,
            "context": {"name": name, "dropout": 0.0} if kind else "none",
        }
    )
    count, found, took, waits = 3 if tiny else 20, [], [], ""
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder), FRAMES["frames"], turns=8)
        for place in ("cpu", device):
            trainer = Trainer(
                recipe, corpus.train_valid(), streams(0, "bench", 0, 0, "confirm"),
                store=FeatureStore(Path(folder) / "store"), device=place,
            )  # fmt: skip
            trainer.model.train()
            step = functools.partial(one_step, trainer, trainer.train_available(0))
            for _ in range(3):
                step()
            found.append([p.detach().cpu().double() for p in trainer.model.parameters()])
            if place.startswith("cuda"):
                waits = str(count_waits(step))
            took.append(milliseconds(step, count, place))
    differs = max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))
    agrees = "" if differs < 1e-3 else "VALUES DIFFER"
    return f"| {row} | {took[0]:.2f} | {took[1]:.2f} | {differs:.1g} | {waits} | {agrees} |"


def one_step(trainer: Any, available: Any) -> None:
    """A batch of 32: forward, backward and the update."""
    trainer.optimizer.zero_grad(set_to_none=True)
    batch = trainer.train.batch(np.arange(32), available, dialogues=trainer.dialogues)
    torch.autograd.backward(trainer._loss(batch, trainer.train.labels[:32]))
    trainer._step()


def count_waits(step: Callable[[], None]) -> int:
    """How often torch sees the host wait for the device in a step."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


def milliseconds(step: Callable[[], None], count: int, device: str) -> float:
    """The median of `count` steps, each waited for."""
    took = []
    for _ in range(count):
        started = time.perf_counter()
        step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        took.append(1e3 * (time.perf_counter() - started))
    return float(np.median(took))


def bundle_row(row: str, device: str, tiny: bool) -> str:
    from benchmarks.bench_bundle import FRAMES, compare, make_corpus, make_recipe
    from mer.data.store import FeatureStore

    members, name = int(row.split()[2].rstrip(",")), row.rpartition(" ")[2]
    asked = argparse.Namespace(members=2 if tiny else members, rounds=1 if tiny else 2, device=device)
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder), FRAMES["vectors" if tiny else "frames"])
        _, _, cpu, wall = compare(make_recipe({"name": name}), corpus, FeatureStore(Path(folder) / "store"), asked)
    return f"| {row} | | | | | {wall:.2f} of the time one after another, {cpu:.2f} of the processor's |"


def tests_row(row: str, device: str, tiny: bool) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    tests = ["tests/mer/data/test_gpu_ragged.py"] if tiny else ["tests"]
    run = subprocess.run([*command, *tests], capture_output=True, text=True, check=False)
    said = next((line for line in reversed(run.stdout.splitlines()) if line.strip()), run.stderr.strip()[-200:])
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if run.returncode:
        raise SystemExit(f"exit {run.returncode}: {said.strip()} {'; '.join(failed[:5])}")
    return f"| {row} | | | | | exit 0: {said.strip()} |"


def one_row(row: str, device: str, tiny: bool) -> str:
    make = tests_row if row == "tests marked gpu" else bundle_row if row.startswith("bundle") else step_row
    return make(row, device, tiny)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cpu: a dry run (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="as little as shows that each row runs")
    parser.add_argument("--row", choices=ROWS, help="this one, in this process")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help="these rows")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured; `--device cpu` is a dry run", file=sys.stderr)
        return 0
    if args.row:
        print(one_row(args.row, args.device, args.tiny))
        return 0
    started, failed = time.monotonic(), 0
    where = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "a dry run on the CPU"
    print(f"{where}; torch {torch.__version__}\n\n{HEAD}", flush=True)
    for row in args.only:
        left = SECONDS - (time.monotonic() - started)
        if left < 10:
            print(f"| {row} | | | | | not run: the time is up |")
            failed += 1
            continue
        own = [sys.executable, "-m", "benchmarks.gpu_check", "--device", args.device, "--row", row]
        try:
            run = subprocess.run(
                own + ["--tiny"] * args.tiny, capture_output=True, text=True, check=False, timeout=left
            )
        except subprocess.TimeoutExpired:
            print(f"| {row} | | | | | not done in the {left:.0f} s that were left |", flush=True)
            failed += 1
            continue
        line = run.stdout.strip().rpartition("\n")[2]
        if run.returncode or not line.startswith("|"):
            reason = run.stderr.strip().rpartition("\n")[2][:200].replace("|", "/")
            line = f"| {row} | | | | | failed, {run.returncode}: {reason} |"
            failed += 1
        print(line, flush=True)
    print(f"\n{len(args.only) - failed} of {len(args.only)} rows in {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
