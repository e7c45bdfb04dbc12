"""What the search did: boundary hits, what pruning did, expected validation performance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
