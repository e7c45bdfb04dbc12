"""The Ray Tune executor on a real local cluster: same tables as inline, through killed workers and a killed driver."""

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
from tests.experiments.small_run import tables

SCRIPT = """
import os, sys
sys.path.insert(0, {root!r})
from tests.experiments.small_run import make_plan
from experiments.results import identity
identity.recipe_code = lambda recipe: "the code of this test"
from experiments.results.ledger import Ledger
from experiments.schedule.fake import MakeFake
from experiments.schedule.run import execute
from experiments.schedule.work import Spec
plan = make_plan(cells=2, studies=2, draws=3)
root, executor, seconds, hang, faults = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5:]
slots = list(plan.slots())
make = MakeFake(seconds=seconds, faults={{str(slots[int(f.partition("=")[0])]): f.partition("=")[2] for f in faults}})
before = os.getcwd()
result = execute(plan, Ledger(root), executor=executor, workers=2, address="local", progress=False, make_work=make,
                 hang_s=hang)
assert os.getcwd() == before
print(result.counts, result.reason)
sys.exit(result.exit_code)
"""


def command(root: Path, executor: str, seconds: float = 0.0, hang: float = 600.0, *faults: str) -> list[str]:
    script = SCRIPT.format(root=str(Path(__file__).parents[3]))
    return [sys.executable, "-c", script, str(root), executor, str(seconds), str(hang), *faults]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("undisturbed")
    assert subprocess.run(command(root, "inline")).returncode == 0
    return tables(root / "small")


def test_tune_gives_the_inline_tables_and_leaves_nothing_behind(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    done = subprocess.run(command(tmp_path, "ray"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("local Ray cluster, ")
    assert tables(tmp_path / "small") == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("_")) == [
        "checkpoints", "ledger", "small"
    ]  # fmt: skip
    assert "Trial" not in done.stdout  # no table, no flood


def workers_of(driver: int) -> list[int]:
    """Ray's worker processes of one driver's own cluster that carry out orders."""
    found = []
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state = (entry / "stat").read_text()
            names[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        children.setdefault(int(state.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    pending = [driver]
    while pending:
        process = pending.pop()
        pending += children.get(process, [])
        if "WorkerTrainable" in names.get(process, "") or "ResourceTrainable" in names.get(process, ""):
            found.append(process)
    return found


@pytest.mark.slow
def test_killed_workers_and_drivers_leave_the_same_tables(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    draw = random.Random(3)
    for kind in ("worker", "driver", "worker"):
        process = subprocess.Popen(command(tmp_path, "ray", 0.15))
        started, killed = time.monotonic(), 0
        while process.poll() is None and time.monotonic() - started < 60 and killed < 2:
            time.sleep(0.3 + draw.random())
            if not workers_of(process.pid):
                continue
            if kind == "driver":
                process.kill()
                killed = 2
            else:
                for worker in workers_of(process.pid)[:1]:
                    os.kill(worker, signal.SIGKILL)
                    killed += 1
        process.wait()
    assert subprocess.run(command(tmp_path, "ray")).returncode == 0
    assert tables(tmp_path / "small") == undisturbed
    assert len(Ledger(str(tmp_path)).refresh()) == len(undisturbed["trials"])


@pytest.mark.slow
def test_a_trial_that_kills_or_hangs_its_workers_is_left_alone(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """That says nothing of the trial: it stays missing, with the reason, and the next run takes it up again."""
    slots = undisturbed["trials"]
    confirms = [number for number, row in enumerate(slots) if row["stage"] == "confirm"]
    done = subprocess.run(
        command(tmp_path, "ray", 0.0, 4.0, f"{confirms[0]}=die", f"{confirms[1]}=hang"), capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    rows = tables(tmp_path / "small")["trials"]
    missing = [row for row in rows if row["status"] == "missing"]
    assert [rows.index(row) for row in missing] == confirms[:2]
    assert "3 workers were lost" in missing[0]["reason"]
    assert "no sign of life" in missing[1]["reason"]
    assert {row["status"] for row in rows} == {"complete", "pruned", "missing"}
    assert subprocess.run(command(tmp_path, "ray")).returncode == 0
    assert tables(tmp_path / "small") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("error", ["OSError", "MemoryError", "ValueError"])
def test_side_outputs_that_fail_in_workers_and_driver_neither_hang_a_run_nor_lose_a_slot(
    error: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """Event files cannot be written, energy cannot be read, and tables cannot be written on the way."""
    (tmp_path / "boards").mkdir()
    breaking = (
        "from experiments.schedule import fake, run\n"
        "run._boards = lambda *words: root + '/boards'\n"
        "run.PUBLISH_EVERY_S = 0.0\n"
        f"def broken(*words): raise {error}('broken')\n"
        "run._Publisher.now_and_then = broken\n"
        "class Unmeasured(fake.FakeWork):\n"
        f"    def memory_mb(self): raise {error}('broken')\n"
        "def make(specs):\n"
        "    from experiments.schedule import tensorboard\n"
        f"    def broken(*words): raise {error}('broken')\n"
        "    tensorboard.Board.write = broken\n"
        "    return Unmeasured(specs)\n"
    )
    words = command(tmp_path, "ray")
    words[2] = words[2].replace("before = os.getcwd()\n", breaking + "before = os.getcwd()\n")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tables(tmp_path / "small") == undisturbed
    for what in ("curves for TensorBoard cannot be written", "memory cannot be read", "tables cannot be written on"):
        assert done.stdout.count(what) == 1, done.stdout


@pytest.mark.slow
def test_ctrl_c_saves_publishes_and_exits_130(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    process = subprocess.Popen(command(tmp_path, "ray", 0.3), start_new_session=True)
    # A pruned draw alone says nothing while the draws it was judged by are not on record.
    while "complete" not in Ledger(str(tmp_path)).refresh().table["status"].to_pylist():
        assert process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everyone
    assert process.wait() == 130
    rows = tables(tmp_path / "small")["trials"]
    assert any(row["status"] == "missing" for row in rows)
    assert any(row["status"] == "complete" for row in rows)
    assert subprocess.run(command(tmp_path, "ray")).returncode == 0
    assert tables(tmp_path / "small") == undisturbed
