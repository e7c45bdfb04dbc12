"""MELD's annotation files (train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv) as a corpus folder."""

from __future__ import annotations

from pathlib import Path

from mer.data.importers.tabular import read_csv
from mer.data.importers.writing import Draft, refuse_full, write_corpus
from mer.errors import UserError

COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
LABELS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")
FILES = {"train": "train", "valid": "dev", "test": "test"}


def import_meld(source: Path | str, folder: Path | str, *, name: str = "meld") -> Path:
    """Read the three csv files below a folder and write a corpus folder: transcripts, speakers, dialogues; no audio."""
    source, folder = Path(source), Path(folder)
    refuse_full(folder)
    draft = Draft(name, LABELS, "en", "MELD annotations (GPL-3.0): transcripts, speakers, dialogues; no audio")
    for split, word in FILES.items():
        path = _file(source, word)
        for row in read_csv(path, COLUMNS):
            dialogue, number = row["Dialogue_ID"].strip(), row["Utterance_ID"].strip()
            if not (dialogue.isdecimal() and number.isdecimal() and len(number) < 19):
                raise UserError(
                    f"Dialogue_ID {dialogue!r}, Utterance_ID {number!r}", where=f"{path}:{row.line}", expected="numbers"
                )
            line = {
                "utterance_id": f"{word}_dia{dialogue}_utt{number}",
                "dialogue_id": f"{word}_{dialogue}",
                "turn": int(number),
                "speaker_id": row["Speaker"].strip(),
                "transcript": _unmangled(row["Utterance"]),
                "emotion": row["Emotion"].strip().lower(),
            }
            if line["emotion"] not in LABELS:
                raise UserError(f"Emotion {line['emotion']!r}", where=f"{path}:{row.line}", expected=", ".join(LABELS))
            draft.splits[split].append(line)
    return write_corpus(draft, folder)


def _file(source: Path, word: str) -> Path:
    if not source.is_dir():
        raise UserError("the folder does not exist", where=str(source), expected="MELD's three csv files")
    found = sorted(source.glob(f"{word}*sent_emo*.csv")) or sorted(source.glob(f"{word}*.csv"))
    if len(found) != 1:
        there = ", ".join(path.name for path in sorted(source.glob("*.csv"))) or "no csv"
        raise UserError(f"there is {there}", where=str(source), expected=f"one {word}_sent_emo.csv")
    return found[0]


def _unmangled(text: str) -> str:
    """MELD's apostrophes were Windows-1252 read as Latin-1: the control character U+0092 stands for a quote."""
    return "".join(
        character.encode("latin-1").decode("cp1252", "ignore") if "\x80" <= character <= "\x9f" else character
        for character in text
    )
