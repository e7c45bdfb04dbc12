"""A tuned hyperparameter: where it goes in the recipe, and how a number in (0, 1) becomes its value."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from experiments.slots import Scalar
from experiments.space.sobol import point


@dataclass(frozen=True)
class Hyper:
    """kind: uniform | loguniform | int | logint | choice. `choices` for the last, `low` and `high` for the others."""

    path: str
    kind: str
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Scalar, ...] = ()

    def value(self, unit: float) -> Scalar:
        """The value at a point of (0, 1). Floats are rounded to 6 digits, so that they read well and hash alike.

        >>> Hyper("optimizer.lr", "loguniform", 1e-4, 1e-2).value(0.5)
        0.001
        >>> [Hyper("loss.name", "choice", choices=("focal", "cross_entropy")).value(u) for u in (0.1, 0.9)]
        ['focal', 'cross_entropy']
        """
        if self.kind == "choice":
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "int":
            return min(int(self.low) + int(unit * (self.high - self.low + 1)), int(self.high))
        if self.kind == "logint":
            low, high = math.log(self.low), math.log(self.high + 1)
            return min(int(math.exp(low + unit * (high - low))), int(self.high))
        if self.kind == "loguniform":
            low, high = math.log(self.low), math.log(self.high)
            value = math.exp(low + unit * (high - low))
        else:
            value = self.low + unit * (self.high - self.low)
        return min(max(float(f"{value:.6g}"), self.low), self.high)


@functools.lru_cache(maxsize=65536)
def _unit(seed: int, path: str, k: int) -> float:
    return point(seed, path, k)


def sobol_value(hyper: Hyper, seed: int, k: int) -> Scalar:
    """Point k of a study's scrambled Sobol sequence for this hyperparameter."""
    return hyper.value(_unit(seed, hyper.path, k))
