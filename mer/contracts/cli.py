"""`mer contract TARGET`: run the contract of a level, in the tables or outside the repository."""

from __future__ import annotations

import argparse
from typing import Any

from mer.contracts import KINDS
from mer.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Add the command to `mer`. Nothing heavy is imported until it runs."""
    parser = subparsers.add_parser(
        "contract",
        help="check that a level, yours or one of ours, keeps the contracts",
        description="For fusions, poolings, contexts, losses, encoders and samplers. One line per check: what it "
        "promises and whether it holds. Exit codes: 0 all hold, 3 some do not, 2 the target cannot be found.",
        epilog="Example: mer contract mylab.gate:DeepGate --kind fusion --set hidden=64",
    )
    parser.add_argument(
        "target", metavar="NAME|MODULE:CLASS", help="a level by name (tacfn) or a class by path (mylab.gate:DeepGate)"
    )
    parser.add_argument("--kind", choices=KINDS, help="what it is; found from the tables or the base class if left out")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of the level")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from mer import levels
    from mer.contracts import run_contract
    from mer.contracts.encoders import OWN
    from mer.contracts.subjects import TABLES

    kind = args.kind or _kind(args.target)
    options = _options(args.set)
    target = levels.target(TABLES[kind], args.target, kind)
    if kind == "encoder":
        levels.check_parameters(target, {k: v for k, v in options.items() if k not in OWN}, kind)
    elif kind != "sampler":  # a sampler's options are fields of the recipe, and checked as such
        levels.check_parameters(target, options, kind)
    report = run_contract(args.target, kind, options)
    print(report)
    return 0 if report.passed else 3


def _kind(target: str) -> str:
    """From the table that has the name, else from the base class."""
    from mer import levels
    from mer.contracts.subjects import TABLES
    from mer.errors import unknown

    tables = [kind for kind, table in TABLES.items() if target in table]
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise UserError(f"{target!r} is a level of {' and of '.join(tables)}", expected="--kind to say which is meant")
    if ":" not in target:
        raise unknown("level", target, {name for table in TABLES.values() for name in table})
    extends = levels.declaration(target).extends
    for kind, (_, base) in levels.KINDS.items():
        if base in extends:
            return kind
    raise UserError(f"what is {target}? It extends none of ours", expected="--kind " + "|".join(KINDS))


def _options(pairs: list[str]) -> dict[str, Any]:
    from mer.yaml_text import parse_yaml

    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise UserError(f"--set {pair}", expected="OPTION=VALUE")
        found[name] = parse_yaml(value, f"--set {pair}")
    return found
