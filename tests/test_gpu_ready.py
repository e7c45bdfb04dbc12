"""What a borrowed GPU machine needs: the tests for it are collected where most of the project's packages are absent."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ("torch", "torch-geometric", "torchdiffeq", "transformers", "numpy", "pandas", "pyarrow", "scipy",
          "scikit-learn", "pydantic", "pyyaml", "pytest")  # fmt: skip


def _named(requirement: str) -> str:
    return re.sub("[-_.]+", "-", requirement).lower()


def _with_what_they_need(names: Iterable[str]) -> set[str]:
    """The distributions that pip would install for these."""
    found: set[str] = set()
    left = [_named(name) for name in names]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            asked = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue
        left += [_named(need.name) for need in asked if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def make_environment(folder: Path, *without: str) -> Path:
    """A virtual environment's Python that has those wheels and what they need, and nothing else."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    for name in _with_what_they_need(WHEELS) - set(without):
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(str(found.locate_file(top)))
    return python


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine with nothing but the wheels that the check asks for."""
    python = make_environment(tmp_path_factory.mktemp("bare") / "env")
    return {**os.environ, "PYTHON": str(python), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_the_gpu_tests_are_collected_without_them(bare: dict[str, str]) -> None:
    command = [bare["PYTHON"], "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "--collect-only", "-q", "tests"]
    run = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]
    for file in ("tests/mer/data/test_gpu_ragged.py", "tests/mer/fusion/test_gpu.py", "tests/mer/test_gpu_training.py"):
        assert file in run.stdout


@pytest.mark.slow
def test_the_check_runs_without_them_and_a_row_that_fails_costs_no_other(bare: dict[str, str], tmp_path: Path) -> None:
    script = ["sh", "benchmarks/gpu_check.sh", "--device", "cpu", "--tiny"]
    whole = subprocess.run(script, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    rows = [line for line in whole.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 19
    assert "exit 0" in rows[-1]
    assert not [line for line in rows if "failed" in line or "DIFFER" in line], whole.stdout
    less = {**bare, "PYTHON": str(make_environment(tmp_path / "less", "torchdiffeq"))}
    broken = subprocess.run(
        [*script, "--only", "none", "cadgl", "concat"], cwd=ROOT, env=less, capture_output=True, text=True, check=False
    )
    assert broken.returncode == 1
    found = [line for line in broken.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(found) == 3
    assert [line.split(" |")[0] for line in found if "failed" in line] == ["| cadgl"]


def test_without_a_gpu_it_says_so(bare: dict[str, str]) -> None:
    hidden = {**bare, "CUDA_VISIBLE_DEVICES": ""}
    for name in ("gpu_check", "bench_gpu"):
        command = [bare["PYTHON"], "-m", f"benchmarks.{name}"]
        run = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert "no CUDA device here" in run.stderr
