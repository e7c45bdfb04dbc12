"""What a space file may say. Shorthands are unfolded first, so that every part has one form and one message."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from experiments.slots import Scalar
from experiments.space.yaml_text import Document
from mer.errors import UserError, UserErrors, unknown
from mer.recipe import Metric, MissingConfig


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float | bool | dict) else value


def _level_lists(value: Any) -> Any:
    return {key: _as_list(item) for key, item in value.items()} if isinstance(value, dict) else value


Names = Annotated[list[str], BeforeValidator(_as_list)]
Selection = Annotated[dict[str, list[Scalar]], BeforeValidator(_level_lists)]
"""Factor to level or levels."""


class Design(_Strict):
    """kind: full (every combination) | one_factor (around the baseline) | fraction (a balanced part of full) | list.

    interactions   with one_factor: sets of factors whose levels are crossed, the others at the baseline; a factor's
                   levels may be named to cross only those
    share          with fraction: how much of the full grid
    cells          with list: levels by factor; a factor left out is at the baseline
    """

    kind: Literal["full", "one_factor", "fraction", "list"] = "full"
    interactions: list[Annotated[dict[str, list[Scalar] | None], BeforeValidator(lambda v: _interaction(v))]] = []
    share: float = Field(default=1.0, gt=0, le=1)
    cells: list[dict[str, Scalar]] = []


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

    when: Selection = Field(min_length=1)
    reason: str = Field(min_length=1)


class Range(_Strict):
    """One of: loguniform, uniform, int, logint (each [low, high]), choice (a list)."""

    loguniform: list[float] | None = None
    uniform: list[float] | None = None
    int_: list[int] | None = Field(default=None, alias="int")
    logint: list[int] | None = None
    choice: list[Scalar] | None = None

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
        return self

    def kinds(self) -> dict[str, Any]:
        return {
            "loguniform": self.loguniform, "uniform": self.uniform, "int": self.int_, "logint": self.logint,
            "choice": self.choice,
        }  # fmt: skip


class TuneOverride(_Strict):
    """For cells that match: other ranges, further parameters, or null for one that is not tuned there."""

    when: Selection = Field(min_length=1)
    parameters: dict[str, Range | None] = Field(min_length=1)


class Asha(_Strict):
    grace: int = Field(default=2, ge=1, description="epochs before the first judgement")
    eta: float = Field(default=4.0, gt=1, description="one in eta goes on")


class Pruner(_Strict):
    asha: Asha | None = None


def _pruner(value: Any) -> Any:
    return {"asha": {}} if value == "asha" else {} if value == "none" else value


class Tune(_Strict):
    parameters: dict[str, Range] = {}
    overrides: list[TuneOverride] = []
    draws: int = Field(default=8, ge=1)
    per: Names | None = None
    once: bool = False
    sampler: Literal["sobol", "random", "tpe"] = "sobol"
    batch: int = Field(default=1, ge=1, description="tpe: draws proposed together")
    startup: int = Field(default=4, ge=1, description="tpe: Sobol points before the first proposal")
    pruner: Annotated[Pruner, BeforeValidator(_pruner)] = Pruner(asha=Asha())
    exempt: float = Field(default=0.25, ge=0, le=1, description="share of draws that is never pruned")


class Studies(_Strict):
    count: int = Field(default=5, ge=1)
    resplit: bool = Field(default=False, description="each study has its own train/valid split")


class FoldsModel(_Strict):
    by: Literal["speaker", "dialogue", "session"]
    count: int | None = Field(default=None, ge=2, description="null: leave one group out at a time")


def _folds(value: Any) -> Any:
    return {"by": value} if isinstance(value, str) else value


def _studies(value: Any) -> Any:
    return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


class ConditionModel(MissingConfig):
    """A missing-modality protocol at test time, with the name that tables show."""

    name: str | None = None


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

    name: str | None = None
    each: str | None = None
    a: dict[str, Scalar] | None = None
    b: dict[str, Scalar] | None = None
    interaction: dict[str, list[Scalar]] | None = None
    equivalence: float | None = Field(default=None, gt=0, description="margin, in the metric's unit (0.01: a point)")
    metric: Metric | None = None
    condition: str | None = None
    scope: Literal["this test set", "new dialogues", "new speakers", "new corpora"] | None = None

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
    """Everything that is claimed. All of it forms one family unless `family` says otherwise."""

    compare: list[Annotated[Comparison, BeforeValidator(lambda v: {"each": v} if isinstance(v, str) else v)]] = []
    test: Literal["paired_t", "sign_flip", "wilcoxon"] = "paired_t"
    family: str = "main"
    alpha: float = Field(default=0.05, gt=0, lt=1)
    metrics: Annotated[list[Metric], BeforeValidator(_as_list)] | None = None
    conditions: Names | None = None
    scope: Literal["this test set", "new dialogues", "new speakers", "new corpora"] = "this test set"
    sd: float | None = Field(default=None, gt=0, description="expected sd of a paired difference, for the plan's power")


def _contrasts(value: Any) -> Any:
    return {"compare": value} if isinstance(value, list) else value


_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _bytes(value: Any) -> Any:
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)i?B?\s*", value) if isinstance(value, str) else None
    return int(float(found[1]) * _SIZES[found[2]]) if found else value


class ResourcesModel(_Strict):
    cpus: float = Field(default=1.0, gt=0)
    gpus: float | Literal["auto"] = Field(default=0.0, description="a share of one GPU, whole GPUs, or auto")
    memory: Annotated[int | None, BeforeValidator(_bytes)] = Field(default=None, description="bytes, or 4GB")
    threads: int = Field(default=1, ge=1, description="CPU threads of a trial; part of the recipe")


class BundleModel(_Strict):
    """Trials of a cell that are trained in one step."""

    size: int = Field(default=8, ge=1, description="trials in one step at most; 1: each alone")
    studies: int = Field(default=4, ge=1, description="studies that are planned together, so that confirms can be")


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
    if isinstance(value, str) and re.fullmatch(r"([0-9]+(\.[0-9]+)?[smhd])+", value):
        return sum(float(n) * _UNITS[u] for n, u in re.findall(r"([0-9.]+)([smhd])", value))
    return value


class LimitsModel(_Strict):
    time: Annotated[float | None, BeforeValidator(seconds)] = Field(default=None, gt=0, description="seconds, or 2h")
    trials: int | None = Field(default=None, ge=1)
    price_per_hour: float | None = Field(default=None, ge=0)
    currency: str = "USD"


class Space(_Strict):
    """A space file. `base` and `factors` hold recipe fields and are checked by `experiments.space.design`."""

    description: str = ""
    corpora: Annotated[list[str], BeforeValidator(_as_list)] = Field(default=["demo"], min_length=1)
    weights: Literal["auto", "pretrained", "tiny", "scratch"] = "auto"
    base: dict[str, Any]
    factors: dict[str, Any] = {}
    baseline: dict[str, Scalar] = {}
    design: Annotated[Design, BeforeValidator(_design)] = Design()
    exclude: list[Rule] = []
    tune: Tune = Tune()
    studies: Annotated[Studies, BeforeValidator(_studies)] = Studies()
    bundle: Annotated[Literal["auto", "off"] | BundleModel, BeforeValidator(_bundle)] = "auto"
    folds: Annotated[FoldsModel | None, BeforeValidator(_folds)] = None
    conditions: Annotated[list[ConditionModel], BeforeValidator(_conditions)] = []
    contrasts: Annotated[Contrasts, BeforeValidator(_contrasts)] = Contrasts()
    metric: Metric = "ua"
    direction: Literal["max", "min"] = "max"
    resources: ResourcesModel = ResourcesModel()
    limits: LimitsModel = LimitsModel()
    keep: Literal["best", "all", "none"] = "best"


def read_space(document: Document) -> Space:
    """A document as a space; every mistake with its line, all of them at once."""
    if not isinstance(document.data, dict):
        raise UserError("expected a mapping with corpora, base, factors, ...", where=document.where())
    try:
        return Space.model_validate(document.data)
    except ValidationError as error:
        found = [_as_user_error(problem, document) for problem in error.errors()]
    raise found[0] if len(found) == 1 else UserErrors(found)


def _as_user_error(problem: Any, document: Document) -> UserError:
    path = _known_path(problem["loc"], document)
    where = document.where(*path)
    name = ".".join(str(part) for part in path)
    kind = problem["type"]
    if kind == "extra_forbidden":
        return unknown(f"key of {'.'.join(map(str, path[:-1])) or 'a space'}", path[-1], _keys_at(path[:-1]), where)
    if kind == "missing":
        return UserError(f"{'.'.join(str(part) for part in problem['loc'])} is missing", where=where)
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind == "value_error":
        return UserError(f"{name}: {message}", where=where)
    shown = repr(problem["input"])
    return UserError(f"{name}: {message}, found {shown if len(shown) < 60 else shown[:57] + '...'}", where=where)


def _known_path(loc: tuple[str | int, ...], document: Document) -> tuple[str | int, ...]:
    """The part of pydantic's location that exists in the document (it adds names of types and unfolded forms)."""
    found: list[str | int] = []
    data = document.data
    for part in loc:
        if isinstance(data, dict) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        found.append(part)
    return tuple(found)


def _keys_at(path: tuple[str | int, ...]) -> list[str]:
    """The keys that a space may have at a path."""
    import typing

    model: Any = Space
    for part in path:
        if isinstance(part, int) or not hasattr(model, "model_fields"):
            continue
        info = model.model_fields.get(part)
        if info is None:
            continue
        models = [kind for kind in _leaves(info.annotation, typing) if hasattr(kind, "model_fields")]
        model = models[0] if models else model
    return [info.alias or name for name, info in model.model_fields.items()]


def _leaves(annotation: Any, typing: Any) -> list[Any]:
    inner = typing.get_args(annotation)
    return [leaf for part in inner for leaf in _leaves(part, typing)] if inner else [annotation]
