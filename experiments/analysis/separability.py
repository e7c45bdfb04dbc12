"""Do the classes lie apart? A picture by t-SNE, PCA and UMAP, and the numbers that a picture cannot give.

A picture of a projection proves nothing by itself: t-SNE shows islands in noise. So each comes with the silhouette of
the true classes in the original space and the accuracy of a cross-validated linear probe beside chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.analysis.variant import FloatArray, IntArray

SEED = 0
MOST_POINTS = 1500
"""A picture of more points than this shows a blot, and takes minutes."""
MOST_ROWS = 4000
"""The numbers are made from this many utterances at most: their own error is then below a point."""


@dataclass(frozen=True)
class Separation:
    """silhouette in -1..1 (0: classes overlap); probe: accuracy of a linear classifier, 5-fold; majority: chance."""

    silhouette: float
    probe: float
    majority: float
    n: int

    def __str__(self) -> str:
        probe = f"linear probe {100 * self.probe:.0f} % (majority {100 * self.majority:.0f} %)"
        return f"silhouette {self.silhouette:+.2f}, {probe}"


def separation(x: FloatArray, labels: IntArray) -> Separation | None:
    """The numbers; None where there are too few utterances or classes to say anything."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = sample(labels, MOST_ROWS)
    x, labels = x[rows], labels[rows]
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if len(counts) < 2 or counts.min() < 5:
        return None
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    folds = StratifiedKFold(5, shuffle=True, random_state=SEED)
    return Separation(
        silhouette=float(silhouette_score(x, labels, sample_size=min(2000, len(x)), random_state=SEED)),
        probe=float(cross_val_score(probe, x, labels, cv=folds).mean()),
        majority=float(counts.max() / counts.sum()),
        n=len(labels),
    )


def project(x: FloatArray, method: str) -> FloatArray | None:
    """`[N, D]` -> `[N, 2]` by `tsne`, `pca` or `umap`; None where UMAP is not installed or there are too few points."""
    if len(x) < 5:
        return None
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    if method == "umap":
        return _umap(x)
    from sklearn.decomposition import PCA

    if method == "pca":
        return _signed(PCA(2, random_state=SEED).fit_transform(x))
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = PCA(min(50, *x.shape), random_state=SEED).fit_transform(x)
    perplexity = min(30.0, (len(x) - 1) / 3)
    # One thread: on a busy machine the others would wait for each other far longer than they work.
    with threadpool_limits(1):
        found: FloatArray = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED).fit_transform(reduced)
    return found


def _umap(x: FloatArray) -> FloatArray | None:
    try:
        import umap
    except ImportError:
        return None
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed costs it its threads
        reducer = umap.UMAP(n_neighbors=min(15, len(x) - 1), random_state=SEED)
        found: FloatArray = reducer.fit_transform(x)
    return found


def _signed(points: FloatArray) -> FloatArray:
    """PCA's axes have arbitrary signs; fix them, so that the same data give the same picture."""
    largest = np.abs(points).argmax(axis=0)
    signs = np.sign(points[largest, np.arange(points.shape[1])])
    fixed: FloatArray = points * np.where(signs == 0, 1, signs)
    return fixed


def sample(labels: IntArray, most: int = MOST_POINTS) -> IntArray:
    """All rows, or `most` of them, the same for all representations of a split."""
    if len(labels) <= most:
        return np.arange(len(labels))
    chosen: IntArray = np.sort(np.random.default_rng(SEED).choice(len(labels), most, replace=False))
    return chosen
