"""`mer features` and what it stands on."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import mer.data.store_cli
from mer.data.store import FeatureStore
from mer.data.store.admin import Entry, entries, to_prune
from mer.errors import UserError
from mer.recipe import EncoderConfig


class Lengths:
    """A frontend: the number of letters."""

    dim, dtype, kind = 1, "float16", "text"

    def __init__(self, name: str) -> None:
        self.name = name

    def identity(self) -> dict[str, object]:
        return {"zone": 1, "frontend": self.name, "segmenter": None}

    def extract(self, items: Sequence[str]) -> list[np.ndarray]:
        return [np.array([[len(item)]]) for item in items]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "store", chunk=2)
    for day, name in enumerate(("old", "new")):
        store.get(Lengths(name), ["a", "bb", "ccc"])
        os.utime(store.folder(Lengths(name)) / "frontend.json", (day * 86400, day * 86400))
    return store


def run(store: FeatureStore, *words: str) -> int:
    parser = argparse.ArgumentParser()
    mer.data.store_cli.add_parser(parser.add_subparsers())
    args = parser.parse_args(["features", "--store", str(store.root), *words])
    return int(args.func(args))


def test_ls(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    digest = store.folder(Lengths("new")).name
    assert run(store, "ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:6] == [digest[:8], "text", "1", "float16", "3", "3"]
    assert lines[2].strip() == "frontend=new zone=1"
    assert lines[-1].startswith("2 frontends")
    assert run(store, "ls", digest[:5], "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["digest"] == digest
    assert row["identity"] == {"frontend": "new", "segmenter": None, "zone": 1}
    assert (row["items"], row["frames"], row["shards"], row["damaged"]) == (3, 3, 2, 0)
    with pytest.raises(UserError, match=r"no features 'nothing'; expected \w{8}, \w{8}"):
        run(store, "ls", "nothing")


def test_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FeatureStore(tmp_path), "ls") == 0
    assert "holds no features" in capsys.readouterr().out
    assert run(FeatureStore(tmp_path), "verify") == 0
    assert run(FeatureStore(tmp_path), "prune", "--all") == 0


def test_verify(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(store, "verify") == 0
    assert capsys.readouterr().out.count(": sound") == 2
    path = sorted(store.folder(Lengths("new")).glob("*.frames"))[0]
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    assert run(store, "verify") == 1
    assert f"{path.name}: the checksum of utterance 0 is wrong" in capsys.readouterr().out
    assert path.exists()
    assert run(store, "verify", "--remove") == 1
    assert not path.exists()
    assert run(store, "verify") == 0
    assert store.get(Lengths("new"), ["a", "bb", "ccc"]).values.tolist() == [[1], [2], [3]]


def test_prune(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (store.folder(Lengths(name)) for name in ("old", "new"))
    with pytest.raises(UserError, match="nothing said about what may go"):
        run(store, "prune")
    with pytest.raises(UserError, match=r"size '5 apples'; expected .*20G"):
        run(store, "prune", "--keep", "5 apples")
    assert run(store, "prune", "--all", "--dry-run") == 0
    assert "would remove" in capsys.readouterr().out
    assert old.exists()
    assert new.exists()
    frames = store.get(Lengths("old"), ["a"])  # now the latest used; open while it goes
    assert run(store, "prune", "--keep", str(sum(f.stat().st_size for f in old.glob("*.frames")))) == 0
    assert old.exists()
    assert not new.exists()
    assert run(store, "prune", old.name[:6]) == 0
    assert not old.exists()
    assert frames.row(0).tolist() == [[1]]
    assert store.get(Lengths("old"), ["bb"]).values.tolist() == [[2]]


def test_what_goes(tmp_path: Path) -> None:
    def entry(name: str, used: float, size: int) -> Entry:
        return Entry(tmp_path / name, {}, 1, 1, 1, size, used, {})

    a, b, c = entry("a", 100, 5), entry("b", 50, 10), entry("c", 10, 3)
    assert to_prune([a, b, c]) == [a, b, c]
    assert to_prune([a, b, c], unused_for=60, now=100) == [c]
    assert to_prune([c, b, a], keep=8) == [b]
    assert to_prune([a, b, c], keep=4) == [a, b]
    assert to_prune([a, b, c], unused_for=60, keep=0, now=100) == [c, a, b]


def test_entries_survive_a_folder_that_is_not_theirs(store: FeatureStore) -> None:
    (store.root / "features" / "junk").mkdir()
    (store.root / "features" / "junk" / "x.frames").write_bytes(b"?")
    found = {entry.digest: entry for entry in entries(store.root)}
    assert len(found) == 3
    assert found["junk"].summary() == "?"
    assert len(found["junk"].damaged) == 1


def _corpus(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "valid", "test"):
        lines = [
            {
                "utterance_id": f"{split}{n}",
                "speaker_id": f"{split}s",
                "transcript": f"câu {split} {n}",
                "emotion": ["vui", "buồn"][n % 2],
            }
            for n in range(3)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (folder / "corpus.json").write_text('{"labels": ["vui", "buồn"]}', "utf-8")
    return folder


def test_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, corpus = FeatureStore(tmp_path / "store"), _corpus(tmp_path / "corpus")
    assert run(store, "build", str(corpus), "--encoder", "text=words") == 0
    assert "text words: 9 utterances, 9 to compute" in capsys.readouterr().out
    assert run(store, "build", str(corpus), "--encoder", "text={name: words}") == 0
    assert "text words: 9 utterances, 0 to compute" in capsys.readouterr().out
    (entry,) = entries(store.root)
    assert entry.items == 9


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("text", "expected MODALITY=ENCODER"),
        ("text=", "expected MODALITY=ENCODER"),
        ("text=wrods", "did you mean 'words'"),
        ("text={name: [", "not YAML"),
        ("text={name: words, last_k: x}", "last_k: "),
    ],
)
def test_encoders_that_are_none(tmp_path: Path, encoder: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(FeatureStore(tmp_path / "store"), "build", str(_corpus(tmp_path / "corpus")), "--encoder", encoder)
    with pytest.raises(UserError, match="nothing to build"):
        run(FeatureStore(tmp_path / "store"), "build", "demo")


def test_a_space_names_the_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    mer.data.store_cli.add_parser(parser.add_subparsers(), lambda space, corpus: [("text", EncoderConfig(name=space))])
    words = ["features", "--store", str(tmp_path), "build", str(_corpus(tmp_path / "corpus")), "--space", "words"]
    args = parser.parse_args(words)
    assert args.func(args) == 0
    assert "text words: 9 utterances" in capsys.readouterr().out


def test_the_parser_imports_nothing_heavy() -> None:
    code = (
        "import sys, argparse, mer.data.store_cli as c; c.add_parser(argparse.ArgumentParser().add_subparsers());"
        "print([m for m in ('torch', 'numpy', 'pandas', 'ray', 'transformers', 'pydantic') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
