"""SIGKILL at every write boundary, then the same command: the tables of an undisturbed run, value for value."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.results.ledger import Ledger
from mer.faults import POINTS
from tests.experiments.small_run import tables

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import os
os.fsync = lambda handle: None
from tests.experiments.small_run import make_plan
from experiments.results import ledger
from experiments.schedule import run, worker
from experiments.schedule.fake import MakeFake
from experiments.results import identity
identity.recipe_code = lambda recipe: "the code of this test"
run.PUBLISH_EVERY_S = run.PUBLISH_SHARE = 0.0
worker.SAVE_EVERY_S = 0.0
ledger.LOOSE = 4
from experiments.results import decisions
from experiments.schedule import compacting
compacting.EVERY_S = 0.01
decisions.EVERY_S = 0.0
plan = make_plan(cells=2, studies=2, draws=3)
result = run.execute(plan, ledger.Ledger(sys.argv[1]), executor="inline", workers=2, progress=False,
                     make_work=MakeFake(seconds=float(sys.argv[2])))
sys.exit(result.exit_code)
"""
NOT_INLINE = {"quarantine.copied"}
"""Visited only when a part is damaged; see the ledger's own tests."""


def run(root: Path, fault: str | None = None, seconds: float = 0.0) -> int:
    script = SCRIPT.format(root=str(Path(__file__).parents[3]))
    environment = {**os.environ, "MER_FAULT": fault or ""}
    return subprocess.run([sys.executable, "-c", script, str(root), str(seconds)], env=environment).returncode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("undisturbed")
    assert run(root) == 0
    return tables(root / "small")


def check(root: Path, undisturbed: dict[str, Any]) -> None:
    assert tables(root / "small") == undisturbed
    snapshot = Ledger(str(root)).refresh()
    assert len(snapshot) == len(undisturbed["trials"])
    assert not list((root / "_state").glob("[!_]*"))


@pytest.mark.parametrize("point", ["ledger.before:3", "store.synced:9", "compact.merged:1"])
def test_killed_once_at_a_write_boundary(point: str, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    assert run(tmp_path, point) == -signal.SIGKILL
    assert run(tmp_path) == 0
    check(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("point", sorted(set(POINTS) - NOT_INLINE))
def test_killed_at_every_boundary_again_and_again(point: str, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """The n-th visit of each start kills; the run makes headway all the same, and ends as if nothing had been."""
    killed = 0
    for count in (1, 3, 8):
        code = run(tmp_path, f"{point}:{count}")
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
    assert killed, f"the fault point {point} is never visited"
    assert run(tmp_path) == 0
    check(tmp_path, undisturbed)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    draw = random.Random(5)
    script = SCRIPT.format(root=str(Path(__file__).parents[3]))
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), "0.02"])
        time.sleep(0.4 + 1.6 * draw.random())
        process.kill()
        process.wait()
    assert run(tmp_path) == 0
    check(tmp_path, undisturbed)


@pytest.mark.slow
def test_two_drivers_on_one_ledger_do_no_harm(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    script = SCRIPT.format(root=str(Path(__file__).parents[3]))
    both = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), "0.01"]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert run(tmp_path) == 0
    check(tmp_path, undisturbed)
