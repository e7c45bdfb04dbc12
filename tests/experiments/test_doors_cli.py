"""The doors of the command line and of the environment's variables."""

from __future__ import annotations

import argparse
import io
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.cli import build_parser, main
from experiments.commands_run import _gpus, seconds
from experiments.results.ledger import Ledger
from mer.contracts.encoders import small_corpus
from mer.data.corpus import load_corpus
from mer.data.fingerprint import cache_root
from mer.data.places import find_corpus
from mer.files import make_folder
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
    "1e100",
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


BROKEN = dict.fromkeys(("truncated wav", "truncated flac", "gone"), "3.wav")
BROKEN |= dict.fromkeys(("NaN", "truncated array"), "visual.npy")
CASES = [(how, when) for how in BROKEN for when in ("before the plan", "after the plan", "unchecked")]
CASES.remove(("NaN", "unchecked"))  # the loader reads no array through: only the check sees it


def spoil(corpus: Path, how: str) -> None:
    """Break a file of a corpus, most of them behind a sound header."""
    wav, array = corpus / "wavs" / "3.wav", corpus / "features" / "visual.npy"
    if how == "truncated wav":
        wav.write_bytes(wav.read_bytes()[:9000])
    elif how == "truncated flac":
        soundfile = pytest.importorskip("soundfile")
        samples, rate = soundfile.read(wav)
        soundfile.write(wav, samples, rate, format="FLAC")
        wav.write_bytes(wav.read_bytes()[:9000])
    elif how == "gone":
        wav.unlink()
    elif how == "NaN":
        values = np.load(array)
        values[3] = np.nan
        np.save(array, values)
    else:
        array.write_bytes(array.read_bytes()[:200])


@pytest.mark.parametrize(("how", "when"), CASES)
def test_a_broken_corpus_ends_no_trial(
    tmp_path: Path, how: str, when: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run refuses it before its first trial; and a worker that meets one (on another machine) writes no verdict."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    corpus = small_corpus(make_folder(tmp_path / "corpus")).info.folder
    (tmp_path / "a.yaml").write_text(
        "base: {encoders: {audio: logmel, visual: features}, training: {epochs: 1}, sampler: {batch_size: 8}}\n"
        "factors: {fusion: [concat]}\nbaseline: {fusion: concat}\nstudies: 1\n"
    )
    if when != "after the plan":
        spoil(corpus, how)
    if when != "before the plan":
        changes = {"after the plan": lambda plan: spoil(corpus, how), "unchecked": lambda plan: None}
        monkeypatch.setattr("experiments.space.checks.check_corpora", changes[when])
    command = ["run", "--space", "a.yaml", "--data", str(corpus), "--executor", "inline", "--no-report"]
    code = main(command)
    shown = capsys.readouterr()
    found = Ledger(str(tmp_path / "results")).refresh().table["status"].to_pylist()
    assert (code, found) == (2, []), shown.err
    assert "Traceback" not in shown.err
    changed = when == "after the plan" and how not in ("gone", "truncated array")
    assert ("not the one that the run was planned with" if changed else BROKEN[how]) in shown.err


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


DEEP = "[" * 3000


@pytest.mark.parametrize("value", [DEEP, "2020-99-99", "[1", "? {a: 1}\n: 2"], ids=["deep", "date", "open", "key"])
@pytest.mark.parametrize("command", ["features build demo --encoder text=", "contract concat --set layers="])
def test_yaml_on_the_command_line(command: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split()[:-1], command.split()[-1] + value]) == 2
    assert "not YAML" in capsys.readouterr().err


@pytest.mark.parametrize("content", [f"provider: {DEEP}", "provider: 2020-99-99", "provider: \xff", None])
@pytest.mark.parametrize("command", ["cluster check", "report", "analyze", "report --anonymous"])
def test_yaml_files(command: str, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """None: a pipe, which nobody writes into."""
    run = tmp_path / "run"
    run.mkdir()
    pq.write_table(pa.table({"trial": ["a"], "commit": ["b"]}), run / "trials.parquet")
    file = run / "space.yaml"
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content.encode("latin-1"))
    assert main([*command.split(), str(file if command == "cluster check" else run)]) == 2
    error = capsys.readouterr().err
    assert "space.yaml" in error
    assert ("not YAML" if content else "is a pipe") in error


@pytest.mark.parametrize("table", ["trials.parquet", "predictions/a.parquet"])
def test_a_damaged_table_of_a_run_that_is_made_anonymous(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "predictions").mkdir(parents=True)
    (tmp_path / "run" / "space.yaml").write_text("space: a\n")
    for name in ("trials.parquet", "predictions/a.parquet"):
        pq.write_table(pa.table({"trial": ["a"], "commit": ["b"]}), tmp_path / "run" / name)
    (tmp_path / "run" / table).write_bytes(b"no table")
    assert main(["report", "--anonymous", str(tmp_path / "run")]) == 2
    assert table in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        *itertools.product(
            ["gc", "gc --yes", "gc --yes --grace 0", "compact", "accept-code"],
            ["absent", "other", "other/file", "results/small", "results/smal"],
        ),
        *itertools.product(["status"], ["absent", "other", "other/file", "results/smal"]),
    ],
)
def test_a_folder_that_is_none_of_results_is_left_as_it_is(
    command: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("other/file", "results/ledger/note", "results/small/trials.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    named = ["--results", folder] if command == "accept-code" else [folder]
    assert main([*command.split(), *named]) == 2
    assert folder in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


WRITTEN = ("trials.parquet", "epochs.parquet", "space.yaml")


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("command", ["status", "report", "analyze", "report --anonymous"])
def test_a_pipe_in_the_place_of_a_table(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for other in WRITTEN:
        if other == "space.yaml":
            (run / other).write_text("space: a\n")
        else:
            pq.write_table(pa.table({"trial": ["a"], "commit": ["b"]}), run / other)
    (run / name).unlink()
    os.mkfifo(run / name)
    assert main([*command.split(), str(run)]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "cells: 5",
        "{cells: [a], corpora: {demo: {}}, document: {}, metric: ua, folds: {}, root_seed: 0, resplit: false}",
        "folds: [1]",
        "studies: many",
        "contrasts: [3]",
        "factors: {a: 1}",
    ],
)
@pytest.mark.parametrize("command", ["report", "analyze"])
def test_a_space_that_no_run_wrote(
    command: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"trial": ["a"]}), tmp_path / "trials.parquet")
    (tmp_path / "space.yaml").write_text(content)
    assert main([command, str(tmp_path)]) == 2
    assert "space.yaml: not the space of a run" in capsys.readouterr().err
