"""`mer data`: exit codes, output for people and for programs, and nothing heavy before a verb runs."""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mer.data.cli import add_parser
from mer.data.corpus import load_corpus


def run(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="mer")
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["data", *words])
    return int(args.func(args))


def test_check_prints_a_page_and_says_0(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(sound)) == 0
    assert "corpus can be trained on" in capsys.readouterr().out


def test_check_says_2_and_names_everything_as_json(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sound / "valid.jsonl").write_bytes(b"{\n[]\n")
    assert run("check", str(sound), "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert [problem["where"] for problem in found["problems"] if problem["severity"] == "error"] == [
        "valid.jsonl:1",
        "valid.jsonl:2",
    ]


def test_import_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vids = [f"Ses0{n}F" for n in range(1, 5)]
    texts = {vid: [np.ones(3), np.zeros(3)] for vid in vids}
    columns = [
        {vid: [f"{vid}_{t}" for t in range(2)] for vid in vids},
        {vid: ["M", "F"] for vid in vids},
        {vid: [0, 1] for vid in vids},
    ]
    content = (*columns, texts, texts, texts, {vid: ["a", "b"] for vid in vids}, vids[:3], vids[3:])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    out = str(tmp_path / "out")
    assert run("import", "conversation", str(tmp_path / "a.pkl"), out, "--labels", "low, high", "--name", "x") == 0
    assert "mer data check" in capsys.readouterr().out
    assert load_corpus(out).info.labels == ("low", "high")
    with pytest.raises(SystemExit):
        run("import", "conversation", "a", "b", "--features", "audio")


def test_demo_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mer.data.demo._write", lambda folder, _: (folder / "corpus.json").write_text("{}"))
    assert run("demo", str(tmp_path / "here")) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "here")
    assert run("demo") == 0
    assert "demo-" in capsys.readouterr().out


def test_building_the_parser_imports_nothing_heavy() -> None:
    code = (
        "import argparse, sys; from mer.data.cli import add_parser\n"
        "add_parser(argparse.ArgumentParser().add_subparsers())\n"
        "print([m for m in ('numpy', 'torch', 'ray', 'pandas', 'soundfile') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
