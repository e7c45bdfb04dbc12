"""Folders that a laboratory shares stay shared, whatever the umask; and nothing is opened that was closed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mer import files
from mer.files import claim, lock, make_folder, remove_stale, share_tree, temporary, write
from mer.storage import LocalStore
from tests.mer.processes import fork, status


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


@pytest.mark.parametrize("bits", [0o755, 0o2770], ids=["private", "shared"])
def test_one_at_a_time_though_the_lock_comes_and_goes(tmp_path: Path, bits: int) -> None:
    """Each holder removes the lock, and others clean up, while the next ones are between making it and holding it."""
    tmp_path.chmod(bits)
    inside = tmp_path / "inside"

    def work() -> None:
        for _ in range(1500):
            with claim(tmp_path, "work", wait=True) as mine:
                assert mine
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where somebody is inside
                inside.unlink()

    def clean() -> None:
        for _ in range(3000):
            remove_stale(tmp_path)

    children = [fork(work) for _ in range(4)] + [fork(clean)]
    assert [status(child) for child in children] == [0] * 5
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_not_removed_for_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(claim(tmp_path, "work", wait=False))

        def meanwhile(descriptor: int, wait: bool) -> bool:
            monkeypatch.undo()
            first.close()
            assert second.enter_context(claim(tmp_path, "work", wait=False))
            return lock(descriptor, wait)

        monkeypatch.setattr(files, "lock", meanwhile)
        assert remove_stale(tmp_path) == 0
        with claim(tmp_path, "work", wait=False) as third:
            assert not third


def test_only_what_dead_writers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "_1-dead.tmp").write_text("half")
    (tmp_path / "_a.parquet.0123").write_text("of a store, on another machine perhaps")
    with temporary(tmp_path) as (stream, name):
        stream.write(b"alive")
        assert remove_stale(tmp_path) == 1
        assert name.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["_a.parquet.0123"]
