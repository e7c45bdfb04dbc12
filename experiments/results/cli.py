"""`mer status`, `mer gc`, `mer compact`: what a ledger holds. Answers without torch, Ray or pandas."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from mer.commandline import add_json

RESULTS = "results folder, or s3://bucket/folder (default: %(default)s)"


def add_parser(subparsers: Any) -> None:
    status = subparsers.add_parser(
        "status",
        help="what has been done and what is missing, from any machine",
        description="Reads the ledger and a run's tables; a run may be going on meanwhile, here or elsewhere.",
    )
    status.add_argument(
        "folder",
        nargs="?",
        default="results",
        metavar="DIR",
        help="a run (results/fusion_vn) or a results folder (default: %(default)s)",
    )
    add_json(status)
    status.set_defaults(func=run_status)

    gc = subparsers.add_parser(
        "gc",
        help="show and remove trials that nothing refers to any more",
        description="In use is every trial that any plan names which was ever declared in this results folder: also by "
        "a larger plan of the same space, before --only or --set.",
    )
    gc.add_argument("results", nargs="?", default="results", metavar="DIR", help=RESULTS)
    gc.add_argument("--yes", action="store_true", help="remove them, with their models; without it they are only shown")
    gc.add_argument(
        "--grace",
        type=_days,
        default=1.0,
        metavar="DAYS",
        help="keep what is younger, by the store's clock (default: %(default)g)",
    )
    gc.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="SPACE",
        help="its trials are not needed any more; what it declared stays on record, and in its family; may be repeated",
    )
    add_json(gc)
    gc.set_defaults(func=run_gc)

    compact = subparsers.add_parser(
        "compact",
        help="merge a ledger's small files",
        description="Safe at any moment, also while runs write: a file is removed only when all it holds is elsewhere.",
    )
    compact.add_argument("results", nargs="?", default="results", metavar="DIR", help=RESULTS)
    compact.set_defaults(func=run_compact)


def run_status(args: argparse.Namespace) -> int:
    from experiments.results.status import status, status_text

    found = status(args.folder)
    print(json.dumps(found, indent=1, sort_keys=True) if args.json else status_text(found))
    return 0


def run_gc(args: argparse.Namespace) -> int:
    from experiments.results.garbage import DAY_S, collect, find_garbage

    garbage = (collect if args.yes else find_garbage)(args.results, args.grace * DAY_S, tuple(args.forget))
    if args.json:
        report = {
            "kept": garbage.kept,
            "young": garbage.young,
            "trials": len(garbage.trials),
            "checkpoints": len(garbage.checkpoints),
            "states": len(garbage.states),
            "bytes": garbage.bytes,
            "spaces": list(garbage.spaces),
            "removed": bool(args.yes),
        }
        print(json.dumps(report, indent=1, sort_keys=True))
        return 0
    print(f"{garbage.kept} trials are kept; declared spaces: {', '.join(garbage.spaces) or 'none'}.")
    print(
        f"{len(garbage.trials)} trials, {len(garbage.checkpoints)} checkpoints and {len(garbage.states)} resume states "
        f"({garbage.bytes / 1e6:.1f} MB) are not needed by any of them."
    )
    for line in garbage.described:
        print(f"  {line}")
    if garbage.young:
        print(f"{garbage.young} more are younger than {args.grace:g} days and stay.")
    if garbage.trials or garbage.checkpoints or garbage.states:
        print("Removed." if args.yes else "Remove them with --yes.")
    return 0


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 0 on")
    return days


def run_compact(args: argparse.Namespace) -> int:
    from experiments.results.ledger import existing

    ledger = existing(args.results)
    before = len(ledger.refresh())
    removed = ledger.compact(everything=True)
    for notice in ledger.notices:
        print(f"note: {notice}", file=sys.stderr)
    print(f"{before} trials; {removed} files merged")
    return 0
