"""Missing modalities: which modalities each utterance is left with.

Pure functions of (utterance id, modality name, seed, epoch). The mask of an utterance therefore does not depend on
its batch, on the order or subset of ids, on the order of modalities, or on the number of workers, and is the same in
paired trials. Masks of different random rates are nested: what is missing at 0.3 is missing at 0.5 too.

`LEVELS` names them; `module:attr` is one from outside, a function `(config, ids, modalities, seed) -> bool [N, M]`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.data.conditions import patterns
from mer.errors import UserError, nearest
from mer.levels import load, target
from mer.recipe import MissingConfig
from mer.streams import derive

__all__ = ["Realised", "attainable", "availability", "patterns", "realised", "remark"]

LEVELS: dict[str, str] = {
    "none": "mer.data.missing:everything",
    "random": "mer.data.missing:at_random",
    "per_modality": "mer.data.missing:at_rates",
    "pattern": "mer.data.missing:one_pattern",
    "sample": "mer.data.missing:sample_of_patterns",
    "file": "mer.data.missing:from_file",
}

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def availability(
    config: MissingConfig,
    ids: Sequence[str],
    modalities: Sequence[str],
    seed: int,
    epoch: int | None = None,
    present: npt.NDArray[Any] | None = None,
    root: Path | None = None,
) -> Mask:
    """`[N, M]`, True where a modality is available.

    ids      of the utterances; they, the names of modalities, and the seed decide, nothing else
    epoch    given: masks of that training epoch, fresh in each; None: frozen, for validation and test
    present  `[N, M]`: what the corpus has. What it lacks stays missing, rates are shares of what is there, and an
             utterance keeps at least one modality that it really has
    root     folder that `config.file` is relative to

    >>> config = MissingConfig(protocol="random", rate=0.5)
    >>> mask = availability(config, [f"u{i}" for i in range(2000)], ["audio", "text", "visual"], seed=0)
    >>> bool(mask.any(axis=1).all()), round(1 - float(mask.mean()), 1)
    (True, 0.5)
    """
    names = _modality_names(modalities)
    shape = (len(ids), len(names))
    there: Mask = np.ones(shape, bool) if present is None else np.asarray(present, bool)
    if there.shape != shape:
        raise UserError(f"a mask of shape {there.shape} for what is present", expected=f"{shape}")
    draws = Draws(ids, seed, epoch)
    if ":" in config.protocol:
        kept = there & _from_outside(config, ids, names, draws.seed)
    else:
        kept = load(LEVELS[config.protocol])(Asked(config, tuple(ids), names, there, draws, root))
    return _keep_one(kept, there, draws, names)


@dataclass(frozen=True)
class Asked:
    """What a protocol is asked: `there` `[N, M]` is what the corpus has, `draws` are the numbers of each utterance."""

    config: MissingConfig
    ids: tuple[str, ...]
    names: tuple[str, ...]
    there: Mask
    draws: Draws
    root: Path | None


def everything(asked: Asked) -> Mask:
    """Nothing is taken away.

    Equation:
        m = what the corpus has

    When to choose: complete data; the condition `complete`.
    Cost: none.
    Source: none is needed.
    """
    return asked.there.copy()


def at_random(asked: Asked) -> Mask:
    """GCNet's rate: a share of all modalities is taken away, and each utterance keeps at least one.

    Equation:
        rate = 1 - (sum_i m_i) / (N M),   m_i modalities of utterance i that are left
        one modality is kept for certain, each as likely;
        each other with p = (M (1 - rate) - 1) / (M - 1)

    In closed form, so that the expected rate is exact where the published code draws until it comes within 0.005. The
    rate cannot exceed (M - 1) / M: 0.7 with three modalities is 2/3, in every paper that reports it. Masks of different
    rates are nested: what is missing at 0.3 is missing at 0.5 too.

    When to choose: to compare with GCNet and its successors; curves over rates.
    Cost: none.
    Source: GCNet, Lian et al. 2023, arXiv 2203.02177; used by SDR-GNN, HyperEF, ComP.

    Args:
        rate: share of all modalities, 0 to 1.
    """
    return _at_rates(np.full(len(asked.names), asked.config.rate), asked.there, asked.draws, asked.names)


def at_rates(asked: Asked) -> Mask:
    """A rate for each modality; each utterance keeps at least one.

    Equation:
        P(modality m is kept) = a_m = 1 - rate_m
        one modality is kept for certain, chosen with q_m ~ a_m;
        each other with (a_m - q_m) / (1 - q_m)

    Each rate is exact as long as the shares kept add up to at least 1.

    When to choose: modalities fail unequally: a camera that is often off.
    Cost: none.
    Source: the imbalanced rates of BALM and IMR.

    Args:
        rates: a rate for each modality; those not named stay.
    """
    return _at_rates(_rates(asked.config, asked.names), asked.there, asked.draws, asked.names)


def one_pattern(asked: Asked) -> Mask:
    """The same modalities are kept everywhere.

    Equation:
        m = m_available and what the corpus has

    An utterance that has none of them keeps one of its own, chosen by its id.

    When to choose: test-time conditions ("text only"); to compare with MMIN and its successors.
    Cost: none.
    Source: the conditions of MMIN, Zhao et al. 2021 (ACL 2021.acl-long.203); also of CIF-MMIN, CADGL, MoMKE.

    Args:
        available: the modalities that are kept.
    """
    return asked.there & np.isin(asked.names, _available(asked.config, asked.names))


def sample_of_patterns(asked: Asked) -> Mask:
    """With some probability an utterance gets one of its incomplete patterns, each as likely.

    Equation:
        with probability rate: one of the 2^M - 2 incomplete patterns;  else everything

    When to choose: to compare with MPLMM; all patterns in one training run.
    Cost: none.
    Source: MPLMM, Guo et al. 2024, arXiv 2407.05374 (there drawn anew at evaluation, here frozen).

    Args:
        rate: share of utterances that lose something, 0 to 1.
    """
    return _drawn_pattern(asked.config.rate, asked.there, asked.draws, asked.names)


def from_file(asked: Asked) -> Mask:
    """Frozen masks from a file: of this project (.json), or what others publish (.npy).

    Equation:
        m = the file's row for the utterance's id

    When to choose: to test on exactly the masks of another paper, or to publish yours.
    Cost: none.
    Source: Mi-CGA publishes its masks; the formats are described in `mer.data.mask_files`.

    Args:
        file: path within the corpus folder.
        axis: of an array: what its first axis is, `utterances` or `modalities`.
        polarity: of an array: what 1 means, `available` or `missing`.
        order: of an array: its modalities, in order.
        ids: of an array: a text file with its utterance ids, one a line.
    """
    from mer.data.mask_files import masks_for

    return asked.there & masks_for(asked.config, asked.ids, asked.names, asked.root)


@dataclass(frozen=True)
class Realised:
    """What masks came to.

    rate          share of what is there that was taken away
    of_all        share of all N x M that is missing, whether taken away or never there
    per_modality  the former for each modality
    kept          share of utterances with 0, 1, ... M modalities
    """

    rate: float
    of_all: float
    per_modality: dict[str, float]
    kept: tuple[float, ...]


def realised(available: Mask, modalities: Sequence[str], present: Mask | None = None) -> Realised:
    """The rates that masks really have.

    >>> realised(np.array([[True, False], [True, True]]), ["audio", "text"])
    Realised(rate=0.25, of_all=0.25, per_modality={'audio': 0.0, 'text': 0.5}, kept=(0.0, 0.5, 0.5))
    """
    there = np.ones_like(available) if present is None else np.asarray(present, bool)
    gone = there & ~available
    counts = np.bincount(available.sum(axis=1), minlength=len(modalities) + 1) / max(1, len(available))
    return Realised(
        rate=float(gone.sum() / max(1, there.sum())),
        of_all=float(1 - (available & there).mean()) if available.size else 0.0,
        per_modality={name: float(gone[:, m].sum() / max(1, there[:, m].sum())) for m, name in enumerate(modalities)},
        kept=tuple(counts.tolist()),
    )


def attainable(rate: float, modalities: int) -> float:
    """The rate that can be had where every utterance keeps one of its modalities.

    >>> round(attainable(0.7, 3), 4), attainable(0.5, 3)
    (0.6667, 0.5)
    """
    return min(rate, (modalities - 1) / modalities)


def remark(config: MissingConfig, modalities: Sequence[str]) -> str | None:
    """What a reader of a table must be told about a nominal rate.

    >>> remark(MissingConfig(protocol="random", rate=0.7), ["audio", "text", "visual"])
    'missing rate 0.7 is 2/3 (0.667): each utterance keeps at least one of its 3 modalities'
    """
    m = len(modalities)
    if config.protocol != "random" or attainable(config.rate, m) == config.rate:
        return None
    each = "its only modality" if m == 1 else f"at least one of its {m} modalities"
    share = "0" if m == 1 else f"{m - 1}/{m} ({attainable(config.rate, m):.3f})"
    return f"missing rate {config.rate:g} is {share}: each utterance keeps {each}"


class Draws:
    """Uniform numbers that belong to an utterance: functions of (seed, epoch, what for, id)."""

    def __init__(self, ids: Sequence[str], seed: int, epoch: int | None) -> None:
        self.seed = derive("missing", seed, "frozen" if epoch is None else epoch)
        self._ids = _hashed(tuple(ids))

    def uniform(self, purpose: str) -> Floats:
        """`[N]` in [0, 1)."""
        key = np.uint64(derive(self.seed, purpose))
        bits = _mix(_mix(self._ids ^ key) + key) >> np.uint64(11)
        return bits.astype(np.float64) * 2.0**-53


@functools.lru_cache(maxsize=16)
def _hashed(ids: tuple[str, ...]) -> npt.NDArray[np.uint64]:
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(b"".join(digests), "<u8")


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit changes half of the output bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _at_rates(rates: Floats, there: Mask, draws: Draws, names: Sequence[str]) -> Mask:
    """Each modality is kept with its probability a = 1 - rate, and at least one is, exactly and without rejection.

    One modality is kept for certain, chosen with q proportional to a; each other with s = (a - q) / (1 - q), so
    that q + (1 - q) s = a. With equal rates this is GCNet's definition: q = 1/M, s = (M (1 - rate) - 1) / (M - 1).
    Where the a of an utterance sum to less than 1 (a rate of 0.7 with three modalities) exactly one is kept.
    """
    wanted = np.where(there, 1 - rates, 0.0)
    total = wanted.sum(axis=1, keepdims=True)
    equal = there / np.maximum(there.sum(axis=1, keepdims=True), 1)
    certain = np.divide(wanted, total, out=equal, where=total > 0)
    extra = np.divide(wanted - certain, 1 - certain, out=np.zeros_like(wanted), where=certain < 1)
    kept = _choose(certain, draws, names)
    for m, name in enumerate(names):
        kept[:, m] |= draws.uniform(f"extra {name}") < extra[:, m]
    return kept


def _choose(probabilities: Floats, draws: Draws, names: Sequence[str]) -> Mask:
    """One modality for each utterance, by these probabilities (rows sum to 1, or to 0: none)."""
    columns = np.argsort(names)  # by name, so that the order of modalities does not matter
    edges = np.cumsum(probabilities[:, columns], axis=1)
    at = np.minimum(draws.uniform("certain")[:, None] * edges[:, -1:], np.nextafter(edges[:, -1:], 0))
    found = columns[(at >= edges).sum(axis=1).clip(max=len(columns) - 1)]
    chosen: Mask = (np.arange(len(columns)) == found[:, None]) & (probabilities > 0)
    return chosen


def _drawn_pattern(rate: float, there: Mask, draws: Draws, names: Sequence[str]) -> Mask:
    """With probability `rate` one of the incomplete patterns of what the utterance has, else all of it."""
    columns = np.argsort(names)
    hit, which = draws.uniform("hit") < rate, draws.uniform("which")
    kept = there.copy()
    for has in itertools.product([False, True], repeat=len(names)):
        own = [column for column, yes in zip(columns, has, strict=True) if yes]
        choices = patterns([str(column) for column in own])[:-1]
        if not choices:
            continue
        rows = np.flatnonzero(hit & np.logical_and.reduce(there[:, columns] == np.array(has), axis=1))
        table = np.zeros((len(choices), len(names)), bool)
        for number, choice in enumerate(choices):
            table[number, [int(column) for column in choice]] = True
        kept[rows] = table[(which[rows] * len(choices)).astype(np.int64)]
    return kept


def _keep_one(kept: Mask, there: Mask, draws: Draws, names: Sequence[str]) -> Mask:
    """Utterances that would be left with nothing keep one modality of those that they have."""
    bare = np.flatnonzero(there.any(axis=1) & ~kept.any(axis=1))
    if len(bare):
        equal = there / np.maximum(there.sum(axis=1, keepdims=True), 1)
        kept = kept.copy()
        kept[bare] = _choose(equal, draws, names)[bare]
    return kept


def _modality_names(modalities: Sequence[str]) -> tuple[str, ...]:
    names = tuple(modalities)
    if not names or len(set(names)) != len(names):
        raise UserError(f"modalities {list(names)}", expected="at least one, each once")
    return names


def _available(config: MissingConfig, names: Sequence[str]) -> list[str]:
    if not config.available:
        raise UserError("missing protocol 'pattern' without what is available", expected="available: [text]")
    _check_names(config.available, names)
    kept = [name for name in config.available if name in names]
    if not kept:
        raise UserError(
            f"the pattern keeps {', '.join(config.available)}, of which the model uses nothing",
            expected=", ".join(names),
        )
    return kept


def _rates(config: MissingConfig, names: Sequence[str]) -> Floats:
    if not config.rates:
        raise UserError("missing protocol 'per_modality' without rates", expected="rates: {text: 0.3, audio: 0.5}")
    _check_names(config.rates, names)
    for name, rate in config.rates.items():
        if not 0 <= rate <= 1:
            raise UserError(f"missing rate {rate:g} of {name}", expected="0 to 1")
    return np.array([config.rates.get(name, 0.0) for name in names], np.float64)


def _check_names(given: Sequence[str] | dict[str, float], names: Sequence[str]) -> None:
    """A pattern may name modalities that this model does not use, but no misspelt one."""
    for name in given:
        if name not in names:
            meant = nearest(name, names)
            if meant is not None:
                raise UserError(f"unknown modality {name!r}", expected=", ".join(names), nearest=meant)


def _from_outside(config: MissingConfig, ids: Sequence[str], names: Sequence[str], seed: int) -> Mask:
    """A protocol `module:attr`: a function (config, ids, modalities, seed) -> bool `[N, M]`."""
    found = np.asarray(load(target(LEVELS, config.protocol, "missing"), "missing")(config, ids, names, seed))
    if found.shape != (len(ids), len(names)) or found.dtype != np.bool_:
        raise UserError(
            f"missing protocol {config.protocol} gave {found.dtype} of shape {found.shape}",
            expected=f"bool of shape {(len(ids), len(names))}",
        )
    return found
