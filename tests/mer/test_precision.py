"""Every level trains in every precision, on processors with and without arithmetic of their own for it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mer import context, encoders, fusion, losses, pooling
from mer.contracts.encoders import small_corpus
from mer.data.corpus import Corpus
from mer.data.loading import prepare_split
from mer.data.store import FeatureStore
from mer.levels import declaration
from mer.recipe import EncoderConfig, Recipe
from mer.streams import streams
from mer.training import Trainer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


def everything() -> dict[str, dict[str, Any]]:
    """Changes to a recipe, by name: each level of each table once."""
    found: dict[str, dict[str, Any]] = {}
    for name in fusion.LEVELS:
        found[f"fusion {name}"] = {"fusion": {"name": name, **({"modality": "text"} if name == "none" else {})}}
    for align in ("interp", "concat", "truncate"):
        found[f"tacfn {align}"] = {"fusion": {"name": "tacfn", "align": align}}
    found["gates over a BiLSTM"] = {"fusion": {"name": "bilstm_attn", "merge": "gate", "lstm_layers": 2}}
    found["cadgl adjoint"] = {"fusion": {"name": "cadgl", "adjoint": True, "pool": "attn"}}
    found |= {f"pooling {name}": {"fusion": "xattn", "pooling": name} for name in pooling.LEVELS}
    found |= {f"context {name}": {"context": name} for name in context.LEVELS}
    found["context bilstm as published"] = {"context": {"name": "bilstm", "residual": False}}
    # What a graph or an ODE hands on is in single precision, whatever is around it.
    found["cadgl before a BiLSTM"] = {"fusion": "cadgl", "context": "bilstm"}
    found |= {f"loss {name}": {"loss": {"name": name, "class_weights": "balanced"}} for name in losses.LEVELS}
    for name in encoders.LEVELS:
        if name in ("features", "llm_context"):  # the base recipe reads features; so does a language model's context
            continue
        own: dict[str, Any] = {"name": name}
        if name not in encoders.WITHOUT_WEIGHTS:
            own |= {"weights": "tiny", "train": "full"}
        modality = "text" if name in ("phobert", "videberta", "hf_text", "words", "tfidf") else "audio"
        found[f"encoder {name}"] = {"encoders": {modality: own, "visual": "features"}}
    return found


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("what", everything())
def test_every_level(what: str, precision: str, corpus: Corpus, tmp_path: Path) -> None:
    base = {
        "encoders": {"text": "words", "visual": "features"},
        "projection": {"dim": 8},
        "sampler": {"batch_size": 4},
        "training": {"epochs": 1, "precision": precision},
    }
    recipe = Recipe.model_validate({**base, **everything()[what]})
    seeds = streams(0, "contract", 0, 0, "confirm")
    trainer = Trainer(recipe, corpus.train_valid(), seeds, store=FeatureStore(tmp_path), device="cpu")
    assert all(math.isfinite(report.train_loss) for report in trainer.run())


@pytest.mark.parametrize(
    ("processor", "what"),
    [
        ("AVX2", "before"),
        pytest.param("AVX512_CORE", "", marks=pytest.mark.slow),
        pytest.param("AVX2", "", marks=pytest.mark.slow),
    ],
)
def test_trains_on_processors_that_lack_half_precision(processor: str, what: str) -> None:
    """oneDNN may be told to use less than the processor has: then it has no LSTM in fp16, or in bf16 either."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::test_every_level", "-k", what],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": processor},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]


@pytest.mark.parametrize("name", [name for name in encoders.LEVELS if name not in encoders.WITHOUT_WEIGHTS])
def test_a_frozen_encoder_computes_where_its_model_does(
    name: str, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for the CPU beside a GPU gets the CPU for the frozen bodies too, that no model holds."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    level = declaration(encoders.LEVELS[name])
    modality = "text" if "text" in level.requires else "audio"
    config = EncoderConfig.model_validate({"name": name, "weights": "tiny"})
    encoder = encoders.build_encoder(modality, config, corpus.info)
    split = prepare_split(corpus.info, corpus.train, {modality: encoder}, FeatureStore(tmp_path), "cpu")
    assert split.arrays[modality].nbytes > 0
    with pytest.raises(AssertionError, match="CUDA"):
        encoder.arrays(corpus.info, corpus.train, FeatureStore(tmp_path / "another"))
