"""An address with credentials is refused by every command before anything is done with it, and shown by none."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.cli import build_parser, main

SECRET = "wJalrXUtnFEMIK7MDENG"
ADDRESS = f"s3://bucket/results?access_key=AKIA&secret_key={SECRET}&endpoint_override=http://127.0.0.1:9"


def commands(parser: argparse.ArgumentParser, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in nested:
        for name, inner in action.choices.items():
            yield from commands(inner, (*above, name))
    if not nested:
        yield above


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    return tmp_path


COPIED = f"anna:{SECRET}@host:/data/results"
"""As `scp` takes it."""

SHOWN = {
    ADDRESS: "s3://bucket/results?access_key=***&secret_key=***&endpoint_override=http://127.0.0.1:9",
    COPIED: "***@host:/data/results",
}


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], folder: Path, address: str = ADDRESS) -> None:
    assert main(argv) == 2
    said = "".join(capsys.readouterr())
    assert "credentials in an address" in said
    assert SHOWN[address] in said
    assert SECRET not in said
    for file in folder.rglob("*"):
        assert SECRET not in file.name
        assert file.is_dir() or file.name == "mine.yaml" or SECRET.encode() not in file.read_bytes()


@pytest.mark.parametrize("command", list(commands(build_parser())), ids=" ".join)
def test_every_command_refuses_it(command: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for address in SHOWN:
        refused([*command, address], capsys, folder, address)
        refused([*command, f"--results={address}"], capsys, folder, address)


@pytest.mark.parametrize("address", SHOWN)
def test_a_space_that_names_it_is_refused(address: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = folder / "mine.yaml"
    space.write_text(f"corpora: {address}\nbase: {{encoders: {{text: words}}}}\nfactors: {{pooling: [mean]}}\n")
    for command in (["plan", str(space)], ["run", "--space", str(space)]):
        refused(command, capsys, folder, address)


@pytest.mark.parametrize("name", ["MER_FEATURES", "MER_DATA", "RAY_ADDRESS"])
def test_a_variable_that_holds_it_is_refused(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, ADDRESS)
    refused(["plan", "quickstart"], capsys, folder)
    assert os.environ[name] == ADDRESS
