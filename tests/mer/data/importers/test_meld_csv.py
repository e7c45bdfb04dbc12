"""MELD's csv files become the corpus that they describe."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mer.data.corpus import load_corpus
from mer.data.importers.meld_csv import FILES, LABELS, import_meld
from mer.errors import UserError

HEADER = ["Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
          "StartTime", "EndTime"]  # fmt: skip


def write(folder: Path, rows: dict[str, list[list[Any]]], header: list[str] = HEADER) -> Path:
    folder.mkdir(exist_ok=True)
    for word in rows:
        with (folder / f"{word}_sent_emo.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            writer.writerows(rows[word])
    return folder


def row(number: int, text: str, emotion: str, dialogue: Any = 0) -> list[Any]:
    return [number, text, "Joey", emotion, "neutral", dialogue, number, 1, 2, "00:00:01,000", "00:00:02,000"]


@pytest.fixture
def rows() -> dict[str, list[list[Any]]]:
    words = ("neutral", "joy", "anger")
    return {word: [row(i, f"{word}, {i}", words[i % 3], i // 4) for i in range(12)] for word in FILES.values()}


def test_round_trip(tmp_path: Path, rows: dict[str, list[list[Any]]]) -> None:
    rows["dev"][1][1] = "It\x92s \x93fine\x94, caf\xe9"
    corpus = load_corpus(import_meld(write(tmp_path / "in", rows), tmp_path / "out"))
    assert corpus.info.labels == LABELS
    assert corpus.valid[1].transcript == "It\u2019s \u201cfine\u201d, caf\xe9"
    assert corpus.valid[1].id == "dev_dia0_utt1"
    assert [u.dialogue for u in corpus.test] == [f"test_{i // 4}" for i in range(12)]
    assert corpus.train[0].speaker == "Joey"
    assert corpus.modalities == ("text",)


def test_the_real_annotations_survive_the_round_trip(tmp_path: Path, real: Callable[[str], Path]) -> None:
    """The corpus, written as MELD's csv and imported again, is the corpus."""
    corpus = load_corpus(real("meld"))
    rows = {
        word: [
            [
                n,
                u.transcript,
                u.speaker,
                u.emotion,
                "",
                (u.dialogue or "").split("_")[1],
                int(u.turn or 0),
                1,
                1,
                "",
                "",
            ]
            for n, u in enumerate(getattr(corpus, split))
        ]
        for split, word in FILES.items()
    }
    again = load_corpus(import_meld(write(tmp_path / "in", rows), tmp_path / "out"))
    assert [(u.id, u.emotion, u.speaker, u.dialogue, u.turn) for u in again.utterances()] == [
        (u.id, u.emotion, u.speaker, u.dialogue, u.turn) for u in corpus.utterances()
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows["dev"][3].__setitem__(3, "joyful"),
            "dev_sent_emo.csv:5: Emotion 'joyful'; expected neutral",
        ),
        (lambda rows: rows["test"][0].__setitem__(5, "x"), "test_sent_emo.csv:2: Dialogue_ID 'x'"),
        (lambda rows: rows["train"][0].__delitem__(slice(4, None)), "train_sent_emo.csv:2: no value for Dialogue_ID"),
        (lambda rows: rows["train"][1].__setitem__(6, 0), "utterance_id 'train_dia0_utt0' occurs already"),
        (lambda rows: rows.pop("dev"), "expected one dev_sent_emo.csv"),
        (lambda rows: rows["train"].clear(), "train.jsonl: holds no utterance"),
    ],
)
def test_bad_files_leave_nothing_half_written(
    tmp_path: Path, rows: dict[str, list[list[Any]]], change: Callable[[Any], Any], message: str
) -> None:
    change(rows)
    with pytest.raises(UserError, match=message):
        import_meld(write(tmp_path / "in", rows), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_folder_or_column_that_is_not_there(tmp_path: Path, rows: dict[str, list[list[Any]]]) -> None:
    with pytest.raises(UserError, match="the folder does not exist"):
        import_meld(tmp_path / "none", tmp_path / "out")
    source = write(tmp_path / "in", rows, [*HEADER[:3], "Emotions", *HEADER[4:]])
    with pytest.raises(UserError, match=r"train_sent_emo.csv:1: there is no column 'Emotion'.*did you mean 'Emotions'"):
        import_meld(source, tmp_path / "out")
