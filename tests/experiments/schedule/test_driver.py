"""The driver steers and never computes: CUDA belongs to the workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch

def touched(*args, **named):
    raise AssertionError("the driver touched CUDA")

for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "mem_get_info", "synchronize"):
    setattr(torch.cuda, name, touched)
from experiments.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_driver_never_touches_cuda(tmp_path: Path, command: str) -> None:
    smaller = ["--set", "studies=1", "--set", "tune.draws=1", "--set", "training.epochs=1"]
    words = {
        "run": ["run", "--space", "quickstart", *smaller, "--address", "local", "--workers", "1"],
        "plan": ["plan", "quickstart", *smaller, "--no-smoke"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words, "--results", str(tmp_path / "results")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete" in done.stdout if command == "run" else "trials" in done.stdout
