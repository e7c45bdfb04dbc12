"""The recipe: the fully resolved configuration of one trial. What is trained and how; no names, no resources.

Nothing here imports torch, so that spaces are validated and plans are made at once.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from mer import levels
from mer.errors import UserError, unknown


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LevelConfig(BaseModel):
    """A level by name; every further key is a parameter of that level (checked against its declaration).

    `fusion: tacfn` is short for `fusion: {name: tacfn}`.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)
    name: str = Field(description="a level of this project's tables, or `module:Class` of one outside")

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class EncoderConfig(LevelConfig):
    """An encoder for one modality; every further key is a parameter of that encoder."""

    weights: Literal["pretrained", "tiny", "scratch"] | None = Field(
        default=None,
        description="pretrained: from the hub or a folder; tiny: random, the same architecture made small, for demo "
        "and tests; scratch: random, and trained; null: pretrained where weights are released, scratch where not",
    )
    checkpoint: str | None = Field(
        default=None, description="a model of the hub or a local folder, in place of the default"
    )
    revision: str | None = Field(default=None, description="a commit of the hub's model, in place of the pinned one")
    train: Literal["frozen", "last_k", "gradual", "full"] | None = Field(
        default=None,
        description="frozen: runs once, through the feature store; last_k: its last layers learn; gradual: one more "
        "layer at a time; full: everything learns; null: frozen with weights, full from scratch",
    )
    last_k: int = Field(default=2, ge=1, description="layers that learn with `train: last_k`")


Named = Annotated[LevelConfig, BeforeValidator(_from_name)]
NamedEncoder = Annotated[EncoderConfig, BeforeValidator(_from_name)]


def _named_in(kind: str) -> tuple[Any, ...]:
    """The name of a level of a kind, or `module:attr` of one outside. The names are those of the kind's table alone, so
    that a new level changes no line here, which every trial's code is said to use."""

    def check(name: str) -> str:
        known = levels.table(levels.KINDS[kind][0])
        if name not in known and not re.fullmatch(r"[\w.]+:\w+", name):
            raise ValueError(unknown(kind, name, known).args[0])
        return name

    known = list(levels.table(levels.KINDS[kind][0]))
    outside = {"pattern": r"^[\w.]+:\w+$", "type": "string"}
    return AfterValidator(check), WithJsonSchema({"anyOf": [{"enum": known, "type": "string"}, outside]})


LossName = Annotated[(str, *_named_in("loss"))]
Protocol = Annotated[(str, *_named_in("missing"))]


class Projection(_Strict):
    """Every modality on its way to the fusion: drop(LN(W x + b)), to a common width."""

    dim: int = Field(default=128, ge=1, le=levels.WIDEST, description="the common width D")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of the projected values that is dropped")


class Classifier(_Strict):
    """The head: an MLP from the pooled vector to one logit per class."""

    hidden: tuple[Annotated[int, Field(strict=True, ge=1, le=levels.WIDEST)], ...] = Field(
        default=(64,), max_length=64, strict=False, description="widths of its hidden layers; []: linear"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="after every hidden layer")
    activation: Literal["relu", "gelu", "tanh"] = Field(default="relu", description="after every hidden layer")


class Loss(_Strict):
    """`mer.losses` says what each is; `module:attr` names one from outside."""

    name: LossName = Field(default="cross_entropy", description="a loss, or `module:Class` of one outside")
    gamma: float = Field(default=2.0, ge=0, description="focal: how fast the weight of what is easy falls")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread over all classes")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: inverse to the class's share of the training rows"
    )
    options: dict[str, float | int | bool | str] = Field(default={}, description="of a loss from outside")


class Sampler(_Strict):
    """Which utterances form the batches of an epoch."""

    name: str = Field(default="plain", description="a sampler, or `module:Class` of one outside")
    batch_size: int = Field(default=32, ge=1, description="utterances; with whole dialogues, about so many")
    alpha: float = Field(default=0.03, ge=0, description="seconds that one word counts for in the mixed length")
    bucket: int = Field(default=8, ge=1, description="batches per bucket that is sorted by length")
    class_power: float = Field(default=1.0, ge=0, le=1, description="0: no class balancing, 1: full")
    length_power: float = Field(default=0.0, ge=0, le=1, description="how strongly rare lengths are favoured")


class MissingConfig(_Strict):
    """One missing-modality protocol. `none` leaves every utterance with what the corpus has of it.

    `mer.data.missing` says what each does; `module:attr` names one from outside.
    """

    protocol: Protocol = Field(
        default="none", description="how modalities go missing, or `module:function` of a protocol outside"
    )
    rate: float = Field(
        default=0.0, ge=0, le=1, description="random: share of all modalities; sample: share of utterances"
    )
    available: tuple[str, ...] | None = Field(default=None, strict=False, description="pattern: what is kept")
    rates: dict[str, float] | None = Field(default=None, description="per_modality: a rate each")
    file: str | None = Field(default=None, description="file: frozen masks (.json), or an array of others (.npy)")
    axis: Literal["utterances", "modalities"] | None = Field(default=None, description=".npy: its first axis")
    polarity: Literal["available", "missing"] | None = Field(default=None, description=".npy: what 1 means")
    order: tuple[str, ...] | None = Field(default=None, strict=False, description=".npy: modalities, in its order")
    ids: str | None = Field(default=None, description=".npy: a text file with its utterance ids, one a line")


class Missing(_Strict):
    """Train-time and validation-time missing are separate; `valid: null` means as in training."""

    train: MissingConfig = Field(default=MissingConfig(), description="fresh masks in every epoch")
    valid: MissingConfig | None = Field(default=None, description="frozen masks; null: the protocol of training")


class Optimizer(_Strict):
    """How a step is made of gradients."""

    name: Literal["adamw", "adam", "sgd"] = Field(default="adamw", description="sgd has a momentum of 0.9")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=1e-2, ge=0, description="not of biases and norms")
    encoder_lr: float | None = Field(default=None, gt=0, description="trained encoders; null: as lr")
    head_lr: float | None = Field(default=None, gt=0, description="classifier; null: as lr")
    grad_clip: float = Field(default=1.0, ge=0, description="largest norm of all gradients together; 0: none")
    accumulate: int = Field(default=1, ge=1, description="batches per step")


class Schedule(_Strict):
    """The learning rate over time, a function of training progress."""

    name: Literal["constant", "cosine", "plateau"] = Field(
        default="cosine", description="cosine falls to 0; plateau falls where validation stops improving"
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of all steps in which the rate rises from 0")
    factor: float = Field(default=0.5, gt=0, lt=1, description="plateau: what the rate is multiplied by")
    patience: int = Field(default=3, ge=0, description="plateau: epochs without progress before it falls")


Metric = Literal["wa", "ua", "weighted_f1", "macro_f1"]


class Training(_Strict):
    """How long, on what, and which epoch is kept."""

    epochs: int = Field(default=20, ge=1, description="the full budget")
    patience: int | None = Field(
        default=None, ge=1, description="early stopping: epochs without a better validation score; null: never"
    )
    metric: Metric = Field(default="ua", description="the validation metric that picks the best epoch")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of the model; losses are fp32")
    threads: int = Field(default=1, ge=1, description="CPU threads; they change the last bits, so they are recipe")


class Bundle(_Strict):
    """Where a trial stands in a bundle: several trials trained in one step round differently from one alone.

    Written by a plan, not by hand.
    """

    layout: str = Field(
        description="digest of all that its members' last bits depend on: who they are, their order, when each may end"
    )
    size: int = Field(ge=2, description="how many trials are trained together")
    index: int = Field(ge=0, description="which of them this is")


class Recipe(_Strict):
    """Everything that can change a number, and nothing that cannot."""

    encoders: dict[str, NamedEncoder] = Field(min_length=1, description="modality to encoder")
    modalities: tuple[str, ...] = Field(
        default=(), strict=False, description="all of them, in the order in which they are fused; []: as in `encoders`"
    )
    projection: Projection = Field(default=Projection(), description="each modality to the common width")
    fusion: Named = Field(default=LevelConfig(name="concat"), description="one sequence from several")
    pooling: Named = Field(default=LevelConfig(name="mean"), description="one vector from the fused sequence")
    context: Named = Field(default=LevelConfig(name="none"), description="a pass over the utterances of a dialogue")
    classifier: Classifier = Field(default=Classifier(), description="logits from the vector")
    loss: Loss = Field(default=Loss(), description="what is minimised")
    sampler: Sampler = Field(default=Sampler(), description="which utterances form a batch")
    missing: Missing = Field(default=Missing(), description="modalities taken away in training and validation")
    optimizer: Optimizer = Field(default=Optimizer(), description="how a step is made of gradients")
    schedule: Schedule = Field(default=Schedule(), description="the learning rate over time")
    training: Training = Field(default=Training(), description="how long, and which epoch is kept")
    replica: int = Field(default=0, ge=0, description="cells that are meant to be the same differ by this alone")
    bundle: Bundle | None = Field(default=None, description="set by the plan, never by a space: see `bundle:` there")

    @model_validator(mode="before")
    @classmethod
    def _in_order(cls, data: Any) -> Any:
        """The order of modalities is a sequence of its own, and the mapping's order is made to follow it."""
        if not isinstance(data, dict) or not isinstance(data.get("encoders"), dict):
            return data
        encoders, order = data["encoders"], data.get("modalities") or tuple(data["encoders"])
        if isinstance(order, list | tuple) and all(name in encoders for name in order if isinstance(name, str)):
            encoders = {name: encoders[name] for name in (*order, *encoders) if isinstance(name, str)}
        return {**data, "encoders": encoders, "modalities": order}

    @field_validator("modalities")
    @classmethod
    def _is_permutation(cls, order: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        encoders = info.data.get("encoders")
        if encoders is not None and sorted(order) != sorted(encoders):
            raise ValueError(f"must name each of {', '.join(sorted(encoders))} once")
        return order

    def named_levels(self) -> Iterator[tuple[str, str, str]]:
        """Every level that the recipe names: field, kind (`mer.levels.KINDS`), name."""
        for modality, encoder in self.encoders.items():
            yield f"encoders.{modality}", "encoder", encoder.name
        for kind, level in (("fusion", self.fusion), ("pooling", self.pooling), ("context", self.context)):
            yield kind, kind, level.name
        yield "sampler.name", "sampler", self.sampler.name
        yield "loss.name", "loss", self.loss.name
        for when, missing in (("train", self.missing.train), ("valid", self.missing.valid)):
            if missing is not None:
                yield f"missing.{when}.protocol", "missing", missing.protocol

    def canonical(self) -> dict[str, Any]:
        """The recipe minus its defaults, ready for hashing: adding a field with a default changes no identity.

        Modalities in alphabetical order are left out: every trial recorded before they had an order of their own was
        trained in that one.
        """
        found: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        if self.modalities == tuple(sorted(self.modalities)):
            found.pop("modalities", None)
        return found

    def digest(self) -> str:
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_recipe(data: object, where: str, allow_outside: Iterable[str] | None = ()) -> Recipe:
    """A recipe from stored data (a checkpoint, the ledger): the one way from there to a `Recipe`.

    No order of a mapping counts: where no order of modalities is stored, it is alphabetical (`Recipe.canonical`).
    Levels are those of this project's tables; what else the data name is refused before any of it is imported, unless
    it is in `allow_outside`, which a person has typed.

    Args:
        data: JSON text, or what it says.
        where: what messages point to.
        allow_outside: `module:attr` of levels from outside; None: any, for data of the user's own plan.

    >>> try:
    ...     read_recipe('{"encoders": {"text": "words"}, "fusion": "subprocess:call"}', "config.json")
    ... except UserError as error:
    ...     print(error.problem)
    fusion names code from outside this project: 'subprocess:call'
    """
    try:
        found = json.loads(data) if isinstance(data, str) else data
        if not isinstance(found, dict):
            raise UserError(f"a recipe of type {type(found).__name__}", where=where, expected="a mapping")
        encoders = found.get("encoders")
        if isinstance(encoders, dict) and "modalities" not in found and all(isinstance(name, str) for name in encoders):
            found = {**found, "modalities": sorted(encoders)}
        recipe = Recipe.model_validate(found, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
        raise UserError(f"recipe: {key}: {first['msg']}", where=where) from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise UserError(f"not a recipe: {error}", where=where) from None
    if allow_outside is not None:
        _check_levels(recipe, where, frozenset(allow_outside))
    return recipe


def _check_levels(recipe: Recipe, where: str, allowed: frozenset[str]) -> None:
    for field, kind, name in recipe.named_levels():
        table = levels.table(levels.KINDS[kind][0])
        if ":" in name and name not in allowed:
            raise UserError(
                f"{field} names code from outside this project: {name!r}",
                where=where,
                expected=f"one of {', '.join(table)}",
                hint=f"To import and run it: --allow-outside {name!r}. Do so only if you know what it is.",
            )
        target = levels.target(table, name, kind, where)
        level = recipe.encoders[field.partition(".")[2]] if kind == "encoder" else getattr(recipe, kind, None)
        if isinstance(level, LevelConfig):
            levels.check_parameters(target, level.params, kind, where)
        elif isinstance(level, Loss) and ":" in name:
            levels.check_parameters(target, level.options, kind, where)
        if ":" in name:
            print(f"note: {where} names {name!r}, from outside this project; it is imported", file=sys.stderr)
