"""Before any trial: is every node what the driver believes it to be?

`inspect_node` runs on each node and only looks; `judge` compares what it saw with what the driver saw, and is pure.
How the look reaches the nodes is the schedule's business (`experiments.schedule.nodes`).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mer.storage import Store

PACKAGES = ("torch", "transformers", "ray", "numpy", "pyarrow", "torch-geometric", "torchdiffeq", "mer-ablation")
MIN_FREE_GB = 2.0
MAX_CLOCK_SECONDS = 60.0
PROBES = "ledger/_probes"


@dataclass(frozen=True)
class NodeView:
    """What one node saw of itself and of what should be shared."""

    host: str
    python: str
    packages: dict[str, str]
    commit: str
    gpus: int
    gpu_names: tuple[str, ...]
    clock: float
    free_gb: float | None
    nonce: str | None
    """What the node read where the driver wrote its nonce; None where nothing was there."""
    writable: str | None
    """Why it cannot write to the results; None where it can."""
    corpora: dict[str, str] = field(default_factory=dict)
    """Corpus folder to fingerprint, or to the reason why it cannot be read."""


def write_nonce(results: str) -> str:
    """Leave a fresh word in the results for every node to read back. Returns it."""
    from mer.storage import open_store

    nonce = uuid.uuid4().hex
    open_store(results).put(f"{PROBES}/nonce", nonce.encode())
    return nonce


def remove_probes(results: str) -> None:
    from mer.storage import open_store

    store = open_store(results)
    for entry in store.list(PROBES):
        store.remove(f"{PROBES}/{entry.name}")


def inspect_node(results: str, corpora: tuple[str, ...]) -> NodeView:
    """Look around on this machine. Loads no model and touches no GPU beyond counting it."""
    from mer.storage import open_store

    store = open_store(results)
    names = _gpu_names()
    return NodeView(
        host=platform.node(),
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        commit=project_commit(),
        gpus=len(names),
        gpu_names=names,
        clock=time.time(),
        free_gb=_free_gb(),
        nonce=_read_nonce(store),
        writable=_write_probe(store),
        corpora={folder: _fingerprint(folder) for folder in corpora},
    )


def judge(driver: NodeView, node: NodeView, nonce: str, *, needs_gpu: bool) -> list[str]:
    """Why trials on `node` could go wrong or count for something else; empty where nothing speaks against it."""
    problems = []
    if _minor(node.python) != _minor(driver.python):
        problems.append(f"Python {node.python}, the driver has {driver.python}")
    for name, version in node.packages.items():
        if version != driver.packages[name]:
            problems.append(f"{name} {version}, the driver has {driver.packages[name]}")
    if node.commit != driver.commit:
        problems.append(f"project at {node.commit or 'no commit'}, the driver's at {driver.commit or 'no commit'}")
    if node.nonce != nonce:
        found = "nothing" if node.nonce is None else "something else"
        problems.append(f"results are not shared: it found {found} where the driver had just written")
    if node.writable is not None:
        problems.append(f"cannot write results: {node.writable}")
    if needs_gpu and node.gpus == 0:
        problems.append("no GPU visible")
    if node.free_gb is not None and node.free_gb < MIN_FREE_GB:
        problems.append(f"{node.free_gb:.1f} GB of disk left, {MIN_FREE_GB:.0f} GB wanted")
    if abs(node.clock - driver.clock) > MAX_CLOCK_SECONDS:
        problems.append(f"its clock differs by {node.clock - driver.clock:+.0f} s")
    for folder, fingerprint in node.corpora.items():
        if fingerprint != driver.corpora[folder]:
            problems.append(f"corpus {folder}: {fingerprint}, the driver has {driver.corpora[folder]}")
    return problems


def project_commit() -> str:
    """Commit of the source tree this package runs from; `-dirty` where it has changes, empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    return commit + "-dirty" if commit and _git(root, "status", "--porcelain", "--untracked-files=no") else commit


def _git(root: Path, *command: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _gpu_names() -> tuple[str, ...]:
    """Asked of the driver's own tool, so that no CUDA context is made. Respects what the scheduler handed out."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()


def _free_gb() -> float | None:
    from mer.data.fingerprint import cache_root

    folder = cache_root()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free / 1e9
    except OSError:
        return None


def _read_nonce(store: Store) -> str | None:
    try:
        return store.read(f"{PROBES}/nonce").decode()
    except OSError:
        return None


def _write_probe(store: Store) -> str | None:
    """Write, rename, read back: what a finished trial will do."""
    name = f"{PROBES}/{platform.node()}-{os.getpid()}"
    try:
        store.put(name, b"probe")
        return None if store.read(name) == b"probe" else "what was written did not come back"
    except Exception as error:  # the reason is what matters here, whatever its kind
        return str(error)


def _fingerprint(folder: str) -> str:
    from mer.data.corpus import load_corpus

    try:
        return load_corpus(folder).fingerprint()
    except Exception as error:
        return str(error).splitlines()[0]
