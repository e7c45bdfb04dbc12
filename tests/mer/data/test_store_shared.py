"""Machines with a store of their own each and a shared one behind: an utterance is extracted once for all of them."""

from __future__ import annotations

import os
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.data.store import FeatureStore
from mer.data.store.shared import SharedFeatures, open_features
from mer.errors import UserError
from mer.storage import LocalStore, Store, claims
from tests.mer.bucket import object_store

ITEMS = [f"câu số {n}" for n in range(24)]
CHUNK = 4


class Logged:
    """A frontend that writes what it extracts to a file, so that processes can be counted together."""

    dim, dtype, kind = 2, "float32", "text"

    def __init__(self, log: Path, pause: float = 0.0) -> None:
        self.log, self.pause = log, pause

    def identity(self) -> dict[str, object]:
        return {"name": "logged"}

    def extract(self, items: Sequence[Any]) -> list[np.ndarray]:
        with self.log.open("a") as stream:
            stream.write("".join(f"{item}\n" for item in items))
        time.sleep(self.pause)
        return [frames(item) for item in items]

    def extracted(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def frames(item: str) -> np.ndarray:
    return np.array([[ord(letter), len(item)] for letter in item], np.float32)


@pytest.fixture(params=["folder", "objects"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(claims, "SETTLE_S", 0.02)
    monkeypatch.setattr(claims, "POLL_S", 0.02)
    folder = tmp_path / "shared"
    return LocalStore(folder) if request.param == "folder" else object_store(folder, "s3://bucket/features")


class Machine:
    """A machine: its own disk, before the shared store."""

    def __init__(self, root: Path, place: Store | None) -> None:
        self.root, self.place = root, place

    def store(self) -> FeatureStore:
        shared = None if self.place is None else SharedFeatures(self.place)
        return FeatureStore(self.root, chunk=CHUNK, shared=shared)

    def get(self, frontend: Logged, items: Sequence[str] = ITEMS) -> None:
        found = self.store().get(frontend, list(items))
        for i, item in enumerate(items):
            np.testing.assert_array_equal(found.row(i), frames(item))

    def shards(self) -> set[str]:
        return {path.name for path in self.root.glob("features/*/*.frames")}


def test_what_one_has_extracted_the_other_fetches(place: Store, tmp_path: Path) -> None:
    frontend = Logged(tmp_path / "log")
    one, two = Machine(tmp_path / "one", place), Machine(tmp_path / "two", place)
    one.get(frontend)
    two.get(frontend)
    assert Counter(frontend.extracted()) == Counter(ITEMS)
    assert two.shards() == one.shards()
    (tmp_path / "shared").rename(tmp_path / "away")  # both have it now, and need nobody
    two.get(Logged(tmp_path / "none"), ITEMS)
    assert not (tmp_path / "none").exists()


def test_it_is_known_what_need_not_be_extracted(place: Store, tmp_path: Path) -> None:
    frontend = Logged(tmp_path / "log")
    Machine(tmp_path / "one", place).get(frontend, ITEMS[:3])
    assert Machine(tmp_path / "two", place).store().has(frontend, [*ITEMS[:4], None]) == [True, True, True, False, True]


def test_only_what_is_lacked_is_fetched(place: Store, tmp_path: Path) -> None:
    Machine(tmp_path / "one", place).get(Logged(tmp_path / "log"))
    two = Machine(tmp_path / "two", place)
    two.get(Logged(tmp_path / "log2"), ITEMS[:1])
    assert len(two.shards()) == 1
    two.get(Logged(tmp_path / "log2"), [*ITEMS[:1], "something new"])
    assert (tmp_path / "log2").read_text() == "something new\n"
    assert len(two.shards()) == 2


def test_machines_and_their_workers_share_the_work(place: Store, tmp_path: Path) -> None:
    """Three machines of two processes each, all at once: each utterance once, and every machine gets all of them."""
    frontend = Logged(tmp_path / "log", pause=0.05)
    children = []
    for number in range(6):
        pid = os.fork()
        if pid == 0:
            try:
                Machine(tmp_path / f"machine{number // 2}", place).get(frontend)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 6
    assert Counter(frontend.extracted()) == Counter(ITEMS)
    left = [path for path in (tmp_path / "shared").rglob("*") if path.is_file() and "/_" in str(path)]
    assert left == []
    for number in range(3):
        Machine(tmp_path / f"machine{number}", None).get(Logged(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_what_lay_there_from_before_is_given(place: Store, tmp_path: Path) -> None:
    frontend = Logged(tmp_path / "log")
    Machine(tmp_path / "one", None).get(frontend)
    Machine(tmp_path / "one", place).get(frontend)
    Machine(tmp_path / "two", place).get(frontend)
    assert Counter(frontend.extracted()) == Counter(ITEMS)


def test_what_another_has_given_is_not_given_again(place: Store, tmp_path: Path) -> None:
    frontend = Logged(tmp_path / "log")
    FeatureStore(tmp_path / "two", chunk=7).get(frontend, ITEMS)  # the same utterances, cut otherwise
    Machine(tmp_path / "one", place).get(frontend)
    before = [entry.name for entry in place.tree("")]
    FeatureStore(tmp_path / "two", chunk=7, shared=SharedFeatures(place)).get(frontend, ITEMS)
    assert [entry.name for entry in place.tree("")] == before


@pytest.mark.parametrize("damage", ["cut", "index", "frames"])
def test_damage_in_the_shared_store_is_never_read_and_is_mended(place: Store, tmp_path: Path, damage: str) -> None:
    Machine(tmp_path / "one", place).get(Logged(tmp_path / "log"))
    path = sorted((tmp_path / "shared").glob("features/*/*.frames"))[0]
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-5]
    else:
        data[-20 if damage == "index" else 3] ^= 8
    path.write_bytes(bytes(data))
    again = Logged(tmp_path / "again")
    Machine(tmp_path / "two", place).get(again)
    assert len(again.extracted()) == CHUNK  # what was damaged, and nothing else
    Machine(tmp_path / "three", place).get(again)
    assert len(again.extracted()) == CHUNK


def test_a_shard_that_is_written_anew_is_found_by_who_found_it_damaged(place: Store, tmp_path: Path) -> None:
    """It has the same name as before, for it has the same content."""
    log = Logged(tmp_path / "log")
    Machine(tmp_path / "one", place).get(log)
    sound = {path: path.read_bytes() for path in (tmp_path / "shared").glob("features/*/*.frames")}
    for path, data in sound.items():
        path.write_bytes(data[:-5])
    reader = Machine(tmp_path / "two", place).store()
    assert reader.has(log, ITEMS) == [False] * len(ITEMS)
    assert not any(path.exists() for path in sound)
    for path, data in sound.items():
        path.write_bytes(data)
    assert reader.has(log, ITEMS) == [True] * len(ITEMS)


def test_another_frontend_finds_nothing(place: Store, tmp_path: Path) -> None:
    class Other(Logged):
        def identity(self) -> dict[str, object]:
            return {"name": "other"}

    Machine(tmp_path / "one", place).get(Logged(tmp_path / "log"))
    other = Other(tmp_path / "log2")
    Machine(tmp_path / "two", place).get(other)
    assert len(other.extracted()) == len(ITEMS)


def test_a_store_that_may_only_be_read_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A laboratory's store that its members may not write to: they take what it has, and extract the rest at home."""
    place = LocalStore(tmp_path / "shared")
    Machine(tmp_path / "one", place).get(Logged(tmp_path / "log"), ITEMS[:CHUNK])

    class Forbidden(LocalStore):
        def upload(self, name: str, source: Path) -> None:
            raise PermissionError(13, "Permission denied")

    mine = Logged(tmp_path / "mine")
    machine = Machine(tmp_path / "two", Forbidden(tmp_path / "shared"))
    machine.get(mine)
    assert sorted(mine.extracted()) == sorted(ITEMS[CHUNK:])
    assert "may not be written: what is extracted here stays on this machine" in caplog.text
    assert caplog.text.count("may not be written") == 1


def test_a_full_shared_store_is_named(tmp_path: Path) -> None:
    class Full(LocalStore):
        def upload(self, name: str, source: Path) -> None:
            raise UserError("no space left: 1.00 MB are needed for this file", where=self.path(name))

    with pytest.raises(UserError, match="no space left"):
        Machine(tmp_path / "one", Full(tmp_path / "shared")).get(Logged(tmp_path / "log"))


def test_the_environment_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "own"))
    assert open_features().shared is None
    monkeypatch.setenv("MER_FEATURES", str(tmp_path / "shared"))
    assert isinstance(open_features().shared, SharedFeatures)
    open_features().get(Logged(tmp_path / "log"), ["một"])
    assert len(list((tmp_path / "shared").glob("features/*/*.frames"))) == 1
    monkeypatch.setenv("MER_FEATURES", str(tmp_path / "own"))  # behind itself it would wait for itself
    assert open_features().shared is None
    open_features().get(Logged(tmp_path / "log"), ["hai"])
