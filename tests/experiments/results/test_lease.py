"""One driver at a time: who comes second waits, takes over from a dead one, and is noticed by one that was asleep."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.results import lease
from experiments.results.lease import FOLDER, Lease, drivers, drivers_text, living
from mer.storage import LocalStore, Store
from tests.mer.bucket import object_store

fork = multiprocessing.get_context("fork")


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "results") if request.param == "folder" else object_store(tmp_path / "results")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RENEW_S", 0.05), ("LOST_S", 1.0), ("POLL_S", 0.02), ("SETTLE_S", 0.02)):
        monkeypatch.setattr(lease, name, seconds)


def elsewhere(store: Store, name: str, holding: bool = True) -> None:
    """The ticket of a driver on another machine."""
    about = {"space": "far", "host": "node7", "pid": 1, "since": "then", "machine": "node7", "started": "1"}
    store.put(f"{FOLDER}/{name}", json.dumps({**about, "holding": holding, "beats": time.monotonic()}).encode())


def until(true: Callable[[], object]) -> None:
    while not true():
        time.sleep(0.01)


def test_the_second_waits_until_the_first_is_done(store: Store) -> None:
    first, second, third = (Lease(store, name) for name in ("one", "two", "three"))
    assert first.take() is None
    ahead = second.take()
    assert ahead is not None
    assert (ahead.space, ahead.pid) == ("one", os.getpid())
    assert third.take() == ahead
    assert [driver.space for driver in living(store)] == ["one", "two", "three"]
    assert first.holds()
    first.give_back()
    assert str(third.take()).startswith("space two, host ")  # who came first is first
    assert second.take() is None
    second.give_back()
    assert third.take() is None
    third.give_back()
    assert store.list(FOLDER) == []


def test_one_look_says_who_is_at_work_and_who_looks_dead_and_removes_nothing(store: Store) -> None:
    assert drivers_text(drivers(store)) == ["no run is at work here"]
    first, second = Lease(store, "one"), Lease(store, "two")
    assert first.take() is None
    assert second.take() is not None
    elsewhere(store, "000003.far")
    left = {"space": "left", "host": "here", "pid": os.getpid(), "since": "then", "holding": True, "beats": 1}
    left |= {"machine": lease._machine(), "started": "1"}  # a process that had this one's number before
    store.put(f"{FOLDER}/000004.left", json.dumps(left).encode())
    lines = drivers_text(drivers(store))
    assert [line.partition(", host")[0] for line in lines] == [
        "a run is at work: space one", "a run waits for its turn: space two", "a run is at work: space far",
        "a run looks dead (its process is gone); its command, given again, goes on: space left",
    ]  # fmt: skip
    assert f"process {os.getpid()}, since" in lines[0]
    time.sleep(1.1)  # node7 gives no sign of life
    assert "looks dead (no sign of life for " in drivers_text(drivers(store))[2]
    assert len(store.list(FOLDER)) == 4
    first.give_back()
    second.give_back()


def _work(make: Callable[[], Store], log: Path) -> None:
    mine = Lease(make(), "small")
    until(lambda: mine.take() is None)
    for word in ("in\n", "out\n"):
        with log.open("a") as stream:
            stream.write(word)
        time.sleep(0.05)
    assert mine.holds()
    mine.give_back()


def test_a_crowd_comes_in_one_by_one(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    crowd = [fork.Process(target=_work, args=(lambda: store, log)) for _ in range(6)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert [one.exitcode for one in crowd] == [0] * 6
    assert log.read_text().split() == ["in", "out"] * 6


def _hold(store: Store) -> None:
    mine = Lease(store, "held")
    assert mine.take() is None
    time.sleep(3600)


def held(store: Store) -> Any:
    process = fork.Process(target=_hold, args=(store,))
    process.start()
    until(lambda: '"holding": true' in "".join(store.read(f"{FOLDER}/{e.name}").decode() for e in store.list(FOLDER)))
    return process


def test_a_dead_driver_of_this_machine_is_passed_over_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOST_S", 3600.0)
    process = held(store)
    mine = Lease(store, "mine")
    assert str(mine.take()).startswith("space held")
    process.kill()
    until(lambda: lease._started(process.pid) == "")  # a zombie: it is not waited for
    assert mine.take() is None
    assert [driver.space for driver in living(store)] == ["mine"]
    mine.give_back()
    process.join()


def test_a_number_that_another_process_has_now_is_not_the_driver(store: Store) -> None:
    about = {"space": "old", "host": "here", "pid": os.getppid(), "since": "then", "machine": lease._machine()}
    store.put(f"{FOLDER}/000001.a", json.dumps({**about, "started": "1", "holding": True, "beats": 1}).encode())
    mine = Lease(store, "mine")
    assert mine.take() is None
    mine.give_back()


def test_another_machine_is_judged_by_its_beats(store: Store) -> None:
    elsewhere(store, "000001.far")
    mine = Lease(store, "mine")
    started = time.monotonic()
    while time.monotonic() - started < 2 * lease.LOST_S:
        elsewhere(store, "000001.far")
        assert str(mine.take()) == "space far, host node7, process 1, since then"
    until(lambda: mine.take() is None)  # it has stopped
    mine.give_back()
    assert store.list(FOLDER) == []


def test_who_lives_on_another_machine_is_seen_by_its_next_beat(store: Store) -> None:
    for name in ("000001.dead", "000002.far"):
        elsewhere(store, name)
    beating = fork.Process(target=lambda: [(elsewhere(store, "000002.far"), time.sleep(0.05)) for _ in range(1000)])
    beating.start()
    assert [driver.space for driver in living(store)] == ["far"]
    beating.kill()
    beating.join()
    assert [entry.name for entry in store.list(FOLDER)] == ["000002.far"]


def test_time_in_which_nobody_looked_proves_nothing(store: Store) -> None:
    """Both were suspended, on one laptop: who wakes first must not take the other for dead."""
    elsewhere(store, "000001.far")
    mine = Lease(store, "mine")
    assert mine.take() is not None
    time.sleep(2 * lease.LOST_S)
    assert mine.take() is not None


def _count(store: Store, log: Path) -> None:
    mine = Lease(store, "sleeper")
    assert mine.take() is None
    with log.open("a", buffering=1) as stream:
        while mine.holds():
            stream.write("an order\n")
            time.sleep(0.01)
    log.with_name("over").touch()


def test_a_driver_that_slept_notices_before_it_goes_on(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "results")  # the bucket of the tests is a lock, which who is stopped may hold
    log = tmp_path / "log"
    process = fork.Process(target=_count, args=(store, log))
    process.start()
    until(log.exists)
    mine = Lease(store, "mine")
    assert mine.take() is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: mine.take() is None)
    given = len(log.read_text().splitlines())
    os.kill(process.pid, signal.SIGCONT)
    until(log.with_name("over").exists)
    assert len(log.read_text().splitlines()) <= given + 1  # the one that it was about to give
    assert mine.holds()
    process.join()
    mine.give_back()
    assert store.list(FOLDER) == []


def test_one_who_is_cut_off_from_the_folder_does_not_go_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Lease(store, "mine")
    assert mine.take() is None

    def cut(*words: object) -> None:
        raise OSError(110, "Connection timed out")

    monkeypatch.setattr(store, "put", cut)
    until(lambda: not mine.holds())


def test_a_ticket_that_nobody_can_read_is_a_driver_until_it_stays_still(store: Store) -> None:
    store.put(f"{FOLDER}/000001.x", b"\xff\x00 not json")
    mine = Lease(store, "mine")
    assert mine.take() is not None
    until(lambda: mine.take() is None)
    mine.give_back()
