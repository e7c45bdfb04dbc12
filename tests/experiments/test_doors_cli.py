"""The doors of the command line and of the environment's variables."""

from __future__ import annotations

import argparse
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.cli import build_parser, main
from experiments.commands_run import _gpus, seconds
from mer.data.corpus import load_corpus
from mer.data.fingerprint import cache_root
from mer.data.places import find_corpus
from tests.doors import NASTY_TEXT, bounds, through

FUZZ = settings(deadline=None, max_examples=60)


def typed(parser: argparse.ArgumentParser, command: str = "mer") -> Iterator[tuple[str, Any]]:
    """Every option of every command that has a type of its own."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from typed(below, f"{command} {name}")
        elif action.type is not None and action.type is not Path:
            yield f"{command} {'/'.join(action.option_strings) or action.dest}", action.type


OPTIONS = dict(typed(build_parser()))
NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 400,
    "9" * 5000,
    "-1",
    "0",
    "1.5",
    "٣",
    "²",
    "1_0",
    " 1",
    "",
    "x",
    "0x10",
)


@pytest.mark.parametrize("option", [name for name in OPTIONS if not name.endswith(("--labels", "--features"))])
def test_numbers_of_options(option: str) -> None:
    @settings(FUZZ, max_examples=30)
    @given(st.sampled_from(NUMBERS) | st.text(max_size=6))
    def is_bounded(text: str) -> None:
        try:
            value = OPTIONS[option](text)
        except (argparse.ArgumentTypeError, ValueError):  # argparse says it in words
            return
        assert not isinstance(value, int | float) or (math.isfinite(value) and abs(value) < 2**64)

    is_bounded()


@FUZZ
@given(st.sampled_from(NUMBERS) | st.text(max_size=6))
@example("nan")
@example("inf")
@example("9" * 400)
@example("9" * 400 + "d")
def test_times_and_shares(text: str) -> None:
    share = through(lambda: _gpus(text), "--gpus-per-trial")
    assert share is None or share == "auto" or 0 <= float(share) < math.inf
    budget = through(lambda: seconds(text), "the time")
    assert budget is None or 0 < budget < math.inf


COMMANDS = (
    ("plan", "{}"), ("run", "--plan", "--space", "{}"), ("data", "check", "{}"), ("train", "{}"),
    ("data", "import", "conversation", "{}", "made"), ("data", "import", "meld", "{}", "made"),
    ("features", "ls", "{}"),
    ("plan", "quickstart", "--no-smoke", "--data", "{}"), ("plan", "quickstart", "--no-smoke", "--set", "{}=1"),
    ("plan", "quickstart", "--no-smoke", "--only", "{}"), ("predict", "{}", "{}"), ("data", "demo", "pipe/{}"),
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(words) for words in COMMANDS])
def test_any_name_on_the_command_line(
    tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    names = [text.replace("\ud800", "\udcff") for text in NASTY_TEXT[3:]]  # no NUL, and bytes that are no UTF-8
    for name in (*names, "n" * 300, "n/" * 3000, "pipe", "/dev/zero"):
        shown = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")  # as Python opens it
        monkeypatch.setattr("sys.stderr", shown)
        try:
            with bounds():
                code = main([word.replace("{}", name) for word in command])
        except SystemExit as ended:
            code = int(str(ended.code))
        assert code == 2 or command[:2] == ("features", "ls"), name
        shown.seek(0)
        assert "error" in shown.read() or code == 0


VARIABLES = ("MER_DATA", "MER_CACHE", "XDG_CACHE_HOME", "MER_FEATURES", "MER_FAULT", "HF_ENDPOINT")


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("value", ["", "nowhere", "n" * 300, "a\nb", "$HOME", "file", "s3://", "x://y", "\udcff"])
def test_variables(
    tmp_path: Path, variable: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from mer.data.demo import demo_corpus
    from mer.data.store.shared import open_features
    from mer.faults import visit

    demo = demo_corpus()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    if variable == "XDG_CACHE_HOME":
        monkeypatch.delenv("MER_CACHE")
    monkeypatch.setenv(variable, value)
    through(lambda: load_corpus(find_corpus(str(demo))).fingerprint(), variable, value[:20])
    through(lambda: find_corpus("absent"), "absent")
    through(open_features, variable, value[:20] or "features")
    assert cache_root() is not None
    visit("tables.some")
