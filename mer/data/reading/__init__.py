"""Reading a corpus folder line by line, and naming everything that is wrong with it in one pass."""

from __future__ import annotations

from pathlib import Path

from mer.data.corpus import SPLITS, CorpusInfo
from mer.data.reading.across import check_dialogues, check_ids, settle_labels, settle_lacks
from mer.data.reading.description import read_description
from mer.data.reading.features import read_features
from mer.data.reading.found import FeatureFile, Problem, Reading, Severity
from mer.data.reading.json_text import short
from mer.data.reading.lines import read_split
from mer.data.reading.paths import WavPaths
from mer.names import corpus_fault

__all__ = ["FeatureFile", "Problem", "Reading", "Severity", "read_folder"]


def read_folder(folder: Path) -> Reading:
    """Read everything that is cheap to read: the splits, `corpus.json`, headers of features, presence of wavs."""
    folder = Path(folder)
    reading = Reading(folder, CorpusInfo(folder, folder.resolve().name, ()))
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        reading.add("error", "no_folder", f"the corpus folder {what}", str(folder), expected="a folder")
        return reading
    described = read_description(reading)
    name = described.get("name", reading.info.name)
    if wrong := corpus_fault(name):
        where = "corpus.json" if "name" in described else str(folder)
        reading.add("error", "description", f"the corpus's name {short(name)} {wrong}", where)
    read_features(reading, described.get("features"))
    paths = WavPaths(folder)
    for split in SPLITS:
        reading.splits[split] = read_split(reading, split, paths)
    check_ids(reading)
    check_dialogues(reading)
    labels = settle_labels(reading, described.get("labels"))
    reading.info = CorpusInfo(
        folder=folder,
        name=name,
        labels=labels,
        language=described.get("language"),
        note=described.get("note", ""),
        synthetic=described.get("synthetic", False),
        features={modality: file.dim for modality, file in reading.features.items()},
    )
    settle_lacks(reading)
    return reading
