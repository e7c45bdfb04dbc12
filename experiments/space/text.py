"""What `--plan` prints: what would be run, in what order, at what cost, and what it could establish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from experiments.slots import Slot, Stage
from experiments.space.estimate import Timings, estimate
from experiments.space.order import imbalance
from experiments.space.plan import Contrast, Plan

ASK_ABOVE = 20_000
"""More trials than this are run only with `--yes`."""


def needs_yes(plan: Plan) -> bool:
    """Is the plan so large that the user should confirm it?"""
    return plan.n_slots > ASK_ABOVE


def plan_text(
    plan: Plan,
    *,
    done: Collection[Slot] = (),
    again: int = 0,
    timings: Timings | None = None,
    workers: int = 1,
    sds: Mapping[str, float] | None = None,
    family: int = 0,
) -> str:
    """The plan as text. `done`: slots the ledger already answers; `again`: others that it has in another bundle;
    `sds`: sd over studies of a contrast, where known; `family`: contrasts of the question as the results folder knows
    it, with those of earlier plans."""
    contrasts = _contrasts(plan, sds or {}, family)
    parts = [_head(plan), _cells(plan), _work(plan, done, again, timings, workers), contrasts, _end(plan)]
    return "\n\n".join(part for part in parts if part)


def _head(plan: Plan) -> str:
    lines = [f"space {plan.space}"]
    lines += [f"  note: {notice}" for notice in plan.notices]
    for ref in plan.corpora.values():
        sizes = ", ".join(f"{split} {count}" for split, count in ref.sizes.items())
        lines.append(f"  corpus {ref.name}: {', '.join(ref.modalities)}" + (f" ({sizes})" if sizes else ""))
    for name, levels in plan.factors.items():
        base = plan.baseline.get(name)
        shown = [f"[{level}]" if level == base else str(level) for level in levels]
        lines.append(f"  factor {name}: {', '.join(shown)}")
    if plan.factors:
        lines.append("  [in brackets]: the baseline")
    return "\n".join(lines)


def _cells(plan: Plan) -> str:
    run = [cell for cell in plan.cells if cell.skip is None]
    lines = [
        f"{len(plan.cells)} cells"
        + (f", {len(plan.cells) - len(run)} of them skipped:" if len(run) < len(plan.cells) else "")
    ]
    for reason, count in Counter(cell.skip for cell in plan.cells if cell.skip).most_common():
        lines.append(f"  {count} × {reason}")
    corpora = len({cell.corpus for cell in run})
    lines.append(f"  first: {', '.join(dict.fromkeys(cell.name for cell in run[: 3 * corpora]))}")
    quarter = max(1, len(run) // 4)
    for end in dict.fromkeys((quarter, 2 * quarter)):
        if 4 <= end < len(run):
            counts = imbalance([cell.levels for cell in run[:end]])
            shown = ", ".join(
                f"{name} {low}-{high}" if low != high else f"{name} {low}" for name, (low, high) in counts.items()
            )
            lines.append(f"  after {end} cells, each level seen has stood in: {shown}")
    return "\n".join(lines)


def _work(plan: Plan, done: Collection[Slot], again: int, timings: Timings | None, workers: int) -> str:
    tuning, counts = plan.tuning, plan.counts()
    lines = [_studies(plan)]
    if counts[Stage.TUNE]:
        pruner = "no pruning"
        if tuning.pruner == "asha":
            rungs = sorted({plan.rungs(cell) for cell in plan.cells})
            at = "; ".join(", ".join(map(str, found)) or "none" for found in rungs)
            pruner = f"pruned after epochs {at} (one in {tuning.eta:g} goes on; {tuning.exempt:.0%} of draws exempt)"
        shared = "" if tuning.per is None else f", shared by {' × '.join(tuning.per) or 'all cells'}"
        once = ", in study 0 only" if tuning.once else ""
        lines.append(f"  {tuning.draws} draws ({tuning.sampler}) per cell, study and fold{shared}{once}; {pruner}")
    lines += _bundles(plan)
    already = len(set(done))
    lines.append(
        f"  trials: {counts[Stage.TUNE]} tune + {counts[Stage.CONFIRM]} confirm = {plan.n_slots}; "
        f"already there: {already}, to do: {plan.n_slots - already}"
    )
    if again:
        lines.append(f"  {rebundled_text(again)}")
    found = estimate(plan, timings, done)
    full = sum(plan.epochs(c) * plan.draws_of(c) for c in plan.cells if plan.is_lead(c) and c.skip is None)
    studies = (1 if tuning.once else plan.studies) * plan.folds.count
    saved = f" ({found.epochs[Stage.TUNE] / (full * studies):.0%} of unpruned)" if full and not done else ""
    lines.append(
        f"  epochs, expected: {found.epochs[Stage.TUNE]:.0f} tune{saved} + {found.epochs[Stage.CONFIRM]:.0f} confirm"
    )
    total = found.total_seconds
    if total is None:
        lines.append("  time: not estimated (no timed smoke batch)")
    else:
        lines.append(
            f"  time: {duration(total)} of work, {duration(total / workers)} on {counted(workers, 'worker')}, "
            "by a smoke run"
        )
        if plan.limits.price_per_hour is not None:
            price = total / 3600 * plan.limits.price_per_hour
            lines.append(f"  price: {price:.2f} {plan.limits.currency} at {plan.limits.price_per_hour:g} an hour")
        lines.append(f"  memory: {found.peak_mb:.0f} MB at most per trial, measured")
    lines.append(f"  disk: about {size(found.disk_bytes)}" + ("" if timings else " without checkpoints"))
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "study"), counted(3, "study"), counted(2, "worker")
    ('1 study', '3 studies', '2 workers')
    """
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _bundles(plan: Plan) -> list[str]:
    """How many cells are trained in bundles, and why others are not."""
    lines = []
    if plan.bundled:
        lines.append(
            f"  bundles: {counted(len(plan.bundled), 'cell')}, up to {plan.bundling.size} trials in one step, "
            f"{plan.bundling.studies} studies at a time"
        )
    for reason, count in sorted(plan.alone.items(), key=lambda item: -item[1]):
        lines.append(f"  {'not bundled' if plan.bundled else 'no bundles'}: {counted(count, 'cell')}, {reason}")
    return lines


def rebundled_text(count: int) -> str:
    """What to say of recorded trials that a plan trains in other bundles."""
    return (
        f"{counted(count, 'recorded trial')} will be run again: other trials are trained in one step with them now, "
        "which changes their last digits. The records are kept; whole blocks of studies (`bundle.studies`) change none."
    )


def _studies(plan: Plan) -> str:
    folds = f" × {plan.folds.count} folds by {plan.folds.by}" if plan.folds.by else ""
    resplit = ", each with its own train/valid split" if plan.resplit else ""
    return (
        f"{counted(plan.studies, 'study')}{folds}{resplit}; {counted(len(plan.conditions), 'test condition')}: "
        + ", ".join(condition.name for condition in plan.conditions)
    )


def family_sizes(contrasts: Iterable[Contrast]) -> Counter[str]:
    """How many claims each family holds: every contrast on every corpus, metric and condition is one."""
    return Counter(contrast.family for contrast in contrasts)


def _contrasts(plan: Plan, sds: Mapping[str, float], family: int = 0) -> str:
    if not plan.contrasts:
        return "no contrasts are declared: whatever is compared later will be marked post hoc"
    from experiments.reporting.statistics.paired import decidability

    families = family_sizes(plan.contrasts)
    many = ", ".join(f"{name} ({count})" for name, count in families.items())
    if family > len(plan.contrasts):
        families = Counter(dict.fromkeys(families, family))
        many = f"{family}, with what was declared for this question before"
    lines = [
        f"contrasts; Holm over the family: {many}; smallest difference found with 80 % power at alpha {plan.alpha:g}"
    ]
    for contrast in plan.contrasts:
        found = decidability(plan.studies, families[contrast.family], contrast.test, plan.alpha)
        where = "" if len(plan.corpora) == 1 else f" on {contrast.corpus}"
        name = f"{contrast.name}{where} [{contrast.metric}, {contrast.condition}]"
        if not found.possible:
            lines.append(f"  {name}: {found.text}")
            continue
        assert found.effect is not None
        sd, source = sds.get(contrast.name), "in the ledger"
        if sd is None:
            sd, source = plan.expected_sd, "as declared"
        points = "" if sd is None else f" = {100 * found.effect * sd:.1f} points at an sd of {100 * sd:.1f} {source}"
        margin = "" if contrast.margin is None else f"; equivalence within {100 * contrast.margin:g} points"
        lines.append(f"  {name}: {found.effect:.2f} sd of the paired difference{points}{margin}")
    return "\n".join(lines)


def _end(plan: Plan) -> str:
    if not needs_yes(plan):
        return ""
    return f"{plan.n_slots} trials are more than {ASK_ABOVE}: add --yes to run them, or see `mer plan --fit TIME`."


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(42), duration(180), duration(7260), duration(200_000)
    ('42 s', '3 min', '2.0 h', '2.3 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Bytes as people say them.

    >>> size(1500), size(2.5e9)
    ('2 KB', '2.5 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} KB"
