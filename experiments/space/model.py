"""What a space file may say. Shorthands are unfolded first, so that every part has one form and one message."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from experiments.slots import Scalar
from mer.recipe import Metric, MissingConfig


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float | bool | dict) else value


def _level_lists(value: Any) -> Any:
    return {key: _as_list(item) for key, item in value.items()} if isinstance(value, dict) else value


MOST = 10_000
"""Of anything that a space counts. Their product, the plan's trials, has a limit of its own."""

Count = Annotated[int, Field(ge=1, le=MOST)]
Names = Annotated[list[str], BeforeValidator(_as_list)]
Selection = Annotated[dict[str, list[Scalar]], BeforeValidator(_level_lists)]
"""Factor to level or levels."""


class Design(_Strict):
    """Which combinations of levels become cells. Short: `full`, `one_factor`, `{fraction: 0.25}`, a list of cells."""

    kind: Literal["full", "one_factor", "fraction", "list"] = Field(
        default="full",
        description="full: every combination; one_factor: one factor at a time around the baseline; fraction: a "
        "balanced part of full; list: the cells named",
    )
    interactions: list[Annotated[dict[str, list[Scalar] | None], BeforeValidator(lambda v: _interaction(v))]] = Field(
        default=[],
        description="one_factor: sets of factors that are crossed, all their levels or those named, the others at the "
        "baseline",
    )
    share: float = Field(default=1.0, gt=0, le=1, description="fraction: how much of the full grid")
    cells: list[dict[str, Scalar]] = Field(
        default=[], description="list: levels by factor; a factor left out is at the baseline"
    )


def _interaction(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return dict.fromkeys(value)
    return _level_lists(value)


def _design(value: Any) -> Any:
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, list):
        return {"kind": "list", "cells": value}
    if isinstance(value, dict) and "fraction" in value:
        return {**{k: v for k, v in value.items() if k != "fraction"}, "kind": "fraction", "share": value["fraction"]}
    if isinstance(value, dict) and "interactions" in value and "kind" not in value:
        return {**value, "kind": "one_factor"}
    return value


class Rule(_Strict):
    """Cells that match every factor named here are not run."""

    when: Selection = Field(min_length=1, description="factor to level or levels")
    reason: str = Field(min_length=1, description="shown beside the cell in every table")


class Range(_Strict):
    """One of: loguniform, uniform, int, logint (each [low, high]), choice (a list)."""

    loguniform: list[float] | None = Field(default=None, description="[low, high], evenly in the logarithm")
    uniform: list[float] | None = Field(default=None, description="[low, high], evenly")
    int_: list[int] | None = Field(default=None, alias="int", description="[low, high], whole numbers, both included")
    logint: list[int] | None = Field(default=None, description="the same, evenly in the logarithm")
    choice: list[Scalar] | None = Field(default=None, description="two or more values, each as likely")

    @model_validator(mode="after")
    def _check(self) -> Range:
        given = {kind: ends for kind, ends in self.kinds().items() if ends is not None}
        if len(given) != 1:
            raise ValueError("give exactly one of loguniform, uniform, int, logint, choice")
        [(kind, ends)] = given.items()
        if kind == "choice":
            if len({(type(item), item) for item in ends}) < max(2, len(ends)):
                raise ValueError("choice takes two or more different values")
            return self
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise ValueError(f"{kind} takes [low, high] with low < high")
        if kind.startswith("log") and ends[0] <= 0:
            raise ValueError(f"{kind} needs a low end above 0")
        if math.isinf(float(ends[1]) - float(ends[0])):
            raise ValueError(f"{kind} is wider than a number can be")
        return self

    def kinds(self) -> dict[str, Any]:
        return {
            "loguniform": self.loguniform, "uniform": self.uniform, "int": self.int_, "logint": self.logint,
            "choice": self.choice,
        }  # fmt: skip


class TuneOverride(_Strict):
    """For cells that match: other ranges, further parameters, or null for one that is not tuned there."""

    when: Selection = Field(min_length=1, description="factor to level or levels")
    parameters: dict[str, Range | None] = Field(min_length=1, description="field of the recipe to its range, or null")


class Asha(_Strict):
    """Successive halving inside one cell and study, made deterministic."""

    grace: Count = Field(default=2, description="epochs before the first judgement")
    eta: float = Field(default=4.0, ge=1.1, le=MOST, description="one in eta goes on")


class Pruner(_Strict):
    """How draws end early. Short: `asha`, `none`."""

    asha: Asha | None = Field(default=None, description="null: every draw runs to its end")


def _pruner(value: Any) -> Any:
    return {"asha": {}} if value == "asha" else {} if value == "none" else value


class Tune(_Strict):
    """Hyperparameters: nuisance, not comparison. Every cell gets the same number of draws from the same points."""

    parameters: dict[str, Range] = Field(default={}, description="field of the recipe to its range")
    overrides: list[TuneOverride] = Field(default=[], description="other ranges for some levels")
    draws: Count = Field(default=8, description="points tried in each cell and study")
    per: Names | None = Field(
        default=None, description="factors: cells that agree on them share one tuning; null: every cell its own"
    )
    once: bool = Field(default=False, description="tune in the first study alone; claims are then conditional on it")
    sampler: Literal["sobol", "random", "tpe"] = Field(
        default="sobol", description="sobol and random: the same points in every cell; tpe: adapts, and is sequential"
    )
    batch: Count = Field(default=1, description="tpe: draws proposed together")
    startup: Count = Field(default=4, description="tpe: Sobol points before the first proposal")
    pruner: Annotated[Pruner, BeforeValidator(_pruner)] = Field(
        default=Pruner(asha=Asha()), description="whether and how draws end early"
    )
    exempt: float = Field(default=0.25, ge=0, le=1, description="share of draws that is never pruned")


class Studies(_Strict):
    """Independent repetitions of the whole experiment. Short: `studies: 5`."""

    count: Count = Field(default=5, description="how many; the n of every test")
    resplit: bool = Field(default=False, description="each study has its own train/valid split")


class FoldsModel(_Strict):
    """Outer test folds; everything is chosen inside a fold's training part. Short: `folds: speaker`."""

    by: Literal["speaker", "dialogue", "session"] = Field(description="what a fold leaves out")
    count: Annotated[int, Field(ge=2, le=MOST)] | None = Field(
        default=None, description="null: leave one group out at a time"
    )


def _folds(value: Any) -> Any:
    return {"by": value} if isinstance(value, str) else value


def _studies(value: Any) -> Any:
    return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


class ConditionModel(MissingConfig):
    """A missing-modality protocol at test time. A list of rates is one condition for each."""

    name: str | None = Field(default=None, description="what tables call it; null: made from the protocol")


def _condition(value: Any) -> Any:
    if value == "complete":
        return {"name": "complete"}
    if isinstance(value, dict) and "protocol" not in value and "available" in value:
        return {**value, "protocol": "pattern"}
    return value


def _conditions(value: Any) -> Any:
    """`{protocol: random, rate: [0.1, 0.3]}` is one condition for each rate."""
    if not isinstance(value, list):
        return value
    found: list[Any] = []
    for item in value:
        rates = item.get("rate") if isinstance(item, dict) else None
        found += [{**item, "rate": rate} for rate in rates] if isinstance(rates, list) else [item]
    return [_condition(item) for item in found]


class Comparison(_Strict):
    """One of: each (a factor: every level against the baseline's), a and b, interaction (two levels of two factors)."""

    name: str | None = Field(
        default=None, description="what the plan calls it, and tables where levels alone do not say it"
    )
    each: str | None = Field(default=None, description="a factor: every other level against the baseline's")
    a: dict[str, Scalar] | None = Field(default=None, description="factor to level: the first of the two")
    b: dict[str, Scalar] | None = Field(default=None, description="factor to level: what it is compared with")
    interaction: dict[str, list[Scalar]] | None = Field(
        default=None, description="two factors, two levels each: does one's effect depend on the other?"
    )
    equivalence: float | None = Field(
        default=None, gt=0, description="a margin, as a share (0.01 is a point): is the difference smaller than that?"
    )
    metric: Metric | None = Field(default=None, description="null: those of `contrasts.metrics`")
    condition: str | None = Field(default=None, description="null: those of `contrasts.conditions`")
    scope: Literal["this test set", "new dialogues", "new speakers", "new corpora"] | None = Field(
        default=None, description="null: that of `contrasts.scope`"
    )

    @model_validator(mode="after")
    def _check(self) -> Comparison:
        forms = (self.each is not None, self.a is not None or self.b is not None, self.interaction is not None)
        if sum(forms) != 1:
            raise ValueError("give exactly one of: each; a and b; interaction")
        if forms[1] and (self.a is None or self.b is None):
            raise ValueError("a comparison needs both a and b")
        if self.interaction is not None and (
            len(self.interaction) != 2 or any(len(levels) != 2 for levels in self.interaction.values())
        ):
            raise ValueError("an interaction takes two factors with two levels each")
        return self


class Contrasts(_Strict):
    """Everything that is claimed; all of it forms the family that Holm's correction runs over."""

    compare: list[Annotated[Comparison, BeforeValidator(lambda v: {"each": v} if isinstance(v, str) else v)]] = Field(
        default=[], description="the comparisons; a factor's name is short for `{each: factor}`"
    )
    test: Literal["paired_t", "sign_flip", "wilcoxon"] = Field(
        default="paired_t", description="the decisive test, over paired studies"
    )
    family: str = Field(default="main", description="name of the family")
    alpha: float = Field(default=0.05, gt=0, lt=1, description="level of the family's errors; intervals have 1 - alpha")
    metrics: Annotated[list[Metric], BeforeValidator(_as_list)] | None = Field(
        default=None, description="metrics that are claimed; null: the space's metric"
    )
    conditions: Names | None = Field(default=None, description="conditions that are claimed; null: complete")
    scope: Literal["this test set", "new dialogues", "new speakers", "new corpora"] = Field(
        default="this test set", description="what the claims are about"
    )
    sd: float | None = Field(default=None, gt=0, description="expected sd of a paired difference, for the plan's power")


def _contrasts(value: Any) -> Any:
    return {"compare": value} if isinstance(value, list) else value


_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _bytes(value: Any) -> Any:
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]*)?)\s*([KMGT]?)i?B?\s*", value) if isinstance(value, str) else None
    return int(float(found[1]) * _SIZES[found[2]]) if found else value


class ResourcesModel(_Strict):
    """What one trial gets."""

    cpus: float = Field(default=1.0, gt=0, le=MOST, description="processors")
    gpus: Annotated[float, Field(ge=0, le=MOST)] | Literal["auto"] = Field(
        default=0.0, description="a share of one GPU, whole GPUs, or auto"
    )
    memory: Annotated[Annotated[int, Field(gt=0)] | None, BeforeValidator(_bytes)] = Field(
        default=None, description="bytes, or 4GB"
    )
    threads: Count = Field(default=1, description="CPU threads of a trial; part of the recipe")


class BundleModel(_Strict):
    """Trials of a cell that are trained in one step."""

    size: Count = Field(default=8, description="trials in one step at most; 1: each alone")
    studies: Count = Field(default=4, description="studies that are planned together, so that confirms can be")


def _bundle(value: Any) -> Any:
    if value is False or value == "none":
        return "off"
    if isinstance(value, bool) or (isinstance(value, str) and value not in ("auto", "off")):
        raise ValueError("give auto, off, a number of trials, or {size: ..., studies: ...}")
    return {"size": value} if isinstance(value, int) else value


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: Any) -> Any:
    """`90`, `30m`, `1h30m`, `2d` as seconds; anything else unchanged.

    >>> seconds("1h30m")
    5400.0
    """
    if isinstance(value, str) and re.fullmatch(r"([0-9]{1,15}(\.[0-9]+)?[smhd]){1,4}", value):
        return sum(float(n) * _UNITS[u] for n, u in re.findall(r"([0-9.]+)([smhd])", value))
    return value


class LimitsModel(_Strict):
    """When a run ends although its plan is not done; the same command goes on."""

    time: Annotated[float | None, BeforeValidator(seconds)] = Field(default=None, gt=0, description="seconds, or 2h")
    trials: int | None = Field(default=None, ge=1, description="trials of one run")
    price_per_hour: float | None = Field(default=None, ge=0, description="of one worker, for the plan's estimate")
    currency: str = Field(default="USD", description="of that price")


class Space(_Strict):
    """A space file. `base` and `factors` hold recipe fields and are checked by `experiments.space.design`."""

    description: str = Field(default="", description="what is compared and why, for its readers")
    corpora: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default=["demo"], min_length=1, description="names or folders; `--data` replaces them"
    )
    weights: Literal["auto", "pretrained", "tiny", "scratch"] = Field(
        default="auto",
        description="of encoders that leave it open; auto: tiny random ones on a synthetic corpus, released ones on "
        "any other",
    )
    base: dict[str, Any] = Field(description="fields of the recipe that all cells have in common")
    factors: dict[str, Any] = Field(
        default={}, description="what is compared: a list of values for a field, or named bundles of fields"
    )
    baseline: dict[str, Scalar] = Field(
        default={}, description="the level that others are held against, by factor; by default the first of each"
    )
    design: Annotated[Design, BeforeValidator(_design)] = Field(
        default=Design(), description="which combinations of levels become cells"
    )
    exclude: list[Rule] = Field(default=[], description="cells that are not run, with the reason")
    tune: Tune = Field(default=Tune(), description="hyperparameters, and how they are searched")
    studies: Annotated[Studies, BeforeValidator(_studies)] = Field(
        default=Studies(), description="independent repetitions of the whole experiment"
    )
    bundle: Annotated[Literal["auto", "off"] | BundleModel, BeforeValidator(_bundle)] = Field(
        default="auto", description="train several trials of a cell in one step, where that pays; a number: so many"
    )
    folds: Annotated[FoldsModel | None, BeforeValidator(_folds)] = Field(
        default=None, description="outer test folds; null: the corpus's own test split"
    )
    conditions: Annotated[list[ConditionModel], BeforeValidator(_conditions)] = Field(
        default=[], description="test-time situations that confirmed models are scored under, beside `complete`"
    )
    contrasts: Annotated[Contrasts, BeforeValidator(_contrasts)] = Field(
        default=Contrasts(), description="what is claimed; a list is short for `{compare: [...]}`"
    )
    metric: Metric = Field(default="ua", description="picks epochs and draws, and is the first column of every table")
    resources: ResourcesModel = Field(default=ResourcesModel(), description="what one trial gets")
    limits: LimitsModel = Field(default=LimitsModel(), description="when a run ends although its plan is not done")
    keep: Literal["best", "all", "none"] = Field(
        default="best",
        description="models of the confirm stage; best: of the best validation epoch; all: of the last epoch too",
    )
