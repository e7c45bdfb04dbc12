"""The `mer` command: a thin front over both packages. Parsers are built without importing anything heavy."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mer import __version__
from mer.commandline import Parser, heard_or_not
from mer.errors import UserError, UserErrors, refuse_secrets, without_secrets

OK, BAD_INPUT, FAILED_TRIALS, INTERRUPTED = 0, 2, 3, 130

MACHINE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EISDIR, errno.ENOTDIR,
    errno.EPIPE,
}  # fmt: skip
"""Errors of files that are the machine's or lie in the path that was given, not this program's."""

Subparsers = Any  # argparse's own type is private


def parser_builders() -> list[Callable[[Subparsers], object]]:
    """What adds the commands, in the order of `mer --help`."""
    from experiments import commands_editor, commands_features, commands_model, commands_run
    from experiments.analysis import cli as analysis
    from experiments.cluster import cli as cluster
    from experiments.reporting import cli as reporting
    from experiments.results import cli as results
    from experiments.schedule import cli as schedule
    from mer.contracts import cli as contracts
    from mer.data import cli as data

    modules = (
        commands_run,
        results,
        schedule,
        reporting,
        analysis,
        data,
        commands_features,
        commands_model,
        contracts,
        cluster,
        commands_editor,
    )
    return [module.add_parser for module in modules]


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mer",
        description="Fair, resumable ablation studies for multimodal emotion recognition.",
        epilog="`mer COMMAND --help` says more. Exit codes: 0 done, 2 bad input, 3 finished with failed or missing "
        "trials, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"mer {__version__}", help="print the version")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in parser_builders():
        add(subparsers)
    return parser


def script() -> None:
    """Run as a program of its own. It leaves with its exit code as soon as Python's own end is done: what libraries in
    C++ do after that (end threads that still run) has ended programs with 134 whose work was complete."""
    code = [1]  # as Python's own, where an exception gets through
    atexit.register(lambda: _leave(code[0]))  # registered first, so that it is done last
    try:
        code[0] = main()
    except SystemExit as end:  # of argparse
        code[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    sys.exit(code[0])


def _leave(code: int) -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed from the start
        with contextlib.suppress(OSError, ValueError):  # the reader is gone, or it is closed
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake ends in one message and exit code 2, never in a traceback."""
    if argv is None:
        _speak_utf8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not show every label
    return _command(sys.argv[1:] if argv is None else argv)


@heard_or_not()
def _command(argv: Sequence[str]) -> int:
    args = None
    try:
        _refuse(argv)
        parser = build_parser()
        if not argv:
            parser.print_help()
            return BAD_INPUT
        args = parser.parse_args(argv)
        if _here() not in sys.path:
            # What a space names from outside (`mylab.gate:DeepGate`) may lie in the current folder. Last, so that
            # nothing there can stand in the place of a package that is installed.
            sys.path.append(_here())
        return int(args.func(args) or OK)
    except UserError as error:
        for one in error.errors if isinstance(error, UserErrors) else [error]:
            print(f"error: {one}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in MACHINE and "temporary directory" not in str(error):
            raise
        print(f"error: {_explained(error, args)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _speak_utf8() -> None:
    """Begin anew in Python's UTF-8 mode where the locale has another encoding: files are named in UTF-8 by all that
    reads and writes tables, and workers take the mode over."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _refuse(argv: Sequence[str]) -> None:
    """What no command can do anything with, before anything is done with it.

    Other programs and records see a command line and variables, too; names that are not UTF-8 cannot be written into
    tables.
    """
    for text in argv:
        refuse_secrets(text)
    for name, value in os.environ.items():
        if name.startswith(("MER_", "RAY_ADDRESS")):
            refuse_secrets(value, where=name)
    for text in (*argv, _here()):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"a name that is not UTF-8: {text!a}", hint="Rename it: `convmv` does so.") from None


def _explained(error: OSError, args: argparse.Namespace | None) -> str:
    found = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else str(error)
    given = [f"--{name}" for name in ("results", "output", "out") if hasattr(args, name)]
    made = f"What is made lies where {' or '.join(given)} says. " if given else ""
    hint = (
        "More files must be allowed: ulimit -n 4096."
        if error.errno in (errno.EMFILE, errno.ENFILE)
        else f"{made}What is kept for later lies where MER_CACHE says, temporary files in TMPDIR."
    )
    return f"{without_secrets(found)}\n  {hint}"


def _here() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise UserError(
            f"the current folder is gone or closed to you: {error.strerror}", hint="cd to another."
        ) from None


if __name__ == "__main__":
    script()
