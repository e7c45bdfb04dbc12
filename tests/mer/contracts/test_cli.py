"""`mer contract`: names, paths, exit codes, and errors a person can act on."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from mer.contracts import cli
from mer.errors import UserError

SOURCE = """
import torch
from mer.batch import Batch, Fused
from mer.fusion.base import Fusion, in_time


class DeepGate(Fusion):
    def __init__(self, modalities, dim, *, scale: float = 1.0):
        super().__init__(modalities, dim)
        self.scale = scale

    def forward(self, batch: Batch) -> Fused:
        return Fused(in_time(self.sequences(batch)))


class Leaky(DeepGate):
    def forward(self, batch: Batch) -> Fused:
        fused = super().forward(batch)
        return Fused(type(fused.sequence)(fused.sequence.values + torch.rand(()), fused.sequence.mask))


class Plain(torch.nn.Module):
    pass
"""


def contract(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    args = parser.parse_args(["contract", *argv])
    return int(args.func(args))


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mylab_gate.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_level_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert contract("attn") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "pooling attn: 13 of 13 checks hold"
    assert all(line.startswith("pass  ") for line in out[:-1])


def test_a_class_outside_the_repository_with_an_option(mylab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contract("mylab_gate:DeepGate", "--set", "scale=2.0") == 0
    assert "fusion mylab_gate:DeepGate: 13 of 13 checks hold" in capsys.readouterr().out


def test_a_broken_one_ends_with_3_and_says_why(mylab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contract("mylab_gate:Leaky") == 3
    assert "FAIL  deterministic   randomness comes from the trial's generator alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tacfm"], "unknown level 'tacfm'.*did you mean 'tacfn'"),
        (["none"], "'none' is a level of fusion and of context"),
        (["mylab_gat:DeepGate"], "cannot find module 'mylab_gat'"),
        (["mylab_gate:DepGate"], "did you mean 'DeepGate'"),
        (["mylab_gate:Plain"], "It extends none of ours; expected --kind"),
        (["mylab_gate:DeepGate", "--set", "scal=2"], "did you mean 'scale'"),
        (["mylab_gate:DeepGate", "--set", "scale"], "expected OPTION=VALUE"),
    ],
)
def test_mistakes(mylab: Path, argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        contract(*argv)


def test_building_the_parser_loads_nothing_heavy() -> None:
    code = "import sys, mer.contracts.cli, mer.fusion; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
