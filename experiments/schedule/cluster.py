"""Which Ray cluster a run uses, said in one line; Ray is imported only when it is needed."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import math
import os
import secrets
import shutil
import site
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cluster.project import ROOT
from mer.errors import UserError

SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths are the user's
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: finish writing, publish, exit 130
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's snapshots are never restored from
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "600",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "0",
    "RAY_task_events_max_num_task_in_gcs": "10000",  # for the dashboard; 3.5 KB each, 100 000 otherwise
}
"""Tune's own logs, tables, snapshots and handlers are off: there is one record of what happened, the ledger."""


@dataclass(frozen=True)
class Connected:
    """The cluster that this process is connected to. `private`: started by this process for itself alone."""

    text: str
    private: bool = False

    def __str__(self) -> str:
        return self.text


def connect(address: str | None, *, workers: int | None = None, cpus: float = 1.0) -> Connected:
    """Connect this process to a cluster: the one asked for, else RAY_ADDRESS, else one that this user has started on
    this machine, else a local one that ends with the run. One that somebody else has started is joined only by name:
    whoever runs a cluster can run code as those who join it."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return Connected("the Ray cluster that this process is connected to")
    asked = address or os.environ.get("RAY_ADDRESS")
    if asked and asked not in ("auto", "local"):
        _join(ray, asked)
        return Connected(f"Ray cluster at {asked} ({'--address' if address else 'RAY_ADDRESS'}), {resources(ray)}")
    here, owner = (None, None) if asked == "local" else _running_here()
    note = ""
    if owner is not None:
        note = f"a Ray cluster runs on this machine, started by {owner}: not joined; name it with --address {here}"
    elif here is not None:
        try:
            _join(ray, here)
            return Connected(f"Ray cluster running on this machine, {resources(ray)}")
        except UserError as error:
            note = error.problem
    if asked == "auto":
        raise UserError(
            note or "no Ray cluster of yours runs on this machine", expected="one started by `ray start --head`"
        )
    # A local cluster offers as many places as were asked for, also where that is more than there are processors.
    count = os.cpu_count() or 1
    if workers is not None:
        count = max(count, math.ceil(workers * cpus))
    _start(ray, count)
    return Connected(f"local Ray cluster, {resources(ray)}" + (f" ({note})" if note else ""), private=True)


def _join(ray: Any, address: str) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix="mer-") as empty, importing_like_this_process(empty):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot reach a Ray cluster at {address}: {' '.join(str(error).split())[:300]}",
            expected="HOST:PORT of a running cluster's head, or `local`",
            hint="Start one with `ray start --head`, or leave --address out.",
        ) from None


def _start(ray: Any, count: int) -> None:
    """A cluster of this process alone, in a folder that nobody else can enter and that goes when the process ends."""
    folder = short_folder()
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:  # Ray would write one into the home folder, which may be closed
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        with importing_like_this_process(folder):
            ray.init(
                address="local", num_cpus=count, include_dashboard=False, _temp_dir=folder,
                log_to_driver=False, logging_level=logging.ERROR,
            )  # fmt: skip
    except Exception as error:  # of many kinds: sockets, processes, memory
        raise UserError(
            f"Ray cannot be started on this machine: {last_line(str(error)) or type(error).__name__}",
            hint=f"Its logs: {folder}/session_latest/logs. `--executor inline` trains in this process, without Ray.",
        ) from error

    def clear() -> None:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clear)


SOCKET = 107
"""The longest name of a socket, in bytes: Linux's; macOS allows three fewer."""

BELOW = len("/mer-abcdefgh/session_2026-11-27_06-44-22_123456_1234567/sockets/plasma_store") + 3


def short_folder() -> str:
    """A new folder of this user's alone, with a name so short that Ray's sockets fit below it."""
    places = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"]
    tried = [place for place in places if place and Path(place).is_absolute()]
    for place in tried:
        if len(os.fsencode(place)) <= SOCKET - BELOW:
            with contextlib.suppress(OSError):
                return tempfile.mkdtemp(prefix="mer-", dir=place)
    raise UserError(
        f"no folder for Ray's sockets: {', '.join(dict.fromkeys(tried))} cannot be written, or have too long a name",
        hint=f"Set RAY_TMPDIR to a folder whose name has at most {SOCKET - BELOW} bytes.",
    )


@contextlib.contextmanager
def importing_like_this_process(empty: str) -> Iterator[None]:
    """Workers import the packages that this process has imported.

    Ray puts the folder that a driver connects from, and that of its script if it is on the path at all, in front of all
    that its workers import from, whatever lies there: a research repository has an `experiments` of its own. So the
    driver connects from the folder that its packages came from or, where every Python of this environment finds them,
    from one that has no packages; a cluster that is started there has its processes there.
    """
    here, path, own = os.getcwd(), sys.path[:], str(ROOT)
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    if own in path:  # what comes behind it here must not come before it there
        behind = path.index(own)
        sys.path[:] = [place for index, place in enumerate(path) if index <= behind or place != script]
    os.chdir(empty if _installed(ROOT) else ROOT)
    try:
        yield
    finally:
        sys.path[:] = path
        os.chdir(here)


def _installed(folder: Path) -> bool:
    places = [*site.getsitepackages(), site.getusersitepackages()]
    return any(folder == Path(place).resolve() for place in places)


def last_line(text: str) -> str:
    """What an error says in the end: the last line of a traceback is its reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def is_shared(connected: Connected) -> bool:
    """Has this cluster other machines, or may it come to have some?"""
    ray: Any = importlib.import_module("ray")
    return not connected.private and (sum(node["Alive"] for node in ray.nodes()) > 1 or _bootstrap() is not None)


def _running_here() -> tuple[str | None, str | None]:
    """The cluster that `ray start` has started on this machine, if it still runs, by Ray's own record; and who started
    it, where that is not this user. Anybody may write the record, so the process that serves it is asked.

    A cluster that another run has started for itself alone is not in that record: it ends with that run.
    """
    try:
        from ray._private.services import _is_raylet_process
        from ray._private.utils import read_ray_address

        psutil: Any = importlib.import_module("psutil")  # Ray brings its own
    except ImportError:  # a Ray that keeps it elsewhere: --address still works
        return None, None
    try:
        address: str | None = read_ray_address()
    except (OSError, UnicodeDecodeError):
        return None, None
    if not address:
        return None, None
    owners = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if _is_raylet_process(command) and f"--gcs-address={address}" in " ".join(command).split(" "):
                owners.add((process.uids().effective, process.username()))
                if process.uids().effective == os.geteuid() and process.environ().get("RAY_AUTH_MODE") == "token":
                    _bring_token()
    mine = [owner for owner in owners if owner[0] == os.geteuid()]
    return (address if owners else None), (None if mine or not owners else min(owners)[1])


def _bring_token() -> None:
    """`ray start` asks for the token in the home folder where there is one, also where no variable says so."""
    with contextlib.suppress(ImportError):  # a Ray that does so only where the variable is set
        from ray._private.authentication import authentication_token_setup as tokens

        tokens.logger.setLevel(logging.ERROR)
        tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def gpu_share(asked: float | str | None, say: Callable[[str], None]) -> float | None:
    """A trial's share of a GPU: None where it is to be measured, 0 where `auto` finds no GPU and none can come."""
    ray: Any = importlib.import_module("ray")
    automatic = asked is None or asked == "auto"
    share = None if asked is None or isinstance(asked, str) else float(asked)
    if share == 0 or ray.cluster_resources().get("GPU") or _may_grow():
        return share
    if automatic:
        say("no GPU in this cluster: trials run on processors")
        return 0.0
    raise UserError(
        f"a trial asks for {share:g} of a GPU, and this cluster has none",
        expected="--gpus-per-trial 0, or a cluster with GPUs",
    )


def _may_grow() -> bool:
    """Does a cloud's autoscaler stand behind this head, so that GPUs come when they are asked for?"""
    text = _bootstrap()
    return text is not None and '"type": "local"' not in text and "type: local" not in text


def _bootstrap() -> str | None:
    """What `ray up` has left on a head, or None where this is none."""
    try:
        return Path("~/ray_bootstrap_config.yaml").expanduser().read_text("utf-8")
    except (OSError, RuntimeError):  # none there, or no home
        return None


def resources(ray: Any) -> str:
    """`2 CPUs, 1 GPU, 1 node`."""
    found = ray.cluster_resources()
    parts = [_counted(found.get("CPU", 0), "CPU")]
    if found.get("GPU"):
        parts.append(_counted(found["GPU"], "GPU"))
    parts.append(_counted(sum(node["Alive"] for node in ray.nodes()), "node"))
    return ", ".join(parts)


def _counted(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"
