"""What all commands share: one way to describe an option, and one to answer a mistake on the command line."""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO, cast

from mer.errors import nearest

JSON = "print JSON instead, for programs"
"""The help of every `--json`."""

LARGEST = 2.0**63
"""No number of an option is beyond it."""


class _WhileHeard:
    """A standard stream, as long as somebody reads it."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._terminal = stream, stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[..., object], *given: str) -> None:
        try:
            act(*given)
        except OSError as error:
            if error.errno != errno.EPIPE and not (self._terminal and error.errno == errno.EIO):
                raise
            nobody = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nobody, self._stream.fileno())
            os.close(nobody)


@contextlib.contextmanager
def heard_or_not() -> Iterator[None]:
    """A command does its work to the end, with its own exit code, also where its reader goes away: `head` has enough,
    a terminal is closed."""
    with contextlib.ExitStack() as streams:
        if sys.stdout is not None:
            streams.enter_context(contextlib.redirect_stdout(cast("TextIO", _WhileHeard(sys.stdout))))
        if sys.stderr is not None:
            streams.enter_context(contextlib.redirect_stderr(cast("TextIO", _WhileHeard(sys.stderr))))
        yield


class Parser(argparse.ArgumentParser):
    """argparse, whose messages name the nearest valid word and look like the project's other errors. Exit code 2."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, extras = super().parse_known_args(args, namespace)
        if extras and not any(isinstance(action, argparse._SubParsersAction) for action in self._actions):
            self.error(f"unrecognized arguments: {' '.join(extras)}")
        return found, extras

    def error(self, message: str) -> NoReturn:
        print(f"error: {self._for_people(message)}\n  See `{self.prog} --help`.", file=sys.stderr)
        raise SystemExit(2)

    def _for_people(self, message: str) -> str:
        """
        >>> parser = Parser(prog="mer run")
        >>> action = parser.add_argument("--budget")
        >>> parser._for_people("unrecognized arguments: --bugdet 2h")
        "unknown option '--bugdet'; did you mean '--budget'?"
        >>> action = parser.add_argument("--only", metavar="FACTOR=LEVEL")
        >>> parser._for_people("unrecognized arguments: fusion=tacfn")
        "unknown argument 'fusion=tacfn'; did you mean '--only fusion=tacfn'?"
        """
        extra = re.fullmatch(r"unrecognized arguments: (\S+)(.*)", message)
        if extra:
            options = [option for action in self._actions for option in action.option_strings]
            if "=" in extra[1] and not extra[1].startswith("-"):  # such options take one, and may be repeated
                takes = [a.option_strings[-1] for a in self._actions if "=" in str(a.metavar) and a.option_strings]
                meant: str | None = "' or '".join(f"{option} {extra[1]}" for option in takes)
            else:
                meant = nearest(extra[1], options)
            what = "option" if extra[1].startswith("-") else "argument"
            return f"unknown {what} {extra[1]!r}" + (f"; did you mean '{meant}'?" if meant else "")
        choice = re.fullmatch(r"argument (.+?): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            names = [name.strip(" '") for name in choice[3].split(",")]
            meant = nearest(choice[2], names)
            kind = choice[1].lower() if choice[1].isupper() else f"value of {choice[1]}"
            return f"unknown {kind} {choice[2]!r}; expected {', '.join(names)}" + (
                f"; did you mean '{meant}'?" if meant else ""
            )
        needed = re.fullmatch(r"the following arguments are required: (.*)", message)
        return f"{needed[1]} must be given" if needed else message


def add_allow_outside(parser: argparse.ArgumentParser) -> None:
    """For commands that read a recipe from a checkpoint or the ledger."""
    parser.add_argument(
        "--allow-outside",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="import this level, which is none of this project's and which the stored recipe names (repeatable)",
    )


def add_json(parser: Any) -> None:
    """`--json`, with the same words everywhere."""
    parser.add_argument("--json", action="store_true", help=JSON)


def whole(least: int = -(2**63), most: int = 2**63 - 1) -> Callable[[str], int]:
    """A whole number from `least` to `most`, of 64 bits: the type of an option."""

    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"[-+]?[0-9]{1,19}", text) else None
        if value is None or not least <= value <= most:
            ends = f" from {least} to {most}" if most < 2**62 else f" from {least} on" if least > -(2**62) else ""
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number{ends}")
        return value

    return read


def real(least: float = -LARGEST, most: float = LARGEST) -> Callable[[str], float]:
    """A finite number from `least` to `most`: the type of an option."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            ends = f" from {least:g}" * (least > -LARGEST) + f" to {most:g}" * (most < LARGEST)
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number{ends}")
        return value

    return read
