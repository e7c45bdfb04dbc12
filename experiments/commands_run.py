"""`mer run` and `mer plan`: plan, run, tables, report. `experiments/run_ablation.py` is the former."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer.commandline import add_json, whole
from mer.errors import UserError

if TYPE_CHECKING:
    from experiments.results.ledger import Ledger
    from experiments.schedule.run import RunResult
    from experiments.schedule.smoke import Timing
    from experiments.slots import Slot
    from experiments.space.estimate import CellCost
    from experiments.space.plan import Plan


def add_parser(subparsers: Any) -> None:
    run = subparsers.add_parser(
        "run",
        help="run a space: what the ledger lacks, then tables and report",
        description="Run what the ledger lacks of a space, then write tables and report. Ctrl-C ends it in good order; "
        "the same command goes on, after a crash too.",
        epilog="Example: mer run --space fusion_vn --data corpora/mine --budget 2h",
    )
    run.add_argument("--space", required=True, metavar="NAME|FILE", help=SPACE)
    run.add_argument("--plan", action="store_true", help="show what would be run and what it would cost, then stop")
    _what(run)
    how = run.add_argument_group("where and how long")
    how.add_argument("--budget", metavar="TIME", help="end after 30m, 2h, 1d, with a valid, smaller table")
    how.add_argument("--workers", type=whole(1), metavar="N", help="trials at a time (default: as many as fit)")
    how.add_argument(
        "--gpus-per-trial",
        metavar="SHARE|auto",
        help="share of a GPU, as 0.25, or as measured (default: the space's `resources.gpus`)",
    )
    how.add_argument(
        "--address",
        metavar="HOST:PORT|local",
        help="Ray cluster (default: RAY_ADDRESS, else one that you have started on this machine, else a local one)",
    )
    how.add_argument(
        "--executor",
        choices=("ray", "inline"),
        default="ray",
        help="inline: in this process, to debug (default: %(default)s)",
    )
    how.add_argument(
        "--preflight",
        choices=("stop", "drop", "off"),
        default="stop",
        help="what to do about a cluster node that differs from the driver (default: %(default)s)",
    )
    how.add_argument(
        "--features",
        metavar="PLACE|off",
        help="folder or address where machines share what encoders extract "
        "(default: MER_FEATURES, else beside the results on a cluster)",
    )
    how.add_argument("--retry", action="store_true", help="run trials again that failed or ran out of memory")
    how.add_argument("--yes", action="store_true", help="go on although there are very many trials")
    how.add_argument("--no-report", action="store_true", help="write the tables and no report")
    run.set_defaults(func=run_space)

    plan = subparsers.add_parser(
        "plan",
        help="what a space would run; --fit proposes a design that can be afforded",
        description="Show the cells, the trials, their time and what each claim could establish. Nothing is written.",
        epilog="Example: mer plan fusion_vn --data corpora/mine --fit 48h",
    )
    plan.add_argument("space", metavar="NAME|FILE", help=SPACE)
    plan.add_argument("--fit", metavar="TIME", help="propose the best design for 30m, 48h, 2d")
    plan.add_argument("--workers", type=whole(1), metavar="N", help="trials at a time, for the estimate (default: 1)")
    _what(plan)
    plan.set_defaults(func=show_plan)


SPACE = "a space of search_spaces/ by name, or a YAML file"


def _what(options: argparse.ArgumentParser) -> None:
    """Options that say what is compared; a plan and a run take the same ones."""
    add_json(options)
    options.add_argument("--no-smoke", action="store_true", help="plan without timing a batch of each architecture")
    options.add_argument(
        "--results",
        default="results",
        metavar="DIR",
        help="results folder, or s3://bucket/folder (default: %(default)s)",
    )
    parser = options.add_argument_group("what is compared")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="FOLDER|demo",
        help="corpus in place of the space's own, also s3://bucket/folder; may be repeated",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="KEY=VALUE",
        help="change the space or the recipe: tune.draws=16, optimizer.lr=1e-3; may be repeated",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="FACTOR=LEVEL,LEVEL",
        help="keep the cells with these levels alone; may be repeated",
    )
    parser.add_argument(
        "--seed", type=whole(), default=0, metavar="N", help="root of all random streams (default: %(default)s)"
    )


def run_space(args: argparse.Namespace) -> int:
    if args.plan:
        return show_plan(args)
    from experiments.cluster.project import project_line
    from experiments.results.ledger import Ledger
    from experiments.schedule.aside import Aside
    from experiments.space.checks import check_corpora
    from experiments.space.text import needs_yes
    from mer.storage import open_store

    plan, budget, gpus = _plan(args), seconds(args.budget), _gpus(args.gpus_per_trial)
    if needs_yes(plan) and not args.yes:
        raise UserError(
            f"the plan has {plan.n_slots} trials",
            hint="Look at it with --plan; go on with --yes, or make it smaller (design, draws, studies, --only).",
        )
    say = _sayer(args.json)
    for notice in plan.notices:
        say(f"note: {notice}")
    check_weights(plan)
    check_corpora(plan)
    from experiments.schedule.run import execute

    ledger = Ledger(open_store(args.results))
    result = execute(
        plan,
        ledger,
        workers=args.workers,
        executor=args.executor,
        gpus_per_trial=gpus,
        address=args.address,
        budget=budget,
        retry=args.retry,
        progress=not args.json,
        preflight=args.preflight,
        features=args.features,
        origin=lambda: project_line(args.space),
        say=say,
    )
    report = None if args.no_report else Aside(say)("no report", lambda: _report(ledger.store.path(plan.folder), say))
    _tell(plan, ledger, result, report, args.json)
    return result.exit_code


def show_plan(args: argparse.Namespace) -> int:
    from experiments.space.estimate import estimate
    from experiments.space.fit import fit_text
    from experiments.space.text import plan_text

    plan = _plan(args)
    workers = args.workers or 1
    timings = {} if args.no_smoke else _smoke(plan, _sayer(args.json))
    if getattr(args, "fit", None):
        print(fit_text(plan, timings, seconds(args.fit) or 0.0, workers))
        return 0
    done, again = _done(plan, args.results)
    if not args.json:
        family = _family(plan, args.results)
        print(plan_text(plan, done=done, again=again, timings=timings or None, workers=workers, family=family))
        return 0
    expected = estimate(plan, timings or None, done)
    found = {
        "space": plan.space,
        "corpora": list(plan.corpora),
        "cells": [{"corpus": cell.corpus, "cell": cell.name, "skip": cell.skip} for cell in plan.cells],
        "studies": plan.studies,
        "folds": plan.folds.count,
        "draws": plan.tuning.draws,
        "slots": plan.n_slots,
        "done": len(done),
        "again": again,
        "epochs": {stage.value: count for stage, count in expected.epochs.items()},
        "seconds": expected.total_seconds,
        "disk_bytes": expected.disk_bytes,
        "notices": list(plan.notices),
    }
    print(json.dumps(found, indent=1))
    return 0


def _done(plan: Plan, results: str) -> tuple[list[Slot], int]:
    """The slots that the ledger answers already, whichever space ran them, and how many others are on record in other
    bundles. Nothing is written."""
    from experiments.protocol.replay import replay_ledger
    from experiments.results.ledger import Ledger
    from experiments.schedule.knowledge import Knowledge
    from experiments.schedule.naming import Names
    from experiments.schedule.publish import judge
    from experiments.schedule.rebundled import rebundled
    from experiments.slots import Status
    from mer.storage import open_store

    ledger = Ledger(open_store(results))
    snapshot = ledger.refresh()
    if not len(snapshot):
        return [], 0
    knowledge = Knowledge(plan, Names(plan, ledger.equal_code()), snapshot)
    state = replay_ledger(plan, knowledge.look_up)
    found = judge(plan, knowledge, state)
    done = [verdict.slot for verdict in found if verdict.status not in (Status.MISSING, Status.SKIPPED)]
    return done, rebundled(knowledge.names, state, snapshot)


def _family(plan: Plan, results: str) -> int:
    """How many contrasts of the plan's question are declared once it is run; 0 where none has been yet."""
    from experiments.results.declared import read_chain, standing_of
    from experiments.results.ledger import Ledger
    from mer.storage import open_store

    ledger = Ledger(open_store(results))
    snapshot = ledger.refresh()
    chain = read_chain(ledger.store, snapshot)
    if not chain.heads:
        return 0
    found = standing_of(plan, chain, snapshot, None)
    return found.ever if any(found.post_hoc) else found.declared


def _plan(args: argparse.Namespace) -> Plan:
    from experiments.space.load import make_plan

    return make_plan(args.space, data=args.data, sets=args.sets, only=args.only, seed=args.seed)


def _smoke(plan: Plan, say: Any) -> Mapping[tuple[str, str], CellCost]:
    """What each cell costs; cells of one architecture share a smoke run."""
    from experiments.schedule.smoke import smoke_all, smoke_key
    from experiments.slots import Slot, Stage
    from experiments.space.estimate import CellCost
    from experiments.space.units import largest
    from mer.data.corpus import load_corpus
    from mer.data.store.shared import open_features

    splits = {name: load_corpus(ref.folder).train_valid() for name, ref in plan.corpora.items()}
    cells = [cell for cell in plan.cells if cell.skip is None]
    recipes = {
        (cell.corpus, cell.name): plan.recipe(Slot(cell.corpus, cell.name, 0, 0, Stage.CONFIRM), {}) for cell in cells
    }

    members = {(cell.corpus, cell.name): largest(plan, cell) for cell in cells}

    def show(name: str, timing: Timing) -> None:
        extraction = f", frozen features once {timing.extract_seconds:.0f} s" if timing.extract_seconds else ""
        say(f"smoke batch: {name}: {timing.epoch_seconds:.2f} s per epoch{extraction}")

    found = smoke_all(
        (
            (cell.name, recipes[key], splits[cell.corpus], members[key])
            for cell in cells
            for key in [(cell.corpus, cell.name)]
        ),
        open_features(),
        on_each=show,
    )
    costs = {}
    for (corpus, cell), recipe in recipes.items():
        timing = found[smoke_key(splits[corpus].info.name, recipe, members[corpus, cell])]
        costs[corpus, cell] = CellCost(timing.epoch_seconds, timing.parameters, timing.peak_mb)
    return costs


def _report(folder: str, say: Any) -> str | None:
    """The report is made on file systems; for an object store it is made where the tables are downloaded to."""
    if "://" in folder:
        say(f"note: no report is written to an object store; make it with `mer report` from a copy of {folder}")
        return None
    from experiments.reporting import build_report

    return str(build_report(Path(folder)))


def _tell(plan: Plan, ledger: Ledger, result: RunResult, report: str | None, as_json: bool) -> None:
    tables = ledger.store.path(f"{plan.folder}/trials.parquet")
    if as_json:
        found = {
            "exit_code": result.exit_code,
            "reason": result.reason,
            "slots": dict(result.counts),
            "seconds": round(result.seconds, 3),
            "tables": tables,
            "report": report,
        }
        print(json.dumps(found, indent=1))
        return
    print(", ".join(f"{count} {status}" for status, count in result.counts.items()))
    for line in failures(result):
        print(f"  {line}")
    missing = result.counts.get("missing", 0)
    if result.reason:
        known = {
            "budget": "The budget is spent",
            "interrupted": "Interrupted",
            "trials": "Its trials are spent",
        }
        print(f"{known.get(result.reason, f'Stopped early: {result.reason}')}; {missing} trials are missing.")
    if missing:
        print("The same command goes on where this run ended.")
    print(f"tables: {tables}")
    if report:
        print(f"report: {report}")


def check_weights(plan: Plan) -> None:
    """Refuse a plan whose released weights cannot be had, before any trial is spent on finding that out."""
    from experiments.slots import Slot, Stage
    from mer.encoders import WITHOUT_WEIGHTS

    seen: set[str] = set()
    for cell in plan.cells:
        if cell.skip is not None:
            continue
        for modality, config in plan.recipe(Slot(cell.corpus, cell.name, 0, 0, Stage.CONFIRM), {}).encoders.items():
            name = config.model_dump_json()
            if config.weights in ("tiny", "scratch") or config.name in WITHOUT_WEIGHTS or name in seen:
                continue
            seen.add(name)
            from mer.data.corpus import load_corpus
            from mer.encoders import build_encoder

            build_encoder(modality, config, load_corpus(plan.corpora[cell.corpus].folder).info)


def failures(result: RunResult, most: int = 5) -> list[str]:
    """Why trials did not complete, the commonest reason first."""
    bad = ("failed", "oom", "diverged")
    reasons = Counter(f"{v.status}: {v.reason}" for v in result.verdicts if v.status.value in bad)
    shown = [f"{count} x {reason}" for reason, count in reasons.most_common(most)]
    return [*shown, "and others; see `reason` in the tables"] if len(reasons) > most else shown


def seconds(text: str | None) -> float | None:
    """`90`, `30s`, `30m`, `2h`, `1.5d` as seconds.

    >>> seconds("30m"), seconds("1.5h"), seconds(None)
    (1800.0, 5400.0, None)
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?)\s*([smhd]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"cannot read the time {text!r}", expected="30m, 2h, 1d or seconds")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _gpus(text: str | None) -> float | str | None:
    if text is None or text == "auto":
        return text
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < math.inf:
        raise UserError(f"--gpus-per-trial {text!r}", expected="auto, or a number such as 0.25")
    return share


def _sayer(as_json: bool) -> Any:
    """Messages go to standard error where standard output is for machines."""
    return lambda text: print(text, file=sys.stderr if as_json else sys.stdout, flush=True)
