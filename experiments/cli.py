"""The `mer` command: a thin front over both packages. Parsers are built without importing anything heavy."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mer import __version__
from mer.commandline import Parser
from mer.errors import UserError

OK, BAD_INPUT, FAILED_TRIALS, INTERRUPTED = 0, 2, 3, 130

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake ends in one message and exit code 2, never in a traceback."""
    parser = build_parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        return BAD_INPUT
    args = parser.parse_args(argv)
    if os.getcwd() not in sys.path:
        # What a space names from outside (`mylab.gate:DeepGate`) may lie in the current folder. Last, so that nothing
        # there can stand in the place of a package that is installed.
        sys.path.append(os.getcwd())
    try:
        return int(args.func(args) or OK)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        # Only where a path of the user's can be no path: what else storage does is no mistake of theirs.
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR) or error.filename is None:
            raise
        print(f"error: {str(error.filename)[:200]}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
