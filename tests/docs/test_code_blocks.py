"""Every code block of every page does what the page says, in a fresh copy of the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docs.tools.blocks import LANGUAGES, ROOT, Page, blocks, copy_checkout

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
MADE = [page for page in PAGES if page.is_relative_to(ROOT / "docs" / "levels")]
WRITTEN = [page for page in PAGES if page not in MADE]

SLOW = {"adding_a_level"}
"""Pages whose blocks train models for minutes."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One cache for all pages, so that the demo corpus is made once; no page may reach for the hub."""
    return {"MER_CACHE": str(tmp_path_factory.mktemp("cache")), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def follow(page: Path, folder: Path, cache: dict[str, str]) -> None:
    left_out = Page(page, copy_checkout(folder), cache).follow()
    if left_out and os.environ.get("CI"):
        raise AssertionError(f"left out, although everything should be here: {left_out}")


@pytest.mark.parametrize("page", [page for page in WRITTEN if name(page) not in SLOW], ids=name)
def test_page(page: Path, tmp_path: Path, cache: dict[str, str]) -> None:
    follow(page, tmp_path, cache)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in WRITTEN if name(page) in SLOW], ids=name)
def test_slow_page(page: Path, tmp_path: Path, cache: dict[str, str]) -> None:
    follow(page, tmp_path, cache)


def test_pages_of_levels(tmp_path: Path) -> None:
    """Their YAML is what the project reads."""
    for page in MADE:
        for block in blocks(page):
            if block.language == "yaml":
                Page(page, tmp_path, {}).run(block)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page: Path) -> None:
    wrong = [block.where for block in blocks(page) if block.language.strip("{}") not in (*LANGUAGES, "toctree")]
    assert not wrong
