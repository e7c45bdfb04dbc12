"""What a run set out to do, by its `space.yaml`: factors, metric, conditions, contrasts, and when each was declared.

Only this module knows how that file is laid out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.reporting.numbers import count
from mer.errors import UserError
from mer.yaml_text import read_yaml

SCOPES = ("this test set", "new dialogues", "new speakers", "new corpora")


@dataclass(frozen=True)
class Condition:
    """One test-time situation and, where it is a plain missing rate, that rate."""

    name: str
    missing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float | None:
        protocol = self.missing.get("protocol", "none")
        if self.name == "complete" or protocol == "none":
            return 0.0
        if protocol in ("random", "sample"):
            return float(self.missing.get("rate", 0.0))
        return float(self.missing["rate"]) if "rate" in self.missing and protocol != "pattern" else None

    @property
    def family(self) -> str:
        """Conditions of one family and different rates form a curve."""
        return str(self.missing.get("protocol", "none"))


@dataclass(frozen=True)
class Contrast:
    """A declared comparison on one corpus: per study `Σ weight · score` over cells."""

    name: str
    corpus: str
    weights: Mapping[str, float]
    metric: str
    condition: str = "complete"
    test: str = "paired_t"
    margin: float | None = None
    family: str = "main"
    scope: str = "this test set"
    declared: str | None = None
    post_hoc: bool = False


@dataclass(frozen=True)
class Tuned:
    """A tuned hyperparameter of a cell and its range (`low`, `high` None for a choice)."""

    name: str
    kind: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Spec:
    """`space.yaml` as this package needs it; `document` is all of it."""

    name: str
    metric: str = "ua"
    factors: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    baseline: Mapping[str, Any] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = (Condition("complete"),)
    contrasts: tuple[Contrast, ...] = ()
    studies: int = 0
    folds: int = 1
    fold_by: str | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[tuple[str, str], tuple[Tuned, ...]] = field(default_factory=dict)
    modalities: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """(corpus, cell) to the modalities that the cell uses; without those of runs that do not name them."""
    excluded: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(corpus, cell) to the rule by which the space leaves the cell out."""
    resplit: bool = False
    alpha: float = 0.05
    description: str = ""
    notices: tuple[str, ...] = ()
    metric_post_hoc: bool = False
    second_look: Mapping[str, Any] = field(default_factory=dict)
    declared: int | None = None
    """Contrasts of this question that were declared before its first result, in whatever run; None: not known."""
    ever: int = 0
    """And all that were ever declared for it."""
    marks: tuple[str, ...] = ()
    """What was changed after the first results."""
    hidden: str = ""
    """How many cells of the question have results that are not shown, as a sentence."""
    others: str = ""
    """How many other questions were asked about these corpora in this results folder, as a sentence."""
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def level(self) -> float:
        return 1 - self.alpha

    def condition(self, name: str) -> Condition:
        return next((c for c in self.conditions if c.name == name), Condition(name))


def _tuned(document: Mapping[str, Any]) -> dict[tuple[str, str], tuple[Tuned, ...]]:
    found = {}
    for cell in document.get("cells") or []:
        hypers = []
        for entry in cell.get("hypers") or []:
            numeric = entry.get("kind") != "choice"
            low, high = (float(entry["low"]), float(entry["high"])) if numeric else (None, None)
            hypers.append(Tuned(str(entry["path"]), str(entry["kind"]), low, high))
        found[str(cell["corpus"]), str(cell["name"])] = tuple(hypers)
    return found


def _modalities(document: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, ...]]:
    found = {}
    for cell in document.get("cells") or []:
        encoders = (cell.get("recipe") or {}).get("encoders") or {}
        if isinstance(encoders, Mapping) and encoders:
            found[str(cell["corpus"]), str(cell["name"])] = tuple(str(name) for name in encoders)
    return found


def spec_of(document: Mapping[str, Any], where: str) -> Spec:
    """The specification in a parsed `space.yaml`."""
    folds = document.get("folds") or {}
    tuning = document.get("tuning") or {}
    written = document.get("document") or {}
    declared = document.get("declared") or {}
    found = written.get("contrasts")
    rules = found if isinstance(found, dict) else {}
    conditions = tuple(
        Condition(str(c["name"]), dict(c.get("missing") or {})) for c in document.get("conditions") or []
    )
    if not any(c.name == "complete" for c in conditions):
        conditions = (Condition("complete"), *conditions)
    known = set(Contrast.__dataclass_fields__)
    family = declared.get("family") or {}
    marks = tuple(str(mark) for mark in declared.get("marks") or ())
    contrasts = []
    for i, entry in enumerate(document.get("contrasts") or []):
        try:
            contrasts.append(Contrast(**{key: value for key, value in entry.items() if key in known}))
        except TypeError as error:
            raise UserError(
                f"contrast {i + 1} is not one: {error}", where=where, expected="name, corpus, weights and metric"
            ) from None
    return Spec(
        name=str(document.get("space", "run")),
        metric=str(document.get("metric", "ua")),
        factors={str(k): tuple(v) for k, v in (document.get("factors") or {}).items()},
        baseline=dict(document.get("baseline") or {}),
        conditions=conditions,
        contrasts=tuple(contrasts),
        studies=int(document.get("studies") or 0),
        folds=int(folds.get("count", 1)),
        fold_by=folds.get("by"),
        tuning=dict(tuning),
        tuned=_tuned(document),
        modalities=_modalities(document),
        excluded={
            (str(c["corpus"]), str(c["name"])): str(c["skip"]) for c in document.get("cells") or [] if c.get("skip")
        },
        resplit=bool(document.get("resplit", False)),
        alpha=float(document.get("alpha") or rules.get("alpha") or 0.05),
        description=str(written.get("description") or ""),
        notices=(*_history(declared), *(str(n) for n in document.get("notices") or ())),
        hidden=_hidden(declared),
        others=_others(declared),
        metric_post_hoc=bool((declared.get("metric") or {}).get("post_hoc")),
        second_look=dict(declared.get("second_look") or {}),
        declared=None if "declared" not in family else int(family["declared"]),
        ever=int(family.get("ever") or 0),
        marks=marks,
        document=document,
    )


def _history(declared: Mapping[str, Any]) -> list[str]:
    """How the claims came to be declared, where that was not at once."""
    lines = [str(line) for line in declared.get("history") or ()]
    return [f"Declared {len(lines)} times: {' '.join(f'{line}.' for line in lines)}"] if len(lines) > 1 else []


def _hidden(declared: Mapping[str, Any]) -> str:
    number = int(declared.get("hidden") or 0)
    if not number:
        return ""
    return f"Results of {count(number, 'other cell')} of this question had been seen and are not shown here."


def _others(declared: Mapping[str, Any]) -> str:
    found = declared.get("others") or {}
    if not found.get("contrasts"):
        return ""
    return (
        "Other questions about the same data in this results folder are families of their own: "
        f"{count(found['contrasts'], 'contrast')} of {count(found['spaces'], 'space')}."
    )


def read_spec(path: Path) -> Spec:
    if not os.path.lexists(path):
        raise UserError(
            "no space.yaml", where=str(path.parent), expected="the folder of a run, such as results/quickstart"
        )
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise UserError("not the space of a run", where=str(path), expected="a mapping")
    try:
        return spec_of(document, str(path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a list for a mapping, a word for a number
        raise UserError(f"not the space of a run: {error}", where=str(path), expected="what a run wrote") from None
