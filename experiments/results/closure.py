"""A digest of source code: of the definitions that something uses, within named packages, read without running them.

The unit is what a statement at the top of a module defines. What a definition refers to belongs to it: names of its
own module, imported names, `module.attribute`, imports inside functions, in bodies, bases, decorators, defaults and
annotations alike, and so on from there. To every module that is reached belong the statements that do something when it
is imported, and those of all modules that it imports. What cannot be told from the source (a module handed on as a
value, `globals()`, a lookup by name) counts as the whole module.

Comments, docstrings, formatting, line numbers and imports under `if TYPE_CHECKING` do not count; neither do tables of
levels (`LEVELS`), version numbers and export lists. So neither a new level nor a new helper beside others changes what
the others' trials are called.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mer.errors import UserError
from mer.levels import find_source, from_module

VERSION = 2
IGNORED = frozenset({"LEVELS", "__all__", "__version__"})
"""Top-level names whose value is bookkeeping. What a level *is* is in the digest by its own definition."""

EFFECTS = ""
"""The name under which a module's statements go that do something when it is imported."""

REFLECTION = frozenset({"globals", "locals", "vars", "eval", "exec", "__import__", "import_module"})
"""What uses one of these may use anything of its module."""

PURE = {
    *("Annotated", "ConfigDict", "Field", "MappingProxyType", "NewType", "Path", "TypeVar", "compile", "field"),
    *("dict", "float", "frozenset", "int", "list", "namedtuple", "range", "set", "sorted", "str", "tuple"),
}
"""Calls that do nothing but make a value, by their last name: an assignment of one is no effect."""

MAKERS = {"functools", "dataclasses", "contextlib", "typing", "abc"}
"""Modules whose decorators and makers do nothing else."""

Symbol = tuple[str, str]
"""Module and name of a definition."""


def code_digest(roots: Iterable[str], packages: frozenset[str]) -> str:
    """Digest of all that the roots (`module:name`, or whole modules) use inside `packages`, directly or not."""
    total, search = hashlib.blake2b(f"code {VERSION}".encode(), digest_size=16), _Search(packages)
    for module, name in sorted(search.run(roots)):
        total.update(f"{module}:{name}\0{search.load(module).digest(name)}\n".encode())
    return total.hexdigest()


def closure(roots: Iterable[str], packages: frozenset[str]) -> set[Symbol]:
    """The definitions reached from the roots."""
    return _Search(packages).run(roots)


@dataclass
class _Module:
    """A parsed module: what each top-level name is, and what happens on import."""

    name: str
    package: str
    statements: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    """Local name to `module` or `module:name`."""
    stars: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    """Modules that importing this one imports."""
    effects: list[ast.stmt] = field(default_factory=list)
    used: dict[str, list[tuple[str, tuple[str, ...]]]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def references(self, name: str) -> list[tuple[str, tuple[str, ...]]]:
        if name not in self.used:
            found = [pair for statement in self.of(name) for pair in _references(statement, self)]
            self.used[name] = list(dict.fromkeys(found))
        return self.used[name]

    def of(self, name: str) -> list[ast.stmt]:
        return self.effects if name == EFFECTS else self.statements.get(name, [])

    def digest(self, name: str) -> str:
        """Of a definition, and of what the imported names in it stand for."""
        if name not in self.digests:
            bound = sorted((used, self.imports[used]) for used, _ in self.references(name) if used in self.imports)
            content = [[_shape(statement) for statement in self.of(name)], bound]
            self.digests[name] = hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()
        return self.digests[name]


class _Search:
    """Follows references, each definition once."""

    def __init__(self, packages: frozenset[str]) -> None:
        self.packages = packages
        self.found: set[Symbol] = set()
        self.pending: list[Symbol] = []
        self.imported: set[str] = set()
        self.modules: dict[str, _Module | None] = {}

    def run(self, roots: Iterable[str]) -> set[Symbol]:
        for root in roots:
            module, _, name = root.partition(":")
            if find_source(module) is None:
                raise UserError(f"cannot find the source of module {module!r}", hint="Is it on PYTHONPATH?")
            if name:
                self.reach(module, name)
            else:
                self.whole(module)
        while self.pending:
            module, name = self.pending.pop()
            found = self.load(module)
            for target, attributes in found.references(name):
                self.refer(found, target, attributes)
        return self.found

    def refer(self, module: _Module, name: str, attributes: tuple[str, ...]) -> None:
        """A name is used in a module, perhaps with attributes of it."""
        looks_up = name in REFLECTION or "import_module" in attributes or (name == "sys" and "modules" in attributes)
        if looks_up and module.name != "mer.levels":  # which loads what the roots name
            self.reach(module.name, "")
        if name in module.statements:
            self.reach(module.name, name)
        elif name in module.imports:
            self.follow(module.imports[name], attributes)
        elif name == "import":  # inside a function; `attributes` is the target
            self.follow(attributes[0], attributes[1:])
        else:
            for star in module.stars:
                if self.mine(star) and self.defines(star, name):
                    self.reach(star, name)

    def follow(self, target: str, attributes: tuple[str, ...]) -> None:
        """What an imported name stands for: a definition, or a module of which attributes are taken."""
        module, _, name = target.partition(":")
        if not self.mine(module):
            return
        if name:
            attributes = (name, *attributes)
        while attributes and not self.defines(module, attributes[0]) and self.mine(f"{module}.{attributes[0]}"):
            module, attributes = f"{module}.{attributes[0]}", attributes[1:]
        self.reach(module, attributes[0] if attributes else "")

    def mine(self, module: str) -> bool:
        """Has it source within the packages?"""
        if module not in self.modules:
            source = find_source(module) if module.partition(".")[0] in self.packages else None
            self.modules[module] = _parsed(source, source.stat().st_mtime_ns, module) if source else None
        return self.modules[module] is not None

    def load(self, module: str) -> _Module:
        found = self.modules.get(module) if self.mine(module) else None
        if found is None:
            raise UserError(f"cannot find the source of module {module!r}")
        return found

    def defines(self, module: str, name: str) -> bool:
        found = self.load(module)
        return name in found.statements or name in found.imports

    def reach(self, module: str, name: str) -> None:
        """A definition, or with no name the whole module. What is not found where it should be counts as the module."""
        self.enter(module)
        found = self.load(module)
        if not name:
            if (module, "*") in self.found:
                return
            self.found.add((module, "*"))
            self.whole(module)
            for source, _, known in (target.partition(":") for target in found.imports.values()):
                if known and self.mine(source) and self.defines(source, known):
                    self.reach(source, known)
        elif name in found.statements:
            if name not in IGNORED:
                self.add(module, name)
        elif name in found.imports:
            self.follow(found.imports[name], ())
        elif stars := [star for star in found.stars if self.mine(star) and self.defines(star, name)]:
            self.reach(stars[0], name)
        elif not (name.startswith("__") and name.endswith("__")):
            self.reach(module, "")  # looked up at run time: by `__getattr__`, or set from elsewhere

    def whole(self, module: str) -> None:
        """All that a module defines."""
        self.enter(module)
        for name in self.load(module).statements:
            if name not in IGNORED:
                self.add(module, name)

    def add(self, module: str, name: str) -> None:
        if (module, name) not in self.found:
            self.found.add((module, name))
            self.pending.append((module, name))

    def enter(self, module: str) -> None:
        """Importing a module runs its own statements, its parents' and those of what it imports."""
        pending = [module]
        while pending:
            module = pending.pop()
            if module in self.imported or not self.mine(module):
                continue
            self.imported.add(module)
            parts = module.split(".")
            pending += [".".join(parts[:count]) for count in range(1, len(parts))]
            found = self.load(module)
            pending += found.runs
            if found.effects:
                self.add(module, EFFECTS)


# ---- reading a module ------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _parsed(source: Path, changed: int, module: str) -> _Module:
    """`changed` keys the cache."""
    try:
        tree = ast.parse(source.read_text("utf-8"))
    except SyntaxError as error:
        raise UserError(f"does not parse: {error.msg}", where=f"{source}:{error.lineno}") from None
    found = _Module(module, module if source.name == "__init__.py" else module.rpartition(".")[0])
    for statement in _executed(tree.body):
        _take(statement, found)
    return found


def _executed(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            yield from _executed(statement.orelse)
        elif not _is_docstring(statement):
            yield statement


def _take(statement: ast.stmt, module: _Module) -> None:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        _bind(statement, module)
        return
    names: list[str] = []
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        names = [statement.name]
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.append(node.id)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.append(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):  # in a `try` or an `if`
                _bind(node, module)
    for name in dict.fromkeys(names):
        module.statements.setdefault(name, []).append(statement)
    if _does_something(statement, module) and not set(names) & IGNORED:
        module.effects.append(statement)


def _bind(statement: ast.Import | ast.ImportFrom, module: _Module) -> None:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            module.runs.append(alias.name)
            bound = alias.name if alias.asname else alias.name.partition(".")[0]
            module.imports[alias.asname or bound] = bound
        return
    source = from_module(statement, module.package)
    module.runs.append(source)
    for alias in statement.names:
        if alias.name == "*":
            module.stars.append(source)
            continue
        module.imports[alias.asname or alias.name] = f"{source}:{alias.name}"
        module.runs.append(f"{source}.{alias.name}")


def _does_something(statement: ast.stmt, module: _Module) -> bool:
    """Does executing it change anything but the names that it binds? In doubt it does."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        defaults = [*statement.args.defaults, *(d for d in statement.args.kw_defaults if d is not None)]
        return _decorated(statement, module) or any(_calls(default, module) for default in defaults)
    if isinstance(statement, ast.ClassDef):
        body = [item for item in statement.body if not _is_docstring(item)]
        plain = ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign | ast.Pass | ast.ClassDef
        return (
            _decorated(statement, module)
            or any(keyword.arg == "metaclass" or keyword.arg is None for keyword in statement.keywords)
            or not all(isinstance(item, plain) or _is_ellipsis(item) for item in body)
            or any(isinstance(item, ast.FunctionDef) and item.name == "__init_subclass__" for item in body)
        )
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        plain_targets = all(isinstance(node, ast.Name | ast.Tuple) for node in targets)
        return not plain_targets or (statement.value is not None and _calls(statement.value, module))
    return not isinstance(statement, ast.Pass) and not _is_ellipsis(statement)


def _decorated(statement: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, module: _Module) -> bool:
    called = [d if isinstance(d, ast.Call) else ast.Call(d, [], []) for d in statement.decorator_list]
    return any(_calls(call, module) for call in called)


def _calls(node: ast.expr, module: _Module) -> bool:
    """Does evaluating an expression call something of these packages, or of which we do not know that it is pure?"""
    for part in ast.walk(node):
        if not isinstance(part, ast.Call):
            continue
        dotted = ast.unparse(part.func)
        root, last = dotted.partition(".")[0], dotted.rpartition(".")[2]
        origin = module.imports.get(root, "").partition(":")[0].partition(".")[0]
        if origin not in MAKERS and last not in PURE:
            return True
    return False


def _references(statement: ast.stmt, module: _Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names that are used, each with the attributes taken of it; imports inside functions as (`import`, target...)."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        attributes: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield inner.id, tuple(attributes)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield "import", (alias.name,)
        elif isinstance(node, ast.ImportFrom):
            source = from_module(node, module.package)
            for alias in node.names:
                yield "import", (source,) if alias.name == "*" else (source, alias.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value, ()  # an annotation in quotes, or a name that is looked up
        else:
            pending += [item for item in ast.iter_child_nodes(inner) if not _is_type_checking(item)]


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _shape(node: Any) -> Any:
    """A syntax tree as nested tuples, without positions, docstrings and empty fields: the same in every Python."""
    if isinstance(node, list):
        return tuple(_shape(item) for item in node)
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name in ("ctx", "type_comment", "kind") or value is None or value == []:
            continue
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = [item for item in value if not _is_docstring(item)]
        fields.append((name, _shape(value)))
    return (type(node).__name__, *fields)


def _is_ellipsis(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_docstring(statement: ast.stmt) -> bool:
    """A string that stands alone does nothing, wherever it stands."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
