"""Optuna behind `sampler: random | tpe`: ask/tell in memory, rebuilt from what is known, never stored.

A proposal is a pure function of (hyperparameters, settings, seed, draw, history): a new study is filled with the true
states of the earlier draws and asked once. Draws of one batch are asked together and do not see each other's results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from experiments.slots import Scalar, Status
from experiments.space.hyper import Hyper, sobol_value
from mer.errors import UserError
from mer.streams import derive

if TYPE_CHECKING:
    from experiments.space.plan import Tuning


@dataclass(frozen=True)
class Told:
    """How an earlier draw ended: COMPLETE with its value, PRUNED with what it had reached by epoch, or a failure."""

    params: Mapping[str, Scalar]
    status: Status
    value: float | None = None
    reached: Mapping[int, float] = field(default_factory=dict)


def known_before(tuning: Tuning, draw: int) -> int:
    """How many draws must have ended before this one can be proposed: all before its batch (0: none)."""
    if tuning.sampler != "tpe" or draw < tuning.startup:
        return 0
    return tuning.startup + (draw - tuning.startup) // tuning.batch * tuning.batch


def propose(
    hypers: Sequence[Hyper], tuning: Tuning, seed: int, draw: int, history: Sequence[Told], direction: str = "max"
) -> dict[str, Scalar]:
    """The hyperparameters of a draw. The first `startup` draws of TPE are the study's Sobol points."""
    if tuning.sampler == "tpe" and draw < tuning.startup:
        return {hyper.path: sobol_value(hyper, seed, draw) for hyper in hypers}
    optuna = _optuna()
    distributions = {hyper.path: _distribution(optuna, hyper) for hyper in hypers}
    if tuning.sampler == "random":
        sampler = optuna.samplers.RandomSampler(seed=derive(seed, "random", draw) % 2**32)
        return _ask(optuna, sampler, hypers, distributions, (), direction, skip=0)
    known = known_before(tuning, draw)
    if len(history) < known:
        raise ValueError(f"draw {draw} needs the results of {known} draws, got {len(history)}")
    sampler = optuna.samplers.TPESampler(
        seed=derive(seed, "tpe", known) % 2**32,
        n_startup_trials=0,
        multivariate=True,
        constant_liar=True,
    )
    return _ask(optuna, sampler, hypers, distributions, history[:known], direction, skip=draw - known)


def _ask(
    optuna: Any,
    sampler: Any,
    hypers: Sequence[Hyper],
    distributions: Mapping[str, Any],
    history: Sequence[Told],
    direction: str,
    skip: int,
) -> dict[str, Scalar]:
    study = optuna.create_study(sampler=sampler, direction="maximize" if direction == "max" else "minimize")
    states = optuna.trial.TrialState
    for told in history:
        params = {path: told.params[path] for path in distributions if path in told.params}
        common = {"params": params, "distributions": {path: distributions[path] for path in params}}
        if told.status is Status.COMPLETE:
            trial = optuna.trial.create_trial(value=told.value, state=states.COMPLETE, **common)
        elif told.status is Status.PRUNED:
            reached = dict(told.reached)
            trial = optuna.trial.create_trial(intermediate_values=reached, state=states.PRUNED, **common)
        else:
            trial = optuna.trial.create_trial(state=states.FAIL, **common)
        study.add_trial(trial)
    for _ in range(skip):
        study.ask(fixed_distributions=dict(distributions))
    asked = study.ask(fixed_distributions=dict(distributions)).params
    return {hyper.path: _tidy(hyper, asked[hyper.path]) for hyper in hypers}


def _tidy(hyper: Hyper, value: Scalar) -> Scalar:
    if hyper.kind not in ("uniform", "loguniform"):
        return value
    return min(max(float(f"{value:.6g}"), hyper.low), hyper.high)


def _distribution(optuna: Any, hyper: Hyper) -> Any:
    kinds = optuna.distributions
    if hyper.kind == "choice":
        return kinds.CategoricalDistribution(hyper.choices)
    if hyper.kind in ("int", "logint"):
        return kinds.IntDistribution(int(hyper.low), int(hyper.high), log=hyper.kind == "logint")
    return kinds.FloatDistribution(hyper.low, hyper.high, log=hyper.kind == "loguniform")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"sampler random and tpe need Optuna: {error}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    import warnings

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
