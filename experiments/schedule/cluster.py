"""Which Ray cluster a run uses, said in one line; Ray is imported only when it is needed."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Connect this process to a cluster: the one asked for, else RAY_ADDRESS, else one that runs on this machine, else
    a local one that ends with the run."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return Connected("the Ray cluster that this process is connected to")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    asked = address or os.environ.get("RAY_ADDRESS")
    if asked and asked != "local":
        _join(ray, asked)
        return Connected(f"Ray cluster at {asked} ({'--address' if address else 'RAY_ADDRESS'}), {resources(ray)}")
    here = _running_here() if asked is None else None
    if here is not None:
        with contextlib.suppress(ConnectionError):
            ray.init(address=here, log_to_driver=False, logging_level=logging.ERROR)
            return Connected(f"Ray cluster running on this machine, {resources(ray)}")
    # A local cluster offers as many places as were asked for, also where that is more than there are processors.
    count = os.cpu_count() or 1
    if workers is not None:
        count = max(count, math.ceil(workers * cpus))
    ray.init(address="local", num_cpus=count, **quiet)
    return Connected(f"local Ray cluster, {resources(ray)}", private=True)


def _join(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot reach a Ray cluster at {address}: {' '.join(str(error).split())[:300]}",
            expected="HOST:PORT of a running cluster's head, or `local`",
            hint="Start one with `ray start --head`, or leave --address out.",
        ) from None


def is_shared(connected: Connected) -> bool:
    """Has this cluster other machines, or may it come to have some?"""
    ray: Any = importlib.import_module("ray")
    return not connected.private and (sum(node["Alive"] for node in ray.nodes()) > 1 or _bootstrap() is not None)


def _running_here() -> str | None:
    """The cluster that `ray start` has started on this machine, if it still runs, by Ray's own record.

    A cluster that another run has started for itself alone is not in that record: it ends with that run.
    """
    try:
        from ray._private.services import find_gcs_addresses
        from ray._private.utils import read_ray_address
    except ImportError:  # a Ray that keeps it elsewhere: --address still works
        return None
    address: str | None = read_ray_address()
    return address if address in find_gcs_addresses() else None  # type: ignore[no-untyped-call]


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
    except OSError:
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
