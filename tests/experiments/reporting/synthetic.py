"""Made-up runs with known truth, written in the files of a run.

A cell's true score is `base` plus the effects of its levels (and of pairs of levels). Each study adds what all cells
share (its split), each draw a point that all cells share, and each trial its own noise; validation selects, the
winner is confirmed, and predictions are drawn so that their accuracy is the confirmed score.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from experiments.results import schema

LABELS = ("angry", "happy", "neutral", "sad")


@dataclass
class World:
    """What a made-up run is made of. `effects` maps `factor=level` (or `a=x b=y` for a pair) to points of score."""

    factors: Mapping[str, Sequence[Any]] = field(default_factory=lambda: {"fusion": ("concat", "tacfn", "gated")})
    effects: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, Any] | None = None
    cells: Callable[[Mapping[str, Any]], bool] = lambda levels: True
    corpora: Sequence[str] = ("demo",)
    studies: int = 5
    folds: int = 1
    draws: int = 4
    epochs: int = 10
    base: float = 0.70
    noise: float = 0.010
    shared: float = 0.015
    rates: Sequence[float] = (0.0, 0.3, 0.6)
    patterns: Sequence[Sequence[str]] = ()
    zero: bool = False
    slopes: Mapping[str, float] = field(default_factory=dict)
    contrasts: str = "baseline"
    margin: float | None = None
    test: str = "paired_t"
    scope: str = "this test set"
    utterances: int = 120
    dialogues: int = 12
    speakers: int = 6
    predictions: bool = True
    lose: Sequence[tuple[str, int]] = ()
    failed: float = 0.0
    synthetic: bool = True
    random_weights: bool = True
    prune: bool = True
    hosts: Sequence[str] = ("host-a",)
    post_hoc: Sequence[str] = ()
    second_look: bool = False
    seed: int = 0
    shared_units: Mapping[str, int] | None = field(default_factory=lambda: {"speakers": 0, "dialogues": 0})
    caveats: Sequence[str] = ()
    uses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Level of the first factor to the modalities that it uses."""
    budgets: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    once: bool = False


def cell_name(levels: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in levels.items())


def effect_of(world: World, levels: Mapping[str, Any], table: Mapping[str, float]) -> float:
    own = {f"{k}={v}" for k, v in levels.items()}
    return sum(value for key, value in table.items() if set(key.split()) <= own)


def write_run(folder: Path, world: World) -> Path:
    """Write all files of a run and return its folder."""
    rng = np.random.default_rng(world.seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = list(world.factors)
    levels = [dict(zip(names, combo, strict=True)) for combo in itertools.product(*world.factors.values())]
    levels = [one for one in levels if world.cells(one)]
    conditions = [{"name": "complete", "missing": {}}] + [
        {"name": f"missing {rate:g}", "missing": {"protocol": "random", "rate": rate}}
        for rate in world.rates
        if rate > 0
    ]
    if world.zero:
        conditions.append({"name": "random 0.0", "missing": {"protocol": "random"}})
    for kept in world.patterns:
        conditions.append({"name": "+".join(kept), "missing": {"protocol": "pattern", "available": list(kept)}})
    trials: list[dict[str, Any]] = []
    epochs: list[pd.DataFrame] = []
    scores: list[dict[str, Any]] = []
    decisions: list[dict[str, Any]] = []
    predictions: dict[tuple[str, str], list[pa.Table]] = {}
    start = pd.Timestamp("2026-05-01", tz="UTC")
    counter = itertools.count()
    for corpus_index, corpus in enumerate(world.corpora):
        shift = rng.normal(0, 0.01) if corpus_index else 0.0
        utterances = np.arange(world.utterances)
        truth = rng.integers(0, len(LABELS), world.utterances)
        for study, fold in itertools.product(range(world.studies), range(world.folds)):
            common = rng.normal(0, world.shared)
            points = 10 ** rng.uniform(-4, -2, world.draws)
            quality = -0.01 * np.abs(np.log10(points) + 3)
            for one in levels:
                cell = cell_name(one)
                mean = world.base + effect_of(world, one, world.effects) + common + shift
                slope = -0.15 + effect_of(world, one, world.slopes)
                finals = mean + quality + rng.normal(0, world.noise / 2, world.draws)
                curves = finals[:, None] * (1 - np.exp(-np.arange(1, world.epochs + 1) / 2.5))[None, :]
                curves += rng.normal(0, 0.004, curves.shape)
                pruned = np.zeros(world.draws, bool)
                exempt = np.arange(world.draws) % 4 == 2
                rung = min(3, world.epochs)
                for draw in range(world.draws):
                    if not world.prune:
                        break
                    cutoff = np.quantile(curves[: draw + 1, rung - 1], 0.5)
                    below = bool(curves[draw, rung - 1] < cutoff)
                    pruned[draw] = below and not exempt[draw]
                    decisions.append(
                        {
                            "corpus": corpus,
                            "cell": cell,
                            "study": study,
                            "fold": fold,
                            "kind": "prune" if pruned[draw] else "keep",
                            "draw": draw,
                            "trial": None,
                            "rung": rung,
                            "value": float(curves[draw, rung - 1]),
                            "cutoff": float(cutoff),
                            "peers": draw,
                            "reason": None,
                        }
                    )
                best = int(np.where(pruned, -np.inf, curves.max(1)).argmax()) if world.draws else -1
                for draw in [*range(world.draws), -1]:
                    trial = f"t{next(counter):06d}"
                    final = curves[max(draw, 0) if draw >= 0 else best] if world.draws else np.full(world.epochs, mean)
                    done = rung if draw >= 0 and pruned[draw] else world.epochs
                    status = "pruned" if draw >= 0 and pruned[draw] else "complete"
                    if draw < 0 and (cell, study) in set(world.lose):
                        status = "failed"
                    elif draw >= 0 and rng.random() < world.failed:
                        status = "diverged"
                    row: dict[str, Any] = {
                        "trial": trial,
                        "cell": cell,
                        "corpus": corpus,
                        "study": study,
                        "fold": fold,
                        "stage": "tune" if draw >= 0 else "confirm",
                        "draw": draw,
                        "status": status,
                        "reason": {
                            "failed": "worker lost three times",
                            "diverged": "loss is NaN",
                            "pruned": "below cutoff",
                        }.get(status),
                        **one,
                        "optimizer.lr": float(points[draw if draw >= 0 else best]) if world.draws else 1e-3,
                        "selected": draw == best if draw >= 0 else None,
                        "exempt": bool(exempt[draw]) if draw >= 0 else None,
                        "second_look": world.second_look and study == world.studies - 1,
                        "rung": rung if status == "pruned" else None,
                        "wall_s": float(2 + rng.random()),
                        "device_s": float(done * (0.1 + 0.05 * len(cell) / 20)),
                        "epochs": done,
                        "best_epoch": max(1, done - 1),
                        "peak_memory_mb": 200.0 + len(cell),
                        "attempt": 1,
                        "commit": "0123abc",
                        "dirty": False,
                        "versions": "numpy 2.4.6; python 3.11.9; torch 2.13.0",
                        "code": "c0de",
                        "data": f"da7a-{corpus}",
                        "hardware": "CPU, 2 cores",
                        "host": world.hosts[next(counter) % len(world.hosts)],
                        "random_weights": world.random_weights,
                        "synthetic": world.synthetic,
                        "parameters": 10_000 + 137 * len(cell),
                        "started": start + pd.Timedelta(seconds=10 * len(trials)),
                        "ended": start + pd.Timedelta(seconds=10 * len(trials) + 5),
                    }
                    if status in ("complete", "pruned"):
                        for metric in schema.METRICS:
                            row[f"valid_{metric}"] = float(final[:done].max())
                        e = np.arange(1, done + 1)
                        for split, metric, values in (
                            ("train", "loss", 1.4 * np.exp(-e / 4) + 0.1 + 0.001 * levels.index(one)),
                            ("valid", "loss", 1.4 * np.exp(-e / 4) + 0.3),
                            ("valid", "ua", final[:done]),
                        ):
                            epochs.append(
                                pd.DataFrame(
                                    {"trial": trial, "epoch": e, "split": split, "metric": metric, "value": values}
                                )
                            )
                    if draw < 0 and status == "complete":
                        value = mean + rng.normal(0, world.noise)
                        for condition in conditions:
                            kept = condition["missing"].get("available")
                            rate = 1 - len(kept) / 4 if kept else condition["missing"].get("rate", 0.0)
                            at = value + slope * rate + (rng.normal(0, 0.004) if rate else 0)
                            for k, metric in enumerate(schema.METRICS):
                                shown = float(np.clip(at - 0.005 * k * (metric != "ua"), 0, 1))
                                scores.append(
                                    {
                                        "trial": trial,
                                        "condition": condition["name"],
                                        "metric": metric,
                                        "value": shown,
                                        "n": world.utterances,
                                    }
                                )
                                if rate == 0:
                                    row[f"test_{metric}"] = shown
                        if world.predictions:
                            right = rng.random(world.utterances) < value
                            guess = np.where(right, truth, (truth + rng.integers(1, 4, world.utterances)) % 4)
                            chance = np.full((world.utterances, 4), 0.1, np.float32)
                            chance[utterances, guess] = 0.7
                            predictions.setdefault((corpus, cell), []).append(
                                pa.table(
                                    {
                                        "trial": [trial] * world.utterances,
                                        "condition": ["complete"] * world.utterances,
                                        "utterance": [f"f{fold}u{i:04d}" for i in utterances],
                                        "label": [LABELS[i] for i in truth],
                                        "prediction": [LABELS[i] for i in guess],
                                        "probabilities": chance.tolist(),
                                        "speaker": [f"s{i % world.speakers}" for i in utterances],
                                        "dialogue": [f"d{i % world.dialogues}" for i in utterances],
                                        "lacking": [""] * world.utterances,
                                    },
                                    schema=schema.PREDICTIONS,
                                )
                            )
                    trials.append(row)
    kinds = {name: schema.column_type(values) for name, values in world.factors.items()}
    table_schema = schema.trials_schema(kinds, {"optimizer.lr": pa.float64()})
    for row in trials:
        row.update({name: schema.as_type(row[name], kind) for name, kind in kinds.items()})
    _write(folder / "trials.parquet", pa.Table.from_pylist(trials, schema=table_schema))
    _write(
        folder / "epochs.parquet", pa.Table.from_pandas(pd.concat(epochs), schema=schema.EPOCHS, preserve_index=False)
    )
    _write(folder / "scores.parquet", pa.Table.from_pylist(scores, schema=schema.SCORES))
    _write(folder / "decisions.parquet", pa.Table.from_pylist(decisions, schema=schema.DECISIONS))
    if predictions:
        (folder / "predictions").mkdir(exist_ok=True)
        for (corpus, cell), parts in predictions.items():
            _write(
                folder / "predictions" / f"{corpus}-{cell.replace(' ', '-').replace('=', '-')}.parquet",
                pa.concat_tables(parts),
            )
    (folder / "space.yaml").write_text(yaml.safe_dump(_space(world, levels, conditions), sort_keys=False))
    return folder


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)


def _space(world: World, levels: list[dict[str, Any]], conditions: list[dict[str, Any]]) -> dict[str, Any]:
    baseline = dict(world.baseline or levels[0])
    contrasts = []

    def first(one: Mapping[str, Any]) -> Any:
        return next(iter(one.values()))

    if world.contrasts == "baseline":
        for corpus in world.corpora:
            for one in levels:
                differing = [k for k in one if one[k] != baseline[k]]
                if len(differing) != 1:
                    continue
                name = f"{one[differing[0]]} vs {baseline[differing[0]]}"
                contrasts.append(
                    {
                        "name": name,
                        "corpus": corpus,
                        "weights": {cell_name(one): 1.0, cell_name(baseline): -1.0},
                        "metric": "ua",
                        "condition": "complete",
                        "test": world.test,
                        "margin": world.margin,
                        "family": "main",
                        "scope": world.scope,
                        "declared": "2026-04-30T12:00:00Z",
                        "post_hoc": one[differing[0]] in world.post_hoc,
                    }
                )
    return {
        "space": "made_up",
        "metric": "ua",
        "studies": world.studies,
        "folds": {"by": "session" if world.folds > 1 else None, "count": world.folds},
        "tuning": {
            "draws": world.draws,
            "once": world.once,
            "sampler": "sobol",
            "pruner": "asha" if world.prune else "none",
            "grace": 3,
            "eta": 3.0,
            "exempt": 0.25,
        },
        "factors": {k: list(v) for k, v in world.factors.items()},
        "baseline": baseline,
        "cells": [
            {
                "corpus": corpus,
                "name": cell_name(one),
                "levels": dict(one),
                "skip": world.excluded.get(first(one)),
                "tuning": "",
                "hypers": [
                    {
                        "path": "optimizer.lr",
                        "kind": "loguniform",
                        "choices": [],
                        **dict(zip(("low", "high"), world.ranges.get(first(one), (1e-4, 1e-2)), strict=True)),
                    }
                ]
                if world.draws
                else [],
                "recipe": {
                    "encoders": {name: {"name": "features"} for name in world.uses.get(first(one), ())},
                    **({"training": {"epochs": world.budgets[first(one)]}} if first(one) in world.budgets else {}),
                },
            }
            for corpus in world.corpora
            for one in levels
        ],
        "declared": {
            "metric": {"declared": "2026-04-30T12:00:00Z", "post_hoc": False},
            "first_result": "2026-05-01T00:00:10Z",
            "second_look": None,
        },
        "document": {"description": "Made up.", "contrasts": {"alpha": 0.05}},
        "conditions": conditions,
        "corpora": {corpus: {"shared": world.shared_units, "caveats": list(world.caveats)} for corpus in world.corpora},
        "contrasts": contrasts,
        "resplit": True,
        "notices": [],
    }
