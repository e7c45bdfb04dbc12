"""Before any trial on a node: is it what the driver believes it to be?

`inspect_node` runs on a node and only looks; `judge` compares what it saw with what the driver saw, and is pure. How
the look reaches the nodes, and what becomes of those that differ, is the schedule's business
(`experiments.schedule.nodes`).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from experiments.cluster.project import project_commit, source_digest
from mer.errors import UserError
from mer.storage import PROBES

if TYPE_CHECKING:
    from mer.storage import Store

PROJECT = "mer-ablation"
MIN_FREE_GB = 2.0
MAX_CLOCK_SECONDS = 60.0
LEFT_BEHIND_S = 7 * 86400.0
"""A word in the results that is older was left by a driver that was killed."""


@dataclass(frozen=True)
class Question:
    """What a node is asked to look at.

    corpora  name to (folder, address): a folder is read and hashed, of an address it is only asked what lies there
    """

    results: str
    nonce: str
    corpora: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeView:
    """What one node saw of itself and of what should be shared."""

    host: str
    python: str
    packages: dict[str, str]
    commit: str
    source: str
    """Digest of the project's files there: two checkouts with changes of their own may have one commit."""
    gpus: int
    gpu_names: tuple[str, ...]
    clock: float
    free_gb: float | None
    nonce: str | None
    """What the node read where the driver had written; None where nothing was there."""
    writable: str | None
    """Why it cannot write to the results; None where it can."""
    corpora: dict[str, str] = field(default_factory=dict)
    """Corpus to a digest of it, or to the reason why it cannot be read."""


def ask(question: Question) -> dict[str, Any]:
    """A question as it is sent to nodes, which may have another version of this project."""
    return asdict(question)


def inspect_node(question: Mapping[str, Any]) -> dict[str, Any]:
    """Look around on this machine. Loads no model and touches no GPU beyond counting it."""
    from mer.storage import open_store

    try:
        store = open_store(question["results"])
        nonce, writable = _read_nonce(store, question["nonce"]), _write_probe(store)
    except UserError as error:  # an address that cannot be opened here, for want of credentials say
        nonce, writable = None, str(error)
    names = _gpu_names()
    view = NodeView(
        host=platform.node(),
        python=platform.python_version(),
        packages={name: _version(name) for name in required_packages()},
        commit=project_commit(),
        source=source_digest(),
        gpus=len(names),
        gpu_names=names,
        free_gb=_free_gb(),
        nonce=nonce,
        writable=writable,
        corpora={name: _digest(folder, address) for name, (folder, address) in question["corpora"].items()},
        clock=time.time(),  # last: hashing a corpus may have taken long
    )
    return asdict(view)


def read_answer(answer: object) -> NodeView | None:
    """A node's answer; None where another version of this project has given it."""
    if not isinstance(answer, Mapping) or {part.name for part in fields(NodeView)} != set(answer):
        return None
    return NodeView(**answer)


def judge(
    driver: NodeView,
    node: NodeView,
    nonce: str,
    *,
    needs_gpu: bool,
    offers_gpus: float = 0,
    between: tuple[float, float] | None = None,
) -> list[str]:
    """Why trials on `node` could go wrong or count for something else; empty where nothing speaks against it.

    offers_gpus  GPUs that the node offers to the scheduler
    between      the driver's time when it asked and when it took the answer, which may have waited for it
    """
    problems = []
    if _minor(node.python) != _minor(driver.python):
        problems.append(f"Python {node.python}, the driver has {driver.python}")
    for name in sorted({*node.packages, *driver.packages}):
        mine, theirs = driver.packages.get(name, "missing"), node.packages.get(name, "missing")
        if mine != theirs:
            problems.append(f"{name} {theirs}, the driver has {mine}")
    if node.commit != driver.commit:
        problems.append(f"project at {node.commit or 'no commit'}, the driver's at {driver.commit or 'no commit'}")
    elif node.source != driver.source:
        problems.append(f"project's files differ from the driver's ({node.source[:8]}, {driver.source[:8]})")
    if node.nonce != nonce:
        found = "nothing" if node.nonce is None else "something else"
        problems.append(f"results are not shared: it found {found} where the driver had just written")
    if node.writable is not None:
        problems.append(f"cannot write results: {node.writable}")
    if needs_gpu and node.gpus == 0:
        problems.append("no GPU visible")
    elif offers_gpus > node.gpus:
        problems.append(f"offers {offers_gpus:g} GPUs and sees {node.gpus}")
    if node.free_gb is not None and node.free_gb < MIN_FREE_GB:
        problems.append(f"{node.free_gb:.1f} GB of disk left, {MIN_FREE_GB:.0f} GB wanted")
    asked, taken = between or (driver.clock, driver.clock)
    late = node.clock - min(max(node.clock, asked), taken)
    if abs(late) > MAX_CLOCK_SECONDS:
        problems.append(f"its clock differs by {late:+.0f} s")
    for name, digest in node.corpora.items():
        if digest != driver.corpora[name]:
            problems.append(f"corpus {name}: {digest}, the driver has {driver.corpora[name]}")
    return problems


# ---- the word in the results -----------------------------------------------------------------------------------


def write_nonce(results: str) -> str:
    """Leave a fresh word in the results for every node to read back. Returns it. Drivers do not disturb each other."""
    from mer.storage import open_store

    store, nonce = open_store(results), uuid.uuid4().hex
    for entry in store.list(PROBES):
        if 0 < entry.modified < (time.time() - LEFT_BEHIND_S) * 1e9:
            store.remove(f"{PROBES}/{entry.name}")
    store.put(f"{PROBES}/{nonce}", nonce.encode())
    return nonce


def remove_nonce(results: str, nonce: str) -> None:
    from mer.storage import open_store

    open_store(results).remove(f"{PROBES}/{nonce}")


def _read_nonce(store: Store, nonce: str) -> str | None:
    try:
        return store.read(f"{PROBES}/{nonce}").decode()
    except (OSError, UserError):
        return None


def _write_probe(store: Store) -> str | None:
    """Write, rename, read back: what a finished trial will do."""
    name = f"{PROBES}/_{platform.node()}-{os.getpid()}"
    try:
        store.put(name, b"probe")
        return None if store.read(name) == b"probe" else "what was written did not come back"
    except Exception as error:  # the reason is what matters here, whatever its kind
        return str(error)
    finally:
        with contextlib.suppress(OSError, UserError):
            store.remove(name)


# ---- the machine -----------------------------------------------------------------------------------------------


def required_packages() -> list[str]:
    """What this project needs of other packages: whatever is in its metadata, apart from tools for developers."""
    try:
        wanted = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        wanted = []
    names = [re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in wanted if not re.search(r"extra == .(dev|docs)", line)]
    return sorted({PROJECT, "ray", "torch", *names})


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _gpu_names() -> tuple[str, ...]:
    """Asked of the driver's own tool, so that no CUDA context is made: all that this machine or container has."""
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


def _digest(folder: str, address: str | None) -> str:
    """The corpus's fingerprint; of one that each machine fetches for itself, what lies there now."""
    from mer.data.corpus import load_corpus
    from mer.data.fetching import listing
    from mer.storage import is_address

    try:
        if address is None:
            return load_corpus(folder).fingerprint()
        return listing(address) if is_address(address) else address
    except Exception as error:
        return str(error).splitlines()[0]
