"""Folders and object stores behind one interface: listings, uploads, addresses; and claims among machines."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from mer.errors import UserError
from mer.storage import LocalStore, ObjectStore, Store, claims, open_store, parent_of
from mer.storage.claims import claim
from tests.mer.bucket import object_store


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store") if request.param == "folder" else object_store(tmp_path / "store")


def test_a_tree_shows_data_at_any_depth_and_nothing_else(store: Store) -> None:
    for name in ("c/train.jsonl", "c/wavs/a/1.wav", "c/wavs/b.wav", "c/_part/x", "c/wavs/.hidden", "other"):
        store.put(name, name.encode())
    found = store.tree("c")
    assert [entry.name for entry in found] == ["train.jsonl", "wavs/a/1.wav", "wavs/b.wav"]
    assert [entry.size for entry in found] == [len("c/" + entry.name) for entry in found]
    now = time.time_ns()
    assert all(abs(now - entry.modified) < 60e9 for entry in found)
    assert [entry.name for entry in store.tree("")] == ["c/train.jsonl", "c/wavs/a/1.wav", "c/wavs/b.wav", "other"]
    assert list(store.tree("none")) == []


def test_a_file_is_uploaded_as_it_is(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "big.gz"  # a name that pyarrow would compress for
    source.write_bytes(os.urandom(3 << 20))
    store.upload("features/big.gz", source)
    assert store.read("features/big.gz") == source.read_bytes()
    with store.open("features/big.gz") as file:
        file.seek(-10, 2)
        assert file.read() == source.read_bytes()[-10:]


@pytest.mark.parametrize("before", [None, b"as it was"])
def test_an_upload_that_is_broken_off_is_never_seen(
    store: Store, tmp_path: Path, before: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle: half a file under the name of a whole one would be taken for it."""
    if before is not None:
        store.put("c/big", before)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20))

    def half(source: Any, target: Any, size: int = 0) -> None:
        target.write(source.read(1 << 19))
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", half)
    with pytest.raises(KeyboardInterrupt):
        store.upload("c/big", source)
    monkeypatch.undo()
    found = [store.read(f"c/{entry.name}") for entry in store.list("c")]
    kept = isinstance(store, LocalStore) and before is not None
    assert found == ([before] if kept else [])  # a bucket cannot give back what an upload took the place of
    store.upload("c/big", source)
    assert store.read("c/big") == source.read_bytes()


def test_credentials_in_an_address_are_refused_without_being_shown() -> None:
    with pytest.raises(UserError, match="credentials in an address") as caught:
        open_store("s3://AKIAKEY:secret@bucket/results")
    assert "secret" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


def test_nobody_is_no_credentials() -> None:
    """What Google's stores ask for where a bucket is public."""
    assert open_store("gs://anonymous@bucket/corpora").path("tiny") == "gs://anonymous@bucket/corpora/tiny"
    for address in ("gs://anonymous:word@bucket/corpora", "s3://anonymous@bucket/corpora"):
        with pytest.raises(UserError, match="credentials in an address"):
            open_store(address)


def test_a_folder_lies_in_another_and_a_bucket_in_none(tmp_path: Path) -> None:
    assert parent_of("/results") == ("/", "results")
    for folder in ("/a/b/results", "s3://b/results", "s3://b/x/results?endpoint_override=http://h:9/&x=y"):
        parent, name = parent_of(folder)
        assert name == "results"
        assert ObjectStore(fs.LocalFileSystem(), str(tmp_path), parent).path(name) == folder
    assert parent_of("s3://bucket?region=eu") == ("s3://bucket?region=eu", "")


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)


# ---- claims ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder tells the time to the nanosecond, so tickets need not settle for a second."""
    monkeypatch.setattr(claims, "SETTLE_S", 0.02)
    monkeypatch.setattr(claims, "POLL_S", 0.02)


def test_a_claim_is_held_by_one(store: Store) -> None:
    with claim(store, "features/x", "work", wait=False) as first:
        assert first
        with claim(store, "features/x", "work", wait=False) as second:
            assert not second
        with claim(store, "features/x", "other", wait=False) as other:
            assert other
    with claim(store, "features/x", "work", wait=False) as again:
        assert again
    assert list(store.tree("features")) == []


def _count(folder: Path, kind: str, log: Path) -> None:
    store: Any = LocalStore(folder) if kind == "folder" else object_store(folder)
    with claim(store, "f", "work", wait=True) as mine:
        assert mine
        with log.open("a") as stream:
            stream.write("in\n")
        time.sleep(0.05)
        with log.open("a") as stream:
            stream.write("out\n")


@pytest.mark.parametrize("kind", ["folder", "objects"])
def test_who_waits_comes_in_when_the_other_is_out(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    crowd = [multiprocessing.get_context("fork").Process(target=_count, args=(tmp_path, kind, log)) for _ in range(4)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert [one.exitcode for one in crowd] == [0] * 4
    assert log.read_text().split() == ["in", "out"] * 4


def age(store: ObjectStore, name: str, seconds: float) -> None:
    """Make an object as old as if the store had been given it so long ago."""
    then = time.time() - seconds
    os.utime(f"{store.base}/{name}", (then, then))


def test_a_dead_holder_is_passed_over_and_a_living_one_is_not(tmp_path: Path) -> None:
    store = object_store(tmp_path / "store")
    for name in ("dead", "alive", f"alive{claims._BEAT}"):
        store.put(f"f/_claims/work.{name}", b"")
    age(store, "f/_claims/work.dead", claims.STALE_S + 5)
    age(store, "f/_claims/work.alive", claims.STALE_S + 4)  # old, and renewed just now
    with claim(store, "f", "work", wait=False) as mine:
        assert not mine
    age(store, f"f/_claims/work.alive{claims._BEAT}", claims.STALE_S + 3)
    with claim(store, "f", "work", wait=True) as mine:
        assert mine
    assert store.list("f/_claims") == []


def test_a_holder_renews_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW_S", 0.01)
    store = object_store(tmp_path / "store")
    with claim(store, "f", "work", wait=False):
        while not any(entry.name.endswith(claims._BEAT) for entry in store.list("f/_claims")):
            time.sleep(0.01)
    assert store.list("f/_claims") == []


def test_those_of_one_second_settle_it_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 tells the time to the second: tickets of one second must not each think themselves first."""
    store = object_store(tmp_path / "store")
    listed = ObjectStore.list

    def to_the_second(self: ObjectStore, folder: str) -> Any:
        return [entry.__class__(entry.name, entry.size, 0) for entry in listed(self, folder)]

    monkeypatch.setattr(ObjectStore, "list", to_the_second)
    tickets = [claims._Ticket(store, "f/_claims", "work") for _ in range(5)]
    for ticket in tickets:
        store.put(f"{ticket.folder}/{ticket.name}", b"")
    assert {ticket._first() for ticket in tickets} == {min(ticket.name for ticket in tickets)}
