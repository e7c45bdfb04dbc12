"""Pickles of each layout, as the field's loaders read them, become the same utterances and features."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.data.corpus import Utterance, load_corpus
from mer.data.importers.conversation_pickles import LABELS, import_conversation
from mer.errors import UserError

TRAIN = [f"Ses0{session}F_impro0{number}" for session in (1, 2, 3, 4) for number in (1, 2, 3)]
TEST = ["Ses05F_impro01", "Ses05M_script01"]


def conversations(names: list[str], labels: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    random = np.random.RandomState(seed)
    parts: dict[str, dict[str, Any]] = {
        role: {}
        for role in ("ids", "speakers", "labels", "text", "audio", "visual", "sentences", "text2", "text3", "text4")
    }
    for number, name in enumerate(names):
        turns = 6 + number % 4
        parts["ids"][name] = [f"{name}_{'MF'[turn % 2]}{turn:03d}" for turn in range(turns)]
        parts["speakers"][name] = ["MF"[turn % 2] for turn in range(turns)]
        parts["labels"][name] = [int(turn % labels) for turn in range(turns)]
        parts["sentences"][name] = [f"turn {turn} of {name}" for turn in range(turns)]
        for role, width in {"text": 7, "audio": 5, "visual": 3, "text2": 7, "text3": 7, "text4": 7}.items():
            parts[role][name] = [random.standard_normal(width).astype(np.float32) for _ in range(turns)]
    return parts


def write(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def check_round_trip(folder: Path, parts: dict[str, dict[str, Any]], modalities: dict[str, str]) -> None:
    corpus = load_corpus(folder)
    arrays = {name: np.load(folder / "features" / f"{name}.npy") for name in modalities}
    by_dialogue: dict[str, list[Utterance]] = {}
    for utterance in corpus.utterances():
        by_dialogue.setdefault(utterance.dialogue or "", []).append(utterance)
    assert set(by_dialogue) == {str(name) for name in parts["ids"]}
    for name in parts["ids"]:
        for turn, utterance in enumerate(by_dialogue[str(name)]):
            assert utterance.transcript == parts["sentences"][name][turn]
            assert utterance.turn == turn
            for modality, role in modalities.items():
                np.testing.assert_array_equal(arrays[modality][utterance.row or 0], parts[role][name][turn])


def test_iemocap_as_mmgcn_has_it(tmp_path: Path) -> None:
    parts = conversations([*TRAIN, *TEST], 6)
    roles = ("ids", "speakers", "labels", "text", "audio", "visual", "sentences")
    source = write(tmp_path / "IEMOCAP_features.pkl", (*[parts[role] for role in roles], TRAIN, TEST))
    folder = import_conversation(source, tmp_path / "out")
    corpus = load_corpus(folder)
    assert corpus.info.labels == LABELS["iemocap6"]
    assert corpus.info.features == {"audio": 5, "text": 7, "visual": 3}
    assert {u.dialogue for u in corpus.test} == set(TEST)
    assert {u.dialogue for u in corpus.train} | {u.dialogue for u in corpus.valid} == set(TRAIN)
    assert {u.dialogue for u in corpus.train}.isdisjoint(u.dialogue for u in corpus.valid)
    first = next(u for u in corpus.utterances() if u.id == "Ses01F_impro01_M000")
    assert (first.speaker, first.emotion) == ("Ses01_M", "happy")
    check_round_trip(folder, parts, {"text": "text", "audio": "audio", "visual": "visual"})


@pytest.mark.parametrize("layout", ["raw1", "raw", "roberta 12", "roberta 13"])
def test_other_layouts(tmp_path: Path, layout: str) -> None:
    names = [*range(20)]
    parts = conversations([str(name) for name in names], 7)
    parts = {role: {int(name): value for name, value in part.items()} for role, part in parts.items()}
    for name in names:
        count = len(parts["ids"][name])
        parts["ids"][name] = list(range(count))  # MELD counts within the dialogue
        parts["speakers"][name] = [np.eye(9)[turn % 3].tolist() for turn in range(count)]
        parts["labels"][name] = [(name + turn) % 7 for turn in range(count)]
    roles = {
        "raw1": ("ids", "speakers", "labels", "text", "audio", "visual", "sentences"),
        "raw": ("ids", "speakers", "labels", "text", "audio", "sentences"),
        "roberta 12": ("ids", "speakers", "labels", "text", "text2", "text3", "text4", "audio", "visual", "sentences"),
        "roberta 13": ("ids", "speakers", "labels", "text", "text2", "text3", "text4", "audio", "visual", "sentences"),
    }[layout]
    last = () if layout == "roberta 12" else (parts["labels"],)
    content = (*[parts[role] for role in roles], names[:16], names[16:], *last)
    folder = import_conversation(write(tmp_path / "m.pkl", content), tmp_path / "out")
    corpus = load_corpus(folder)
    assert corpus.info.labels == LABELS["meld"]
    assert corpus.test[0].id == "16_0"
    assert corpus.test[1].speaker == "16_speaker1"
    kept = [role for role in roles if role.startswith("text") or role in ("audio", "visual")]
    check_round_trip(folder, parts, {role: role for role in kept})


def test_gcnet_iemocap_with_folders_of_features(tmp_path: Path) -> None:
    parts = conversations([*TRAIN, *TEST], 4)
    content = (parts["ids"], parts["labels"], parts["speakers"], parts["sentences"], set(TRAIN), set(TEST))
    source = write(tmp_path / "IEMOCAP_features_raw_4way.pkl", content)
    frames: dict[str, np.ndarray[Any, Any]] = {}
    for modality in ("audio", "faces"):
        (tmp_path / modality).mkdir()
    for name in [*TRAIN, *TEST]:
        for turn, uid in enumerate(parts["ids"][name]):
            frames[uid] = np.random.RandomState(turn).standard_normal((1 + turn, 5)).astype(np.float32)
            np.save(tmp_path / "audio" / f"{uid}.npy", frames[uid])
            (tmp_path / "faces" / uid).mkdir()
            for who in "FM":
                np.save(tmp_path / "faces" / uid / f"{who}_0.npy", np.full(4, ord(who), np.float32))
    (tmp_path / "audio" / "Ses05F_impro01_M002.npy").unlink()
    features = {"audio": tmp_path / "audio", "visual": tmp_path / "faces"}
    folder = import_conversation(source, tmp_path / "out", features=features)
    corpus = load_corpus(folder)
    assert corpus.info.labels == LABELS["iemocap4"]
    audio, offsets = (np.load(folder / "features" / f"audio{end}.npy") for end in ("", ".offsets"))
    faces = np.load(folder / "features" / "visual.npy")
    for utterance in corpus.utterances():
        row = utterance.row or 0
        if utterance.id == "Ses05F_impro01_M002":
            assert utterance.lacks == {"audio"}
            continue
        np.testing.assert_array_equal(audio[offsets[row] : offsets[row + 1]], frames[utterance.id])
        assert faces[row, 0] == ord(utterance.speaker[-1])  # the speaker's face, not the listener's


def test_gcnet_mosi_with_scores(tmp_path: Path) -> None:
    parts = conversations(["v1", "v2", "v3"], 6)
    for name in parts["labels"]:
        parts["labels"][name] = [-1.4, 0.0, 2.2, -0.2, 3.0, 0.4, -3.0, 1.0][: len(parts["ids"][name])]
        parts["speakers"][name] = [""] * len(parts["ids"][name])
    content = (parts["ids"], parts["labels"], parts["speakers"], parts["sentences"], ["v1"], ["v2"], ["v3"])
    corpus = load_corpus(import_conversation(write(tmp_path / "mosi.pkl", content), tmp_path / "out"))
    assert corpus.info.labels == ("negative", "positive")
    assert [u.emotion for u in corpus.train] == ["negative", "positive", "negative", "positive", "positive"]
    assert corpus.train[0].speaker == "v1"
    assert "3 utterances of sentiment 0 left out" in corpus.info.note


def test_a_malicious_pickle_leaves_no_trace(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'sprung'}",)

    source = write(tmp_path / "evil.pkl", (Attack(),))
    with pytest.raises(UserError, match=r"it names (posix|nt).system"):
        import_conversation(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pkl"]


def spoilt(change: Callable[[dict[str, dict[str, Any]]], Any]) -> tuple[Any, ...]:
    parts = conversations([*TRAIN, *TEST], 6)
    change(parts)
    roles = ("ids", "speakers", "labels", "text", "audio", "visual", "sentences")
    return (*[parts[role] for role in roles], TRAIN, TEST)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "the pickle holds a dict; expected a tuple of parts"),
        (({}, {}, {}), r"the pickle's 3 parts \(dict, dict, dict\) are of no known layout"),
        (spoilt(lambda parts: parts["labels"].pop(TRAIN[3])), "dialogue 'Ses02F_impro01' has no labels"),
        (spoilt(lambda parts: parts["audio"][TRAIN[0]].pop()), "dialogue 'Ses01F_impro01' has 5 audio; expected 6"),
        (spoilt(lambda parts: parts["labels"][TEST[0]].__setitem__(0, 9)), "labels go up to 9; expected 0 to 5"),
        (
            spoilt(lambda parts: parts["audio"][TEST[0]].__setitem__(0, np.zeros(4))),
            r"audio features are \[4, 5\] wide",
        ),
    ],
)
def test_bad_pickles_leave_nothing_half_written(tmp_path: Path, content: Any, message: str) -> None:
    source = write(tmp_path / "a.pkl", content)
    with pytest.raises(UserError, match=message):
        import_conversation(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name != "_cache"] == ["a.pkl"]


def test_what_labels_mean_must_be_said(tmp_path: Path) -> None:
    parts = conversations(["x", "y", "z"], 3)
    roles = ("ids", "speakers", "labels", "text", "audio", "visual", "sentences")
    source = write(tmp_path / "a.pkl", (*[parts[role] for role in roles], ["x", "y"], ["z"]))
    with pytest.raises(UserError, match="what the labels 0 to 2 mean is not known"):
        import_conversation(source, tmp_path / "out")
    corpus = load_corpus(import_conversation(source, tmp_path / "out", labels=("low", "mid", "high")))
    assert corpus.info.labels == ("low", "mid", "high")


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="something is already there"):
        import_conversation(tmp_path / "a.pkl", tmp_path / "out")
