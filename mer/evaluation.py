"""Scoring a model on a split under a condition: predictions on the device, one synchronisation at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from mer import metrics
from mer.data.loading import SplitData
from mer.model import Model
from mer.precision import autocast


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model on one split, utterance by utterance.

    labels `[N]`, probabilities `[N, C]`; `representations` and `aux` only where they were asked for.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    representations: dict[str, np.ndarray] = field(default_factory=dict)
    aux: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def predicted(self) -> np.ndarray:
        chosen: np.ndarray = self.probabilities.argmax(axis=1)
        return chosen

    def scores(self) -> dict[str, float]:
        """wa, ua, weighted_f1, macro_f1, on the concatenated predictions; NaN throughout where a probability is."""
        if not np.isfinite(self.probabilities).all():
            return dict.fromkeys(metrics.NAMES, float("nan"))
        return metrics.scores(self.labels, self.predicted, self.probabilities.shape[1])


@torch.no_grad()
def predict(
    model: Model,
    data: SplitData,
    available: np.ndarray,
    *,
    dialogues: bool,
    precision: str = "fp32",
    batch_size: int = 128,
    details: bool = False,
) -> Predictions:
    """Predict a whole split. `available [N, M]` says which modalities the model may see.

    details: also return representations and aux (gates, modality weights), for analysis.
    """
    logits, kept = [], []
    with _evaluating(model):
        for rows in data.whole_batches(batch_size):
            batch = data.batch(rows, available, dialogues=dialogues)
            with autocast(data.device, precision):
                output = model(batch, details=details)
            logits.append(output.logits.float())
            if details:
                small = {f"aux/{name}": value for name, value in output.aux.items() if value.dim() <= 2}
                kept.append({**output.representations, **small})
    probabilities = torch.cat(logits).softmax(dim=1).cpu().numpy().astype(np.float32)
    arrays = {
        name: torch.cat([entry[name].float() for entry in kept]).cpu().numpy() for name in (kept[0] if kept else ())
    }
    return Predictions(
        ids=data.ids,
        labels=data.labels.cpu().numpy(),
        probabilities=probabilities,
        representations={name: array for name, array in arrays.items() if not name.startswith("aux/")},
        aux={name.removeprefix("aux/"): array for name, array in arrays.items() if name.startswith("aux/")},
    )


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
