"""Pages that are made from the code say what it says now; every level has one, with all that a reader asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from docs.tools import level_pages, licences, space_reference
from docs.tools.blocks import ROOT
from docs.tools.generate import stale
from experiments.space.fields import all_levels
from experiments.space.model import Space
from mer import levels
from mer.described import described
from mer.recipe import LevelConfig, Recipe

EVERY = [(kind, name, target) for kind, table in all_levels().items() for name, target in table.items()]


def test_pages_are_in_step() -> None:
    assert stale() == [], "make them anew: make pages"


def test_every_level_has_a_page() -> None:
    here = {
        path.relative_to(ROOT / "docs" / "levels").with_suffix("") for path in (ROOT / "docs" / "levels").rglob("*.md")
    }
    assert {Path(kind) / name for kind, name, _ in EVERY} <= here
    assert set(all_levels()) == set(level_pages.KINDS)


WRITTEN_ABOUT = {("fusion", "cadgl"), ("context", "graph")}
"""Their choices are on a page of their own, docs/cadgl.md, and not in the fixed parts of a docstring."""


@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [e for e in EVERY if e[:2] not in WRITTEN_ABOUT],
    ids=lambda part: part if ":" not in part else "",
)
def test_a_level_says_all_that_its_page_needs(kind: str, name: str, target: str) -> None:
    said = described(target)
    assert said.summary, f"{target} has no docstring"
    missing = [section for section in ("Equation", "When to choose", "Cost", "Source") if section not in said.sections]
    if kind not in ("missing", "sampler"):
        missing += [] if "Shapes" in said.sections else ["Shapes"]
    about = level_pages.KINDS[kind]
    silent = [option for option, _, _, text in level_pages.options_of(about, target, said.options) if not text]
    assert not missing, f"the docstring of {target} lacks {', '.join(missing)}"
    assert not silent, f"the docstring of {target} says nothing of its options {', '.join(silent)}"


def test_options_that_are_described_exist() -> None:
    for kind, _, target in EVERY:
        if level_pages.KINDS[kind].section is None:
            unknown = set(described(target).options) - set(levels.declaration(target).parameters)
            inherited = {"unfreeze_every", "dtype", "bf16", "layer", "max_length", "segmenter"}
            assert not unknown - inherited, f"{target} describes {unknown}, which it does not take"


@pytest.mark.parametrize("root", [Space, Recipe])
def test_every_key_is_described(root: type[BaseModel]) -> None:
    models = [root, *(m for m in space_reference._nested(root) if m is not LevelConfig)]
    silent = [f"{m.__name__}.{name}" for m in models for name, info in m.model_fields.items() if not info.description]
    assert not silent


def test_the_reference_names_every_key() -> None:
    page = space_reference.page()
    for model in (Space, *space_reference._nested(Space), Recipe, *space_reference._nested(Recipe)):
        if model is not LevelConfig:
            for name, info in space_reference._written(model):
                assert f"| `{info.alias or name}` |" in page


def test_licences_are_of_the_pinned_versions() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").split())
    bare = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    rows = re.findall(r"^\| ([\w.-]+) \| (\d[\w.]*) \| (.+) \|$", licences.page(), re.MULTILINE)
    assert len(rows) > 100
    for name, version, licence in rows:
        if name != "setuptools":
            assert bare[name.lower().replace("_", "-")] == version
        assert licence != "not stated in its metadata", name
