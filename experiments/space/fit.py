"""`mer plan --fit 48h`: the best design that the time allows, and what each saving costs.

Four things can give way: the number of draws, the number of studies, separate tuning for every study (`tune.once`) and
the share of cells. Every combination is costed with the same estimate as the plan. Among those that fit, the one with
the least loss is proposed. Loss is the smallest detectable difference relative to the declared design's, multiplied by
what is not seen in it:

    draws      1.15 for each halving: the winner of fewer draws is further from a cell's best, and noisier
    once       1.6: claims then hold "given these hyperparameters" only
    share s    1 / sqrt(s): main effects are averaged over fewer cells, and cells are missing from the table

The factors are judgements, stated so that they can be disagreed with; the table shows every choice's own cost.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

from experiments.space.estimate import Timings, estimate
from experiments.space.plan import Plan
from experiments.space.text import counted, duration, family_sizes
from mer.errors import UserError

PER_HALVED_DRAWS = 1.15
ONCE = 1.6


@dataclass(frozen=True)
class Proposal:
    """A design that was costed. `sets`: what to give to `--set`; `effect`: smallest detectable in sd, None: nothing."""

    plan: Plan
    sets: tuple[str, ...]
    seconds: float
    effect: float | None
    loss: float


def proposals(plan: Plan, timings: Timings, workers: int = 1) -> list[Proposal]:
    """Every design between the declared one and the smallest sensible one, best first."""
    declared = _effect(plan)
    tuned = any(plan.draws_of(cell) for cell in plan.cells)
    draws = _halved(plan.tuning.draws, 4) if tuned else [plan.tuning.draws]
    studies = [n for n in range(plan.studies, 2, -1)] or [plan.studies]
    onces = [True] if plan.tuning.once or not tuned else [False, True]
    shares = [1.0, 0.5, 0.25] if _can_shrink(plan) else [1.0]
    found = []
    for d, n, once, share in itertools.product(draws, studies, onces, shares):
        changed = _change(plan, d, n, once, share)
        seconds = estimate(changed, timings).total_seconds
        assert seconds is not None
        effect = _effect(changed)
        loss = math.inf
        if effect is not None and declared is not None:
            loss = effect / declared * PER_HALVED_DRAWS ** math.log2(plan.tuning.draws / d) / math.sqrt(share)
            loss *= ONCE if once and not plan.tuning.once else 1.0
        sets = []
        sets += [f"tune.draws={d}"] if d != plan.tuning.draws else []
        sets += [f"studies={n}"] if n != plan.studies else []
        sets += ["tune.once=true"] if once and not plan.tuning.once and tuned else []
        sets += [f"design={{fraction: {share:g}}}"] if share < 1 else []
        found.append(Proposal(changed, tuple(sets), seconds / workers, effect, loss))
    return sorted(found, key=lambda proposal: (proposal.loss, proposal.seconds))


def fit(plan: Plan, timings: Timings, budget: float, workers: int = 1) -> Proposal:
    """The best design within `budget` seconds of wall time."""
    if not timings:
        raise UserError("nothing was timed, so nothing can be fitted", hint="Leave out --no-smoke.")
    every = proposals(plan, timings, workers)
    affordable = [proposal for proposal in every if proposal.seconds <= budget]
    if not affordable:
        least = min(every, key=lambda proposal: proposal.seconds)
        raise UserError(
            f"no design fits in {duration(budget)}: the smallest takes {duration(least.seconds)}",
            hint="Use fewer levels, fewer epochs or more workers.",
        )
    return affordable[0]


def fit_text(plan: Plan, timings: Timings, budget: float, workers: int = 1) -> str:
    """The proposal, and beside it what each single saving would give and cost."""
    best = fit(plan, timings, budget, workers)
    every = proposals(plan, timings, workers)
    whole = next(proposal for proposal in every if not proposal.sets)
    lines = [
        f"time: {duration(budget)} on {counted(workers, 'worker')}; the plan as declared takes "
        f"{duration(whole.seconds)}",
        "",
    ]
    lines += ["| | change | time | smallest detectable difference, sd | loss |", "|---|---|---|---|---|"]
    singles = [proposal for proposal in every if len(proposal.sets) <= 1 and proposal is not best]
    for mark, proposal in [("proposed", best), *(("", single) for single in sorted(singles, key=lambda p: p.loss))]:
        change = ", ".join(proposal.sets) or "none (as declared)"
        effect = "not decidable" if proposal.effect is None else f"{proposal.effect:.2f}"
        fits = "" if proposal.seconds <= budget else " (too long)"
        loss = "" if math.isinf(proposal.loss) else f"{proposal.loss:.2f}"
        lines.append(f"| {mark} | {change} | {duration(proposal.seconds)}{fits} | {effect} | {loss} |")
    lines += ["", "run it with: " + " ".join(f"--set '{text}'" for text in best.sets)] if best.sets else []
    return "\n".join(lines)


def _effect(plan: Plan) -> float | None:
    """The smallest difference that the largest family's strictest step can find; one comparison if none is declared."""
    from experiments.reporting.statistics.paired import decidability

    families = family_sizes(plan.contrasts)
    test = plan.contrasts[0].test if plan.contrasts else "paired_t"
    found = decidability(plan.studies, max(families.values(), default=1), test, plan.alpha)
    return found.effect if found.possible else None


def _change(plan: Plan, draws: int, studies: int, once: bool, share: float) -> Plan:
    tuning = dataclasses.replace(plan.tuning, draws=draws, once=once)
    count = max(1, round(share * len(plan.cells)))
    return dataclasses.replace(plan, tuning=tuning, studies=studies, cells=plan.cells[:count])


def _halved(value: int, least: int) -> list[int]:
    found = [value]
    while found[-1] // 2 >= least:
        found.append(found[-1] // 2)
    return found


def _can_shrink(plan: Plan) -> bool:
    """Only a full grid can be run in part without losing what is declared."""
    design = plan.document.get("design", "full")
    return (design == "full" or (isinstance(design, dict) and design.get("kind") == "full")) and len(plan.cells) >= 8
