"""Drivers as processes: one at a time in a results folder, and what signals and terminals do to one."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.results.lease import FOLDER
from experiments.results.ledger import Ledger
from mer.storage import LocalStore, Store
from tests.experiments.small_run import tables
from tests.mer.bucket import object_store

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import os, signal
os.fsync = lambda handle: None
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
from pathlib import Path
from experiments.results import identity, lease, ledger
identity.recipe_code = lambda recipe: "the code of this test"
from experiments.schedule import run, worker
from experiments.schedule.fake import MakeFake
from experiments.space.plan import Limits
from mer.storage import LocalStore
from tests.experiments.small_run import make_plan
from tests.mer.bucket import object_store
root, kind, executor, seconds, host, limit = sys.argv[1:7]
worker.SAVE_EVERY_S = 0.0
lease.RENEW_S, lease.LOST_S, lease.SETTLE_S, run.POLL_S = 0.1, float(limit), 0.05, 0.05
if host != "here":
    lease._machine = lambda: host
place = object_store(Path(root)) if kind == "bucket" else LocalStore(Path(root))
ledger.open_store = lambda address: place
plan = make_plan(cells=2, studies=2, draws=3)
result = run.execute(plan, ledger.Ledger(place), out=str(Path(root).parent / sys.argv[7]), executor=executor, workers=1,
                     address="local", progress="live" in sys.argv, make_work=MakeFake(seconds=float(seconds)),
                     say=lambda text: print(text, flush=True))
print("ended", result.exit_code, sum(result.done.values()), result.reason, flush=True)
sys.exit(result.exit_code)
"""


class Drivers:
    """Drivers on one results folder, each with the tables in a folder of its own."""

    def __init__(self, folder: Path, kind: str = "folder") -> None:
        self.folder, self.kind = folder, kind
        self.root = folder / "results"
        self.begun: list[subprocess.Popen[str]] = []

    def command(self, seconds: float, host: str, limit: float, executor: str) -> list[str]:
        script = SCRIPT.format(root=str(Path(__file__).parents[3]))
        words = [str(self.root), self.kind, executor, str(seconds), host, str(limit), f"out{len(self.begun)}"]
        return [sys.executable, "-c", script, *words]

    def start(
        self, seconds: float = 0.02, host: str = "here", limit: float = 60.0, executor: str = "inline"
    ) -> subprocess.Popen[str]:
        command = self.command(seconds, host, limit, executor)
        self.begun.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
        )
        return self.begun[-1]

    @property
    def store(self) -> Store:
        return object_store(self.root) if self.kind == "bucket" else LocalStore(self.root)

    def ended(self) -> int:
        return len(Ledger(self.store).refresh())

    def attempts(self) -> int:
        return len(Ledger(self.store).refresh().table)

    def tables(self, number: int) -> dict[str, Any]:
        return tables(self.folder / f"out{number}")


@pytest.fixture(params=["folder", "bucket"])
def drivers(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    found = Drivers(tmp_path, request.param)
    yield found
    for process in found.begun:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    alone = Drivers(tmp_path_factory.mktemp("alone"))
    assert alone.start(seconds=0.0).wait() == 0
    return alone.tables(0)


def until(true: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
    while not true():
        assert not [process for process in processes if process.poll() is not None]
        time.sleep(0.02)


def test_two_drivers_at_once_do_the_work_once(drivers: Drivers, undisturbed: dict[str, Any]) -> None:
    pair = [drivers.start(), drivers.start()]
    said = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert drivers.attempts() == len(undisturbed["trials"])
    assert drivers.tables(0) == drivers.tables(1) == undisturbed
    watching = [text for text in said if "another run is at work here (space small, host " in text]
    assert len(watching) == 1
    assert "ended 0 0 None" in watching[0]  # it had nothing left to do
    assert drivers.store.list(FOLDER) == []


def test_who_watches_takes_over_from_a_driver_that_is_killed(drivers: Drivers, undisturbed: dict[str, Any]) -> None:
    first = drivers.start(seconds=0.05)
    until(lambda: drivers.ended() > 1, first)
    second = drivers.start(seconds=0.0)
    assert second.stdout is not None
    assert "another run is at work here" in second.stdout.readline()
    first.kill()
    assert second.wait() == 0
    assert drivers.tables(1) == undisturbed


def test_a_driver_that_was_stopped_finds_another_at_work(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """On machines that know nothing of each other but the folder: only beats tell."""
    drivers = Drivers(tmp_path)  # the bucket of the tests is a lock, which who is stopped may hold
    first = drivers.start(seconds=0.05, host="node1", limit=1.0)
    until(lambda: drivers.ended() > 1, first)
    os.kill(first.pid, signal.SIGSTOP)
    second = drivers.start(seconds=0.05, host="node2", limit=1.0)
    assert second.stdout is not None
    assert "another run is at work here" in second.stdout.readline()
    assert "it has ended" in second.stdout.readline()
    os.kill(first.pid, signal.SIGCONT)
    said = first.communicate()[0]
    assert second.wait() == 0
    assert first.returncode == 0
    assert "another run has taken over" in said
    assert drivers.tables(0) == drivers.tables(1) == undisturbed
    assert drivers.attempts() <= len(undisturbed["trials"]) + 1  # at most the trial that it was at


def test_an_interrupted_watcher_leaves_the_other_alone(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    drivers = Drivers(tmp_path)
    first = drivers.start(seconds=0.03)
    until(lambda: drivers.ended() > 1, first)
    second = drivers.start()
    assert second.stdout is not None
    second.stdout.readline()
    second.send_signal(signal.SIGTERM)
    assert second.wait() != 0
    assert first.wait() == 0
    assert drivers.tables(0) == undisturbed


# ---- signals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("executor", "number", "group"),
    [
        ("inline", signal.SIGTERM, False),
        ("inline", signal.SIGHUP, True),
        pytest.param("ray", signal.SIGTERM, False, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGTERM, True, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGHUP, True, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_run_in_good_order(
    executor: str, number: signal.Signals, group: bool, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """A scheduler sends it to the driver, or to all of its processes; `timeout` to both, so twice."""
    drivers = Drivers(tmp_path)
    process = drivers.start(seconds=0.1, executor=executor)
    until(lambda: "complete" in Ledger(drivers.store).refresh().table["status"].to_pylist(), process)
    process.send_signal(number)
    if group:
        os.killpg(process.pid, number)
    said = process.communicate()[0]
    assert process.returncode == 130, said
    assert said.count("interrupted: saving running trials") == 1
    assert "*** SIG" not in said
    assert "Traceback" not in said
    found = [row["status"] for row in drivers.tables(0)["trials"]]
    assert "missing" in found
    assert "complete" in found
    assert "failed" not in found
    assert drivers.start(seconds=0.0).wait() == 0
    assert drivers.tables(1) == undisturbed


class Terminal:
    """A terminal with a driver in its foreground."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
            os.execv(command[0], command)
        self.text = ""

    def read(self) -> bool:
        """Take what comes next; False once the process is gone."""
        try:
            if select.select([self.end], [], [], 0.1)[0]:
                data = os.read(self.end, 65536)
                self.text += data.decode()
                return bool(data)
        except OSError:
            return False
        return True

    def screen(self) -> str:
        """What a person sees in the end: lines, with what was moved over and erased."""
        lines, row, column = [""], 0, 0
        for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.text):
            move = re.fullmatch(r"\x1b\[(\d*)A", piece)
            if move:
                row = max(row - int(move[1] or 1), 0)
            elif piece == "\x1b[2K":
                lines[row] = ""
            elif piece == "\r":
                column = 0
            elif piece == "\n":
                row, column = row + 1, 0
                lines += [""] * (row >= len(lines))
            elif not piece.startswith("\x1b"):
                line = lines[row].ljust(column)
                lines[row] = line[:column] + piece + line[column + len(piece) :]
                column += len(piece)
        return "\n".join(line.rstrip() for line in lines)


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_ctrl_c_in_a_terminal_is_answered_at_once_and_for_good(executor: str, tmp_path: Path) -> None:
    drivers = Drivers(tmp_path)
    command = drivers.command(0.5, "here", 60.0, executor)
    terminal = Terminal([*command, "live"])
    while "best cells so far" not in terminal.text and "worker" not in terminal.text:
        assert terminal.read()
    while drivers.ended() < 1:
        terminal.read()
    before = len(terminal.text)
    os.write(terminal.end, b"\x03")  # as typed: the terminal sends SIGINT to its foreground group, workers included
    while "interrupted: saving running trials" not in terminal.text[before:]:
        assert terminal.read()
    while terminal.read():
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 130
    seen = terminal.screen()
    assert seen.count("interrupted: saving running trials") == 1, seen
    assert "worker-0" not in seen, seen  # the page is gone, and what was said in its place is there
    assert "ended 130" in seen
    assert terminal.text.rstrip().rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")  # the cursor is back


def test_a_terminal_that_is_closed_ends_the_run_in_good_order(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    drivers = Drivers(tmp_path)
    terminal = Terminal([*drivers.command(0.2, "here", 60.0, "inline"), "live"])
    while drivers.ended() < 2:
        terminal.read()
    os.close(terminal.end)
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 130
    assert {row["status"] for row in drivers.tables(0)["trials"]} >= {"missing"}
    drivers.begun.clear()
    assert drivers.start(seconds=0.0).wait() == 0
    assert drivers.tables(0) == undisturbed
