"""The numbers tell classes that lie apart from noise; pictures are the same each time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from experiments.analysis.calibration import calibration
from experiments.analysis.separability import project, separation
from experiments.analysis.variant import SplitView, Variant


def test_apart_and_overlapping(view: Callable[..., SplitView]) -> None:
    apart, noise = view(0, 150, 4.0), view(0, 150, 0.0)
    far = separation(apart.representations["fused"], apart.labels)
    near = separation(noise.representations["fused"], noise.labels)
    assert far is not None
    assert near is not None
    assert far.silhouette > 0.4
    assert far.probe > 0.95
    assert abs(near.silhouette) < 0.1
    assert abs(near.probe - near.majority) < 0.15
    assert near.majority == pytest.approx(1 / 3)


def test_too_few_utterances_have_no_numbers(view: Callable[..., SplitView]) -> None:
    few = view(0, 6)
    assert separation(few.representations["fused"], few.labels) is None


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_projections_repeat(view: Callable[..., SplitView], method: str) -> None:
    x = view(0, 60).representations["fused"]
    one, two = project(x, method), project(x.copy(), method)
    assert one is not None
    assert one.shape == (60, 2)
    np.testing.assert_array_equal(one, two)


def test_pca_does_not_depend_on_signs(view: Callable[..., SplitView]) -> None:
    x = view(0, 60).representations["fused"]
    np.testing.assert_allclose(project(x, "pca"), project(-x, "pca"), atol=1e-6)


@pytest.mark.slow
def test_umap_where_it_is_installed(view: Callable[..., SplitView]) -> None:
    pytest.importorskip("umap", reason="UMAP is an optional extra: pip install 'mer-ablation[umap]'")
    found = project(view(0, 60).representations["fused"], "umap")
    assert found is not None
    assert found.shape == (60, 2)


def test_calibration_against_a_loop(variants: list[Variant]) -> None:
    view = variants[0].test
    found = calibration(view)
    total = 0.0
    for b in range(10):
        rows = [i for i in range(90) if min(int(view.probabilities[i].max() * 10), 9) == b]
        if rows:
            accuracy = np.mean([not view.wrong[i] for i in rows])
            confidence = np.mean([view.probabilities[i].max() for i in rows])
            total += len(rows) / 90 * abs(accuracy - confidence)
    assert found.error == pytest.approx(total, abs=1e-6)
    assert sum(entry.n for entry in found.bins) == 90
