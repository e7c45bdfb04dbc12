"""`mer accept-code`: the one command of this package; everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
from typing import Any

from mer.commandline import add_allow_outside, whole


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "accept-code",
        help="declare a refactoring equal, after proving it on a sample of trials",
        description="Recorded trials count only for the code that made them. This trains a sample of them again with "
        "today's code and, if every number comes out the same, lets all of them count for it.",
    )
    parser.add_argument(
        "old", nargs="?", help="digest on record (its first digits); leave both out to list what changed"
    )
    parser.add_argument("new", nargs="?", help="digest of today's code")
    parser.add_argument("--all", action="store_true", help="every pair that changed, each proven by itself")
    parser.add_argument("--results", default="results", help="results folder or address")
    parser.add_argument("--data", action="append", default=[], help="corpus folder or name; default: demo")
    parser.add_argument("--sample", type=whole(1), default=3, help="trials to train again for each pair")
    add_allow_outside(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from experiments.results.ledger import existing
    from experiments.schedule.accept import accept, changes, find_change
    from experiments.space.load import open_named_corpus

    ledger = existing(args.results)
    if not args.all and not (args.old and args.new):
        found = changes(ledger, args.allow_outside)
        for change in found:
            print(f"{change.old} {change.new}  {len(change.trials)} trials")
        print("Accept a pair with `mer accept-code OLD NEW`." if found else "All recorded code is today's.")
        return 0
    from experiments.schedule.training_work import make_training_work

    known = changes(ledger, args.allow_outside)
    chosen = known if args.all else [find_change(known, args.old, args.new)]
    corpora = [open_named_corpus(name) for name in args.data or ["demo"]]
    for change in chosen:
        proof = accept(ledger, change, corpora, make_training_work, args.sample, args.allow_outside)
        print(f"{change.old} = {change.new}: {len(change.trials)} trials count again (proven on {', '.join(proof)})")
    return 0
