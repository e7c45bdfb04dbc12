"""`include: base.yaml`: another file's document underneath this one's."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

from experiments.space.yaml_text import Document, Path_, read
from mer.errors import UserError, nearest
from mer.names import LONGEST


def shown(path: Path) -> str:
    """A path as messages name it: from the current folder where it lies below it."""
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return str(path)
    return str(path) if relative.startswith("..") else relative


MOST = 100
"""Files that one space may be put together from, each counted as often as it is included."""


def load_with_includes(path: Path, above: tuple[Path, ...] = (), left: Iterator[int] | None = None) -> Document:
    """Read a file and what it includes. Mappings merge key by key, anything else replaces; null removes a key."""
    path = path.resolve()
    left = left or iter(range(MOST))
    if next(left, None) is None:
        raise UserError(f"more than {MOST} files are included (do they multiply?)", where=shown(above[0]))
    if path in above:
        chain = " -> ".join(shown(file) for file in (*above, path))
        raise UserError(f"files include each other: {chain}", where=shown(above[-1]))
    document = read(path, shown(path))
    if not isinstance(document.data, dict) or "include" not in document.data:
        return document
    where = document.where("include")
    names = document.data.pop("include")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError("include takes a file name or a list of them", where=where)
    merged = Document({}, {(): document.lines[()]})
    for name in names:
        target = path.parent / name
        if not os.path.isfile(target):
            siblings = [file.name for file in path.parent.glob("*.yaml")]
            raise UserError(f"there is no file {name[:LONGEST]!r}", where=where, nearest=nearest(name, siblings))
        part = load_with_includes(target, (*above, path), left)
        if part.data is not None and not isinstance(part.data, dict):
            raise UserError(f"{name!r} does not hold a mapping", where=where)
        merged = overlay(merged, part)
    return overlay(merged, document)


def overlay(under: Document, over: Document) -> Document:
    """`over` laid on `under`."""
    result = Document(copy.deepcopy(under.data), dict(under.lines))
    _merge(result, over, ())
    return result


def _merge(result: Document, over: Document, path: Path_) -> None:
    for key, value in _get(over, path).items():
        here: Path_ = (*path, key)
        target = _get(result, path)
        if value is None and key in target:
            del target[key]
            result.lines = {known: line for known, line in result.lines.items() if known[: len(here)] != here}
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(result, over, here)
        else:
            part = over.part(*here)
            result.put(here, Document(copy.deepcopy(part.data), part.lines))


def _get(document: Document, path: Path_) -> dict[str, object]:
    data = document.data
    for key in path:
        data = data[key]
    return data if isinstance(data, dict) else {}
