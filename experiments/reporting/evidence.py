"""What stands behind a claim: a contrast's value in each study and fold, and intervals beyond the test set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from experiments.reporting.numbers import count
from experiments.reporting.spec import Contrast
from experiments.reporting.statistics.confusion import KNOWN as COUNTED
from experiments.reporting.statistics.folds import nadeau_bengio
from experiments.reporting.statistics.levels import FEWEST_UNITS, effective_units, shares, two_level

if TYPE_CHECKING:
    from experiments.reporting.run import Run

UNIT_COLUMN = {"new dialogues": "dialogue", "new speakers": "speaker"}


@dataclass(frozen=True)
class Scope:
    """An interval for one scope, or why the data cannot carry it."""

    name: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    basis: str = ""
    refusal: str = ""


def weighted(run: Run, contrast: Contrast) -> npt.NDArray[np.float64]:
    """The contrast's value in each study in which all of its cells have a score."""
    scores = run.by_study(contrast.corpus, contrast.metric, contrast.condition)
    part = scores.reindex(index=list(contrast.weights)).dropna(axis=1)
    weights = np.array(list(contrast.weights.values()))
    values: npt.NDArray[np.float64] = weights @ part.to_numpy(dtype=np.float64)
    return values


def over_folds(run: Run, contrast: Contrast) -> npt.NDArray[np.float64]:
    """The contrast's value in each fold, averaged over the studies of the fold."""
    wide = run.by_fold(contrast.corpus, contrast.metric, contrast.condition)
    part = wide.reindex(index=list(contrast.weights)).dropna(axis=1)
    weights = np.array(list(contrast.weights.values()))
    folds = part.columns.get_level_values("fold").to_numpy()
    values = weights @ part.to_numpy(dtype=np.float64)
    return np.array([values[folds == f].mean() for f in sorted(set(folds))])


class Counts:
    """Confusion counts [S, J, C, C] of cells by dialogue or speaker, read once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.frames: dict[tuple[str, str, str], object] = {}

    def stacks(self, contrast: Contrast, unit: str) -> tuple[list[tuple[float, npt.NDArray[np.float64]]], int] | str:
        """Weighted stacks over the studies, units and utterances that all cells share; or why there are none."""
        frames = []
        for cell in contrast.weights:
            frame = self.run.predictions(contrast.corpus, cell, contrast.condition)
            if frame.empty:
                return "no predictions were kept for it"
            frames.append(frame)
        if any(frame[unit].isna().any() for frame in frames):
            return f"not every utterance names its {unit}"
        studies = sorted(set.intersection(*(set(frame["study"]) for frame in frames)))
        units = sorted(set.intersection(*(set(frame[unit]) for frame in frames)))
        if len(units) < FEWEST_UNITS:
            noun = unit if len(units) == 1 else f"{unit}s"
            return f"the test set has {len(units)} {noun}, at least {FEWEST_UNITS} are needed"
        if len(studies) < 2:
            return "one study cannot tell how much studies vary"
        labels = sorted(set().union(*(set(f["label"]) | set(f["prediction"]) for f in frames)))
        stacks = []
        for weight, frame in zip(contrast.weights.values(), frames, strict=True):
            frame = frame[frame["study"].isin(studies) & frame[unit].isin(units)]
            index = [
                np.searchsorted(values, frame[column].to_numpy().astype(kind))
                for values, column, kind in (
                    (np.array(studies), "study", np.int64),
                    (np.array(units, dtype=str), unit, str),
                    (np.array(labels, dtype=str), "label", str),
                    (np.array(labels, dtype=str), "prediction", str),
                )
            ]
            shape = (len(studies), len(units), len(labels), len(labels))
            flat = np.bincount(np.ravel_multi_index(index, shape), minlength=int(np.prod(shape)))
            stacks.append((weight, flat.reshape(shape).astype(np.float64)))
        sizes = {float(counts.sum()) for _, counts in stacks}
        if len(sizes) > 1:
            return "its cells were not scored on the same utterances"
        return stacks, len(units)


def beyond_test_set(run: Run, contrast: Contrast, name: str, counts: Counts) -> Scope:
    """The interval for new dialogues or speakers."""
    unit = UNIT_COLUMN[name]
    known = known_units(run, contrast.corpus, unit)
    if known:
        return Scope(name, refusal=known)
    if run.spec.folds > 1:
        values = over_folds(run, contrast)
        found = nadeau_bengio(values, level=run.spec.level)
        if found is None or run.spec.fold_by not in (unit, None, "session"):
            return Scope(name, refusal=f"folds are by {run.spec.fold_by}")
        basis = f"Nadeau-Bengio over {found.folds} folds by {run.spec.fold_by}"
        return Scope(name, found.mean, found.low, found.high, found.p, basis)
    if contrast.metric not in COUNTED:
        return Scope(name, refusal=f"{contrast.metric} is not computed from single utterances here")
    stacks = counts.stacks(contrast, unit)
    if isinstance(stacks, str):
        return Scope(name, refusal=stacks)
    two = two_level(stacks[0], contrast.metric, run.spec.level)
    if two is None:
        weight = effective_units(shares(stacks[0][0][1], contrast.metric))
        alike = (
            f"the test set's {stacks[1]} {unit}s are so unequal that they weigh only as much as {weight:.1f} equal ones"
        )
        return Scope(name, refusal=f"{alike}, at least {FEWEST_UNITS} are needed")
    return Scope(name, two.mean, two.low, two.high, two.p, f"{two.studies} studies × {two.units} {unit}s")


def known_units(run: Run, corpus: str, unit: str) -> str:
    """Why the units that were tested on are not new ones; empty where they are."""
    found = (run.spec.document.get("corpora") or {}).get(corpus) or {}
    shared = found.get("shared")
    by = run.spec.fold_by if run.spec.folds > 1 else None
    if by == unit:
        return ""  # no fold's unit is trained on
    if shared is None:
        return f"it was not recorded whether train and test share {unit}s; the same run command records it"
    if by is not None:
        if unit == "speaker" and shared.get("sessions") and by == "session":
            return f"{count(int(shared['sessions']), 'speaker')} of train and test are in several sessions"
        return ""
    number = int(shared.get(f"{unit}s", 0))
    return f"{count(number, unit)} of the test split are in train or valid too" if number else ""


def _with_factor(factor: str, level: str) -> str:
    name = factor.rsplit(".", 1)[-1]
    return level if name in level.split() else f"{name} {level}"


def sides_of(run: Run, contrast: Contrast) -> tuple[str, str]:
    """What is compared, as short as it can be said: the levels in which the two sides differ."""
    plus = [cell for cell, weight in contrast.weights.items() if weight > 0]
    minus = [cell for cell, weight in contrast.weights.items() if weight < 0]
    known = set(run.cells(contrast.corpus))
    if not plus or not minus or not set(plus) | set(minus) <= known:
        return contrast.name, ""
    from experiments.reporting.levels import named_level

    def levels(cells: Iterable[str], factor: str) -> set[str]:
        return {named_level(run.level_of(cell, factor, contrast.corpus), factor) for cell in cells}

    apart = [f for f in run.factors if levels(plus, f) != levels(minus, f)]
    single = [f for f in apart if len(levels(plus, f)) == 1 and len(levels(minus, f)) == 1]
    if not apart or single != apart:
        if len(plus) == len(minus) == 1:
            return run.label(plus[0], contrast.corpus), run.label(minus[0], contrast.corpus)
        return contrast.name, ""
    shared = [f for f in run.factors if f not in apart and len(levels([*plus, *minus], f)) == 1]
    where = ", ".join(_with_factor(f, next(iter(levels(plus, f)))) for f in shared)
    averaged = [f for f in run.factors if f not in apart and f not in shared]
    first, second = (" · ".join(next(iter(levels(side, f))) for f in apart) for side in (plus, minus))
    first = run.label(plus[0], contrast.corpus) if first == second else first
    suffix = f" (with {where})" if where else ""
    if averaged:
        suffix += f" (averaged over {', '.join(f.rsplit('.', 1)[-1] for f in averaged)})"
    return first, second + suffix
