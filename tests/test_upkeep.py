"""What must be changed together is: versions, the changelog, the citation."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import mer
from experiments.results.schema import VERSION

ROOT = Path(__file__).parents[1]


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert project["version"] == mer.__version__ == citation["version"]
    assert project["license"] == citation["license"]


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert all({"name"} <= set(author) for author in citation["authors"])


def test_the_changelog_knows_this_version_and_this_schema() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## {mer.__version__}" in text
    newest = re.search(r"Result schema version: (\d+)", text)
    assert newest is not None
    assert int(newest[1]) == VERSION


def test_pins_cover_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[\[<>=]", line)[0].lower().replace("_", "-") for line in asked}
    assert names <= pins
