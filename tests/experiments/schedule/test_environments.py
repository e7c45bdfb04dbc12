"""Machines as laboratories have them: other users' clusters, odd names, poor locales, small limits."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
from ray import cloudpickle
from ray.exceptions import ActorDiedError

from experiments.schedule import cluster, pinning
from experiments.schedule.packing import Packing
from experiments.schedule.tune import Crew
from mer.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")

TINY = """
corpora: demo
metric: ua
base:
  encoders: {text: {name: words, buckets: 64}}
  projection.dim: 8
  fusion: {name: concat, axis: time, layers: 0}
  pooling: mean
  context: none
  classifier.hidden: [8]
  training.epochs: 1
factors: {pooling: [mean]}
design: one_factor
tune: {draws: 1}
studies: 1
"""


@contextlib.contextmanager
def raylet(folder: Path, address: str, user: int | None = None) -> Iterator[None]:
    """What is seen of a cluster on this machine: Ray's record of it, and the process that serves it."""
    (folder / "ray").mkdir(exist_ok=True)
    (folder / "ray" / "ray_current_cluster").write_text(address)
    command = ["raylet", "-c", "import time; time.sleep(600)", f"--gcs-address={address}"]
    # A new session of its own folder: the Python of a virtual environment may not be open to another user.
    process = subprocess.Popen(command, executable="/usr/bin/python3", user=user, cwd="/")
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own for Ray's record; ends what the tests join or start instead of Ray."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_join", lambda ray, address: monkeypatch.setenv("JOINED", address))
    monkeypatch.setattr(cluster, "_start", lambda ray, count: monkeypatch.setenv("JOINED", "its own"))
    monkeypatch.setattr(cluster, "resources", lambda ray: "2 CPUs, 1 node")
    return tmp_path


needs_python = pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no Python that every user may run")


@needs_root
@needs_python
def test_the_cluster_of_another_user_is_joined_only_by_its_address(record: Path) -> None:
    with raylet(record, "127.0.0.1:7999", user=NOBODY):
        assert str(cluster.connect(None)) == (
            "local Ray cluster, 2 CPUs, 1 node (a Ray cluster runs on this machine, started by nobody: not joined; "
            "name it with --address 127.0.0.1:7999)"
        )
        assert os.environ["JOINED"] == "its own"
        with pytest.raises(UserError, match="started by nobody: not joined; name it with --address 127"):
            cluster.connect("auto")
        cluster.connect("127.0.0.1:7999")
        assert os.environ["JOINED"] == "127.0.0.1:7999"


@needs_root
@needs_python
def test_a_record_that_another_user_wrote_over_ones_own_cluster_is_not_followed(record: Path) -> None:
    with raylet(record, "127.0.0.1:7998"), raylet(record, "127.0.0.1:7999", user=NOBODY):
        assert cluster.connect(None).private
        assert os.environ["JOINED"] == "its own"


@needs_python
def test_the_cluster_that_this_user_has_started_is_joined(record: Path) -> None:
    with raylet(record, "127.0.0.1:7999"):
        assert not cluster.connect(None).private
        assert os.environ["JOINED"] == "127.0.0.1:7999"
        assert cluster.connect("local").private
    (record / "ray" / "ray_current_cluster").write_bytes(b"\xff\xfe")
    assert cluster.connect(None).private  # a record of a cluster that is gone, or nonsense
    with pytest.raises(UserError, match="no Ray cluster of yours runs on this machine"):
        cluster.connect("auto")


def test_ray_lies_in_a_short_folder_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("slurm-scratch-" * 6)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    folder = Path(cluster.short_folder())
    try:
        socket = folder / "session_2026-11-27_06-44-22_123456_1234567" / "sockets" / "plasma_store"
        assert len(os.fsencode(socket)) <= 104  # macOS; Linux allows 107
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        folder.rmdir()


def test_no_place_for_sockets_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **place: (_ for _ in ()).throw(PermissionError()))
    with pytest.raises(UserError, match=r"no folder for Ray's sockets: .*\n.*Set RAY_TMPDIR to a folder"):
        cluster.short_folder()


@needs_root
def test_a_folder_that_another_user_made_beforehand_holds_no_claims(tmp_path: Path) -> None:
    folder = tmp_path / "mer-processors-0"
    folder.mkdir(mode=0o777)
    assert pinning.claim([0], folder) == 0
    os.chown(folder, NOBODY, NOBODY)
    assert pinning.claim([1], folder) is None


def test_a_worker_that_cannot_claim_a_processor_works_unpinned(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert pinning.claim([0], tmp_path / "file" / "claims") is None


class Blocked:
    """A session that remembers why it was ended."""

    blocked: str | None = None
    ending: str | None = None

    def block(self, reason: str) -> None:
        self.blocked = self.ending = reason

    def lost(self, worker: str, why: str, *, blameless: bool = False) -> None:
        self.why = why

    def report(self, worker: str, outcomes: object) -> list[object]:
        return []


def crew(choosy: bool = False) -> tuple[Crew, Any]:
    session: Any = Blocked()
    packing = Packing(cpus=1, gpus=0.0)
    return Crew(session, packing, None, workers=1, hang_s=60, tick=None, choosy=choosy), session


def unborn(folder: Path, error: Exception) -> Any:
    """A worker as Tune knows it that died of an error."""
    (folder / "error.pkl").write_bytes(cloudpickle.dumps(error))
    return SimpleNamespace(trial_id="w", pickled_error_file=str(folder / "error.pkl"))


class StartFailed(ActorDiedError):
    """What Ray raises for an actor whose class cannot be imported or made."""

    def __init__(self) -> None:
        super().__init__()
        self._actor_init_failed = True

    def __reduce__(self) -> Any:
        return StartFailed, ()

    def __str__(self) -> str:
        return "The actor died\n\n  Traceback ...\nModuleNotFoundError: No module named 'experiments.schedule'\n"


def test_a_worker_that_cannot_start_ends_the_run_at_once_with_its_own_last_word(tmp_path: Path) -> None:
    workers, session = crew()
    workers.died("w", unborn(tmp_path, StartFailed()))
    assert session.blocked == "workers cannot be started: ModuleNotFoundError: No module named 'experiments.schedule'"


def test_a_lost_worker_is_replaced_and_one_bad_node_is_left_out(tmp_path: Path) -> None:
    workers, session = crew()
    for _ in range(8):
        workers.died("w", unborn(tmp_path, ActorDiedError()))  # its machine was taken away
        assert session.ending is None
    workers.died("w", None)
    assert session.ending == "9 workers in a row could not be started: see Ray's logs"
    workers, session = crew(choosy=True)
    workers.died("w", unborn(tmp_path, StartFailed()))
    assert session.ending is None


# ---- one run under all of it at once -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as a wheel puts them, in an environment that has this one's other packages."""
    home = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next(home.glob("lib/python*/site-packages"))
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "others.pth").write_text("\n".join(others))
    for package in ("mer", "experiments"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    return home / "bin" / "python"


def strange(folder: Path) -> Path:
    """A folder with an odd name, in which a research repository has packages called like ours."""
    work = folder / "Prüfung $HOME 'a' \"b\"\nc" / ("long" * 40)
    for package in ("mer", "experiments"):
        (work / package).mkdir(parents=True)
        (work / package / "__init__.py").write_text("raise ImportError('a package of the folder')\n")
    (work / "tiny.yaml").write_text(TINY)
    (work / "start.py").write_text(SCRIPT)
    return work


LIMITED = 'ulimit -n 256; exec "$@"'
SCRIPT = "import sys; del sys.path[0]; from experiments.cli import main; sys.exit(main())"
"""As `ray submit` has it: a script in the folder itself, whose own packages Python must not take."""


@pytest.mark.slow
@needs_python
def test_a_run_where_everything_is_odd_at_once(tmp_path: Path, installed: Path) -> None:
    long = tmp_path / ("scratch-" * 10)
    long.mkdir()
    dead = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy"), dead)
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TMPDIR": str(long), **proxies}
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "PYTHONPATH", "RAY_TMPDIR")}
    work = strange(tmp_path)
    (long / "ray").mkdir()
    command = [
        "/bin/sh",
        "-c",
        LIMITED,
        "sh",
        str(installed),
        "start.py",
        "run",
        "--space",
        "tiny.yaml",
        "--workers",
        "1",
    ]
    if os.geteuid() == 0:
        with raylet(long, "127.0.0.1:7997", user=NOBODY):
            done = subprocess.run(command, cwd=work, env={**kept, **odd}, capture_output=True, text=True)
        assert "started by nobody: not joined; name it with --address 127.0.0.1:7997" in done.stdout
    else:
        done = subprocess.run(command, cwd=work, env={**kept, **odd}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 complete" in done.stdout
    assert (work / "results" / "tiny" / "trials.parquet").exists()
