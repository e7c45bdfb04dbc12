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
NEMO = Path(os.environ.get("MER_NEMO", ROOT.parent / "shared" / "data" / "nemo"))

SLOW = {"README", "adding_a_level", "first_hour", "troubleshooting"}
"""Pages whose blocks train models for minutes."""

NOT_RUN = {
    "README": 3,
    "CONTRIBUTING": 1,
    "first_hour": 2,
    "corpora": 1,
    "editors": 2,
}
"""How many blocks of a page say that they are not run: making the environment, accounts, other projects' files."""

FOLLOWED_ELSEWHERE = {
    "clusters": "needs root, hosts and Slurm: tests/cluster follows it",
}

UNFENCED = {"cadgl"}
"""Pages with YAML that is indented, not fenced, and so not read."""

BUDGET = {"mer run --space mine.yaml --budget 20s": "mer run --space mine.yaml --budget 20s || test $? = 3"}
"""A run that its budget ends says with its exit code that trials are missing, as the page says."""

SHORTENED = {
    "first_hour": BUDGET,
    "README": {
        "source .venv/bin/activate": """
            mer data demo corpora/vnemos
            mer data check corpora/vnemos
            mer run --space fusion_vn --data corpora/vnemos --plan --no-smoke
            mer run --space fusion_vn --data corpora/vnemos --budget 40s || test $? = 3
            ls results/fusion_vn/report/index.html
        """
    },
}
"""Blocks that are run for less long than a reader would, on the stand-in, or that end with another code; by their first
line."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One cache for all pages, so that the demo corpus is made once; no hub, and no cluster of somebody else."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {"MER_CACHE": cache, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"}


def follow(page: Path, folder: Path, cache: dict[str, str]) -> None:
    shortened = SHORTENED.get(name(page), {})
    texts = (block.text.strip() for block in blocks(page))
    instead = {text: shortened[first] for text in texts if (first := text.split("\n")[0]) in shortened}
    assert len(instead) == len(shortened)
    left_out = Page(page, copy_checkout(folder), cache, instead).follow(unfenced=name(page) in UNFENCED)
    if left_out and os.environ.get("CI"):
        raise AssertionError(f"left out, although everything should be here: {left_out}")


@pytest.mark.parametrize("page", [p for p in WRITTEN if name(p) not in {*SLOW, *FOLLOWED_ELSEWHERE}], ids=name)
def test_page(page: Path, tmp_path: Path, cache: dict[str, str]) -> None:
    follow(page, tmp_path, cache)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in WRITTEN if name(page) in SLOW], ids=name)
def test_slow_page(page: Path, tmp_path: Path, cache: dict[str, str]) -> None:
    follow(page, tmp_path, cache)


@pytest.mark.slow
@pytest.mark.skipif(not NEMO.is_dir(), reason="the corpus nEMO is not here (MER_NEMO names its folder)")
def test_the_first_hour_on_real_speech(tmp_path: Path, cache: dict[str, str]) -> None:
    """The same page with nEMO in the place of the stand-in: 548 Polish recordings to train on."""
    instead = {"mer data demo corpora/mine": f"mkdir -p corpora && cp -r {NEMO} corpora/mine", **BUDGET}
    Page(ROOT / "docs" / "first_hour.md", copy_checkout(tmp_path), cache, instead).follow()
    table = (tmp_path / "results" / "mine" / "report" / "tables" / "main.md").read_text("utf-8")
    assert "UA on nemo" in table
    assert "Synthetic" not in table


def test_the_new_fusion_takes_under_sixty_lines() -> None:
    """From an empty file to a row in the table, and inside the repository one file and one line."""
    page = blocks(ROOT / "docs" / "adding_a_level.md")
    first = next(i for i, block in enumerate(page) if block.file == "mylab/gate.py")
    last = next(i for i, block in enumerate(page) if block.language == "sh" and "mer run" in block.text)
    written = [block for block in page[first : last + 1] if block.language in ("python", "yaml", "sh")]
    assert sum(len(block.text.strip().splitlines()) for block in written) < 60
    change = next(block for block in page if block.language == "diff")
    assert [line for line in change.text.splitlines() if line[:1] == "+" and line[:3] != "+++"] == [
        '+    "deepgate": "mer.fusion.deepgate:DeepGate",'
    ]


def test_pages_of_levels(tmp_path: Path) -> None:
    """Their YAML is what the project reads."""
    for page in MADE:
        for block in blocks(page):
            if block.language == "yaml":
                Page(page, tmp_path, {}).run(block)


def test_blocks_that_are_not_run_are_few_and_say_why() -> None:
    found = {}
    for page in WRITTEN:
        marked = [block for block in blocks(page) if block.not_run is not None]
        assert all(len(block.not_run or "") > 20 for block in marked), name(page)
        if marked and name(page) not in FOLLOWED_ELSEWHERE:
            found[name(page)] = len(marked)
    assert found == NOT_RUN


@pytest.mark.parametrize("page", [page for page in PAGES if name(page) not in FOLLOWED_ELSEWHERE], ids=name)
def test_every_block_says_what_it_is(page: Path) -> None:
    allowed = {*LANGUAGES, ""} if name(page) in UNFENCED else LANGUAGES
    wrong = [block.where for block in blocks(page) if block.language not in allowed]
    assert not wrong
