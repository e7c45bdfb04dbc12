"""`mer levels`, `mer schema` and `mer completion`: what there is to name, for people, editors and shells."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh")
DIRECTORIES = ("DIR", "FOLDER", "FOLDER|demo", "MODEL", "SOURCE")
FILES = ("FILE.yaml", "FILE.csv", "PICKLE", "PT", "CSV", "WAV")


def add_parser(subparsers: Any) -> None:
    levels = subparsers.add_parser(
        "levels",
        help="what a factor can be: encoders, fusions, poolings, ...",
        description="List all levels, those of one kind, or say all about one: equation, shapes, options, source.",
        epilog="Example: mer levels tacfn",
    )
    levels.add_argument("name", nargs="?", metavar="KIND|NAME", help="a kind (fusion) or a level (tacfn)")
    levels.set_defaults(func=print_levels)
    schema = subparsers.add_parser("schema", help="the JSON schema of the space file, for completion in editors")
    schema.set_defaults(func=print_schema)
    completion = subparsers.add_parser(
        "completion",
        help='completion for your shell: eval "$(mer completion bash)"',
        description="Print a script that completes commands, options, folders and the names of spaces.",
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=" or ".join(SHELLS))
    completion.set_defaults(func=print_completion)


def print_levels(args: argparse.Namespace) -> int:
    from experiments.space.fields import all_levels
    from mer.described import described
    from mer.errors import unknown

    tables = all_levels()
    if args.name is None or args.name in tables:
        for kind, table in tables.items():
            if args.name in (None, kind):
                print(f"{kind}")
                width = max(map(len, table))
                for name, target in table.items():
                    print(f"  {name:{width}}  {described(target).summary}")
        return 0
    found = [(kind, table[args.name]) for kind, table in tables.items() if args.name in table]
    if not found:
        raise unknown("level", args.name, {*tables, *(name for table in tables.values() for name in table)})
    print("\n\n".join(_about(kind, args.name, target) for kind, target in found))
    return 0


def _about(kind: str, name: str, target: str) -> str:
    """A level's page for a terminal."""
    from mer.described import described
    from mer.levels import REQUIRED, declaration

    said = described(target)
    lines = [f"{kind} {name}", "", *textwrap.wrap(said.summary, 100)]
    if "Equation" in said.sections:
        lines += ["", textwrap.indent(said.sections["Equation"], "    ")]
    if said.text:
        lines += ["", *(line for part in said.text.split("\n\n") for line in [*textwrap.wrap(part, 100), ""])][:-1]
    for section in ("Shapes", "When to choose", "Cost", "Source"):
        if section in said.sections:
            text = " ".join(said.sections[section].split())
            lines += ["", *textwrap.wrap(f"{section}: {text}", 100)]
    declared = {} if kind in ("missing", "loss", "sampler") else declaration(target).parameters
    options = declared or dict.fromkeys(said.options)
    if options:
        lines += ["", "Options:"]
        for option, parameter in options.items():
            default = "" if parameter is None or parameter.default is REQUIRED else f" (default: {parameter.default})"
            text = f"{option}: {' '.join(said.options.get(option, '').split())}{default}"
            lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="      ")
    return "\n".join([*lines, "", target])


def print_schema(args: argparse.Namespace) -> int:
    from experiments.space.schema import schema_text

    print(schema_text(), end="")
    return 0


def print_completion(args: argparse.Namespace) -> int:
    import shtab

    from experiments.cli import build_parser
    from experiments.space.fields import all_levels
    from experiments.space.find import space_folders

    spaces = sorted({file.stem for folder in space_folders() for file in folder.glob("*.yaml")})
    here = "basename -s .yaml search_spaces/*.yaml 2>/dev/null; ls -d *.yaml 2>/dev/null"
    levels = sorted({name for table in all_levels().values() for name in table})
    complete = {
        **dict.fromkeys(DIRECTORIES, shtab.DIRECTORY),
        **dict.fromkeys(FILES, shtab.FILE),
        "NAME|FILE": shtab.cmd(f"sh -c '{{ echo {' '.join(spaces)}; {here}; }}'"),
        "KIND|NAME": shtab.cmd(f"echo {' '.join([*all_levels(), *levels])}"),
        "NAME|MODULE:CLASS": shtab.cmd(f"echo {' '.join(levels)}"),
    }
    parser = build_parser()
    for action in _actions(parser):
        found = complete.get(str(action.metavar))
        if found is not None:
            action.complete = found  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(parser, args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _actions(child)
