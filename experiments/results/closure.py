"""A digest of source code: of the modules that something imports, within named packages, read without running them.

Comments, docstrings, formatting and line numbers do not count; neither do tables of levels (`LEVELS`), version
numbers and export lists, so that adding a fusion leaves the trials of other fusions valid. Imports inside functions
count; those under `if TYPE_CHECKING` do not.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mer.errors import UserError

VERSION = 1
IGNORED = frozenset({"LEVELS", "__all__", "__version__"})
"""Top-level names whose value is bookkeeping. What a level *is* is in the digest by its own module."""


def code_digest(modules: Iterable[str], packages: frozenset[str]) -> str:
    """Digest of the modules and of all they import, directly or not, inside `packages`."""
    total = hashlib.blake2b(f"code {VERSION}".encode(), digest_size=16)
    for module in closure(modules, packages):
        total.update(f"{module}\0{module_digest(module)}\n".encode())
    return total.hexdigest()


def closure(modules: Iterable[str], packages: frozenset[str]) -> tuple[str, ...]:
    """Names of the modules reached, sorted. A module's parent packages run before it and so belong to it."""
    found: set[str] = set()
    pending = list(modules)
    for module in pending:
        if find_source(module) is None:
            raise UserError(f"cannot find the source of module {module!r}", hint="Is it on PYTHONPATH?")
    while pending:
        module = pending.pop()
        if module in found or module.partition(".")[0] not in packages or find_source(module) is None:
            continue
        found.add(module)
        parts = module.split(".")
        pending += [".".join(parts[:count]) for count in range(1, len(parts))]
        pending += imports(module)
    return tuple(sorted(found))


def imports(module: str) -> tuple[str, ...]:
    """What a module imports, by full name; of `from a import b` both `a` and, if it is a module, `a.b`."""
    source = find_source(module)
    return _parsed(source, source.stat().st_mtime_ns, module)[1] if source else ()


def module_digest(module: str) -> str:
    source = find_source(module)
    if source is None:
        raise UserError(f"cannot find the source of module {module!r}")
    return _parsed(source, source.stat().st_mtime_ns, module)[0]


def find_source(module: str) -> Path | None:
    """The file of a module. Only the top-level package is looked up by Python; below it, paths do."""
    top, *rest = module.split(".")
    source, folders = _top_level(top)
    if not rest:
        return source
    for base in folders:
        folder = base.joinpath(*rest)
        for candidate in (folder / "__init__.py", folder.with_name(f"{folder.name}.py")):
            if candidate.is_file():
                return candidate
    return None


@functools.lru_cache(maxsize=64)
def _top_level(name: str) -> tuple[Path | None, tuple[Path, ...]]:
    """The file of a top-level module or package, if it has one, and the folders of a package, with or without one."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None, ()
    if spec is None:
        return None, ()
    source = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return source, tuple(map(Path, spec.submodule_search_locations or ()))


@functools.lru_cache(maxsize=4096)
def _parsed(source: Path, changed: int, module: str) -> tuple[str, tuple[str, ...]]:
    """Digest and imports of a file; `changed` keys the cache."""
    try:
        tree = ast.parse(source.read_text("utf-8"))
    except SyntaxError as error:
        raise UserError(f"does not parse: {error.msg}", where=f"{source}:{error.lineno}") from None
    names: list[str] = []
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    _collect(tree, package, names)
    tree.body = [statement for statement in tree.body if _assigned(statement) not in IGNORED]
    hashed = hashlib.blake2b(repr(_shape(tree)).encode(), digest_size=16).hexdigest()
    return hashed, tuple(dict.fromkeys(names))


def _collect(node: ast.AST, package: str, names: list[str]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for statement in child.orelse:
                _collect(statement, package, names)
        elif isinstance(child, ast.Import):
            names += [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                parts = package.split(".")
                parents = parts[: len(parts) - child.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names += [base, *(f"{base}.{alias.name}" for alias in child.names)]
        else:
            _collect(child, package, names)


def _assigned(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    return None


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


def _is_docstring(statement: ast.stmt) -> bool:
    """A string that stands alone does nothing, wherever it stands."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
