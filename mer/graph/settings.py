"""What can be set in CADGL: parts, sizes, weights. Read from any object or mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mer.errors import UserError, unknown

SOLVERS = ("rk4", "midpoint", "euler", "dopri5")


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults follow the published configuration where it states a value.

    Parts: `graph` (with `similarity_edges`), `reconstruction`, `alignment`, `ode`, `consistency`. Without the graph
    there are no edges at all, the ODE's included.
    """

    hidden: int = 512
    graph: bool = True
    similarity_edges: bool = True
    reconstruction: bool = True
    alignment: bool = True
    ode: bool = True
    consistency: bool = True
    window_past: int | None = 10
    window_future: int | None = 10
    layers: int = 2
    neighbours: int = 4
    dropout: float = 0.3
    solver: str = "rk4"
    step: float = 0.25
    adjoint: bool = False
    tolerance: float = 1e-5
    time: str = "turn"
    drop_rate: float = 0.3
    noise: float = 0.0
    curriculum: int = 0
    temperature: float = 1.0
    lambda_classification: float = 1.0
    lambda_reconstruction: float = 0.5
    lambda_alignment: float = 0.1
    lambda_consistency: float = 0.5

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise unknown("solver", self.solver, SOLVERS)
        if self.time not in ("turn", "given"):
            raise unknown("time", self.time, ("turn", "given"))
        for name, low, high in (("dropout", 0, 1), ("drop_rate", 0, 1)):
            value = getattr(self, name)
            if not low <= value < high:
                raise UserError(f"{name} is {value}", expected=f"at least {low} and less than {high}")
        check_window(self.window_past, self.window_future)
        for name in ("curriculum", "layers", "noise"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}", expected="0 or more")
        for name in ("hidden", "neighbours", "step", "tolerance", "temperature"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}", expected="more than 0")
        if self.step > 1:
            raise UserError(f"step is {self.step}", expected="at most 1, the length of the integration")


def check_window(past: int | None, future: int | None) -> None:
    """Refuse negative windows."""
    for name, width in (("window_past", past), ("window_future", future)):
        if width is not None and width < 0:
            raise UserError(f"{name} is {width}", expected="0 or more utterances, or null for the whole dialogue")


def from_config(config: Any, renamed: Mapping[str, str]) -> Settings:
    """Settings from the attributes or keys of `config` that bear their names; everything else is the caller's.

    `renamed` maps other spellings to ours (`hidden_dim` to `hidden`). A null weight means "the default", as in the
    published configuration file.
    """
    given: dict[str, Any] = {}
    for name in [field.name for field in fields(Settings)] + list(renamed):
        value = read(config, name)
        if value is not None or (name.startswith("window_") and has(config, name)):
            given[renamed.get(name, name)] = value
    return Settings(**given)


def has(config: Any, name: str) -> bool:
    return name in config if isinstance(config, Mapping) else hasattr(config, name)


def read(config: Any, name: str, default: Any = None) -> Any:
    return config.get(name, default) if isinstance(config, Mapping) else getattr(config, name, default)
