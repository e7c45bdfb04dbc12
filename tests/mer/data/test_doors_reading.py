"""The door of corpus folders: whatever lies in `corpus.json` and the splits."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mer.data.corpus import Corpus, load_corpus
from mer.data.folds import folds
from mer.data.places import find_corpus
from mer.errors import UserError
from mer.names import corpus_fault, fault
from tests.doors import NASTY_TEXT, refused, through, values

FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
KEYS = (
    "utterance_id", "speaker_id", "emotion", "wav_path", "start", "end", "transcript", "dialogue_id", "turn", "row",
    "lacks", "other",
)  # fmt: skip


def dumped(value: Any) -> str:
    """JSON of anything: lone surrogates escaped, numbers as Python writes them."""
    return json.dumps(value, default=str)


def sound_corpus(corpus: Corpus) -> None:
    """What every later step relies on."""
    assert corpus_fault(corpus.info.name) is None
    assert all(fault(label) is None for label in corpus.info.labels)
    for utterance in corpus.utterances():
        for name in (utterance.id, utterance.speaker, utterance.dialogue):
            assert name is None or (name.strip() and len(name.splitlines()) == 1 and name.encode())
        assert utterance.emotion in corpus.info.labels
        assert (utterance.transcript or "").encode() is not None
        assert utterance.row is None or 0 <= utterance.row < 8
    corpus.fingerprint()
    with contextlib.suppress(UserError):  # few speakers
        assert len(folds(corpus, "speaker", 2)) == 2


@FUZZ
@given(key=st.sampled_from(KEYS), value=values)
@example("turn", 10**400)
@example("row", 10**400)
@example("start", -(10**400))
@example("utterance_id", 10**5000)
@example("utterance_id", "\ud800")
@example("speaker_id", "a\nb")
@example("emotion", "\ud800")
@example("emotion", "x" * 300)
@example("lacks", ["\ud800"])
def test_any_value_of_a_line(sound: Path, key: str, value: Any) -> None:
    before = (sound / "train.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in before.splitlines()]
    lines[1][key] = value
    text = "".join(dumped(line) + "\n" for line in lines) if value != 10**5000 else before.replace('"u1"', "1" * 5001)
    try:
        (sound / "train.jsonl").write_text(text, "utf-8")
        corpus = through(lambda: load_corpus(sound), "train.jsonl", "jsonl:")
    finally:
        (sound / "train.jsonl").write_text(before, "utf-8")
    if corpus is not None:
        sound_corpus(corpus)


DESCRIBED = ("name", "labels", "language", "note", "synthetic", "features", "other")


@FUZZ
@given(key=st.sampled_from(DESCRIBED), value=values)
@example("name", "\ud800")
@example("name", "a/../../b")
@example("name", "n" * 300)
@example("labels", ["sad", "glad", "\ud800"])
@example("labels", ["sad", "glad", "a\nb"])
@example("features", {"visual": 10**400})
@example("features", {"v" * 300: 3})
@example("features", {"\0": 3})
def test_any_value_of_the_description(sound: Path, key: str, value: Any) -> None:
    (sound / "corpus.json").write_text(dumped({key: value}), "utf-8")
    corpus = through(lambda: load_corpus(sound), "corpus.json", "jsonl")
    if corpus is not None:
        sound_corpus(corpus)


BROKEN = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "deep and whole": '{"note": ' + "[" * 900 + "]" * 900 + "}",
    "400 digits": '{"features": {"visual": ' + "9" * 400 + "}}",
    "5000 digits": '{"features": {"visual": ' + "9" * 5000 + "}}",
    "surrogate in a key": '{"\\ud800": 1}',
    "surrogate": '{"name": "\\ud800"}',
    "not UTF-8": b"\xff\xfe\x00",
    "empty": "",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_broken_descriptions(sound: Path, content: str | bytes) -> None:
    (sound / "corpus.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(lambda: load_corpus(sound), "corpus.json")


@FUZZ
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "ignore")))
def test_any_bytes(sound: Path, content: bytes) -> None:
    (sound / "corpus.json").write_bytes(content)
    (sound / "valid.jsonl").write_bytes(content)
    through(lambda: load_corpus(sound), "corpus.json", "valid.jsonl")


KINDS = ("folder", "pipe", "device", "dangling", "link out", "itself")


def put(path: Path, kind: str) -> None:
    """Something that is no plain file of the corpus, where one is expected."""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "itself":
        path.symlink_to(path.name)
    else:
        outside = path.parents[1] / f"outside-{path.name}"
        outside.write_text("{}\n")
        path.symlink_to(outside)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["train.jsonl", "corpus.json"])
def test_what_is_no_file_of_the_corpus(sound: Path, name: str, kind: str) -> None:
    put(sound / name, kind)
    if name == "corpus.json" and kind in ("dangling", "itself"):
        through(lambda: load_corpus(sound), name)
    else:
        refused(lambda: load_corpus(sound), name)


@pytest.mark.parametrize("name", [text for text in NASTY_TEXT if text.strip()] + ["n" * 300, "n/" * 3000])
def test_any_name_of_a_corpus(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(lambda: load_corpus(find_corpus(name)), name[:8].encode("unicode_escape").decode()[:4], "corpus", "folder")


def test_a_folder_whose_name_cannot_be_shown(sound: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("a\nb", "n" * 120, os.fsdecode(b"\xff"))):
        folder = tmp_path / name
        shutil.copytree(sound, folder)
        assert "name" in refused(lambda folder=folder: load_corpus(folder), "name"), number


def test_100_000_folds_are_more_than_there_are_speakers(sound: Path) -> None:
    from experiments.space.checks import corpus_ref, fold_count

    ref = corpus_ref(sound)
    refused(lambda: fold_count("speaker", 100_000, [ref]), "folds by speaker")
    assert fold_count("speaker", None, [ref]) == 6


@pytest.mark.slow
@settings(FUZZ, max_examples=600)
@given(lines=st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=6), min_size=1, max_size=4))
def test_any_lines(sound: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(dumped(line) + "\n" for line in lines)
    (sound / "test.jsonl").write_text(text, "utf-8")
    corpus = through(lambda: load_corpus(sound), "jsonl")
    if corpus is not None:
        sound_corpus(corpus)
