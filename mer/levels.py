"""Levels: the named choices of a factor, each a `module:attr` in a plain table.

What a plan must know about a level (its parameters, what it requires) is read from its source text without
importing it, so that validating and planning need neither torch nor the user's plug-ins.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mer.errors import UserError, unknown

REQUIRED = object()
"""Default of a parameter that has none."""

Table = Mapping[str, str]


@dataclass(frozen=True)
class Parameter:
    """One keyword-only parameter of a level, as its source declares it."""

    name: str
    annotation: str
    default: Any


@dataclass(frozen=True)
class Declaration:
    """What a level's source says of it: keyword-only parameters, and class attributes that are literals."""

    target: str
    file: Path
    parameters: Mapping[str, Parameter]
    requires: frozenset[str]
    unbundled: str = ""
    """Why its trials cannot be trained together in one step (`mer.bundle`); empty: they can."""
    one_frame: bool = False
    """Of an encoder: does it give one frame for each utterance, whatever the corpus?"""


@functools.cache
def table(module: str, name: str = "LEVELS") -> Table:
    """A table of levels, read from its module's source: some of those modules import torch.

    >>> table("mer.pooling")["mean"]
    'mer.pooling:Mean'
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(f"cannot find module {module!r}, which holds a table of levels")
    for statement in ast.parse(Path(spec.origin).read_text("utf-8")).body:
        if _assigned_name(statement) == name:
            return MappingProxyType(dict(_assigned_value(statement)))
    raise UserError(f"module {module!r} has no table {name}", where=spec.origin)


def target(table: Table, name: str, kind: str, where: str | None = None) -> str:
    """The `module:attr` of a level: from the table, or the name itself where it is one (`mylab.gate:DeepGate`)."""
    if name in table:
        return table[name]
    if ":" in name:
        return name
    raise unknown(kind, name, table, where)


@functools.lru_cache(maxsize=512)
def declaration(target: str) -> Declaration:
    """Read a level's declaration from its source, following base classes, imported ones included."""
    module, _, attr = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot find module {module!r} named by {target!r}: {error}") from None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(f"cannot find module {module!r} named by {target!r}", hint="Is it on PYTHONPATH?")
    file = Path(spec.origin)
    tree = ast.parse(file.read_text("utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if attr not in classes:
        raise unknown(f"class in {module}", attr, classes)
    parameters: Mapping[str, Parameter] | None = None
    requires: frozenset[str] | None = None
    unbundled: str | None = None
    one_frame: bool | None = None
    pending = [attr]
    while pending and None in (parameters, requires, unbundled, one_frame):
        name = pending.pop(0)
        node = classes.get(name)
        if node is None:
            inherited = imported_name(tree, name)
            if inherited is not None:
                base = declaration(inherited)
                parameters = base.parameters if parameters is None else parameters
                requires = base.requires if requires is None else requires
                unbundled = base.unbundled if unbundled is None else unbundled
                one_frame = base.one_frame if one_frame is None else one_frame
            continue
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__" and parameters is None:
                parameters = _parameters(statement)
            elif requires is None and _assigned_name(statement) == "requires":
                requires = _requires(statement)
            elif unbundled is None and _assigned_name(statement) == "unbundled":
                unbundled = str(_assigned_value(statement))
            elif one_frame is None and _assigned_name(statement) == "one_frame":
                one_frame = bool(_assigned_value(statement))
        pending += [base.id for base in node.bases if isinstance(base, ast.Name)]
    return Declaration(target, file, parameters or {}, requires or frozenset(), unbundled or "", bool(one_frame))


def check_parameters(target: str, given: Mapping[str, Any], kind: str, where: str | None = None) -> None:
    """Refuse parameters that the level does not declare, and missing ones that have no default."""
    known = declaration(target).parameters
    for name in given:
        if name not in known:
            raise unknown(f"parameter of {kind} {target}", name, known, where)
    for parameter in known.values():
        if parameter.default is REQUIRED and parameter.name not in given:
            raise UserError(f"{kind} {target} needs the parameter {parameter.name!r}", where=where)


def load(target: str) -> Any:
    """Import what a target names. Only ever called with names from our tables or from the user's own YAML."""
    module, _, attr = target.partition(":")
    return getattr(importlib.import_module(module), attr)


def imported_name(tree: ast.Module, name: str) -> str | None:
    """The `module:attr` that a name imported from this project's packages or a plug-in's stands for."""
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            for alias in statement.names:
                if (alias.asname or alias.name) == name and not statement.module.startswith("torch"):
                    return f"{statement.module}:{alias.name}"
    return None


def _parameters(init: ast.FunctionDef) -> dict[str, Parameter]:
    found = {}
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        value: Any = REQUIRED
        if default is not None:
            try:
                value = ast.literal_eval(default)
            except ValueError:
                value = ast.unparse(default)
        annotation = ast.unparse(argument.annotation) if argument.annotation else "Any"
        found[argument.arg] = Parameter(argument.arg, annotation, value)
    return found


def _assigned_name(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    return None


def _assigned_value(statement: ast.stmt) -> Any:
    """The literal that a statement assigns."""
    value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
    return None if value is None else ast.literal_eval(value)


def _requires(statement: ast.stmt) -> frozenset[str]:
    value = getattr(statement, "value", None)
    if isinstance(value, ast.Call) and value.args:  # frozenset({...})
        value = value.args[0]
    if value is None or (isinstance(value, ast.Call) and not value.args):
        return frozenset()
    return frozenset(ast.literal_eval(value))
