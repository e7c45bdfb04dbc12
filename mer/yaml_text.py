"""YAML, read and written. What cannot be read is an error with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mer.errors import UserError
from mer.files import read_data

MAX_DEPTH = 200
MAX_VALUES = 20_000_000
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def read_yaml(path: Path) -> Any:
    """The content of a file that has an end."""
    try:
        text = read_data(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"not YAML: byte {error.start} is not UTF-8", where=str(path)) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str, expected: str | None = None) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # safe, in C where there is one
    try:
        _check_size(yaml.parse(text, Loader=loader), where)
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # a 13th month, a mapping as a key
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or (
            TOO_DEEP if isinstance(error, RecursionError) else str(error).partition("\n")[0]
        )
        raise UserError(
            f"not YAML: {why}", where=f"{where}:{mark.line + 1}" if mark else where, expected=expected
        ) from None


def dump_yaml(data: Any) -> str:
    """Plain data as YAML, its mappings in their order."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _check_size(events: Iterator[Any], where: str) -> None:
    """Before anything is built: the loader in C has no end to its recursion but the end of the process, and a few
    aliases of aliases stand for more values than any memory holds."""
    from yaml import events as kinds

    sizes, names = [0], [""]  # of each open part: how many values it stands for, and its anchor
    anchors: dict[str, int] = {}
    for event in events:
        if isinstance(event, kinds.CollectionStartEvent):
            sizes.append(1)
            names.append(event.anchor or "")
        elif isinstance(event, kinds.CollectionEndEvent):
            size = sizes.pop()
            sizes[-1] += size
            anchors[names.pop()] = size
        elif isinstance(event, kinds.AliasEvent):
            sizes[-1] += anchors.get(event.anchor or "", 1)
        elif isinstance(event, kinds.ScalarEvent):
            sizes[-1] += 1
        problem = (
            TOO_DEEP
            if len(sizes) > MAX_DEPTH
            else f"more than {MAX_VALUES} values (aliases that multiply?)"
            if sizes[-1] > MAX_VALUES
            else "an alias that contains itself"
            if isinstance(event, kinds.AliasEvent) and event.anchor in names
            else None
        )
        if problem:
            line = event.start_mark.line + 1 if event.start_mark else "?"
            raise UserError(f"not YAML: {problem}", where=f"{where}:{line}")
