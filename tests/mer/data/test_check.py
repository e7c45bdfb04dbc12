"""The findings of `mer data check`: counts, what splits share, every problem with its line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.data.check import Check, check_corpus

soundfile = pytest.importorskip("soundfile")


def found(check: Check, code: str) -> list[str]:
    return [f"{problem.severity} {problem}" for problem in check.problems if problem.code == code]


def sound_at(folder: Path, number: int, samples: np.ndarray[Any, Any], rate: int = 16000, **more: Any) -> None:
    soundfile.write(folder / "wavs" / f"u{number}.wav", samples, rate, **more)


def test_a_sound_corpus_in_numbers(sound: Path) -> None:
    check = check_corpus(sound)
    assert check.problems == []
    assert not check.has_errors
    train = check.splits["train"]
    assert train.utterances == 4
    assert train.labels == {"glad": 2, "sad": 2}
    assert (train.speakers, train.dialogues, train.majority) == (2, 1, 0.5)
    assert train.modalities == {"text": 4, "audio": 4, "visual": 4}
    assert train.seconds == (0.5,) * 5
    assert train.words == (3.0,) * 5
    assert train.turns == (4.0,) * 5
    assert train.hours == pytest.approx(2 / 3600)
    assert check.overlap["speakers"] == {"train-valid": 0, "train-test": 0, "valid-test": 0}
    assert check.features["visual"]["dim"] == 3
    assert check.audio == {"16000 Hz": 8}


def test_what_splits_share(spoil: Callable[..., Path]) -> None:
    spoil("test", 1, transcript="CÂU  số 1", speaker_id="train0", dialogue_id="valid")
    overlap = check_corpus(spoil()).overlap
    assert overlap["sentences"] == {"train-valid": 0, "train-test": 1, "valid-test": 0}
    assert overlap["speakers"]["train-test"] == 1
    assert overlap["dialogues"]["valid-test"] == 1


def test_copied_sentences_and_absent_classes_are_warned_of_by_check_and_plan_alike(
    sound: Path, spoil: Callable[..., Path]
) -> None:
    from experiments.space.checks import corpus_ref

    assert corpus_ref(sound).caveats == ()
    assert corpus_ref(sound).shared == {"speakers": 0, "dialogues": 0, "sessions": 0}
    spoil("test", 1, transcript="một câu dài hơn bốn từ", emotion="sad")
    for line in (1, 2):
        spoil("test", line, emotion="sad", speaker_id="train0")
    spoil("train", 1, transcript="MỘT CÂU  dài hơn bốn từ")
    said = {problem.code: problem.problem for problem in check_corpus(sound).problems if problem.severity == "warning"}
    assert said["copied_sentences"].startswith("1 of 2 transcripts are word for word in train or valid too")
    assert said["class_absent"] == "no utterance of 'glad': its recall is undefined"
    ref = corpus_ref(sound)
    assert set(ref.caveats) == {f"test split: {said[code]}" for code in ("copied_sentences", "class_absent")}
    assert ref.shared is not None
    assert ref.shared["speakers"] == 1


def test_sound_that_should_be_looked_at(sound: Path, spoil: Callable[..., Path]) -> None:
    time = np.arange(8000) / 16000
    sound_at(sound, 0, np.zeros(8000))
    sound_at(sound, 1, np.clip(3 * np.sin(2 * np.pi * 200 * time), -1, 1))
    sound_at(sound, 2, 0.2 * np.sin(2 * np.pi * 200 * np.arange(3200) / 16000))
    spoil(line=3, end=0.2)
    sound_at(sound, 3, 0.2 * np.sin(2 * np.pi * 200 * time) + 0.1)
    sound_at(sound, 4, 0.2 * np.sin(2 * np.pi * 200 * np.arange(31 * 8000) / 8000), 8000)
    spoil("valid", 1, end=31)
    (sound / "wavs" / "u6.wav").write_bytes((sound / "wavs" / "u5.wav").read_bytes())
    check = check_corpus(sound)
    assert found(check, "silent") == [
        "warning train.jsonl:1: wavs/u0.wav is silent (peak 0); expected at least 0.001 of full scale"
    ]
    assert found(check, "clipped")[0].startswith("warning train.jsonl:2: ")
    assert found(check, "short") == ["warning train.jsonl:3: wavs/u2.wav lasts 0.20 s; expected at least 0.3 s"]
    assert found(check, "offset") == ["warning train.jsonl:4: wavs/u3.wav has a constant offset of 0.100; expected 0"]
    assert found(check, "long") == ["warning valid.jsonl:1: wavs/u4.wav lasts 31.0 s; expected up to 30 s"]
    assert found(check, "duplicate_audio") == ["warning test.jsonl:1: the same sound as valid.jsonl:2"]
    assert found(check, "rates")[0].startswith("note wavs: several sampling rates")
    assert not check.has_errors


def test_bad_sound_names_line_and_file_and_all_of_it_in_one_pass(sound: Path, spoil: Callable[..., Path]) -> None:
    truncated = sound / "wavs" / "u0.wav"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    (sound / "wavs" / "u1.wav").write_bytes(b"not audio")
    bad = np.zeros(8000, np.float32)
    bad[5] = np.nan
    sound_at(sound, 2, bad, subtype="FLOAT")
    spoil("test", 2, end=0.9)
    check = check_corpus(sound)
    assert check.has_errors
    messages = found(check, "audio")
    assert [message.split(": ")[0] for message in messages] == [
        "error train.jsonl:1",
        "error train.jsonl:2",
        "error train.jsonl:3",
        "error test.jsonl:2",
    ]
    assert "wavs/u0.wav: the audio is truncated" in messages[0]
    assert "wavs/u1.wav: the audio cannot be decoded" in messages[1]
    assert "wavs/u2.wav: 1 samples are NaN or infinite" in messages[2]
    assert "the crop ends at 0.9 s, but the file lasts 0.500 s" in messages[3]
    assert not check_corpus(sound, audio=False).has_errors


def test_features_are_read_through(sound: Path, spoil: Callable[..., Path]) -> None:
    array = np.random.RandomState(0).standard_normal((12, 3)).astype(np.float32)
    array[:, 1] *= 1e5
    array[:, 2] = 7
    array[4] = np.nan
    np.save(sound / "features" / "visual.npy", array)
    np.save(sound / "features" / "visual.offsets.npy", np.array([0, 1, 2, 3, 5, 6, 7, 9, 12]))
    check = check_corpus(sound)
    assert found(check, "features")[0] == (
        "error train.jsonl:4: row 3 of features/visual.npy holds NaN or infinity; "
        'expected finite numbers, or "lacks": ["visual"]'
    )
    assert "1 columns never change in train" in found(check, "features")[1]
    assert found(check, "scale")
    spoil(line=4, lacks=["visual"])
    assert not check_corpus(sound).has_errors


def test_text_that_should_be_looked_at(spoil: Callable[..., Path]) -> None:
    spoil(line=1, transcript="")
    spoil(line=2, transcript="từ " * 201)
    folder = spoil(line=3, transcript=unicodedata.normalize("NFD", "tiếng Việt"))
    check = check_corpus(folder)
    assert found(check, "empty_text")[0].startswith("warning train.jsonl:1: ")
    assert found(check, "long_text") == ["warning train.jsonl:2: 201 words; expected up to 200"]
    assert "1 are not in Unicode NFC" in found(check, "unicode")[0]
    assert check.splits["train"].modalities["text"] == 3


def test_classes_absent_from_a_split(spoil: Callable[..., Path]) -> None:
    check = check_corpus(spoil("test", 2, emotion="sad"))
    assert found(check, "class_absent") == [
        "warning test.jsonl: no utterance of 'glad': its recall is undefined; expected every label in every split"
    ]


def test_speakers_that_are_only_file_names(sound: Path, spoil: Callable[..., Path]) -> None:
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        for line in range(1, count + 1):
            spoil(split, line, speaker_id=f"{split}{line}")
    assert found(check_corpus(sound), "speakers")


def test_shared_speakers_are_noted(spoil: Callable[..., Path]) -> None:
    check = check_corpus(spoil("test", 1, speaker_id="train0"))
    assert found(check, "shared_speakers") == [
        "note test.jsonl: shares 1 of its 2 speakers with train.jsonl: results do not speak for new speakers"
    ]


def test_the_page_and_json_say_the_same(sound: Path, spoil: Callable[..., Path]) -> None:
    for line in (1, 2, 3, 4):
        spoil(line=line, start=-1)
    check = check_corpus(sound)
    page = check.page()
    assert page.count("error    train.jsonl:") == 4
    assert "corpus cannot be trained on: 4 errors" in page
    plain = json.loads(json.dumps(check.as_json()))
    assert not plain["trainable"]
    assert len(plain["problems"]) == 4
    assert plain["splits"]["valid"]["labels"] == {"glad": 1, "sad": 1}


def test_long_lists_are_shortened_on_the_page_only(sound: Path) -> None:
    with (sound / "train.jsonl").open("a") as stream:
        stream.write("{\n" * 30)
    check = check_corpus(sound)
    assert "... and 22 more of this kind (json)" in check.page()
    assert len(check.as_json()["problems"]) == 30


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    check = check_corpus(tmp_path / "none")
    assert check.has_errors
    assert "the corpus folder does not exist" in check.page()


@pytest.mark.parametrize("name", ["mosi", "nemo", "meld"])
def test_real_corpora_can_be_trained_on(real: Callable[[str], Path], name: str) -> None:
    check = check_corpus(real(name))
    assert not check.has_errors
    assert name in check.page()
    if name == "nemo":
        assert check.audio == {"24000 Hz": 803}
        assert check.overlap["sentences"]["train-test"] == 0
        assert check.splits["train"].speakers == 9
