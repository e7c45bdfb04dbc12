"""The architecture page is true: its folders are the folders, its arrows are the imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
TOP = ("mer", "experiments", "search_spaces", "cluster", "examples", "benchmarks", "docs", "tests")

MAY_IMPORT = {
    "space": {"slots"},
    "protocol": {"space", "slots"},
    "results": {"space", "slots"},
    "cluster": {"results", "space"},
    "schedule": {"protocol", "space", "results", "cluster", "slots"},
    "reporting": set[str](),
    "analysis": {"results", "slots"},
}
EXCEPTIONS = {
    ("space/estimate.py", "protocol"),
    ("space/text.py", "reporting"),
    ("space/fit.py", "reporting"),
}
"""The plan's forecasts: what pruning leaves, what a number of studies can decide."""

THIRD = {"ray": {"schedule", "cluster/check.py"}, "optuna": {"space/sampling.py"}}
"""Who may import what is heavy and replaceable; below experiments/."""


def modules(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, except for type checking alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                found.update({child.module, *(f"{child.module}.{alias.name}" for alias in child.names)})
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


@pytest.mark.parametrize("path", modules("mer"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_mer_knows_nothing_of_experiments(path: Path) -> None:
    heads = {name.partition(".")[0] for name in imported(path)}
    assert not heads & {"experiments", "ray", "optuna"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    wrong = []
    for path in modules(f"experiments/{package}"):
        own = path.relative_to(ROOT / "experiments").as_posix()
        for name in imported(path):
            if not name.startswith("experiments."):
                continue
            other = name.split(".")[1]
            if other not in {package, *MAY_IMPORT[package]} and (own, other) not in EXCEPTIONS:
                wrong.append(f"{own} imports {name}")
    assert not wrong


def test_every_package_has_its_rule() -> None:
    packages = {path.parent.name for path in (ROOT / "experiments").glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)


def test_exceptions_are_used() -> None:
    for own, other in EXCEPTIONS:
        assert any(name.startswith(f"experiments.{other}") for name in imported(ROOT / "experiments" / own)), own


@pytest.mark.parametrize("heavy", THIRD)
def test_ray_and_optuna_stay_where_they_are(heavy: str) -> None:
    for path in modules("experiments"):
        own = path.relative_to(ROOT / "experiments").as_posix()
        if any(name.partition(".")[0] == heavy for name in imported(path)):
            assert own in THIRD[heavy] or own.partition("/")[0] in THIRD[heavy], own


def folders() -> set[str]:
    """Every folder of the repository that holds a file; below tests and levels the page does not go."""
    found = set()
    for top in TOP:
        for path in [ROOT / top, *(ROOT / top).rglob("*")]:
            name = path.relative_to(ROOT).as_posix()
            if not path.is_dir() or re.search(r"__pycache__|_build|^tests/|^docs/levels/", name):
                continue
            if any(child.is_file() for child in path.iterdir()):
                found.add(name)
    return found


def test_the_page_names_every_folder_and_no_other() -> None:
    tree = re.search(r"## Folders\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert tree is not None
    named = [line.split()[0].rstrip("/") for line in tree[1].splitlines()]
    assert len(named) == len(set(named))
    assert set(named) == folders()


def test_every_file_that_the_page_names_exists() -> None:
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE):
        assert (ROOT / name).is_file() or (ROOT / "experiments" / name).is_file(), name
    for name in re.findall(r"`(\w+\.py)`", PAGE):
        assert any((ROOT / folder / name).is_file() for folder in ("mer", "experiments")), name
