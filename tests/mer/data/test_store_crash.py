"""The feature store under `kill -9` and under several processes: real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import mer.data.fingerprint
import mer.data.store.shard
import mer.files
from mer.data.store import FeatureStore
from mer.data.store.admin import entries, remove
from mer.data.store.shard import Shard
from mer.files import claim, lock, remove_stale, temporary
from tests.mer.processes import fork, status

ITEMS = ["một", "hai", "ba", "bốn", "năm sáu"]
CHUNK = 2
OURS = (str(Path(mer.data.store.shard.__file__).parent), mer.data.fingerprint.__file__, mer.files.__file__)


class Logged:
    """A frontend that writes what it extracts to a file, so that processes can be counted together."""

    dim, dtype, kind = 2, "float32", "text"

    def __init__(self, log: Path, pause: float = 0.0) -> None:
        self.log, self.pause = log, pause

    def identity(self) -> dict[str, object]:
        return {"name": "logged"}

    def extract(self, items: Sequence[str]) -> list[np.ndarray]:
        with self.log.open("a") as stream:
            stream.write("".join(f"{item}\n" for item in items))
        time.sleep(self.pause)
        return [frames(item) for item in items]

    def extracted(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def frames(item: str) -> np.ndarray:
    return np.array([[ord(letter), len(item)] for letter in item], np.float32)


def check(root: Path, frontend: Logged, items: Sequence[str] = ITEMS) -> None:
    found = FeatureStore(root, chunk=CHUNK).get(frontend, items)
    for i, item in enumerate(items):
        np.testing.assert_array_equal(found.row(i), frames(item))


def traced(work: Callable[[], Any], on_line: Callable[[tuple[str, int]], None]) -> None:
    """Run, calling `on_line` before every line of the store's own source."""

    def tracer(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            on_line((frame.f_code.co_filename, frame.f_lineno))
        return tracer

    sys.settrace(tracer)
    try:
        work()
    finally:
        sys.settrace(None)


def fault_points(tmp_path: Path) -> list[int]:
    """Numbers of the line events to be killed at: the first and the last time that each line runs."""
    seen: list[tuple[str, int]] = []
    traced(lambda: check(tmp_path / "dry", Logged(tmp_path / "dry.log")), seen.append)
    first = {line: n for n, line in reversed(list(enumerate(seen)))}
    last = {line: n for n, line in enumerate(seen)}
    return sorted({*first.values(), *last.values()})


@pytest.mark.parametrize("half_full", [False, True])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_9_at_every_line(tmp_path: Path, half_full: bool, step: int) -> None:
    """Every line of the store's source (every seventh in the fast suite), the first and last time it runs."""
    points = fault_points(tmp_path)
    assert len(points) > 100
    for point in points[::step]:
        root, log = tmp_path / str(point), tmp_path / f"{point}.log"
        if half_full:
            check(root, Logged(tmp_path / "other.log"), ITEMS[:2])
        remaining = [point]

        def kill(_: tuple[str, int], remaining: list[int] = remaining) -> None:
            if remaining[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            remaining[0] -= 1

        code = status(fork(lambda root=root, log=log, kill=kill: traced(lambda: check(root, Logged(log)), kill)))
        assert code == -signal.SIGKILL or half_full  # with less to do, late points are never reached

        committed = 0
        for path in root.glob("features/*/*.frames"):  # whatever has its name is whole
            shard = Shard(path, path.parent.name)
            shard.verify()
            committed += len(shard)
        frontend = Logged(tmp_path / f"{point}.again.log")
        check(root, frontend)
        assert len(frontend.extracted()) == len(ITEMS) - committed  # nothing lost that was committed
        assert not list(root.glob("features/*/_*"))  # nothing left lying about


def test_processes_share_the_work(tmp_path: Path) -> None:
    items = [f"câu số {n}" for n in range(24)]
    frontend = Logged(tmp_path / "log", pause=0.05)
    children = [fork(lambda: check(tmp_path / "root", frontend, items)) for _ in range(4)]
    assert [status(child) for child in children] == [0] * 4
    assert Counter(frontend.extracted()) == Counter(items)  # each once
    assert not list((tmp_path / "root").glob("features/*/_*"))


def test_processes_without_locks_are_right_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems without locks: work may be done twice, results are the same."""
    monkeypatch.setattr(mer.files, "lock", lambda descriptor, wait: False)
    items = [f"câu số {n}" for n in range(12)]
    frontend = Logged(tmp_path / "log", pause=0.02)
    children = [fork(lambda: check(tmp_path / "root", frontend, items)) for _ in range(3)]
    assert [status(child) for child in children] == [0] * 3
    assert set(frontend.extracted()) == set(items)
    check(tmp_path / "root", Logged(tmp_path / "none"), items)
    assert not (tmp_path / "none").exists()


def test_readers_and_writers_and_vandals_at_once(tmp_path: Path) -> None:
    """While processes fill the store, others truncate, flip, remove or prune its files. Nobody reads a wrong frame.

    Between two faults everybody reads once: a store that is damaged each time it is read gives up, and says so.
    """
    items = [f"câu {n}" for n in range(10)]
    readings = [tmp_path / f"readings{seed}" for seed in range(3)]
    over = tmp_path / "over"

    def use(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while not over.exists():
                check(tmp_path, Logged(tmp_path / "log"), [items[i] for i in rng.integers(0, 10, 5)])
                with readings[seed].open("ab") as stream:
                    stream.write(b".")
        finally:
            over.touch()

    def vandalise() -> None:
        rng = np.random.default_rng(0)
        for _ in range(30):
            before = sizes(readings)
            while not over.exists() and any(now == then for now, then in zip(sizes(readings), before, strict=True)):
                time.sleep(0.01)
            paths = sorted(tmp_path.glob("features/*/*.frames")) or [tmp_path / "none"]
            path = paths[rng.integers(len(paths))]
            with contextlib.suppress(OSError):
                data = bytearray(path.read_bytes())
                match rng.integers(4):
                    case 0:
                        path.unlink()
                        continue
                    case 3:
                        for entry in entries(tmp_path):
                            remove(entry)
                        continue
                    case 1:
                        data = data[: rng.integers(len(data))]
                    case 2:
                        data[rng.integers(len(data))] ^= 4
                other = tmp_path / "vandal"
                other.write_bytes(data)  # a new file, as a disk fault would show after a restart
                os.replace(other, path)
        over.touch()

    children = [fork(lambda seed=seed: use(seed)) for seed in range(3)] + [fork(vandalise)]
    assert [status(child) for child in children] == [0] * 4
    assert len(Logged(tmp_path / "log").extracted()) > 2 * len(items)  # it did have to rebuild, again and again


def sizes(paths: Sequence[Path]) -> list[int]:
    return [path.stat().st_size if path.exists() else 0 for path in paths]


def test_a_claim_dies_with_its_holder(tmp_path: Path) -> None:
    ready, go = os.pipe(), os.pipe()

    def hold() -> None:
        with claim(tmp_path, "work", wait=False) as mine:
            os.write(ready[1], b"1" if mine else b"0")
            os.read(go[0], 1)

    child = fork(hold)
    assert os.read(ready[0], 1) == b"1"
    with claim(tmp_path, "work", wait=False) as mine:
        assert not mine
    assert remove_stale(tmp_path) == 0  # its lock file is in use
    os.kill(child, signal.SIGKILL)
    assert status(child) == -signal.SIGKILL
    with claim(tmp_path, "work", wait=True) as mine:
        assert mine
    assert not list(tmp_path.iterdir())


def test_only_the_files_of_dead_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "_1-abc.tmp").write_bytes(b"half")
    with temporary(tmp_path) as (stream, name):
        stream.write(b"x")
        assert remove_stale(tmp_path) == 1
        assert list(tmp_path.iterdir()) == [name]
    assert not list(tmp_path.iterdir())


def test_locks_exclude(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as one, (tmp_path / "f").open("r+b") as two:
        assert lock(one.fileno(), wait=False)
        assert not lock(two.fileno(), wait=False)
