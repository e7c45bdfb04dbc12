"""Extraction of speech features into the store, against the loop that a user would write.

    python benchmarks/bench_extraction.py [--utterances 48] [--base]

Random weights, the demo corpus's wavs (crops of dialogues, 1 to 6 s). The loop reads a crop, runs the feature
extractor and the model on one utterance, and saves an `.npy`; the store decodes ahead in threads, batches by length,
runs the same model, checksums, writes and fsyncs. Both in one process on the same threads of torch, alternating;
medians.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from mer.data.corpus import CorpusInfo, Utterance, load_corpus
from mer.data.demo import demo_corpus
from mer.data.store import FeatureStore
from mer.encoders import build_encoder
from mer.encoders.wav2vec import tiny_speech
from mer.recipe import EncoderConfig


def utterances_of(count: int) -> tuple[CorpusInfo, list[Utterance]]:
    corpus = load_corpus(demo_corpus())
    return corpus.info, list(corpus.train[:count])


def make_checkpoint(folder: Path, size: str, norm: str) -> Path:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    large: dict[str, Any] = {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    settings: dict[str, Any] = tiny_speech(norm) if size == "tiny" else large
    torch.manual_seed(0)
    model: Any = Wav2Vec2Model(Wav2Vec2Config(**settings))
    model.save_pretrained(folder)
    extractor: Any = Wav2Vec2FeatureExtractor
    extractor(return_attention_mask=norm == "layer").save_pretrained(folder)
    return folder


def plain_loop(
    checkpoint: Path, info: CorpusInfo, utterances: list[Utterance], out: Path, device: str = "cpu"
) -> float:
    from transformers import AutoFeatureExtractor, AutoModel

    kind: Any = AutoFeatureExtractor
    extractor = kind.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint).eval().to(device)
    started = time.perf_counter()
    with torch.inference_mode():
        for utterance in utterances:
            rate = soundfile.info(info.folder / str(utterance.wav)).samplerate
            first, last = (round(float(at or 0.0) * rate) for at in (utterance.start, utterance.end))
            samples, _ = soundfile.read(info.folder / str(utterance.wav), start=first, stop=last, dtype="float32")
            values = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values.to(device)
            frames = model(values).last_hidden_state[0].cpu().numpy()
            np.save(out / f"{utterance.id}.npy", frames.astype(np.float16))
    return time.perf_counter() - started


def through_store(checkpoint: Path, info: CorpusInfo, utterances: list[Utterance], out: Path) -> tuple[float, float]:
    """Seconds of the first extraction, and of asking again."""
    encoder: Any = build_encoder("audio", EncoderConfig(name="wav2vec2", checkpoint=str(checkpoint)), info)
    encoder.frontend.body.get()
    store = FeatureStore(out)
    started = time.perf_counter()
    encoder.arrays(info, utterances, store)
    first = time.perf_counter() - started
    started = time.perf_counter()
    encoder.arrays(info, utterances, store)
    return first, time.perf_counter() - started


def main() -> None:
    from transformers import utils

    logging: Any = utils.logging
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--base", action="store_true", help="base size (95 M parameters) as well: minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print("| wav2vec2, random weights | one by one, utt/s | store, utt/s | ratio | store again, utt/s |")
    print("|---|---|---|---|---|")
    for size in ("tiny", "base") if arguments.base else ("tiny",):
        for norm in ("group", "layer"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                info, utterances = utterances_of(arguments.utterances)
                checkpoint = make_checkpoint(folder / "model", size, norm)
                plain, first, again = [], [], []
                for _ in range(arguments.repeats):
                    for part in ("loop", "store"):
                        shutil.rmtree(folder / part, ignore_errors=True)
                        (folder / part).mkdir()
                    plain.append(plain_loop(checkpoint, info, utterances, folder / "loop"))
                    cold, warm = through_store(checkpoint, info, utterances, folder / "store")
                    first.append(cold)
                    again.append(warm)
                ratio = statistics.median(a / b for a, b in zip(plain, first, strict=True))
                rates = [len(utterances) / statistics.median(times) for times in (plain, first, again)]
                print(
                    f"| {size}, {norm} norm | {rates[0]:.1f} | {rates[1]:.1f} | {ratio:.2f} | {rates[2]:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
