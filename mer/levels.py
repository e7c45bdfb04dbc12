"""Levels: the named choices of a factor, each a `module:attr` in a plain table.

What a plan must know about a level (its parameters, what it requires) is read from its source text without
importing it, so that validating and planning need neither torch nor the user's plug-ins.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mer.errors import UserError, nearest, unknown

REQUIRED = object()
"""Default of a parameter that has none."""

Table = Mapping[str, str]

KINDS: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "encoder": ("mer.encoders", "mer.encoders.base:Encoder"),
        "fusion": ("mer.fusion", "mer.fusion.base:Fusion"),
        "pooling": ("mer.pooling", "mer.pooling:Pooling"),
        "context": ("mer.context", "mer.context:Context"),
        "sampler": ("mer.data.sampling", "mer.data.sampling:Sampler"),
        "loss": ("mer.losses", "mer.losses:ClassificationLoss"),
        "missing": ("mer.data.missing", None),
    }
)
"""Kind of level to the module that holds its table and the class that every level of it extends (None: a function)."""


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
    extends: frozenset[str] = frozenset()
    """The class itself and all that it extends, directly or not, as `module:Class`, where their source can be read."""


@functools.cache
def table(module: str, name: str = "LEVELS") -> Table:
    """A table of levels, read from its module's source: some of those modules import torch.

    >>> table("mer.pooling")["mean"]
    'mer.pooling:Mean'
    """
    source = find_source(module)
    if source is None:
        raise UserError(f"cannot find module {module!r}, which holds a table of levels")
    for statement in ast.parse(source.read_text("utf-8")).body:
        if _assigned_name(statement) == name:
            return MappingProxyType(dict(_assigned_value(statement)))
    raise UserError(f"module {module!r} has no table {name}", where=str(source))


def find_source(module: str) -> Path | None:
    """The file of a module. Python looks up the top-level package alone; below it paths do: nothing is imported."""
    top, *rest = module.split(".")
    source, folders = _top_level(top, tuple(sys.path))
    if not rest:
        return source
    for base in folders:
        folder = base.joinpath(*rest)
        for candidate in (folder / "__init__.py", folder.with_name(f"{folder.name}.py")):
            if candidate.is_file():
                return candidate
    return None


@functools.lru_cache(maxsize=256)
def _top_level(name: str, path: tuple[str, ...]) -> tuple[Path | None, tuple[Path, ...]]:
    """The file of a top-level module or package, if it has one, and the folders of a package, with or without one."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None, ()
    if spec is None:
        return None, ()
    source = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return source, tuple(map(Path, spec.submodule_search_locations or ()))


def target(table: Table, name: str, kind: str, where: str | None = None) -> str:
    """The `module:attr` of a level: from the table, or the name itself where it is one (`mylab.gate:DeepGate`)."""
    if name in table:
        return table[name]
    if ":" in name:
        _check_kind(name, kind, where)
        return name
    raise unknown(kind, name, table, where)


def _check_kind(target: str, kind: str, where: str | None) -> None:
    """Refuse what is not a level of the kind: read from the source, before anything of it is imported or called."""
    base = KINDS[kind][1] if kind in KINDS else None
    if base is not None:
        if base not in declaration(target).extends:
            raise UserError(
                f"{target} is not a {kind}", where=where, expected=f"a class that extends {base.replace(':', '.')}"
            )
    elif kind == "missing":
        _, tree = _parsed(target)
        attr = target.partition(":")[2]
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == attr]
        taken = [*found[0].args.posonlyargs, *found[0].args.args] if found else []
        if len(taken) < len(PROTOCOL):
            raise UserError(
                f"{target} is not a missing protocol", where=where, expected=f"a function ({', '.join(PROTOCOL)})"
            )


PROTOCOL = ("config", "ids", "modalities", "seed")
"""What a missing protocol from outside is called with."""


def _parsed(target: str) -> tuple[Path, ast.Module]:
    module = target.partition(":")[0]
    file = find_source(module)
    if file is None:
        raise UserError(f"cannot find module {module!r} named by {target!r}", hint="Is it on PYTHONPATH?")
    try:
        return file, ast.parse(file.read_text("utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"module {module!r} does not parse: {error}", where=str(file)) from None


@functools.lru_cache(maxsize=512)
def declaration(target: str) -> Declaration:
    """Read a level's declaration from its source, following base classes, imported ones included."""
    module, _, attr = target.partition(":")
    file, tree = _parsed(target)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if attr not in classes:
        elsewhere = imported_name(tree, attr, _package(module, file))
        if elsewhere is not None and find_source(elsewhere.partition(":")[0]) is not None:
            return declaration(elsewhere)
        raise unknown(f"class in {module}", attr, classes)
    parameters: Mapping[str, Parameter] | None = None
    requires: frozenset[str] | None = None
    unbundled: str | None = None
    one_frame: bool | None = None
    extends: set[str] = set()
    pending = [attr]
    while pending:
        name = pending.pop(0)
        node = classes.get(name)
        if node is None:
            inherited = imported_name(tree, name, _package(module, file))
            base = None
            with contextlib.suppress(UserError):  # of another's library, or no class of Python's
                base = declaration(inherited) if inherited is not None else None
            if base is not None:
                extends |= base.extends
                parameters = base.parameters if parameters is None else parameters
                requires = base.requires if requires is None else requires
                unbundled = base.unbundled if unbundled is None else unbundled
                one_frame = base.one_frame if one_frame is None else one_frame
            continue
        if f"{module}:{name}" in extends:
            continue
        extends.add(f"{module}:{name}")
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__" and parameters is None:
                parameters = _parameters(statement, tree, _package(module, file))
            elif requires is None and _assigned_name(statement) == "requires":
                requires = _requires(statement)
            elif unbundled is None and _assigned_name(statement) == "unbundled":
                unbundled = str(_assigned_value(statement))
            elif one_frame is None and _assigned_name(statement) == "one_frame":
                one_frame = bool(_assigned_value(statement))
        pending += [ast.unparse(base) for base in node.bases if isinstance(base, ast.Name | ast.Attribute)]
    return Declaration(
        target,
        file,
        parameters or {},
        requires or frozenset(),
        unbundled or "",
        bool(one_frame),
        frozenset(extends),
    )


def check_parameters(
    target: str,
    given: Mapping[str, Any],
    kind: str,
    where: str | None = None,
    place: Callable[[str], str | None] = lambda name: None,
) -> None:
    """Refuse parameters that the level does not declare, missing ones that have no default, values of another type
    than declared, and sizes that no model has. `place`: where a parameter was written, if not `where`."""
    known = declaration(target).parameters
    for name, value in given.items():
        if name not in known:
            raise unknown(f"parameter of {kind} {target}", name, known, where)
        expected = _expected(target, known[name], value)
        if expected is not None:
            problem, close = (
                f"{kind} {target}: {name} is {value!r:.60}",
                nearest(str(value), re.split(", | or ", expected)),
            )
            raise UserError(problem, where=place(name) or where, expected=expected, nearest=close)
    for parameter in known.values():
        if parameter.default is REQUIRED and parameter.name not in given:
            raise UserError(f"{kind} {target} needs the parameter {parameter.name!r}", where=where)


WIDEST = 1 << 16
"""Beyond it a width is a slip of the pen: one square matrix of it has 4 billion weights."""

_MOST = {
    **dict.fromkeys(("dim", "hidden", "gate_hidden", "channels", "n_mels"), WIDEST),
    **dict.fromkeys(("layers", "lstm_layers", "conv_layers", "conv", "blocks", "heads", "kernel"), 1024),
}
"""The largest whole number that an option of this project's levels takes, by its name; of any other `1 << 24`."""

_MAY_BE_0 = frozenset({"layers", "conv_layers", "blocks", "window", "window_past", "window_future"})
"""Whole numbers that are 0 or more; others are at least 1, or what their default is where that is less."""

_NUMBERS: Mapping[str, tuple[Callable[[float], bool], str]] = MappingProxyType(
    {
        **dict.fromkeys(("dropout", "drop_rate", "stretch"), (lambda x: 0 <= x < 1, "0 to below 1")),
        **dict.fromkeys(("swap", "label_smoothing"), (lambda x: 0 <= x <= 1, "0 to 1")),
        **dict.fromkeys(("expansion", "temperature", "window_ms", "hop_ms"), (lambda x: 0 < x < 1e4, "above 0")),
        **dict.fromkeys(("step",), (lambda x: 0 < x <= 1, "above 0, to 1")),
    }
)
"""What other numbers must keep to, by the name of the option; of any other: 0 or more."""


def _expected(target: str, parameter: Parameter, value: Any) -> str | None:
    """What a parameter should have been, or None if the value is that. The sizes of levels from outside are theirs."""
    kinds = _kinds(ast.parse(parameter.annotation, mode="eval").body)
    if not any(fits(value) for _, fits in kinds):
        return " or ".join(words for words, _ in kinds)
    if not target.startswith("mer.") or type(value) not in (int, float):
        return None
    if "a number" in (words for words, _ in kinds):
        fits, words = _NUMBERS.get(parameter.name, (lambda x: x >= 0, "0 or more"))
        return None if fits(value) else f"a number, {words}"
    default = parameter.default if type(parameter.default) is int else 1
    least = min(default, 0 if parameter.name in _MAY_BE_0 else 1)
    most = _MOST.get(parameter.name, 1 << 24)
    return None if least <= value <= most else f"a whole number, {least} to {most}"


_Kind = tuple[str, Callable[[Any], bool]]

_PLAIN: Mapping[str, _Kind] = MappingProxyType(
    {
        "int": ("a whole number", lambda value: type(value) is int),
        "float": ("a number", lambda value: type(value) is int or (type(value) is float and math.isfinite(value))),
        "bool": ("true or false", lambda value: type(value) is bool),
        "str": ("text", lambda value: type(value) is str),
        "None": ("null", lambda value: value is None),
    }
)


def _kinds(annotation: ast.expr) -> list[_Kind]:
    """What an annotation allows: each kind of value in words, and as a test. What is none of ours allows anything."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):  # in quotes
        return _kinds(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return [*_kinds(annotation.left), *_kinds(annotation.right)]
    if not isinstance(annotation, ast.Subscript):
        return [_PLAIN.get(ast.unparse(annotation), ("anything", lambda value: True))]
    name = ast.unparse(annotation.value).rpartition(".")[2]
    parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    if name == "Literal":
        known = [ast.literal_eval(part) for part in parts]
        words = " or ".join(", ".join(map(str, known)).rsplit(", ", 1))
        return [(words, lambda value: any(type(value) is type(k) and value == k for k in known))]
    if name in ("Optional", "Union"):
        inner = [kind for part in parts for kind in _kinds(part)]
        return [*inner, _PLAIN["None"]] if name == "Optional" else inner
    if name in ("tuple", "list", "Sequence"):
        each = [_kinds(part) for part in parts if ast.unparse(part) != "..."]
        fixed = name == "tuple" and len(each) == len(parts)
        words = "a list of " + ", ".join(" or ".join(words for words, _ in kinds) for kinds in each)

        def fits(value: Any) -> bool:
            if not isinstance(value, list | tuple) or (fixed and len(value) != len(each)):
                return False
            wanted = each if fixed else each * len(value)
            return all(any(ok(item) for _, ok in kinds) for item, kinds in zip(value, wanted, strict=True))

        return [(words, fits)]
    return [("anything", lambda value: True)]


def load(target: str, kind: str | None = None) -> Any:
    """Import what a target names: from our tables, the user's own YAML, or typed by the user.

    With a kind, what is found is of that kind or refused: its source was read before (`target`), but what a name
    stands for in the end only its module can say.
    """
    module, _, attr = target.partition(":")
    found = getattr(importlib.import_module(module), attr)
    base = KINDS[kind][1] if kind is not None else None
    if base is not None:
        parent = load(base)
        if not (inspect.isclass(found) and issubclass(found, parent)):
            raise UserError(f"{target} is not a {kind}", expected=f"a class that extends {base.replace(':', '.')}")
    elif kind == "missing" and not inspect.isfunction(found):
        raise UserError(f"{target} is not a missing protocol", expected=f"a function ({', '.join(PROTOCOL)})")
    return found


def imported_name(tree: ast.Module, name: str, package: str = "") -> str | None:
    """The `module:attr` that a name imported from this project's packages or a plug-in's stands for.

    `name` may be dotted, `base.Fusion`; `package` is what relative imports start from.
    """
    first, _, rest = name.partition(".")
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom):
            source = from_module(statement, package)
            if not source or source.startswith("torch"):
                continue
            for alias in statement.names:
                if (alias.asname or alias.name) == first:
                    return _attribute(f"{source}.{alias.name}.{rest}") if rest else f"{source}:{alias.name}"
        elif isinstance(statement, ast.Import) and rest:
            for alias in statement.names:
                if alias.asname == first:
                    return _attribute(f"{alias.name}.{rest}")
                if alias.asname is None and name.startswith(f"{alias.name}."):
                    return _attribute(name)
    return None


def from_module(statement: ast.ImportFrom, package: str) -> str:
    """The full name of the module that `from ... import` names, in a module of `package`."""
    if not statement.level:
        return statement.module or ""
    parts = package.split(".")
    parents = parts[: len(parts) - statement.level + 1]
    return ".".join([*parents, statement.module] if statement.module else parents)


def _attribute(dotted: str) -> str:
    module, _, attr = dotted.rpartition(".")
    return f"{module}:{attr}"


def _package(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


class _Aliases(ast.NodeTransformer):
    """Puts what a module calls `StoreType` in its place, be it defined there or in the module it is imported from."""

    def __init__(self, tree: ast.Module, package: str) -> None:
        self.tree, self.package = tree, package

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in _PLAIN:
            return node
        trees, name = [self.tree], node.id
        source = imported_name(self.tree, node.id, self.package)
        if source is not None and not source.startswith(("typing", "collections")):
            name = source.partition(":")[2]
            with contextlib.suppress(UserError):
                trees.append(_parsed(source)[1])
        for statement in (statement for tree in trees for statement in tree.body):
            if _assigned_name(statement) == name and isinstance(statement, ast.Assign | ast.AnnAssign):
                return statement.value or node
        return node


def _parameters(init: ast.FunctionDef, tree: ast.Module, package: str) -> dict[str, Parameter]:
    found = {}
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        value: Any = REQUIRED
        if default is not None:
            try:
                value = ast.literal_eval(default)
            except ValueError:
                value = ast.unparse(default)
        annotation = "Any"
        if argument.annotation is not None:
            annotation = ast.unparse(_Aliases(tree, package).visit(argument.annotation))
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
