"""The recipe: the fully resolved configuration of one trial. What is trained and how; no names, no resources.

Nothing here imports torch, so that spaces are validated and plans are made at once.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LevelConfig(BaseModel):
    """A level by name; every further key is a parameter of that level (checked against its declaration).

    `fusion: tacfn` is short for `fusion: {name: tacfn}`.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)
    name: str

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class EncoderConfig(LevelConfig):
    """An encoder for one modality.

    weights  pretrained (hub or local path) | tiny (random, same architecture; demo and tests) | scratch;
             null: pretrained where the level has released weights, scratch where it has none (fourier2vec, words)
    train    frozen (runs once, through the feature store) | last_k | gradual | full;
             null: frozen with weights, full from scratch
    """

    weights: Literal["pretrained", "tiny", "scratch"] | None = None
    checkpoint: str | None = None
    revision: str | None = None
    train: Literal["frozen", "last_k", "gradual", "full"] | None = None
    last_k: int = Field(default=2, ge=1)


Named = Annotated[LevelConfig, BeforeValidator(_from_name)]
NamedEncoder = Annotated[EncoderConfig, BeforeValidator(_from_name)]


class Projection(_Strict):
    dim: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Classifier(_Strict):
    hidden: tuple[int, ...] = Field(default=(64,), strict=False)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    activation: Literal["relu", "gelu", "tanh"] = "relu"


class Loss(_Strict):
    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: float = Field(default=2.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"


class Sampler(_Strict):
    name: str = "plain"
    batch_size: int = Field(default=32, ge=1)
    alpha: float = Field(default=0.03, ge=0, description="seconds that one word counts for in the mixed length")
    bucket: int = Field(default=8, ge=1, description="batches per bucket that is sorted by length")
    class_power: float = Field(default=1.0, ge=0, le=1, description="0: no class balancing, 1: full")
    length_power: float = Field(default=0.0, ge=0, le=1, description="how strongly rare lengths are favoured")


class MissingConfig(_Strict):
    """One missing-modality protocol. `none` leaves every utterance with what the corpus has of it.

    `mer.data.missing` says what each does; `module:attr` names one from outside.
    """

    protocol: (
        Literal["none", "random", "pattern", "sample", "per_modality", "file"]
        | Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    ) = "none"
    rate: float = Field(default=0.0, ge=0, le=1)
    available: tuple[str, ...] | None = Field(default=None, strict=False, description="pattern: what is kept")
    rates: dict[str, float] | None = Field(default=None, description="per_modality: a rate each")
    file: str | None = Field(default=None, description="file: frozen masks (.json), or an array of others (.npy)")
    axis: Literal["utterances", "modalities"] | None = Field(default=None, description=".npy: its first axis")
    polarity: Literal["available", "missing"] | None = Field(default=None, description=".npy: what 1 means")
    order: tuple[str, ...] | None = Field(default=None, strict=False, description=".npy: modalities, in its order")
    ids: str | None = Field(default=None, description=".npy: a text file with its utterance ids, one a line")


class Missing(_Strict):
    """Train-time and validation-time missing are separate; `valid: null` means as in training."""

    train: MissingConfig = MissingConfig()
    valid: MissingConfig | None = None


class Optimizer(_Strict):
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    encoder_lr: float | None = Field(default=None, gt=0, description="trained encoders; null: as lr")
    head_lr: float | None = Field(default=None, gt=0, description="classifier; null: as lr")
    grad_clip: float = Field(default=1.0, ge=0, description="0: none")
    accumulate: int = Field(default=1, ge=1)


class Schedule(_Strict):
    name: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of all steps")
    factor: float = Field(default=0.5, gt=0, lt=1)
    patience: int = Field(default=3, ge=0)


Metric = Literal["wa", "ua", "weighted_f1", "macro_f1"]


class Training(_Strict):
    epochs: int = Field(default=20, ge=1)
    patience: int | None = Field(default=None, ge=1, description="early stopping, in epochs")
    metric: Metric = "ua"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: int = Field(default=1, ge=1, description="CPU threads; they change the last bits, so they are recipe")


class Bundle(_Strict):
    """Where a trial stands in a bundle: several trials trained in one step round differently from one alone.

    layout  digest of everything that the members' last bits depend on: who they are, in which order, and when each
            may be stopped
    """

    layout: str
    size: int = Field(ge=2)
    index: int = Field(ge=0)


class Recipe(_Strict):
    """Everything that can change a number, and nothing that cannot."""

    encoders: dict[str, NamedEncoder] = Field(min_length=1, description="modality to encoder")
    projection: Projection = Projection()
    fusion: Named = LevelConfig(name="concat")
    pooling: Named = LevelConfig(name="mean")
    context: Named = LevelConfig(name="none")
    classifier: Classifier = Classifier()
    loss: Loss = Loss()
    sampler: Sampler = Sampler()
    missing: Missing = Missing()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    training: Training = Training()
    replica: int = Field(default=0, ge=0, description="cells that are meant to be the same differ by this alone")
    bundle: Bundle | None = Field(default=None, description="set by the plan, never by a space: see `bundle:` there")

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)

    def canonical(self) -> dict[str, Any]:
        """The recipe minus its defaults, ready for hashing: adding a field with a default changes no identity."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        return found

    def digest(self) -> str:
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
