"""Folders that a laboratory shares stay shared, whatever the umask; and nothing is opened that was closed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mer.files import claim, make_folder, remove_stale, share_tree, temporary, write
from mer.storage import LocalStore


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    folder.mkdir()
    folder.chmod(0o2770)
    return folder


def test_what_is_made_in_a_shared_folder_is_shared(shared: Path, umask: int) -> None:
    LocalStore(shared).put("ledger/a.parquet", b"x")
    write(make_folder(shared / "one" / "two") / "file", b"y")
    for folder in (shared / "ledger", shared / "one", shared / "one" / "two"):
        assert mode(folder) & 0o2070 == 0o2070
    for file in (shared / "ledger" / "a.parquet", shared / "one" / "two" / "file"):
        assert mode(file) & 0o060 == 0o060
    assert not list(shared.rglob("_*"))


def test_a_tree_that_was_built_elsewhere_is_opened_as_a_whole(shared: Path, umask: int) -> None:
    tree = shared / "built"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "file").write_text("x")
    share_tree(tree)
    assert mode(tree / "deep") & 0o2070 == 0o2070
    assert mode(tree / "deep" / "file") & 0o060 == 0o060


def test_a_private_folder_stays_private(tmp_path: Path, umask: int) -> None:
    tmp_path.chmod(0o700)
    LocalStore(tmp_path).put("ledger/a", b"x")
    assert mode(tmp_path / "ledger") == 0o777 & ~umask
    assert mode(tmp_path / "ledger" / "a") == 0o666 & ~umask


def test_what_others_may_see_is_left_to_the_umask(shared: Path, umask: int) -> None:
    LocalStore(shared).put("a", b"x")
    assert mode(shared / "a") & 0o007 == 0o006 & ~umask


def test_a_lock_can_be_taken_by_the_next_of_the_group(shared: Path, umask: int) -> None:
    with claim(shared, "work", wait=False) as mine:
        assert mine
        assert mode(shared / "_work.lock") & 0o060 == 0o060
        with claim(shared, "work", wait=False) as second:
            assert not second
    assert not (shared / "_work.lock").exists()


def test_only_what_dead_writers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "_1-dead.tmp").write_text("half")
    (tmp_path / "_a.parquet.0123").write_text("of a store, on another machine perhaps")
    with temporary(tmp_path) as (stream, name):
        stream.write(b"alive")
        assert remove_stale(tmp_path) == 1
        assert name.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["_a.parquet.0123"]
