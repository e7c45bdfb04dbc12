"""What the tests of one way to read and of one way to write share: the walk over the packages."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def check(calls: Callable[[ast.AST], Iterable[ast.Call]], allowed: Mapping[str, str], instead: str) -> None:
    """The files with such calls are those that are allowed to have them, and each of these has some."""
    found = {}
    for package in ("mer", "experiments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            lines = [call.lineno for call in calls(ast.parse(path.read_text("utf-8")))]
            if lines:
                found[path.relative_to(ROOT).as_posix()] = lines
    strangers = {name: lines for name, lines in found.items() if name not in allowed}
    assert not strangers, instead
    assert found.keys() == allowed.keys(), "somebody is allowed to who does not"
