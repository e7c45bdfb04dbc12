"""YAML that a person or another program wrote: what a parser makes of it, or an error with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mer.errors import UserError
from mer.files import read_data


def read_yaml(path: Path) -> Any:
    """The content of a file that has an end."""
    try:
        text = read_data(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"not YAML: byte {error.start} is not UTF-8", where=str(path)) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str, expected: str | None = None) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # safe, in C where there is one
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # a 13th month, a mapping as a key
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or (
            "nested too deeply" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
        )
        raise UserError(
            f"not YAML: {why}", where=f"{where}:{mark.line + 1}" if mark else where, expected=expected
        ) from None
