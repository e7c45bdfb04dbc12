"""`corpus.json`: what a corpus says of itself."""

from __future__ import annotations

import codecs
from typing import Any

from mer.data.reading.found import Reading
from mer.data.reading.json_text import kind_of, one_line, parse, short
from mer.errors import UserError, nearest
from mer.files import read_data
from mer.names import fault

CORPUS_FIELDS = ("name", "labels", "language", "note", "synthetic", "features")


def read_description(reading: Reading) -> dict[str, Any]:
    path = reading.folder / "corpus.json"
    if not path.exists():
        return {}
    try:
        found = parse(read_data(path, reading.folder).removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UserError as error:
        reading.add("error", "description", error.problem, "corpus.json", expected="a JSON object")
        return {}
    except ValueError as error:
        reading.add("error", "description", one_line(error), "corpus.json", expected="a JSON object in UTF-8")
        return {}
    if not isinstance(found, dict):
        reading.add("error", "description", f"holds {kind_of(found)}", "corpus.json", expected="a JSON object")
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
            reading.add("error", "description", f"{key!r} is {kind_of(value)}", "corpus.json", expected=kinds[key][1])
        else:
            sound[key] = value
    labels = sound.get("labels")
    for label in labels or ():
        if isinstance(label, str) and (wrong := fault(label)):
            reading.add("error", "description", f"the label {short(label)} {wrong}", "corpus.json")
    if labels is not None and (
        not labels or not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels)
    ):
        reading.add(
            "error", "description", f"'labels' is {labels!r}", "corpus.json", expected="distinct strings, at least one"
        )
        del sound["labels"]
    return sound
