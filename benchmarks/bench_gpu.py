"""What a GPU makes of many small trainings: one trial at a time, packed, bundled, both; and extraction at full size.

    python -m benchmarks.bench_gpu [--studies 32] [--utterances 256] [--executor inline]

`--executor inline` needs no Ray, and leaves out the rows that pack a device.

Needs a CUDA device; says so and does nothing without one. Synthetic features (`bench_bundle`'s `frames`), one cell,
`--studies` confirm trials of 10 epochs. A trial per GPU: `--gpus-per-trial 1`. Packed: shares by measured memory and
occupancy. Bundled: 8 and 32 trials in one step. Utilisation is the driver's mean over the run, memory the largest peak
that any trial recorded. Extraction: wav2vec 2.0 and Whisper of base size, random weights, demo wavs, fp16 store.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_bundle import FRAMES, make_corpus
from experiments.results.ledger import Ledger
from experiments.schedule.occupancy import Occupancy
from experiments.schedule.run import execute
from experiments.schedule.training_work import make_training_work
from experiments.space.load import make_plan

SPACE = """
corpora: {corpus}
base:
  encoders: {{text: features, audio: features}}
  projection.dim: 64
  fusion: {fusion}
  training.epochs: 10
studies: {studies}
bundle: {bundle}
keep: none
"""

WAYS = {
    "one trial per GPU": ("off", 1.0),
    "packed": ("off", "auto"),
    "bundles of 8": ("{size: 8, studies: 8}", 1.0),
    "bundles of 32": ("{size: 32, studies: 32}", 1.0),
    "bundles of 8, packed": ("{size: 8, studies: 8}", "auto"),
}


def run(
    folder: Path, corpus: Path, fusion: str, studies: int, bundle: str, share: Any, executor: str
) -> tuple[float, float, float]:
    """Trials per hour, utilisation, peak memory in MB."""
    file = folder / "gpu.yaml"
    file.write_text(SPACE.format(corpus=corpus, fusion=fusion, studies=studies, bundle=bundle), "utf-8")
    with tempfile.TemporaryDirectory() as results:
        meter, ledger = Occupancy(), Ledger(results)
        meter.start()
        started = time.perf_counter()
        result = execute(
            make_plan(file), ledger, gpus_per_trial=share, progress=False, make_work=make_training_work,
            executor=executor, say=lambda text: None,
        )  # fmt: skip
        took = time.perf_counter() - started
        table = ledger.refresh().table
        peaks = [peak for peak in table["peak_memory_mb"].to_pylist() if peak is not None]
        assert result.exit_code == 0
        return 3600 * studies / took, meter.stop() or float("nan"), max(peaks, default=float("nan"))


def extraction(utterances: int) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    from benchmarks.bench_extraction import make_checkpoint, plain_loop, utterances_of
    from mer.data.store import FeatureStore
    from mer.encoders import build_encoder
    from mer.recipe import EncoderConfig

    info, items = utterances_of(utterances)
    print("\n| base size, random weights | one by one, utt/s | store, utt/s | ratio |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = {"wav2vec2": make_checkpoint(folder / "wav2vec2", "base", "group")}
        torch.manual_seed(0)
        whisper: Any = WhisperModel(WhisperConfig())
        whisper.save_pretrained(folder / "whisper")
        extractor: Any = WhisperFeatureExtractor
        extractor().save_pretrained(folder / "whisper")
        checkpoints["whisper"] = folder / "whisper"
        for level, checkpoint in checkpoints.items():
            config: dict[str, Any] = {"name": level, "checkpoint": str(checkpoint), "bf16": True}
            encoder: Any = build_encoder("audio", EncoderConfig.model_validate(config), info)
            encoder.frontend.body.get()
            started = time.perf_counter()
            encoder.arrays(info, items, FeatureStore(folder / level / "store"))
            mine = len(items) / (time.perf_counter() - started)
            if level == "whisper":
                print(f"| {level}, bf16 | | {mine:.1f} | |", flush=True)
                continue
            (folder / "loop").mkdir()
            plain = len(items) / plain_loop(checkpoint, info, items, folder / "loop", "cuda")
            print(f"| {level}, bf16 | {plain:.1f} | {mine:.1f} | {mine / plain:.1f} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=32)
    parser.add_argument("--fusions", nargs="+", default=["concat", "xattn", "bilstm_attn"])
    parser.add_argument("--utterances", type=int, default=256)
    parser.add_argument("--executor", choices=("ray", "inline"), default="ray", help="inline needs no Ray")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured", file=sys.stderr)
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{torch.cuda.get_device_name(0)}; {args.studies} trials of 10 epochs, synthetic features.\n")
    print("| fusion | way | trials/h | against one per GPU | utilisation | peak MB |\n|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        make_corpus(folder / "corpus", FRAMES["frames"])
        for fusion in args.fusions:
            base = 0.0
            for way, (bundle, share) in WAYS.items():
                if args.executor == "inline" and share == "auto":
                    continue
                rate, busy, peak = run(folder, folder / "corpus", fusion, args.studies, bundle, share, args.executor)
                base = base or rate
                print(
                    f"| {fusion} | {way} | {rate:,.0f} | {rate / base:.2f} | {100 * busy:.0f} % | {peak:.0f} |",
                    flush=True,
                )
    extraction(args.utterances)
    return 0


if __name__ == "__main__":
    sys.exit(main())
