"""`mer analyze DIR`; `experiments/analyze.py` is the same program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mer.commandline import add_allow_outside


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "analyze",
        help="what the trained models of a run do: confusion, failures, separability",
        description="Training curves, confusion matrices, failure cases, separability plots, and the models.",
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="folder of a run, such as results/fusion_pipeline")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the run's folder)")
    parser.add_argument("--data", metavar="FOLDER|demo", help="the corpus, where it is not where the run found it")
    parser.add_argument("--corpus", metavar="NAME", help="which corpus, where the run has several")
    parser.add_argument("--no-transcripts", action="store_true", help="keep licensed text out of what is written")
    parser.add_argument("--no-models", action="store_true", help="do not copy the models")
    add_allow_outside(parser)
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, or auto: a GPU if there is one (default)")
    parser.set_defaults(func=run_analysis)


def run_analysis(args: argparse.Namespace) -> int:
    from experiments.analysis.write import analyze

    out = analyze(
        args.run,
        out=args.out,
        data=args.data,
        corpus=args.corpus,
        transcripts=not args.no_transcripts,
        models=not args.no_models,
        allow_outside=args.allow_outside,
        device=args.device,
        say=print,
    )
    print(f"analysis: {out}")
    return 0
