"""Bad input: each case is refused with one clear message that names file, line, value and expectation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mer.data.corpus import load_corpus
from mer.data.reading import read_folder
from mer.errors import UserError, UserErrors


def refusal(folder: Path) -> str:
    """The message of the one error."""
    with pytest.raises(UserError) as caught:
        load_corpus(folder)
    assert not isinstance(caught.value, UserErrors), str(caught.value)
    return str(caught.value)


def replace_line(folder: Path, number: int, content: bytes, split: str = "train") -> None:
    path = folder / f"{split}.jsonl"
    lines = path.read_bytes().splitlines()
    lines[number - 1] = content
    path.write_bytes(b"\n".join(lines) + b"\n")


GOOD = b'{"utterance_id": "x", "speaker_id": "s", "transcript": "a", "emotion": "sad"'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"utterance_id": "u1", ', "train.jsonl:2: is not JSON: Expecting property name"),
        (b"[1, 2]", "train.jsonl:2: holds a list; expected a JSON object"),
        (b'"u1"', "train.jsonl:2: holds a string; expected a JSON object"),
        (GOOD + b', "end": NaN}', "train.jsonl:2: is not JSON: NaN is not a JSON number"),
        (GOOD + b', "end": Infinity}', "train.jsonl:2: is not JSON: Infinity is not a JSON number"),
        (GOOD + b', "end": 1e999}', "train.jsonl:2: end is Infinity; expected a finite number of seconds from 0"),
        (GOOD + b', "emotion": "glad"}', "train.jsonl:2: is not JSON: the key 'emotion' occurs twice"),
        (GOOD.replace(b'"a"', b'"\xe9"') + b"}", "train.jsonl:2: byte 0xe9 at column 57 is not UTF-8; expected UTF-8"),
        (b"[" * 100_000, "train.jsonl:2: is nested too deeply"),
    ],
    ids=["broken", "list", "string", "nan", "infinity", "overflow", "twice", "latin1", "deep"],
)
def test_broken_lines(sound: Path, line: bytes, message: str) -> None:
    replace_line(sound, 2, line)
    assert message in refusal(sound)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utterance_id": None}, "train.jsonl:2: utterance_id is missing; expected a string"),
        ({"speaker_id": None}, "train.jsonl:2: speaker_id is missing"),
        ({"emotion": None}, "train.jsonl:2: emotion is missing"),
        ({"emotion": None, "emotoin": "sad"}, "is it the key 'emotoin'?"),
        ({"emotion": 3}, "train.jsonl:2: emotion is 3; expected a string"),
        ({"emotion": "  "}, 'train.jsonl:2: emotion is "  "; expected a string that is not empty'),
        ({"speaker_id": ["a"]}, 'train.jsonl:2: speaker_id is ["a"]; expected a string'),
        ({"utterance_id": True}, "train.jsonl:2: utterance_id is true; expected a string"),
        ({"transcript": 5}, "train.jsonl:2: transcript is 5; expected a string"),
        ({"transcript": "\ud800"}, "expected text without lone surrogates"),
        ({"start": "0"}, 'train.jsonl:2: start is "0"; expected a number'),
        ({"start": -0.5}, "train.jsonl:2: start is -0.5; expected a finite number of seconds from 0"),
        ({"start": 2.0, "end": 1.0}, "train.jsonl:2: end 1 is not after start 2; expected start < end"),
        ({"turn": False}, "train.jsonl:2: turn is false; expected a number"),
        ({"row": 1.5}, "train.jsonl:2: row is 1.5; expected an integer from 0"),
        ({"row": -1}, "train.jsonl:2: row is -1; expected an integer from 0"),
        ({"row": 8}, "train.jsonl:2: row 8 is beyond features/visual.npy; expected 0 to 7"),
        ({"lacks": "audio"}, 'train.jsonl:2: lacks is "audio"; expected a list of modalities'),
        ({"lacks": ["vidual"]}, "did you mean 'visual'?"),
        ({"wav_path": "/etc/passwd"}, "train.jsonl:2: wav_path '/etc/passwd' is absolute; expected a path relative"),
        ({"wav_path": "C:/a.wav"}, "is absolute"),
        ({"wav_path": "~/a.wav"}, "is absolute"),
        ({"wav_path": "../a.wav"}, "train.jsonl:2: wav_path '../a.wav' climbs out with '..'"),
        ({"wav_path": "wavs/../../a.wav"}, "climbs out with '..'"),
        ({"wav_path": "https://host/a.wav"}, "train.jsonl:2: wav_path 'https://host/a.wav' is a URL"),
        ({"wav_path": "s3://bucket/a.wav"}, "is a URL"),
        ({"wav_path": "file:/etc/passwd"}, "is a URL"),
        ({"wav_path": "wavs\\u1.wav"}, "uses backslashes"),
        ({"wav_path": "wavs/u\0.wav"}, "holds a NUL character"),
        ({"wav_path": "wavs/none.wav"}, "train.jsonl:2: wav_path 'wavs/none.wav' does not exist; expected an audio"),
        ({"wav_path": "wavs"}, "train.jsonl:2: wav_path 'wavs' is not a file"),
    ],
)
def test_bad_fields(spoil: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    lines = spoil(**{key: None for key in change})
    path = lines / "train.jsonl"
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    records[1].update({key: value for key, value in change.items() if value is not None})
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    assert message in refusal(lines)


def test_an_empty_wav(sound: Path) -> None:
    (sound / "wavs" / "u1.wav").write_bytes(b"")
    assert "train.jsonl:2: wav_path 'wavs/u1.wav' has 0 bytes" in refusal(sound)


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_symbolic_links_may_not_lead_out(spoil: Callable[..., Path], tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.wav").write_bytes(b"x")
    folder = spoil(wav_path="wavs/link.wav" if linked == "file" else "link/a.wav")
    if linked == "file":
        os.symlink(outside / "a.wav", folder / "wavs" / "link.wav")
    else:
        os.symlink(outside, folder / "link")
    assert "leads out of the corpus folder by a symbolic link" in refusal(folder)


def test_a_link_inside_the_folder_is_fine(spoil: Callable[..., Path]) -> None:
    folder = spoil(wav_path="wavs/link.wav")
    os.symlink("u1.wav", folder / "wavs" / "link.wav")
    load_corpus(folder)


def test_features_may_not_lead_out(sound: Path, tmp_path: Path) -> None:
    (sound / "features" / "visual.npy").rename(tmp_path / "visual.npy")
    os.symlink(tmp_path / "visual.npy", sound / "features" / "visual.npy")
    assert "features/visual.npy: leads out of the corpus folder" in refusal(sound)


def test_an_id_twice_in_any_split(spoil: Callable[..., Path]) -> None:
    folder = spoil("test", 1, utterance_id="u0")
    expected = "test.jsonl:1: utterance_id 'u0' occurs already at train.jsonl:1; expected each id once in all splits"
    assert refusal(folder) == expected


def test_a_label_unseen_in_train_names_its_lines(spoil: Callable[..., Path]) -> None:
    spoil("valid", 1, emotion="sda")
    message = refusal(spoil("test", 2, emotion="sda"))
    assert message.startswith("valid.jsonl:1: emotion 'sda' does not occur in train.jsonl; expected glad, sad")
    assert "did you mean 'sad'?" in message
    assert "test.jsonl:2" in message


def test_a_label_that_corpus_json_does_not_name(sound: Path, spoil: Callable[..., Path]) -> None:
    (sound / "corpus.json").write_text('{"labels": ["glad", "sad"]}')
    message = refusal(spoil(emotion="gald"))
    assert message.startswith(
        "train.jsonl:2: emotion 'gald' is not among the labels of corpus.json; expected glad, sad"
    )
    assert "did you mean 'glad'?" in message


def test_one_label_only(sound: Path, spoil: Callable[..., Path]) -> None:
    for split in ("train", "valid", "test"):
        for line in (1, 2, 3, 4)[: 4 if split == "train" else 2]:
            spoil(split, line, emotion="sad")
    assert refusal(sound) == "train.jsonl: every utterance is 'sad'; expected two labels or more"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "valid.jsonl: the file does not exist; expected one JSON object a line"),
        (b"", "valid.jsonl: holds no utterance; expected at least one"),
        (b"\n \n", "valid.jsonl: holds no utterance"),
        ("{}".encode("utf-16"), "valid.jsonl: is UTF-16; expected UTF-8"),
    ],
)
def test_splits_that_are_absent_or_empty(sound: Path, content: bytes | None, message: str) -> None:
    (sound / "valid.jsonl").unlink()
    if content is not None:
        (sound / "valid.jsonl").write_bytes(content)
    assert message in refusal(sound)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "corpus.json: is not JSON: Expecting property name"),
        ("[]", "corpus.json: holds a list; expected a JSON object"),
        ('{"labels": "sad"}', "corpus.json: 'labels' is a string; expected a list"),
        ('{"labels": ["sad", "sad"]}', "corpus.json: 'labels' is ['sad', 'sad']; expected distinct strings"),
        ('{"synthetic": 1}', "corpus.json: 'synthetic' is a number; expected true or false"),
        ('{"features": {"visual": 4}}', "corpus.json: features/visual.npy is 3 wide; expected 4"),
        ('{"features": {"visul": 3}}', "features/visul.npy does not exist; did you mean 'visual'?"),
    ],
)
def test_bad_descriptions(sound: Path, content: str, message: str) -> None:
    (sound / "corpus.json").write_text(content)
    assert message in refusal(sound)


@pytest.mark.parametrize(
    ("array", "offsets", "message"),
    [
        (np.zeros((8, 2, 2), np.float32), None, "features/visual.npy: has shape (8, 2, 2), float32; expected [N, d]"),
        (np.zeros((8, 3), np.int64), None, "features/visual.npy: has shape (8, 3), int64"),
        (np.array([[{}]], dtype=object), None, "features/visual.npy: cannot be read: "),
        (np.zeros((9, 3), np.float32), np.arange(9), "runs from 0 to 8; expected 0 to 9 (the frames of visual.npy)"),
        (np.zeros((8, 3), np.float32), np.array([0, 5, 2, 3, 4, 5, 6, 7, 8]), "not always upwards"),
        (np.zeros((8, 3), np.float32), np.zeros((2, 2)), "visual.offsets.npy: has shape (2, 2), float64"),
    ],
    ids=["3d", "integers", "objects", "too few", "falling", "matrix"],
)
def test_bad_features(sound: Path, array: Any, offsets: Any, message: str) -> None:
    np.save(sound / "features" / "visual.npy", array, allow_pickle=True)
    if offsets is not None:
        np.save(sound / "features" / "visual.offsets.npy", offsets)
    assert message in refusal(sound)


def test_truncated_features(sound: Path) -> None:
    path = sound / "features" / "visual.npy"
    path.write_bytes(path.read_bytes()[:-4])
    assert "features/visual.npy: cannot be read" in refusal(sound)


def test_modalities_with_different_numbers_of_rows(sound: Path) -> None:
    np.save(sound / "features" / "audio.npy", np.zeros((9, 3), np.float32))
    assert "modalities differ in their number of rows: audio 9, visual 8" in refusal(sound)


def test_all_problems_in_one_pass(sound: Path, spoil: Callable[..., Path]) -> None:
    spoil(line=1, start=-1)
    spoil(line=3, wav_path="../x.wav")
    spoil("valid", 2, emotion="fear")
    replace_line(sound, 1, b"{", "test")
    with pytest.raises(UserErrors) as caught:
        load_corpus(sound)
    places = [error.where for error in caught.value.errors]
    assert places == ["train.jsonl:1", "train.jsonl:3", "test.jsonl:1", "valid.jsonl:2"]


def test_what_is_suspicious_is_a_warning(sound: Path, spoil: Callable[..., Path]) -> None:
    spoil("test", 1, dialogue_id="train", row=0)
    spoil("valid", 1, turn=5)
    spoil("train", 3, transcrpt="x", transcript=None)
    codes = {(problem.severity, problem.code, problem.where) for problem in read_folder(sound).problems}
    assert codes == {
        ("warning", "unknown_key", "train.jsonl:3"),
        ("warning", "duplicate_row", "test.jsonl:1"),
        ("warning", "dialogue_leak", "test.jsonl:1"),
        ("warning", "turn", "valid.jsonl:2"),
    }


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    assert "the corpus folder does not exist" in refusal(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "the corpus folder is a file" in refusal(tmp_path / "file")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.sampled_from(
        ["utterance_id", "speaker_id", "emotion", "wav_path", "start", "end", "transcript", "row", "lacks"]
    ),
    _JSON,
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_stands_in_a_field_is_read_or_refused(sound: Path, key: str, value: Any) -> None:
    record = {"utterance_id": "u1", "speaker_id": "s", "transcript": "a", "emotion": "glad", key: value}
    replace_line(sound, 2, json.dumps(record).encode())
    for problem in read_folder(sound).problems:
        assert problem.where is not None


@given(st.binary(max_size=60))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_bytes_a_line_holds_it_is_read_or_refused(sound: Path, line: bytes) -> None:
    original = (sound / "train.jsonl").read_bytes()
    (sound / "train.jsonl").write_bytes(original + line)
    read_folder(sound)
    (sound / "train.jsonl").write_bytes(original)
