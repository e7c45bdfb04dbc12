"""Reading a corpus folder line by line, and naming everything that is wrong with it in one pass."""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mer.data.corpus import SPLITS, Corpus, CorpusInfo, Utterance
from mer.errors import UserError, nearest

Severity = Literal["error", "warning", "note"]

FIELDS = (
    "utterance_id", "speaker_id", "emotion", "wav_path", "start", "end",
    "transcript", "dialogue_id", "turn", "row", "lacks",
)  # fmt: skip
REQUIRED = ("utterance_id", "speaker_id", "emotion")
CORPUS_FIELDS = ("name", "labels", "language", "note", "synthetic", "features")


@dataclass(frozen=True)
class Problem:
    """One thing found in a corpus. An `error` forbids training; a `warning` should be looked at; a `note` informs.

    `code` is a stable name of the kind of problem, for tests and for people who filter.
    """

    severity: Severity
    code: str
    problem: str
    where: str | None = None
    expected: str | None = None
    nearest: str | None = None
    hint: str | None = None

    def as_error(self) -> UserError:
        return UserError(self.problem, where=self.where, expected=self.expected, nearest=self.nearest, hint=self.hint)

    def __str__(self) -> str:
        return str(self.as_error())


@dataclass(frozen=True)
class FeatureFile:
    """The shape of `features/<modality>.npy`: how many rows it holds, how wide they are, which of them are empty."""

    path: Path
    rows: int
    dim: int
    frames: int
    empty: frozenset[int] = frozenset()


@dataclass
class Reading:
    """All that could be read of a folder, together with all that is wrong with it."""

    folder: Path
    info: CorpusInfo
    splits: dict[str, list[Utterance]] = field(default_factory=dict)
    features: dict[str, FeatureFile] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    trained: set[str] = field(default_factory=set)
    """Labels of train.jsonl, those of lines that are refused for another reason included."""

    def corpus(self) -> Corpus:
        parts = [tuple(self.splits[split]) for split in SPLITS]
        return Corpus(self.info, *parts)

    def add(self, severity: Severity, code: str, problem: str, where: str | None = None, **more: Any) -> None:
        self.problems.append(Problem(severity, code, problem, where, **more))


def read_folder(folder: Path) -> Reading:
    """Read everything that is cheap to read: the splits, `corpus.json`, headers of features, presence of wavs."""
    folder = Path(folder)
    reading = Reading(folder, CorpusInfo(folder, folder.resolve().name, ()))
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        reading.add("error", "no_folder", f"the corpus folder {what}", str(folder), expected="a folder")
        return reading
    described = _read_description(reading)
    _read_features(reading, described.get("features"))
    paths = _Paths(folder)
    for split in SPLITS:
        reading.splits[split] = _read_split(reading, split, paths)
    _check_ids(reading)
    _check_dialogues(reading)
    labels = _labels(reading, described.get("labels"))
    reading.info = CorpusInfo(
        folder=folder,
        name=described.get("name", reading.info.name),
        labels=labels,
        language=described.get("language"),
        note=described.get("note", ""),
        synthetic=described.get("synthetic", False),
        features={modality: file.dim for modality, file in reading.features.items()},
    )
    _settle_lacks(reading)
    return reading


# ---------------------------------------------------------------------------------------------- corpus.json


def _read_description(reading: Reading) -> dict[str, Any]:
    path = reading.folder / "corpus.json"
    if not path.exists():
        return {}
    try:
        found = _parse(path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except (ValueError, OSError) as error:
        reading.add("error", "description", f"cannot be read: {error}", "corpus.json", expected="a JSON object")
        return {}
    if not isinstance(found, dict):
        reading.add("error", "description", f"holds {_kind(found)}", "corpus.json", expected="a JSON object")
        return {}
    kinds: dict[str, tuple[type, str]] = {
        "name": (str, "a string"),
        "language": (str, "a string such as 'vi'"),
        "note": (str, "a string"),
        "synthetic": (bool, "true or false"),
        "features": (dict, "an object of modality: width"),
        "labels": (list, "a list of the emotions in order"),
    }
    sound: dict[str, Any] = {}
    for key, value in found.items():
        if key not in kinds:
            if close := nearest(key, CORPUS_FIELDS):
                reading.add("warning", "unknown_key", f"unknown key {key!r}", "corpus.json", nearest=close)
        elif value is None:
            continue
        elif not isinstance(value, kinds[key][0]):
            reading.add("error", "description", f"{key!r} is {_kind(value)}", "corpus.json", expected=kinds[key][1])
        else:
            sound[key] = value
    labels = sound.get("labels")
    if labels is not None and (
        not labels or not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels)
    ):
        reading.add(
            "error", "description", f"'labels' is {labels!r}", "corpus.json", expected="distinct strings, at least one"
        )
        del sound["labels"]
    return sound


# ------------------------------------------------------------------------------------------------- features


def _read_features(reading: Reading, declared: Mapping[str, object] | None) -> None:
    folder = reading.folder / "features"
    arrays = sorted(folder.glob("*.npy")) if folder.is_dir() else []
    for path in arrays:
        if path.name.endswith(".offsets.npy"):
            if not path.with_name(path.name.replace(".offsets.npy", ".npy")).exists():
                reading.add("warning", "features", "offsets without an array", f"features/{path.name}")
            continue
        if path.name.startswith("_"):
            continue
        if not _inside(path, reading.folder):
            reading.add("error", "path", "leads out of the corpus folder", f"features/{path.name}")
            continue
        file = _read_feature_header(reading, path)
        if file is not None:
            reading.features[path.stem] = file
    for modality, width in (declared or {}).items():
        where = "corpus.json"
        file = reading.features.get(modality)
        if not (folder / f"{modality}.npy").exists():
            known = [path.stem for path in arrays if not path.name.endswith(".offsets.npy")]
            reading.add(
                "error", "features", f"features/{modality}.npy does not exist", where, nearest=nearest(modality, known)
            )
        elif file is not None and file.dim != width:
            reading.add(
                "error", "features", f"features/{modality}.npy is {file.dim} wide", where, expected=f"{width!r}"
            )
    if len({file.rows for file in reading.features.values()}) > 1:
        sizes = ", ".join(f"{name} {file.rows}" for name, file in reading.features.items())
        reading.add(
            "error",
            "features",
            f"modalities differ in their number of rows: {sizes}",
            "features",
            expected="one number",
        )


def _read_feature_header(reading: Reading, path: Path) -> FeatureFile | None:
    import numpy as np

    where = f"features/{path.name}"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reading.add("error", "features", f"cannot be read: {_one_line(error)}", where, expected="a .npy array")
        return None
    if array.ndim != 2 or array.dtype.kind != "f":
        found = f"shape {tuple(array.shape)}, {array.dtype}"
        reading.add("error", "features", f"has {found}", where, expected="[N, d] or [frames, d] of floats")
        return None
    frames, dim = int(array.shape[0]), int(array.shape[1])
    offsets_path = path.with_name(f"{path.stem}.offsets.npy")
    if not offsets_path.exists():
        return FeatureFile(path, frames, dim, frames)
    where = f"features/{offsets_path.name}"
    try:
        offsets = np.load(offsets_path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reading.add("error", "features", f"cannot be read: {_one_line(error)}", where, expected="int64 [N + 1]")
        return None
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 1:
        found = f"shape {tuple(offsets.shape)}, {offsets.dtype}"
        reading.add("error", "features", f"has {found}", where, expected="int64 [N + 1]")
        return None
    lengths = np.diff(offsets.astype(np.int64))
    if offsets[0] != 0 or offsets[-1] != frames or (lengths < 0).any():
        reading.add(
            "error",
            "features",
            f"runs from {offsets[0]} to {offsets[-1]}" + (", not always upwards" if (lengths < 0).any() else ""),
            where,
            expected=f"0 to {frames} (the frames of {path.name}), never falling",
        )
        return None
    empty = frozenset(int(row) for row in np.flatnonzero(lengths == 0))
    return FeatureFile(path, len(lengths), dim, frames, empty)


# --------------------------------------------------------------------------------------------------- splits


def _read_split(reading: Reading, split: str, paths: _Paths) -> list[Utterance]:
    name = f"{split}.jsonl"
    path = reading.folder / name
    try:
        raw = path.read_bytes()
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        reading.add("error", "no_split", f"the file {what}", name, expected="one JSON object a line")
        return []
    if raw.startswith(codecs.BOM_UTF8):
        raw = raw.removeprefix(codecs.BOM_UTF8)
        reading.add("note", "bom", "starts with a byte order mark, which is ignored", f"{name}:1")
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        reading.add("error", "encoding", "is UTF-16", name, expected="UTF-8")
        return []
    utterances: list[Utterance] = []
    mistyped: Counter[str] = Counter()
    first_seen: dict[str, str] = {}
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            record = _parse(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            found = f"byte 0x{line[error.start]:02x} at column {error.start + 1} is not UTF-8"
            reading.add("error", "encoding", found, where, expected="UTF-8")
            continue
        except ValueError as error:
            reading.add("error", "json", f"is not JSON: {_one_line(error)}", where, expected="one object a line")
            continue
        except RecursionError:
            reading.add("error", "json", "is nested too deeply", where, expected="one flat object a line")
            continue
        if not isinstance(record, dict):
            reading.add("error", "json", f"holds {_kind(record)}", where, expected="a JSON object")
            continue
        for key in record:
            if key not in FIELDS and (close := nearest(key, FIELDS)) and close not in record:
                mistyped[key] += 1
                first_seen.setdefault(key, where)
        utterance = _utterance(reading, record, where, paths)
        if utterance is not None:
            utterances.append(utterance)
    for key, count in mistyped.items():
        reading.add(
            "warning",
            "unknown_key",
            f"unknown key {key!r} ({count} lines), which is ignored",
            first_seen[key],
            nearest=nearest(key, FIELDS),
        )
    if not utterances and not any(problem.where and problem.where.startswith(name) for problem in reading.problems):
        reading.add("error", "empty_split", "holds no utterance", name, expected="at least one")
    return utterances


def _utterance(reading: Reading, record: dict[str, Any], where: str, paths: _Paths) -> Utterance | None:
    """One line as an Utterance, or None with the problems added."""
    before = len(reading.problems)

    def wrong(key: str, expected: str, code: str = "type") -> None:
        value = _short(record[key])
        reading.add("error", code, f"{key} is {value}", where, expected=expected)

    for key in REQUIRED:
        if record.get(key) is None:
            close = nearest(key, [name for name in record if name not in FIELDS])
            hint = f"is it the key {close!r}?" if close else None
            reading.add("error", "missing_field", f"{key} is missing", where, expected="a string", hint=hint)
    identifiers: dict[str, str | None] = {}
    for key in ("utterance_id", "speaker_id", "dialogue_id"):
        value = record.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is not None and not (isinstance(value, str) and value.strip()):
            wrong(key, "a string that is not empty")
            value = None
        identifiers[key] = value
    texts: dict[str, str | None] = {}
    for key in ("emotion", "transcript", "wav_path"):
        value = record.get(key)
        if value is not None and not isinstance(value, str):
            wrong(key, "a string")
            value = None
        elif value is not None and key != "transcript" and not value.strip():
            wrong(key, "a string that is not empty")
            value = None
        elif value is not None and _has_surrogates(value):
            wrong(key, "text without lone surrogates", "encoding")
            value = None
        texts[key] = value
    if texts["emotion"] and where.startswith("train."):
        reading.trained.add(texts["emotion"])
    numbers: dict[str, float | None] = {}
    for key in ("start", "end", "turn"):
        value = record.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            wrong(key, "a number")
            value = None
        elif value is not None and (not math.isfinite(value) or (key != "turn" and value < 0)):
            wrong(key, "a finite number" + ("" if key == "turn" else " of seconds from 0"))
            value = None
        numbers[key] = None if value is None else float(value)
    start, end = numbers["start"], numbers["end"]
    if end is not None and end <= (start or 0.0):
        reading.add("error", "times", f"end {end:g} is not after start {start or 0:g}", where, expected="start < end")
    wav = texts["wav_path"]
    if wav is not None:
        fault = paths.fault(wav)
        if fault is not None:
            reading.add("error", fault[0], f"wav_path {wav!r} {fault[1]}", where, expected=fault[2])
    row = _row(reading, record, where)
    lacks = record.get("lacks")
    if lacks is None:
        lacks = []
    if not isinstance(lacks, list) or not all(isinstance(name, str) for name in lacks):
        wrong("lacks", "a list of modalities")
        lacks = []
    if any(problem.severity == "error" for problem in reading.problems[before:]):
        return None
    return Utterance(
        id=identifiers["utterance_id"] or "",
        speaker=identifiers["speaker_id"] or "",
        emotion=texts["emotion"] or "",
        source=where,
        wav=wav,
        start=start,
        end=end,
        transcript=texts["transcript"],
        dialogue=identifiers["dialogue_id"],
        turn=numbers["turn"],
        row=row,
        lacks=frozenset(lacks),
    )


def _row(reading: Reading, record: Mapping[str, Any], where: str) -> int | None:
    row = record.get("row")
    if row is None:
        return None
    if isinstance(row, bool) or not isinstance(row, int) or row < 0:
        reading.add("error", "type", f"row is {_short(row)}", where, expected="an integer from 0")
        return None
    for modality, file in reading.features.items():
        if row >= file.rows:
            reading.add(
                "error",
                "row",
                f"row {row} is beyond features/{modality}.npy",
                where,
                expected=f"0 to {file.rows - 1}",
            )
            return None
    return row


class _Paths:
    """Judges wav paths: they must stay inside the corpus folder, and exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = os.path.realpath(folder)
        self.known: dict[str, tuple[str, str, str] | None] = {}

    def fault(self, path: str) -> tuple[str, str, str] | None:
        """Code, problem and expectation, or None where the path is sound."""
        if path not in self.known:
            self.known[path] = self._judge(path)
        return self.known[path]

    def _judge(self, path: str) -> tuple[str, str, str] | None:
        relative = "a path relative to the corpus folder"
        if "\0" in path:
            return "path", "holds a NUL character", relative
        if re.match(r"^[A-Za-z][A-Za-z0-9+.\-]+:", path):
            return "path", "is a URL", relative
        if path.startswith(("/", "~")) or re.match(r"^[A-Za-z]:", path):
            return "path", "is absolute", relative
        if "\\" in path:
            return "path", "uses backslashes", "slashes"
        if ".." in path.split("/"):
            return "path", "climbs out with '..'", relative
        real = os.path.realpath(os.path.join(self.root, path))
        if real != self.root and not real.startswith(self.root + os.sep):
            return "path", "leads out of the corpus folder by a symbolic link", "a file inside the corpus folder"
        if not os.path.exists(real):
            return "wav_missing", "does not exist", "an audio file"
        if not os.path.isfile(real):
            return "wav_missing", "is not a file", "an audio file"
        if os.path.getsize(real) == 0:
            return "wav_empty", "has 0 bytes", "an audio file"
        return None


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


# ------------------------------------------------------------------------------------------- across the lines


def _check_ids(reading: Reading) -> None:
    seen: dict[str, str] = {}
    rows: dict[int, str] = {}
    for utterances in reading.splits.values():
        for utterance in utterances:
            first = seen.setdefault(utterance.id, utterance.source)
            if first != utterance.source:
                reading.add(
                    "error",
                    "duplicate_id",
                    f"utterance_id {utterance.id!r} occurs already at {first}",
                    utterance.source,
                    expected="each id once in all splits",
                )
            if utterance.row is not None:
                first = rows.setdefault(utterance.row, utterance.source)
                if first != utterance.source:
                    reading.add(
                        "warning", "duplicate_row", f"row {utterance.row} is also that of {first}", utterance.source
                    )


def _check_dialogues(reading: Reading) -> None:
    """Turns that are missing follow the order of the lines; a dialogue in two splits or a turn twice is suspicious."""
    homes: dict[str, str] = {}
    for split, utterances in reading.splits.items():
        turns: dict[str, dict[float, str]] = {}
        count: Counter[str] = Counter()
        for number, utterance in enumerate(utterances):
            if utterance.dialogue is None:
                if utterance.turn is not None:
                    reading.add("warning", "turn", "turn without dialogue_id, which is ignored", utterance.source)
                continue
            home = homes.setdefault(utterance.dialogue, split)
            if home != split and not count[utterance.dialogue]:
                reading.add(
                    "warning",
                    "dialogue_leak",
                    f"dialogue {utterance.dialogue!r} occurs in {home} as well",
                    utterance.source,
                    expected="each dialogue in one split",
                )
            if utterance.turn is None:
                turn = float(count[utterance.dialogue])
                utterances[number] = replace(utterance, turn=turn)
            else:
                turn = utterance.turn
            count[utterance.dialogue] += 1
            first = turns.setdefault(utterance.dialogue, {}).setdefault(turn, utterance.source)
            if first != utterance.source:
                reading.add(
                    "warning",
                    "turn",
                    f"turn {turn:g} of dialogue {utterance.dialogue!r} occurs already at {first}",
                    utterance.source,
                    expected="one utterance a turn",
                )


def _labels(reading: Reading, declared: list[str] | None) -> tuple[str, ...]:
    """The labels in order; labels that are unknown, or unseen in train, are errors that name their lines."""
    in_train = reading.trained
    labels = tuple(declared) if declared else tuple(sorted(in_train))
    lines: dict[str, list[str]] = {}
    for split, utterances in reading.splits.items():
        for utterance in utterances:
            unseen = split != "train" and utterance.emotion not in in_train
            if unseen or utterance.emotion not in labels:
                lines.setdefault(utterance.emotion, []).append(utterance.source)
    for label, sources in lines.items():
        more = f" and {len(sources) - 1} more: {_listed(sources[1:])}" if len(sources) > 1 else ""
        if label not in labels and declared:
            problem, expected = f"emotion {label!r} is not among the labels of corpus.json", ", ".join(labels)
            close = nearest(label, labels)
        else:
            problem, expected = f"emotion {label!r} does not occur in train.jsonl", ", ".join(sorted(in_train))
            close = nearest(label, in_train)
        reading.add(
            "error",
            "label",
            problem,
            sources[0],
            expected=expected or None,
            nearest=close,
            hint=f"also at{more.removeprefix(' and')}" if more else None,
        )
    for label in labels:
        if in_train and label not in in_train and label not in lines:
            reading.add("warning", "class_absent", f"no utterance of {label!r}", "train.jsonl")
    if len(in_train) == 1:
        reading.add(
            "error",
            "label",
            f"every utterance is {next(iter(in_train))!r}",
            "train.jsonl",
            expected="two labels or more",
        )
    return labels


def _settle_lacks(reading: Reading) -> None:
    """Complete `lacks` from what each line gives: a modality without any source for it is lacking."""
    modalities = tuple(dict.fromkeys(("text", "audio", *reading.features)))
    for split, utterances in reading.splits.items():
        for number, utterance in enumerate(utterances):
            given: set[str] = set()
            if utterance.transcript is not None and utterance.transcript.strip():
                given.add("text")
            if utterance.wav is not None:
                given.add("audio")
            if utterance.row is not None:
                given |= {name for name, file in reading.features.items() if utterance.row not in file.empty}
            for name in sorted(utterance.lacks - set(modalities)):
                reading.add(
                    "error",
                    "lacks",
                    f"lacks names {name!r}",
                    utterance.source,
                    expected=", ".join(modalities),
                    nearest=nearest(name, modalities),
                )
            lacks = (utterance.lacks & set(modalities)) | (set(modalities) - given)
            if len(lacks) == len(modalities):
                reading.add(
                    "error",
                    "no_modality",
                    f"utterance {utterance.id!r} has no modality at all",
                    utterance.source,
                    expected="transcript, wav_path or row",
                )
            reading.splits[split][number] = replace(utterance, lacks=frozenset(lacks))


# ------------------------------------------------------------------------------------------------ small things


def _parse(text: str) -> Any:
    """JSON without its extensions: NaN and Infinity are refused, and so are keys that occur twice."""
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return found


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _short(value: object, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _listed(items: Iterable[str], limit: int = 8) -> str:
    found = list(items)
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
