"""`mer report` and `mer import-predictions`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mer.errors import UserError, nearest


def add_parser(subparsers: Any) -> None:
    report = subparsers.add_parser(
        "report",
        help="tables, figures and one HTML page from a run",
        description="Make the report of a run from its tables. The same tables give the same bytes.",
    )
    report.add_argument("run", metavar="DIR", help="folder of a run, such as results/quickstart")
    report.add_argument("--out", metavar="DIR", help="where to put it (default: DIR/report)")
    report.add_argument(
        "--anonymous",
        action="store_true",
        help="make a copy of the run, or of a whole results folder, for blind review: tables, predictions and report "
        "without hosts, users, paths, commits, e-mail addresses and times (default of --out: DIR-anonymous)",
    )
    report.set_defaults(func=run_report)
    bring = subparsers.add_parser(
        "import-predictions",
        help="somebody else's predictions as one more row of a run",
        description="Add per-utterance predictions of another system to a run, paired by utterance.",
    )
    bring.add_argument(
        "file", metavar="FILE.csv", help="columns: utterance, prediction or score_<label>..., study, condition"
    )
    bring.add_argument("--as", dest="name", required=True, metavar="NAME", help="the row's name")
    place = bring.add_mutually_exclusive_group(required=True)
    place.add_argument("--run", metavar="DIR", help="folder of the run")
    place.add_argument("--space", metavar="NAME", help="name of the run's space, under --results")
    bring.add_argument("--results", default="results", metavar="DIR", help="where runs are (default: %(default)s)")
    bring.add_argument("--corpus", metavar="NAME", help="which corpus, where the run has several")
    bring.set_defaults(func=run_import)


def run_report(args: argparse.Namespace) -> int:
    if args.anonymous:
        from experiments.reporting.anonymous import LEFT_OUT, anonymous_copy

        source = Path(args.run)
        for page in anonymous_copy(source, Path(args.out or f"{source.resolve()}-anonymous")):
            print(page)
        print(LEFT_OUT)
        return 0
    from experiments.reporting.build import build_report

    print(build_report(args.run, args.out))
    return 0


def run_import(args: argparse.Namespace) -> int:
    from experiments.reporting.build import build_report
    from experiments.reporting.importing import import_predictions
    from experiments.reporting.run import load_run

    folder = Path(args.run) if args.run else _of_space(Path(args.results), args.space)
    run = load_run(folder)
    if args.corpus is None and len(run.corpora) > 1:
        raise UserError("the run has several corpora", expected=f"--corpus with one of {', '.join(run.corpora)}")
    path = import_predictions(run, Path(args.file), args.name, args.corpus)
    print(f"kept as {path}")
    print(build_report(folder))
    return 0


def _of_space(results: Path, name: str) -> Path:
    folder = results / Path(name).stem
    if not folder.is_dir():
        runs = [p.parent.name for p in sorted(results.glob("*/space.yaml"))]
        raise UserError(
            f"no run of {name!r} in {str(results)!r}", expected=", ".join(runs) or "a run", nearest=nearest(name, runs)
        )
    return folder
