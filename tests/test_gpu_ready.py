"""What a borrowed GPU machine needs: the tests for it are collected where most of the project's packages are absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ABSENT = ("ray", "optuna", "soundfile", "soxr", "matplotlib", "rich", "tensorboard")
HIDE = f"""
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without the packages that no GPU check needs."""
    (tmp_path / "sitecustomize.py").write_text(HIDE, "utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "OMP_NUM_THREADS": "1"}


def test_the_gpu_tests_are_collected_without_them(bare: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "--collect-only", "-q", "tests"]
    run = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]
    for file in ("tests/mer/data/test_ragged.py", "tests/mer/fusion/test_gpu.py", "tests/mer/test_gpu_training.py"):
        assert file in run.stdout


@pytest.mark.slow
def test_the_check_runs_without_them_and_a_row_that_fails_costs_no_other(bare: dict[str, str], tmp_path: Path) -> None:
    script = ["sh", "benchmarks/gpu_check.sh", "--device", "cpu", "--tiny"]
    bare["PYTHON"] = sys.executable
    whole = subprocess.run(script, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    rows = [line for line in whole.stdout.splitlines() if line.startswith("| ")][1:]
    assert not [line for line in rows if "failed" in line or "DIFFER" in line or "exit 1" in line], whole.stdout
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(HIDE.replace("'ray'", "'ray', 'torchdiffeq'"), "utf-8")
    broken = subprocess.run(
        [*script, "--only", "none", "cadgl", "concat"], cwd=ROOT, env=bare, capture_output=True, text=True, check=False
    )
    assert broken.returncode == 1
    found = [line for line in broken.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(found) == 3
    assert [line.split(" |")[0] for line in found if "failed" in line] == ["| cadgl"]


def test_without_a_gpu_it_says_so(bare: dict[str, str]) -> None:
    bare["CUDA_VISIBLE_DEVICES"] = ""
    for name in ("gpu_check", "bench_gpu"):
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        run = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert "no CUDA device here" in run.stderr
