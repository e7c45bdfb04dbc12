"""What a level says of itself: the parts of its docstring, read from the source without importing it.

A level's docstring is a summary, paragraphs, and sections that begin a line with one of `SECTIONS`:

    Equation:
        what it computes, with one symbol for one thing
    Shapes: what goes in and what comes out
    When to choose: and when not
    Cost: parameters and time
    Source: the paper or repository it is after, and where it departs from it
    Args:
        option: what it does

A section that a class does not write is its base class's. Pages of the documentation, `mer levels` and the completion
of editors are all made from this, so that none of them can say something else.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mer.levels import imported_name

SECTIONS = ("Equation", "Shapes", "When to choose", "Cost", "Source", "Args")
_HEAD = re.compile(rf"({'|'.join(SECTIONS)}):(?:\s+(.*))?")


@dataclass(frozen=True)
class Description:
    """A docstring in its parts.

    summary   its first paragraph
    text      the paragraphs that belong to no section
    sections  name to text; those of base classes where the class has none of its own
    options   option to what it does, from `Args`
    """

    summary: str
    text: str
    sections: Mapping[str, str]
    options: Mapping[str, str]


@functools.lru_cache(maxsize=512)
def described(target: str) -> Description:
    """The description of a class or function, by `module:attr`. Empty where there is no docstring or no source.

    >>> described("mer.pooling:Mean").sections["Shapes"]
    '`[B, T, D] -> [B, D]`.'
    """
    module, _, attr = target.partition(":")
    tree = _tree(module)
    found = {} if tree is None else {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    node = found.get(attr)
    if tree is None or node is None:
        return Description("", "", {}, {})
    own = parse(ast.get_docstring(node) or "")
    if not isinstance(node, ast.ClassDef):
        return own
    sections, options = dict(own.sections), dict(own.options)
    for base in node.bases:
        if not isinstance(base, ast.Name):
            continue
        there = f"{module}:{base.id}" if base.id in found else imported_name(tree, base.id)
        inherited = described(there) if there is not None else parse("")
        sections = {**inherited.sections, **sections}
        options = {**inherited.options, **options}
    return Description(own.summary, own.text, sections, options)


def parse(docstring: str) -> Description:
    """A docstring in its parts. Examples (`>>>` and all behind them) are left out.

    >>> found = parse("A gate.\\n\\nEquation:\\n    g = sigmoid(x)\\n\\nCost: D^2.\\nArgs:\\n    a, b: sizes")
    >>> found.summary, found.sections["Equation"], found.sections["Cost"], found.options
    ('A gate.', 'g = sigmoid(x)', 'D^2.', {'a': 'sizes', 'b': 'sizes'})
    """
    text: list[str] = []
    sections: dict[str, list[str]] = {}
    current: list[str] = text
    for line in inspect.cleandoc(docstring.split(">>> ")[0]).splitlines():
        head = _HEAD.fullmatch(line)
        if head is not None:
            current = sections.setdefault(head[1], [head[2]] if head[2] else [])
        elif current is not text and line and not line.startswith(" "):
            current = text
            text += ["", line]
        else:
            current.append(line)
    kept = {name: _joined(lines) for name, lines in sections.items()}
    summary, _, rest = "\n".join(text).strip().partition("\n\n")
    options = _options(kept.get("Args", ""))
    return Description(" ".join(summary.split()), rest.strip(), kept, options)


def _joined(lines: list[str]) -> str:
    """Continuation lines at the margin; the first line may stand beside the section's name."""
    first = lines[:1] if lines and not lines[0].startswith(" ") else []
    rest = inspect.cleandoc("\n".join(["", *lines[len(first) :]]))
    return "\n".join([*first, rest]).strip("\n")


def _options(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        head = re.fullmatch(r"([a-z_]\w*(?:, [a-z_]\w*)*): (.*)", line)
        if head is not None:
            names = head[1].split(", ")
            found |= dict.fromkeys(names, head[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


@functools.lru_cache(maxsize=64)
def _tree(module: str) -> ast.Module | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return ast.parse(Path(spec.origin).read_text("utf-8"))
