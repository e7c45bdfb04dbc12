"""Variants made up with known errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.analysis.variant import Curve, SplitView, Variant

LABELS = ("angry", "happy", "sad")


def make_view(
    seed: int, n: int = 90, skill: float = 2.0, parts: tuple[str, ...] = ("audio", "text", "fused")
) -> SplitView:
    """`skill`: how far the classes lie apart in logits and representations; labels are the same for every seed."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    logits = rng.normal(size=(n, 3)) + skill * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    centres = 3 * np.eye(3, 8)
    return SplitView(
        ids=tuple(f"u{i}" for i in range(n)),
        labels=labels,
        probabilities=probabilities.astype(np.float32),
        representations={part: skill / 2 * centres[labels] + rng.normal(size=(n, 8)) for part in parts},
        aux={"beta": rng.uniform(size=n).astype(np.float32)},
        speakers=tuple(f"s{i % 4}" for i in range(n)),
        files=tuple(f"wavs/u{i}.wav" for i in range(n)),
        transcripts=tuple(f"câu số {i}" for i in range(n)),
        seconds=rng.uniform(1, 5, size=n),
        words=rng.integers(2, 9, size=n),
    )


def make_variant(name: str, seed: int, skill: float = 2.0, modalities: tuple[str, ...] = ("audio", "text")) -> Variant:
    rng = np.random.default_rng(seed)
    parts = (*modalities, "fused")
    epochs = np.arange(1, 11)
    curves = tuple(
        Curve(study, epochs, 1.2 * np.exp(-epochs / 4) + rng.uniform(0, 0.05, 10), 0.7 - 0.4 * np.exp(-epochs / 3))
        for study in range(4)
    )
    return Variant(
        name=name,
        cell=f"fusion={name}",
        trial="0123456789abcdef",
        study=2,
        checkpoint=Path("nowhere"),
        labels=LABELS,
        modalities=modalities,
        metric="ua",
        curves=curves,
        valid=make_view(seed + 100, 45, skill, parts),
        test=make_view(seed, 90, skill, parts),
        synthetic=True,
    )


@pytest.fixture
def view() -> Callable[..., SplitView]:
    """The factory of views, for tests that want their own."""
    return make_view


@pytest.fixture
def variants() -> list[Variant]:
    return [
        make_variant("cross_attention", 1, 2.5),
        make_variant("gated", 2, 2.0),
        make_variant("text_only", 3, 0.5, ("text",)),
    ]
