"""YAML read strictly: no surprises in scalars, no duplicate keys, and a `file:line` for every value.

Scalars follow YAML 1.2: `1e-4` is a number, `no`, `on` and `12:30:45` are text. Nothing is executed: the only tags are
those of plain data. Aliases may not blow up, and text beside the document is refused.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mer.errors import UserError
from mer.files import read_data

if TYPE_CHECKING:
    from mer.recipe import Recipe

Path_ = tuple[str | int, ...]
MAX_BYTES = 1_000_000
MAX_NODES = 50_000
MAX_DEPTH = 40

_INT = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|[-+]?(inf|nan)", re.IGNORECASE)
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass
class Document:
    """Plain data and where each part of it was written: path of keys and indices to `file:line`."""

    data: Any
    lines: dict[Path_, str] = field(default_factory=dict)

    def where(self, *path: str | int) -> str | None:
        """The line of a path, else of the first part below it, else of the nearest enclosing part that has one."""
        if path not in self.lines and path:
            below = next((line for known, line in self.lines.items() if known[: len(path)] == path), None)
            if below is not None:
                return below
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def part(self, *path: str | int) -> Document:
        """A part of the document as a document of its own."""
        data = self.data
        for key in path:
            data = data[key]
        size = len(path)
        return Document(data, {key[size:]: line for key, line in self.lines.items() if key[:size] == path})

    def put(self, path: Path_, part: Document) -> None:
        """Replace (or add) a part."""
        target = self.data
        for key in path[:-1]:
            target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
        target[path[-1]] = part.data
        size = len(path)
        self.lines = {key: line for key, line in self.lines.items() if key[:size] != path}
        self.lines |= {(*path, *key): line for key, line in part.lines.items()}


def read(path: Path, shown: str | None = None) -> Document:
    """One YAML file. `shown` is how messages name it."""
    shown = shown or str(path)
    try:
        raw = read_data(path, most=MAX_BYTES)
    except UserError as error:
        raise UserError(error.problem, where=shown, expected=error.expected) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError("not UTF-8 text", where=f"{shown}:{line}") from None
    return parse(text, shown)


def parse(text: str, shown: str = "text") -> Document:
    """YAML text as a document.

    >>> parse("lr: 1e-4\\nname: no").data
    {'lr': 0.0001, 'name': 'no'}
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = shown if mark is None else f"{shown}:{mark.line + 1}"
        problem = " ".join(part for part in (error.context, error.problem) if part)
        hint = "Indent with spaces, not with tabs." if "\\t" in (error.problem or "") else None
        raise UserError(f"not valid YAML: {problem}", where=where, hint=hint) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two: an escape beyond Unicode
        raise UserError(f"not valid YAML: {' '.join(str(error).split())}", where=shown) from None
    except RecursionError:
        raise UserError(f"nested deeper than {MAX_DEPTH} levels", where=shown) from None
    document = Document(None)
    if node is not None:
        document.data = _Builder(shown, document.lines).build(node, (), ())
    return document


class _Builder:
    def __init__(self, shown: str, lines: dict[Path_, str]) -> None:
        self.shown, self.lines, self.count = shown, lines, 0

    def build(self, node: yaml.Node, path: Path_, open_nodes: tuple[int, ...]) -> Any:
        where = f"{self.shown}:{node.start_mark.line + 1}"
        self.lines.setdefault(path, where)
        self.count += 1
        if self.count > MAX_NODES:
            raise UserError(f"more than {MAX_NODES} values (aliases that multiply?)", where=where)
        if id(node) in open_nodes:
            raise UserError("an alias that contains itself", where=where)
        if len(path) > MAX_DEPTH:
            raise UserError(f"nested deeper than {MAX_DEPTH} levels", where=where)
        self._check_tag(node, where)
        inside = (*open_nodes, id(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, i), inside) for i, child in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        found: dict[str, Any] = {}
        for key_node, child in node.value:
            line = f"{self.shown}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError("a key must be a plain name", where=line)
            key = self._text(key_node, line)
            if key == "<<":
                raise UserError("merge keys (<<) are not supported", where=line, hint="Use `include: base.yaml`.")
            if key in found:
                first = self.lines[(*path, key)]
                raise UserError(f"key {key!r} stands twice", where=line, hint=f"First at {first}.")
            self.lines[(*path, key)] = line
            found[key] = self.build(child, (*path, key), inside)
        return found

    def _check_tag(self, node: yaml.Node, where: str) -> None:
        plain = ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge", "value")
        if node.tag not in {f"tag:yaml.org,2002:{name}" for name in plain}:
            raise UserError(f"tag {node.tag!r} is not allowed", where=where, expected="plain data")

    @staticmethod
    def _text(node: yaml.ScalarNode, where: str) -> str:
        text = str(node.value)
        hidden = next(
            (char for char in text if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"), None
        )
        if hidden is not None:
            raise UserError(f"text that holds the character {hidden!a}", where=where, expected="text that can be shown")
        return text

    def _scalar(self, node: yaml.ScalarNode, where: str) -> Any:
        text = self._text(node, where)
        if node.style is not None:  # quoted or block text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            value = int(text, 0 if text[:2].lower() in ("0x", "0o") else 10) if len(text) < 25 else 2**63
            if not -(2**63) <= value < 2**63:
                found = text if len(text) < 25 else f"{text[:8]}... of {len(text)} digits"
                raise UserError(f"the number {found} is too large", where=where)
            return value
        if _FLOAT.fullmatch(text):
            real = float(text)
            if math.isinf(real):
                raise UserError(f"{text[:24]} is too large for a number", where=where)
            return real
        if _NOT_FINITE.fullmatch(text):
            raise UserError(f"{text} is not a finite number", where=where, hint="Quote it if it is meant as text.")
        return text


def parse_value(text: str, where: str) -> Document:
    """The value of `--set key=value`, with every line replaced by `where`."""
    document = parse(text, where)
    return Document(document.data, dict.fromkeys(document.lines or {(): where}, where))


def load_recipe_file(path: Path) -> tuple[Recipe, str | None, int]:
    """A training file (`mer train`): `corpus`, `seed`, `include`, and the fields of a recipe beside them."""
    from experiments.space.includes import load_with_includes
    from experiments.space.layers import Layer, resolve

    document = load_with_includes(path)
    if not isinstance(document.data, dict):
        raise UserError("expected a mapping of recipe fields", where=str(path))
    corpus, seed = document.data.pop("corpus", None), document.data.pop("seed", 0)
    if corpus is not None and not isinstance(corpus, str):
        raise UserError(f"corpus must be a name or a folder, not {corpus!r}", where=document.where("corpus"))
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"seed must be a whole number, not {seed!r}", where=document.where("seed"))
    recipe, _ = resolve([Layer.of(document, "base")])
    return recipe, corpus, seed
