"""`mer cluster check FILE`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mer.commandline import add_json


def add_parser(subparsers: Any) -> None:
    cluster = subparsers.add_parser("cluster", help="check a cluster file before paying for it")
    commands = cluster.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="Ray's schema, and the rules for safety, cost and pinned versions")
    check.add_argument("file", type=Path, metavar="FILE.yaml", help="a file for `ray up`")
    check.add_argument(
        "--space", metavar="NAME", help="say which version of it is here, to compare with what a run prints there"
    )
    add_json(check)
    check.set_defaults(func=run_check)


def run_check(args: argparse.Namespace) -> int:
    from experiments.cluster.check import check_cluster_file
    from experiments.cluster.project import project_line

    findings = check_cluster_file(args.file)
    errors = sum(finding.error for finding in findings)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{'error' if finding.error else 'advice'}: {finding.problem}\n  fix: {finding.fix}")
        print(f"{args.file}: {errors} errors, {len(findings) - errors} pieces of advice")
        print(f"here: {project_line(args.space)}; a run on the cluster prints the same if it has these files")
    return 2 if errors else 0
