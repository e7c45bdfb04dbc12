"""What the search did: boundary hits, what pruning did, expected validation performance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.reporting.statistics.search import PruningEffect, expected_best, kendall

if TYPE_CHECKING:
    from experiments.reporting.run import Run

EDGE = 0.05
GROUP = ["corpus", "cell", "study", "fold"]


@dataclass(frozen=True)
class Boundary:
    """How often the winner's value lay in the outer 5 % of a range (on its own scale), at each end."""

    name: str
    low: int
    high: int
    winners: int
    range: tuple[float, float]


@dataclass(frozen=True)
class Ran:
    """How a cell was really tuned and trained, by what is on record.

    draws    fewest and most draws that were trained for one choice (a study and fold) that was made; as planned where
             none was made yet
    epochs   fewest and most epochs of its confirmed trials; None where there are none
    budget   the epochs that its trials may train for; None where that is not known
    ranges   tuned path to its range, as text
    """

    draws: tuple[int, int]
    epochs: tuple[int, int] | None
    budget: int | None
    ranges: Mapping[str, str]


def ran(run: Run, corpus: str, cell: str) -> Ran:
    described = {str(c["name"]): c for c in run.spec.document.get("cells") or [] if c["corpus"] == corpus}
    own = described.get(cell, {})
    shared = {name for name, c in described.items() if (c.get("tuning") or name) == (own.get("tuning") or cell)}
    t = run.own[run.own["corpus"] == corpus]
    tune = t[(t["stage"] == "tune") & t["cell"].isin(shared | {cell}) & (t["status"] != "skipped")]
    draws = tune.groupby(["study", "fold"]).size()
    to_come = tune[tune["status"] == "missing"].groupby(["study", "fold"]).size()
    made = draws[~draws.index.isin(to_come.index)]
    draws = made if len(made) else draws
    confirm = run.confirm[(run.confirm["corpus"] == corpus) & (run.confirm["cell"] == cell)]
    epochs = confirm["epochs"].dropna() if "epochs" in confirm.columns else confirm.iloc[:, 0].iloc[:0]
    budget = ((own.get("recipe") or {}).get("training") or {}).get("epochs")
    return Ran(
        (int(draws.min()), int(draws.max())) if len(draws) else (0, 0),
        (int(epochs.min()), int(epochs.max())) if len(epochs) else None,
        None if budget is None else int(budget),
        {str(hyper["path"]): _range(hyper) for hyper in own.get("hypers") or []},
    )


def _range(hyper: Mapping[str, Any]) -> str:
    if hyper.get("kind") == "choice":
        return f"one of {', '.join(map(str, hyper.get('choices') or []))}"
    return f"{hyper['kind']} {float(hyper['low']):g} to {float(hyper['high']):g}"


def unequal(run: Run) -> list[str]:
    """The contrasts whose sides were tuned or trained otherwise, and how."""
    found = []
    for contrast in run.spec.contrasts:
        known = set(run.chosen(contrast.corpus)) if contrast.corpus in run.corpora else set()
        if not set(contrast.weights) <= known:
            continue
        cells = {cell: ran(run, contrast.corpus, cell) for cell in contrast.weights}
        apart = []
        if _uneven(contrast.weights, {cell: one.draws for cell, one in cells.items()}):
            apart.append(f"draws ({_each(cells, lambda one: between(one.draws))})")
        if _uneven(contrast.weights, {cell: one.budget for cell, one in cells.items()}):
            apart.append(f"epochs ({_each(cells, lambda one: str(one.budget))})")
        for path in dict.fromkeys(path for one in cells.values() for path in one.ranges):
            ranges = {cell: one.ranges.get(path, "fixed") for cell, one in cells.items()}
            everywhere = all(path in one.ranges for one in cells.values()) or path.startswith(
                ("optimizer.", "training.")
            )
            if everywhere and _uneven(contrast.weights, ranges):
                apart.append(f"the range of {path} ({', '.join(f'{name}: {text}' for name, text in ranges.items())})")
        if apart:
            line = f"{contrast.name}: its sides differ in {'; '.join(apart)}."
            found.append(line)
    return list(dict.fromkeys(found))


def _uneven(weights: Mapping[str, float], values: Mapping[str, Any]) -> bool:
    """Whether the sides of a contrast differ in something: they do not where each has as much of the same."""
    total: dict[Any, float] = {}
    for cell, value in values.items():
        total[value] = total.get(value, 0.0) + weights[cell]
    return any(abs(weight) > 1e-9 for weight in total.values())


def between(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _each(cells: Mapping[str, Ran], of: Callable[[Ran], str]) -> str:
    return ", ".join(f"{name}: {of(one)}" for name, one in cells.items())


def winners(run: Run) -> pd.DataFrame:
    t = run.trials
    if "selected" not in t.columns:
        return t.iloc[:0]
    return t[(t["stage"] == "tune") & t["selected"].fillna(False).astype(bool)]


def boundaries(run: Run) -> list[Boundary]:
    chosen = winners(run)
    found: dict[str, Boundary] = {}
    for (corpus, cell), part in chosen.groupby(["corpus", "cell"], sort=False):
        for hyper in run.spec.tuned.get((str(corpus), str(cell)), ()):
            low, high = hyper.low, hyper.high
            if low is None or high is None or high <= low or hyper.name not in part.columns:
                continue
            values = part[hyper.name].dropna().to_numpy(dtype=np.float64)
            if hyper.kind.startswith("log"):
                place = np.log(np.maximum(values, low) / low) / math.log(high / low)
            else:
                place = (values - low) / (high - low)
            old = found.get(hyper.name, Boundary(hyper.name, 0, 0, 0, (low, high)))
            found[hyper.name] = Boundary(
                hyper.name,
                old.low + int((place < EDGE).sum()),
                old.high + int((place > 1 - EDGE).sum()),
                old.winners + values.size,
                (min(old.range[0], low), max(old.range[1], high)),
            )
    return [b for b in found.values() if b.winners]


def pruning_effect(run: Run) -> PruningEffect | None:
    """From draws that were exempt: would pruning have thrown away what was best?"""
    d, t = run.decisions, run.trials
    tune = t[t["stage"] == "tune"]
    metric = f"valid_{run.spec.metric}"
    if d.empty or tune.empty or "exempt" not in tune.columns or not (tune["status"] == "pruned").any():
        return None
    sign = 1 if run.higher_is_better() else -1
    exempt = tune[tune["exempt"].fillna(False).astype(bool) & (tune["status"] == "complete")]
    judged = d[d["rung"].notna() & d["value"].notna()].merge(
        exempt[[*GROUP, "draw", metric]], on=[*GROUP, "draw"], how="inner"
    )
    known = judged[judged["cutoff"].notna()]
    below = known[sign * known["value"] < sign * known["cutoff"]]
    condemned = below.drop_duplicates([*GROUP, "draw"])
    best = winners(run)[[*GROUP, metric]].rename(columns={metric: "best"})
    against = condemned.merge(best, on=GROUP, how="inner")
    regretted = int((sign * against[metric] >= sign * against["best"]).sum())
    correlations = []
    first = judged.sort_values("rung", kind="stable").drop_duplicates([*GROUP, "draw"])
    for _, part in first.groupby(GROUP, sort=True):
        tau = kendall(part["value"].tolist(), part[metric].tolist()) if len(part) >= 3 else None
        if tau is not None:
            correlations.append(tau)
    saved = None
    full = tune.loc[tune["status"] == "complete", "epochs"].median()
    if full and not pd.isna(full):
        done = tune.loc[tune["status"].isin(["complete", "pruned"]), "epochs"]
        saved = float(1 - done.sum() / (full * len(done)))
    return PruningEffect(
        exempt=len(judged.drop_duplicates([*GROUP, "draw"])),
        condemned=len(condemned),
        regretted=regretted,
        correlation=float(np.mean(correlations)) if correlations else None,
        saved=saved,
    )


def expected(run: Run, corpus: str, cell: str) -> np.ndarray | None:
    """EVP of a cell, averaged over studies: from unpruned draws of a sampler that does not adapt; else None."""
    if str(run.spec.tuning.get("sampler", "sobol")) not in ("sobol", "random"):
        return None
    t = run.trials
    part = t[(t["stage"] == "tune") & (t["corpus"] == corpus) & (t["cell"] == cell)]
    if part.empty or (part["status"] == "pruned").any():
        return None
    curves = []
    for _, group in part[part["status"] == "complete"].groupby(["study", "fold"], sort=True):
        values = group[f"valid_{run.spec.metric}"].dropna()
        if len(values) == run.draws_each:
            curves.append(expected_best(values.tolist(), run.higher_is_better()))
    return np.mean(curves, axis=0) if curves else None
