"""Which parts of a grid are complete enough for main effects and interactions, and what the others lack."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from experiments.reporting.numbers import count
from experiments.reporting.statistics.factorial import Anova, anova

if TYPE_CHECKING:
    from experiments.reporting.run import Run


@dataclass(frozen=True)
class Slice:
    """A complete part of the grid.

    factors, levels  the crossed factors and their levels
    fixed            the other factors and the level at which they are held
    scores           [l_1, ..., l_F, S]
    """

    corpus: str
    factors: tuple[str, ...]
    levels: tuple[tuple[Any, ...], ...]
    fixed: Mapping[str, Any]
    scores: npt.NDArray[np.float64]
    cells: Mapping[tuple[int, ...], str]

    @property
    def anova(self) -> Anova:
        return anova(self.scores, self.factors)


@dataclass(frozen=True)
class Refusal:
    corpus: str
    factors: tuple[str, ...]
    why: str


def _cells_by_levels(run: Run, corpus: str) -> dict[tuple[Any, ...], str]:
    return {tuple(run.level_of(cell, f, corpus) for f in run.factors): cell for cell in run.chosen(corpus)}


def _slice(run: Run, corpus: str, factors: tuple[str, ...], fixed: Mapping[str, Any]) -> Slice | Refusal:
    """The full crossing of `factors` with the others held at `fixed`, or what it lacks."""
    by_levels = _cells_by_levels(run, corpus)
    here = [key for key in by_levels if all(key[run.factors.index(f)] == level for f, level in fixed.items())]
    levels = tuple(
        tuple(level for level in run.levels(f) if any(key[run.factors.index(f)] == level for key in here))
        for f in factors
    )
    if any(len(each) < 2 for each in levels):
        return Refusal(corpus, factors, "fewer than two levels of a factor")
    scores = run.by_study(corpus)
    cells: dict[tuple[int, ...], str] = {}
    absent = 0
    for index in itertools.product(*(range(len(each)) for each in levels)):
        wanted = dict(zip(factors, (each[i] for each, i in zip(levels, index, strict=True)), strict=True)) | dict(fixed)
        cell = by_levels.get(tuple(wanted.get(f) for f in run.factors))
        if cell is None:
            absent += 1
        else:
            cells[index] = cell
    total = int(np.prod([len(each) for each in levels]))
    if absent:
        are = "is" if absent == 1 else "are"
        return Refusal(corpus, factors, f"{absent} of {count(total, 'combination')} {are} not in the plan")
    if run.unfinished(corpus) & set(cells.values()):
        return Refusal(corpus, factors, "planned studies have not been run yet")
    table = scores.loc[list(cells.values())]
    complete = table.dropna(axis=1)
    gaps = int(table.isna().sum().sum())
    if complete.shape[1] < 2:
        return Refusal(corpus, factors, f"{gaps} scores are missing; fewer than two studies have every combination")
    values = complete.to_numpy(dtype=np.float64).reshape(*(len(each) for each in levels), complete.shape[1])
    return Slice(corpus, factors, levels, dict(fixed), values, cells)


def slices(run: Run, corpus: str) -> tuple[list[Slice], list[Refusal]]:
    """The whole grid where it is complete; else, around the baseline, every complete pair of factors, and single
    factors that are in no such pair."""
    factors = tuple(run.factors)
    if not factors:
        return [], []
    whole = _slice(run, corpus, factors, {})
    if isinstance(whole, Slice):
        return [whole], []
    found: list[Slice] = []
    refused = [whole]
    baseline = run.baseline.get(corpus)
    if baseline is None:
        return [], refused
    base = {f: run.level_of(baseline, f, corpus) for f in factors}
    covered: set[str] = set()
    for size in (2, 1):
        for subset in itertools.combinations(factors, size):
            if size == len(factors) or (size == 1 and subset[0] in covered):
                continue
            part = _slice(run, corpus, subset, {f: level for f, level in base.items() if f not in subset})
            if isinstance(part, Slice):
                found.append(part)
                covered.update(subset)
            elif size == 1:
                refused.append(part)
    return found, refused
