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
