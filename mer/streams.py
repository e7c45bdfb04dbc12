"""Random streams. No cell is in them: that is what makes the cells of a study paired."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


def derive(*parts: object) -> int:
    """A 63-bit seed from any sequence of parts; the same everywhere and for ever.

    >>> derive(0, "demo", 3) == derive(0, "demo", 3) != derive(0, "demo", 4)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Streams:
    """The seeds of one trial: train/valid resplit, missing masks, data order, initialisation, dropout, draws."""

    split: int
    masks: int
    order: int
    init: int
    dropout: int
    draws: int


def streams(root: int, corpus: str, study: int, fold: int, stage: str, replica: int = 0) -> Streams:
    """Seeds as functions of root, corpus, study, fold and stage.

    Split, masks and draws belong to the study and are shared by its stages. A confirm trial gets a fresh order,
    initialisation and dropout. `replica` salts the latter three only: cells meant to be the same (A/A checks).
    """
    study_key = (root, corpus, study, fold)
    trial_key = (*study_key, stage, replica)
    return Streams(
        split=derive("split", *study_key),
        masks=derive("masks", *study_key),
        draws=derive("draws", root, study),
        order=derive("order", *trial_key),
        init=derive("init", *trial_key),
        dropout=derive("dropout", *trial_key),
    )
