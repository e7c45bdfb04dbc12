"""The commands and their options, from the parsers themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from experiments.cli import build_parser

INTRODUCTION = """\
# Commands

`mer COMMAND --help` shows the same. Exit codes: 0 done, 2 bad input, 3 finished with failed or missing trials,
130 interrupted.
`--json` is for programs; messages then go to standard error. Completion for the shell: [](editors.md).
"""


def page() -> str:
    """Every command, sub-commands included, in the order of `mer --help`."""
    return "\n".join([INTRODUCTION, *(_section(name, parser) for name, parser in commands(build_parser()))])


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command that does something: its full name and its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, child in action.choices.items():
                child.description = child.description or _sentence(helps.get(name) or "")
                yield from commands(child)
            return
    yield parser.prog, parser


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    rows = [
        f"| {_spelled(action)} | {_help(action)} |"
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS
    ]
    lines = [f"## {name}", "", _escaped(parser.description or ""), ""]
    if parser.epilog:
        lines += [_escaped(parser.epilog), ""]
    return "\n".join([*lines, *(["| | |", "|---|---|", *rows] if rows else ["No options."]), ""])


def _spelled(action: argparse.Action) -> str:
    """`--seed N`, or the name of what stands without one; in brackets where it may be left out."""
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None and action.metavar is None:
        metavar = " or ".join(map(str, action.choices))
    metavar = metavar.replace("|", " or ")
    if not action.option_strings:
        return f"`[{metavar}]`" if action.nargs in ("?", "*") else f"`{metavar}`"
    takes_none = action.nargs == 0
    return f"`{action.option_strings[-1]}{'' if takes_none else f' {metavar}'}`"


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default, "prog": "mer"}
    return _escaped(f"{text} (required)" if action.required and action.option_strings else text)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text and not text.endswith(".") else text
