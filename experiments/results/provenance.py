"""Where a number comes from: source, packages, machine, and what it cost. Nothing is imported that is not already."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.results.records import Provenance

PACKAGES = ("mer-ablation", "numpy", "ray", "torch", "torch-geometric", "transformers")
"""Packages whose versions can change a number or a schedule."""


@functools.lru_cache(maxsize=1)
def here() -> Provenance:
    """The provenance of what this process computes."""
    commit, dirty = source_version()
    return Provenance(commit=commit, dirty=dirty, versions=versions(), hardware=hardware(), host=platform.node())


def source_version() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether tracked files were changed; None outside git."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None, None
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        return commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def versions() -> str:
    """`numpy 2.4.6; python 3.11.9; torch 2.13.0`: one line, sorted, the same for the same environment."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "; ".join(f"{name} {version}" for name, version in sorted(found.items()))


def hardware() -> str:
    """The GPU that this process computes on, else the processor."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def energy_j() -> float | None:
    """A running total of joules: of the GPU where its driver tells, else of the processor; None where neither does.

    It counts the whole device, so trials that share a device share its energy.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        try:
            import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except Exception:  # not installed, not permitted, not supported: all mean "not readable"
            return None
    try:
        return int(Path("/sys/class/powercap/intel-rapl:0/energy_uj").read_text()) / 1e6
    except (OSError, ValueError):
        return None
