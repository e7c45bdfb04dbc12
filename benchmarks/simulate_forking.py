"""How often something false is claimed without a mark, by researchers who take whichever path shows a difference.

    python benchmarks/simulate_forking.py

No cell is better than another (A/A data, no model is trained). A path is a row of steps: each declares a plan, runs it,
and reads the report. What is declared, the family, the marks and every claim are decided by the project's own code:
`results.declared.plan_data`, `results.standing.standing`, `results.declared.space_document`, `reporting.spec.spec_of`,
`reporting.claims.claims_of`. A path counts as false if any report on it claims a difference and neither the contrast
nor the report carries a mark (post hoc, second look, changed after the first results). Beside it stands what would be
claimed if only the last YAML counted, as it did before declarations were kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from experiments.reporting.claims import Claim, claims_of
from experiments.reporting.run import Run
from experiments.reporting.spec import Contrast as Shown
from experiments.reporting.spec import Spec, spec_of
from experiments.reporting.statistics.family import holm
from experiments.results.declared import before_look, is_second_look, plan_data, space_document
from experiments.results.standing import Declaration, standing
from experiments.slots import Cell, Slot, Stage
from experiments.space.hyper import Hyper
from experiments.space.plan import Condition, Contrast, CorpusRef, Plan, Tuning

ALPHA = 0.05
METRICS = ("ua", "wa", "weighted_f1", "macro_f1")
CONDITIONS = ("complete", *(f"random 0.{k}" for k in range(1, 8)))
SEEDS = 20


def make_plan(
    others: Sequence[int] = (1,),
    conditions: Sequence[str] = CONDITIONS[:1],
    metric: str = "ua",
    epochs: int = 10,
    conditions_scored: Sequence[str] | None = None,
    **changes: object,
) -> Plan:
    """A plan of cell 0 and of `others`, each against cell 0 under each condition."""
    cells = tuple(
        Cell(
            "made", f"fusion=f{k}", {"fusion": f"f{k}"},
            {"encoders": {"audio": {"name": "features"}}, "training": {"epochs": epochs}, "replica": k}, tuning=f"t{k}",
        )
        for k in (0, *others)
    )  # fmt: skip
    missing = {"complete": {}, **{c: {"protocol": "random", "rate": float(c.split()[1])} for c in CONDITIONS[1:]}}
    contrasts = tuple(
        Contrast(f"f{k}", "made", {f"fusion=f{k}": 1.0, "fusion=f0": -1.0}, metric, condition=condition)
        for k in others
        for condition in conditions
    )
    hypers = (Hyper("optimizer.lr", "loguniform", 1e-4, 1e-2),)
    plan = Plan(
        "space", cells, {"made": CorpusRef("made", Path(), "0", ("audio",), False, False)}, 5, metric=metric,
        tuning=Tuning(draws=4), hypers={("made", c.name): hypers for c in cells},
        conditions=tuple(Condition(c, missing[c]) for c in conditions_scored or conditions), contrasts=contrasts,
        factors={"fusion": tuple(f"f{k}" for k in (0, *others))},
    )  # fmt: skip
    return replace(plan, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Step:
    """One plan that is declared, run and reported. `sample`: which of the path's independent data it sees."""

    plan: Plan
    sample: int = 0


class Made(Run):
    """A run in memory: the slots of a plan, and scores that are set anew for each replication."""

    def __init__(self, plan: Plan, spec: Spec, before: tuple[int, int] | None) -> None:
        self.folder, self.spec, self._imported = Path("/nowhere"), spec, pd.DataFrame()
        rows = [
            {
                "trial": f"{cell.name} {study}", "corpus": "made", "cell": cell.name, "study": study, "fold": 0,
                "stage": "confirm", "draw": -1, "status": "complete", "fusion": cell.levels["fusion"],
                "second_look": is_second_look(plan, Slot("made", cell.name, study, 0, Stage.CONFIRM), before),
            }
            for cell in plan.cells
            for study in range(plan.studies)
        ]  # fmt: skip
        self.trials = pd.DataFrame(rows)
        self.numbers = [int(cell.name.removeprefix("fusion=f")) for cell in plan.cells]
        self.names = [cell.name for cell in plan.cells]
        self.studies = plan.studies
        self.now = np.empty(0)

    def by_study(
        self, corpus: str | None = None, metric: str | None = None, condition: str = "complete"
    ) -> pd.DataFrame:
        values = self.now[METRICS.index(metric or self.spec.metric), CONDITIONS.index(condition)]
        return pd.DataFrame(values[self.numbers, : self.studies], index=self.names)

    def claims_on(self, scores: np.ndarray) -> list[Claim]:
        self.now = scores
        return claims_of(self)


def reports(steps: Sequence[Step]) -> list[Made]:
    """The run behind each step's report, with what was declared before it."""
    chain: list[Declaration] = []
    confirmed: dict[str, dict[str, int]] = {}
    found = []
    for number, step in enumerate(steps):
        data = plan_data(step.plan)
        previous = (chain[-1].id,) if chain else ()
        declared = {corpus: dict(counts) for corpus, counts in confirmed.items()}
        mine = Declaration(f"d{number:03d}", data, previous, declared, f"2026-01-01T00:00:{number:02d}")
        chain.append(mine)
        result, first = standing(mine, chain), "2026-01-01T00:00:00.5"
        spec = spec_of(space_document(step.plan, result, first), "made")
        found.append(Made(step.plan, spec, before_look(result, first)))
        here = confirmed.setdefault("made", {})
        for cell in data["cells"]:
            here[cell["base"]] = here.get(cell["base"], 0) + step.plan.studies
    return found


def marked(run: Made, claim: Claim) -> bool:
    """Does a reader see that this claim was not declared as it stands before results were seen?"""
    words = ("post hoc", "second look", "changed after the first results")
    return run.spec.metric_post_hoc or any(remark.startswith(words) for remark in claim.remarks)


def sample(rng: np.random.Generator, cells: int, studies: int) -> np.ndarray:
    """Scores [metric, condition, cell, study]; metrics and conditions of one trained model are correlated."""
    shape = (len(METRICS), len(CONDITIONS), cells, studies)
    own = rng.normal(0, 0.7, shape)
    own += rng.normal(0, 0.7, (1, 1, cells, studies)) + rng.normal(0, 2, (1, 1, 1, studies))
    return 0.7 + 0.01 * own


def own_p(run: Made, scores: np.ndarray) -> np.ndarray:
    """The p value of each contrast alone: the paired t test, for all of them at once."""
    rows = []
    for c in run.spec.contrasts:
        part = scores[METRICS.index(c.metric), CONDITIONS.index(c.condition)][:, : run.studies]
        rows.append(sum(weight * part[int(cell.removeprefix("fusion=f"))] for cell, weight in c.weights.items()))
    d = np.array(rows)
    t = np.abs(d.mean(1)) / (d.std(1, ddof=1) / np.sqrt(run.studies))
    found: np.ndarray = 2 * special.stdtr(run.studies - 1, -t)
    return found


def asked(run: Made, p: np.ndarray) -> tuple[Shown, ...]:
    """The contrasts that need to be asked: a corrected p is never below its own, and Holm rejects anything only if it
    rejects the smallest; of those declared in time and of those declared late."""
    found = []
    for late in (False, True):
        here = [i for i, c in enumerate(run.spec.contrasts) if c.post_hoc == late and p[i] <= run.spec.alpha]
        found += [run.spec.contrasts[min(here, key=lambda i: p[i])]] if here else []
    return tuple(found)


def false_claims(run: Made, scores: np.ndarray, everything: bool = False) -> tuple[bool, bool, bool]:
    """Whether a report claims a difference: without a mark, at all, and if its own YAML were all that is known."""
    p, spec = own_p(run, scores), run.spec
    contrasts = spec.contrasts if everything else asked(run, p)
    if not contrasts:
        return False, False, False
    run.spec = replace(spec, contrasts=contrasts)  # the family keeps its size, which is declared
    wrong = [claim for claim in run.claims_on(scores) if claim.verdict in ("better", "worse")]
    run.spec = spec
    alone = any(one is not None and one <= spec.alpha for one in holm(p.tolist()))
    return any(not marked(run, claim) for claim in wrong), bool(wrong), alone


# ---- the paths -----------------------------------------------------------------------------------------------

TEN = tuple(range(1, 11))


def _contrasts() -> list[Step]:
    whole = make_plan(TEN)
    return [Step(whole), *(Step(replace(whole, contrasts=(c,))) for c in whole.contrasts)]


def _conditions() -> list[Step]:
    whole = make_plan(conditions=CONDITIONS)
    return [Step(whole), *(Step(make_plan(conditions=[c], conditions_scored=["complete", c])) for c in CONDITIONS[1:])]


def _studies() -> list[Step]:
    return [Step(make_plan(studies=n)) for n in (5, 6, 7, 8, 9, 10, 12, 15, 4, 3)]


def _seeds() -> list[Step]:
    return [Step(make_plan(root_seed=seed), seed) for seed in range(SEEDS)]


def _draws() -> list[Step]:
    return [Step(make_plan(tuning=Tuning(draws=n)), k) for k, n in enumerate((4, 2, 3, 6, 8, 12, 16))]


def _metrics() -> list[Step]:
    return [Step(make_plan(metric=metric)) for metric in METRICS]


def _alpha_epochs() -> list[Step]:
    looser = [Step(make_plan(alpha=alpha)) for alpha in (0.05, 0.1, 0.2)]
    return [*looser, *(Step(make_plan(epochs=n), 1 + k) for k, n in enumerate((5, 20, 40)))]


def _only() -> list[Step]:
    """`--only` each pair, then each as a space of its own under a new name."""
    steps = [Step(make_plan(TEN))]
    for k in TEN:
        part = make_plan([k], options=(f"--only fusion=f0,f{k}",))
        steps += [Step(part), Step(replace(part, options=(), space=f"fresh {k}"))]
    return steps


def _together() -> list[Step]:
    """Everything at once: contrasts, conditions, metrics, studies, seeds, draws, names."""
    steps = [Step(make_plan(TEN, CONDITIONS))]
    for k in TEN[:5]:
        for metric in METRICS:
            steps.append(Step(make_plan([k], ["complete"], metric, space=f"fresh {k}")))
        steps.append(Step(make_plan([k], [CONDITIONS[k]], conditions_scored=["complete", CONDITIONS[k]])))
        steps.append(Step(make_plan([k], studies=5 + k)))
        steps.append(Step(make_plan([k], root_seed=k), k))
        steps.append(Step(make_plan([k], tuning=Tuning(draws=4 + k)), 5 + k))
    return steps


ROUTES: Mapping[str, Callable[[], list[Step]]] = {
    "the best of 10 contrasts is kept": _contrasts,
    "one of 8 conditions is kept": _conditions,
    "n is chosen afterwards": _studies,
    "20 root seeds": _seeds,
    "fewer or more draws": _draws,
    "another metric": _metrics,
    "another alpha, other epochs": _alpha_epochs,
    "--only, or a space of another name": _only,
    "all together": _together,
}


def measure(route: str, replications: int, seed: int, everything: bool = False) -> tuple[float, float, float]:
    """Shares of paths with a false claim: without a mark, with one or without, and if the last YAML were all."""
    steps = ROUTES[route]()
    made = reports(steps)
    samples, cells = 1 + max(s.sample for s in steps), 1 + max(max(run.numbers) for run in made)
    studies = max(run.studies for run in made)
    rng = np.random.default_rng(seed)
    counts = np.zeros(3)
    for _ in range(replications):
        data = [sample(rng, cells, studies) for _ in range(samples)]
        pairs = zip(steps, made, strict=True)
        counts += np.any([false_claims(run, data[step.sample], everything) for step, run in pairs], axis=0)
    unmarked, claimed, alone_share = counts / replications
    return float(unmarked), float(claimed), float(alone_share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "forking.md")
    args = parser.parse_args()
    started, lines = time.time(), []
    with ProcessPoolExecutor(args.workers) as pool:
        parts = 5
        jobs = [
            [pool.submit(measure, route, args.replications // parts, parts * args.seed + k) for k in range(parts)]
            for route in ROUTES
        ]
        for route, mine in zip(ROUTES, jobs, strict=True):
            unmarked, claimed, before = np.mean([job.result() for job in mine], axis=0)
            bound = 196 * (max(unmarked, 0.01) * (1 - unmarked) / args.replications) ** 0.5
            shown = [f"{100 * unmarked:.1f} ± {bound:.1f} %", f"{100 * claimed:.1f} %", f"{100 * before:.1f} %"]
            lines.append(f"| {route} | {' | '.join(shown)} |")
            print(lines[-1], flush=True)
    text = f"""# Forking paths

Made by `python benchmarks/simulate_forking.py --replications {args.replications}`
({time.time() - started:.0f} s on {args.workers} core{"s" * (args.workers > 1)}).
No cell is better than another; each path is walked to its end, and is false if any report on it claims a
difference. ± is a 95 % interval; 5 % is what is promised at most.

| path | false, without a mark | false, marked or not | false if the last YAML were all that is known |
|:--|--:|--:|--:|
{chr(10).join(lines)}
"""
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
