"""`<split>.jsonl`: each line as an utterance, or what is wrong with it."""

from __future__ import annotations

import codecs
import math
from collections import Counter
from typing import Any

from mer.data.corpus import Utterance
from mer.data.reading.found import Reading
from mer.data.reading.json_text import kind_of, parse, short
from mer.data.reading.paths import WavPaths
from mer.errors import UserError, nearest
from mer.files import read_data
from mer.names import LONGEST, fault

FIELDS = (
    "utterance_id", "speaker_id", "emotion", "wav_path", "start", "end",
    "transcript", "dialogue_id", "turn", "row", "lacks",
)  # fmt: skip
REQUIRED = ("utterance_id", "speaker_id", "emotion")


def read_split(reading: Reading, split: str, paths: WavPaths) -> list[Utterance]:
    name = f"{split}.jsonl"
    before = len(reading.problems)
    utterances: list[Utterance] = []
    mistyped: Counter[str] = Counter()
    first_seen: dict[str, str] = {}
    for number, line in enumerate(_content(reading, name).split(b"\n"), start=1):
        where = f"{name}:{number}"
        record = _record(reading, line, where) if line.strip() else None
        if record is None:
            continue
        for key in record:
            if key not in FIELDS and (close := nearest(key, FIELDS)) and close not in record:
                mistyped[key] += 1
                first_seen.setdefault(key, where)
        utterance = _Line(reading, record, where).utterance(paths)
        if utterance is not None:
            utterances.append(utterance)
    for key, count in mistyped.items():
        found = f"unknown key {key!r} ({count} lines), which is ignored"
        reading.add("warning", "unknown_key", found, first_seen[key], nearest=nearest(key, FIELDS))
    if not utterances and not any(problem.code != "bom" for problem in reading.problems[before:]):
        reading.add("error", "empty_split", "holds no utterance", name, expected="at least one")
    return utterances


def _content(reading: Reading, name: str) -> bytes:
    """The bytes of a file without a byte order mark; empty, with the problem added, where they are not to be had."""
    try:
        raw = read_data(reading.folder / name, reading.folder)
    except UserError as error:
        reading.add("error", "no_split", error.problem, name, expected="one JSON object a line")
        return b""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        reading.add("error", "encoding", "is UTF-16", name, expected="UTF-8")
        return b""
    if raw.startswith(codecs.BOM_UTF8):
        reading.add("note", "bom", "starts with a byte order mark, which is ignored", f"{name}:1")
    return raw.removeprefix(codecs.BOM_UTF8)


def _record(reading: Reading, line: bytes, where: str) -> dict[str, Any] | None:
    try:
        record = parse(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        found = f"byte 0x{line[error.start]:02x} at column {error.start + 1} is not UTF-8"
        reading.add("error", "encoding", found, where, expected="UTF-8")
    except ValueError as error:
        reading.add("error", "json", str(error), where, expected="one object a line")
    else:
        if isinstance(record, dict):
            return record
        reading.add("error", "json", f"holds {kind_of(record)}", where, expected="a JSON object")
    return None


class _Line:
    """One line: each value is returned if it is what it must be, else None, with the problem added."""

    def __init__(self, reading: Reading, record: dict[str, Any], where: str) -> None:
        self.reading, self.record, self.where = reading, record, where
        self.refused = False

    def utterance(self, paths: WavPaths) -> Utterance | None:
        self._required()
        speaker, dialogue = self._identifier("speaker_id"), self._identifier("dialogue_id")
        identifier = self._identifier("utterance_id")
        emotion = self._text("emotion", is_name=True)
        if emotion and self.where.startswith("train."):
            self.reading.trained.add(emotion)
        start, end = (self._number(key, least=0, unit=" of seconds from 0") for key in ("start", "end"))
        turn = self._number("turn")
        if end is not None and end <= (start or 0.0):
            self._error("times", f"end {end:g} is not after start {start or 0:g}", "start < end")
        transcript, wav = self._text("transcript", may_be_empty=True), self._text("wav_path")
        if wav is not None and (broken := paths.fault(wav)) is not None:
            code, problem, expected = broken
            self._error(code, f"wav_path {wav!r} {problem}", expected)
        row, lacks = self._row(), self._lacks()
        if self.refused or identifier is None or speaker is None or emotion is None:
            return None
        return Utterance(
            id=identifier,
            speaker=speaker,
            emotion=emotion,
            source=self.where,
            wav=wav,
            start=start,
            end=end,
            transcript=transcript,
            dialogue=dialogue,
            turn=turn,
            row=row,
            lacks=lacks,
        )

    def _error(self, code: str, problem: str, expected: str, hint: str | None = None) -> None:
        self.refused = True
        self.reading.add("error", code, problem, self.where, expected=expected, hint=hint)

    def _wrong(self, key: str, expected: str, code: str = "type") -> None:
        self._error(code, f"{key} is {short(self.record[key])}", expected)

    def _required(self) -> None:
        for key in REQUIRED:
            if self.record.get(key) is None:
                close = nearest(key, [name for name in self.record if name not in FIELDS])
                hint = f"is it the key {close!r}?" if close else None
                self._error("missing_field", f"{key} is missing", "a string", hint)

    def _identifier(self, key: str) -> str | None:
        value = self.record.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str | None) or (value is not None and not value.strip()):
            self._wrong(key, "a string that is not empty")
        elif value is not None and (wrong := fault(value, 5 * LONGEST)):
            self._error("type", f"{key} {short(value)} {wrong}", "a name that can be shown")
        else:
            return value
        return None

    def _text(self, key: str, may_be_empty: bool = False, is_name: bool = False) -> str | None:
        value = self.record.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self._wrong(key, "a string")
        elif not may_be_empty and not value.strip():
            self._wrong(key, "a string that is not empty")
        elif is_name and (wrong := fault(value)):
            self._error("type", f"{key} {short(value)} {wrong}", "a name that can be shown")
        else:
            return value
        return None

    def _number(self, key: str, least: float = -math.inf, unit: str = "") -> float | None:
        value = self.record.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(key, "a number")
        elif not math.isfinite(value) or value < least:
            self._wrong(key, f"a finite number{unit}")
        else:
            return float(value)
        return None

    def _row(self) -> int | None:
        row = self.record.get("row")
        if row is None:
            return None
        if isinstance(row, bool) or not isinstance(row, int) or row < 0:
            self._wrong("row", "an integer from 0")
            return None
        for modality, file in self.reading.features.items():
            if row >= file.rows:
                self._error("row", f"row {row} is beyond features/{modality}.npy", f"0 to {file.rows - 1}")
                return None
        return row

    def _lacks(self) -> frozenset[str]:
        lacks = self.record.get("lacks")
        if lacks is None:
            return frozenset()
        if isinstance(lacks, list) and all(isinstance(name, str) for name in lacks):
            return frozenset(lacks)
        self._wrong("lacks", "a list of modalities")
        return frozenset()
