"""A corpus in an object store: fetched once by each machine, resumed, proven, refused in words."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from mer.data import fetching
from mer.data.corpus import load_corpus
from mer.data.fetching import fetch_corpus, listing
from mer.data.fingerprint import cache_root
from mer.data.places import address_of, copy_here, find_corpus
from mer.errors import UnfitMachine, UserError
from mer.storage import ObjectStore, StoreUnreachable
from mer.storage import objects as objects_module
from tests.mer.processes import fork, status

ADDRESS = "s3://bucket/corpora/tiny?region=eu-west-1"


class Remote:
    """A bucket whose objects lie in a folder; counts what is opened, and breaks on demand."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.inner, self.folder, self.log = fs.LocalFileSystem(), folder, log
        self.fail_after: int | None = None
        """Bytes of a file that can be read before the connection is lost for good."""

    def opened(self) -> list[str]:
        """The files opened so far, by all processes."""
        return self.log.read_text().split() if self.log.exists() else []

    def open_input_file(self, path: str) -> Any:
        with self.log.open("a") as stream:
            stream.write(f"{Path(path).relative_to(self.folder)}\n")
        file = self.inner.open_input_file(path)
        return file if self.fail_after is None else _Breaking(file, self.fail_after)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Breaking:
    def __init__(self, file: Any, after: int) -> None:
        self.file, self.after = file, after

    def read_at(self, size: int, at: int) -> bytes:
        if at + size > self.after:
            size = self.after - at
        if size <= 0:
            raise OSError("the connection was lost, and it is not said why")
        return bytes(self.file.read_at(size, at))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.fixture
def remote(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """The sound corpus at ADDRESS, with masks beside it."""
    folder = tmp_path / "bucket"
    shutil.copytree(sound, folder)
    (folder / "masks.json").write_text("{}")
    found = Remote(folder, tmp_path / "opened.log")

    def open_store(address: str, *, hint: str, patience: float | None) -> ObjectStore:
        assert address == ADDRESS
        return ObjectStore(found, str(folder), address, hint, patience or 300.0)  # type: ignore[arg-type]

    monkeypatch.setattr(fetching, "open_store", open_store)
    return found


def same(one: Path, other: Path) -> None:
    files = {path.relative_to(one).as_posix(): path.read_bytes() for path in one.rglob("*") if path.is_file()}
    assert files == {p.relative_to(other).as_posix(): p.read_bytes() for p in other.rglob("*") if p.is_file()}


def quiet(text: str) -> None:
    return


def test_it_is_fetched_once_and_is_the_same_corpus(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    here = find_corpus(ADDRESS)
    assert here.name == "tiny"
    same(here, remote.folder)
    assert load_corpus(here).fingerprint() == load_corpus(remote.folder).fingerprint()
    said = capsys.readouterr().err
    assert "fetching s3://bucket/corpora/tiny: " in said
    assert "region" not in said
    count = len(remote.opened())
    assert count == sum(path.is_file() for path in remote.folder.rglob("*"))
    assert find_corpus(ADDRESS) == here
    assert len(remote.opened()) == count
    assert capsys.readouterr().err == ""


def test_another_machine_takes_the_planned_copy_without_asking_again(remote: Remote, monkeypatch: Any) -> None:
    planned = fetch_corpus(ADDRESS, say=quiet)
    address = address_of(ADDRESS, planned)
    assert copy_here(planned, address) == planned
    monkeypatch.setenv("MER_CACHE", str(remote.folder.parent / "other machine"))
    there = copy_here(planned, address)
    assert there != planned
    assert there.parent.name == planned.parent.name
    same(there, planned)
    monkeypatch.setattr(fetching, "open_store", None)  # from here on nobody may look
    assert copy_here(planned, address) == there


def test_several_workers_of_a_machine_fetch_it_once(remote: Remote) -> None:
    children = [fork(lambda: fetch_corpus(ADDRESS, say=quiet)) for _ in range(4)]
    assert [status(child) for child in children] == [0] * 4
    assert sorted(remote.opened()) == sorted(set(remote.opened()))
    same(fetch_corpus(ADDRESS, say=quiet), remote.folder)


def test_a_broken_fetch_goes_on_within_the_file(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_BLOCK", 1 << 12)
    big = remote.folder / "wavs" / "big.bin"
    big.write_bytes(os.urandom(1 << 18))
    remote.fail_after = 1 << 16
    with pytest.raises(OSError, match="connection was lost"):
        fetch_corpus(ADDRESS, say=quiet)
    remote.fail_after = None
    (partial,) = (cache_root() / "corpora").glob("_*/tiny")
    whole = {path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.suffix in (".wav", ".jsonl")}
    seeks: list[int] = []
    seek = objects_module._Remote.seek
    monkeypatch.setattr(
        objects_module._Remote, "seek", lambda self, at, how=0: (seeks.append(at), seek(self, at, how))[1]
    )
    opened = len(remote.opened())
    here = fetch_corpus(ADDRESS, say=quiet)
    same(here, remote.folder)
    assert "wavs/big.bin" in remote.opened()[opened:]
    assert whole.isdisjoint(remote.opened()[opened:])
    assert 1 << 15 < max(seeks) <= 1 << 16  # not from the beginning
    assert not partial.parent.exists()


def test_kill_9_while_it_is_fetched(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the n-th system call that changes a file; whoever comes next finishes it."""
    for point in range(0, 120, 8):
        monkeypatch.setenv("MER_CACHE", str(tmp_path / f"cache{point}"))
        pid = os.fork()
        if pid == 0:
            left = [point]

            def counted(act: Any, left: list[int] = left) -> Any:
                def acting(*args: Any, **named: Any) -> Any:
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    return act(*args, **named)

                return acting

            for name in ("replace", "utime", "fsync", "link"):
                setattr(os, name, counted(getattr(os, name)))
            fetch_corpus(ADDRESS, say=quiet)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL)
        for copy in (tmp_path / f"cache{point}" / "corpora").glob("[!_]*/tiny"):
            same(copy, remote.folder)  # what has its name is whole
        same(fetch_corpus(ADDRESS, say=quiet), remote.folder)
    assert code == 0  # the last points lie behind the end


def test_what_has_changed_is_fetched_and_only_that(remote: Remote) -> None:
    before = fetch_corpus(ADDRESS, say=quiet)
    state = listing(ADDRESS)
    text = (remote.folder / "train.jsonl").read_text().replace("happy", "sad").replace("u0", "u9")
    (remote.folder / "train.jsonl").write_text(text)
    (remote.folder / "masks.json").unlink()
    assert listing(ADDRESS) != state
    opened = len(remote.opened())
    after = fetch_corpus(ADDRESS, say=quiet)
    assert after != before
    same(after, remote.folder)
    assert remote.opened()[opened:] == ["train.jsonl"]
    assert (before / "masks.json").exists()  # a run that goes on with the old copy is not disturbed
    with pytest.raises(UnfitMachine, match="not the one that the run was planned with"):
        fetch_corpus(ADDRESS, copy="0" * 32, say=quiet)
    assert fetch_corpus(ADDRESS, copy=before.parent.name) == before


def test_a_file_that_shrinks_while_it_is_fetched(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ObjectStore.tree

    def announced(self: ObjectStore, folder: str) -> Any:
        return [e.__class__(e.name, e.size + (e.name == "train.jsonl"), e.modified) for e in tree(self, folder)]

    monkeypatch.setattr(ObjectStore, "tree", announced)
    with pytest.raises(UserError, match=r"tiny/train.jsonl.*bytes were read, \d+ were announced"):
        fetch_corpus(ADDRESS, say=quiet)


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_full_disk_is_named(remote: Remote, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    if when == "before":
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: usage._replace(free=10))
        message = r"no room for the corpus s3://bucket/corpora/tiny: .* to fetch, 0.0 kB free"
    else:

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(fetching.shutil, "copyfileobj", full)
        message = "cannot write the corpus: no space left on device"
    with pytest.raises(UnfitMachine, match=message) as caught:
        fetch_corpus(ADDRESS, say=quiet)
    assert "MER_CACHE" in str(caught.value)


def test_an_endpoint_that_is_away_is_named_soon(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(objects_module.time, "sleep", waited.append)
    monkeypatch.setattr(objects_module.time, "monotonic", lambda: sum(waited))

    def away(*args: Any) -> None:
        raise OSError("AWS Error NETWORK_CONNECTION during ListObjectsV2 operation: curlCode: 7")

    remote.get_file_info = away  # type: ignore[attr-defined]
    with pytest.raises(StoreUnreachable, match="has not answered for 20 s"):
        find_corpus(ADDRESS)
    assert 20 <= sum(waited) < 60  # a person waits; workers have more patience


def test_refusals(remote: Remote) -> None:
    shutil.rmtree(remote.folder)
    remote.folder.mkdir()
    with pytest.raises(UserError, match="bucket/corpora/tiny: there is no corpus: nothing lies there"):
        find_corpus(ADDRESS)
    remote.get_file_info = lambda where: (_ for _ in ()).throw(OSError("AWS Error ACCESS_DENIED"))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="cannot be read: AWS Error ACCESS_DENIED") as caught:
        find_corpus(ADDRESS)
    assert "credentials" in str(caught.value)


def test_names_that_lead_out_are_refused(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ObjectStore.tree
    evil = [entry.__class__("../../evil", 3, 0) for entry in [fetching.Entry("x", 0)]]
    monkeypatch.setattr(ObjectStore, "tree", lambda self, folder: [*tree(self, folder), *evil])
    with pytest.raises(UserError, match=r"'\.\./\.\./evil' leads out of the corpus"):
        find_corpus(ADDRESS)


def test_the_demo_corpus_is_found_by_its_name_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_corpus("demo")
    assert address_of("demo", folder) == "demo"
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "another machine"))
    there = copy_here(folder, "demo")
    assert there != folder
    assert load_corpus(there).fingerprint() == load_corpus(folder).fingerprint()


def test_a_folder_has_no_address(sound: Path) -> None:
    assert address_of(str(sound), find_corpus(str(sound))) is None
    assert copy_here(sound, None) == sound
    assert find_corpus(f"file://{sound}") == sound
