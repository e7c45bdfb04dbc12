"""Somebody else's predictions as one more row of a run, paired by utterance.

A CSV with a header. One line an utterance (and study, and condition, where it has them):

    utterance                 its id in the corpus
    prediction                a label; or one column a label with its score, named `score_<label>` or `<label>`
    study, condition, fold    optional; without `study` the same predictions stand in every study

Kept in `<run>/imported/<name>.parquet`, which survives when the run's tables are rebuilt.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer import sealed
from mer.errors import UserError, nearest
from mer.files import plain, read_data, write

if TYPE_CHECKING:
    import pandas as pd

    from experiments.reporting.run import Run

FOLDER = "imported"
COLUMNS = ("utterance", "study", "fold", "condition", "prediction")
EVERY_STUDY = -1


def read_predictions(path: Path, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of a file, checked one by one."""
    try:
        text = read_data(path).decode("utf-8-sig")
        reader = csv.DictReader(text.splitlines())
        names = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = names
        lines = [(f"{path}:{reader.line_num}", line) for line in reader]
    except UnicodeDecodeError:
        raise UserError("not UTF-8", where=str(path)) from None
    except csv.Error as error:
        raise UserError(f"is not a csv: {error}", where=f"{path}:1") from None
    id_column = next((name for name in ("utterance", "utterance_id", "id") if name in names), None)
    if id_column is None:
        raise UserError(
            f"no column of utterance ids among {', '.join(names) or 'nothing'}",
            where=f"{path}:1",
            expected="utterance",
            nearest=nearest("utterance", names),
        )
    scores = {label: name for label in labels for name in (f"score_{label}", label) if name in names}
    if "prediction" not in names and not scores:
        raise UserError(
            "no predictions",
            where=f"{path}:1",
            expected=f"a column prediction, or one a label: {', '.join(f'score_{label}' for label in labels)}",
        )
    if scores and len(scores) < len(labels) and "prediction" not in names:
        missing = ", ".join(label for label in labels if label not in scores)
        raise UserError(f"no score column for {missing}", where=f"{path}:1", expected=f"all of {', '.join(labels)}")
    found, seen = [], set()
    for where, line in lines:
        row = {
            "utterance": (line[id_column] or "").strip(),
            "study": _whole(line.get("study"), EVERY_STUDY, where, "study"),
            "fold": _whole(line.get("fold"), 0, where, "fold"),
            "condition": (line.get("condition") or "complete").strip(),
            "prediction": _prediction(line, scores, labels, where),
        }
        key = (row["utterance"], row["study"], row["fold"], row["condition"])
        if key in seen:
            raise UserError(f"utterance {row['utterance']!r} occurs twice for its study and condition", where=where)
        seen.add(key)
        found.append(row)
    if not found:
        raise UserError("no predictions", where=str(path), expected="one line an utterance")
    return found


def _whole(text: str | None, default: int, where: str, name: str) -> int:
    if text is None or not text.strip():
        return default
    if not re.fullmatch(r"\s*\d{1,9}\s*", text):
        raise UserError(f"{name} {text!r}", where=where, expected="a whole number from 0")
    return int(text)


def _prediction(line: Mapping[str, str | None], scores: Mapping[str, str], labels: Sequence[str], where: str) -> str:
    given = (line.get("prediction") or "").strip()
    if given:
        if given not in labels:
            raise UserError(
                f"unknown label {given!r}", where=where, expected=", ".join(labels), nearest=nearest(given, labels)
            )
        return given
    best, best_score = "", -math.inf
    for label, column in scores.items():
        try:
            value = float(line[column] or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{column} is {line[column]!r}", where=where, expected="a number")
        if value > best_score:
            best, best_score = label, value
    if not best:
        raise UserError("no prediction and no scores", where=where)
    return best


def import_predictions(run: Run, file: Path, name: str, corpus: str | None = None) -> Path:
    """Check a file against the run's test utterances and keep it; returns where."""
    import pandas as pd

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,60}", name):
        raise UserError(f"{name!r} cannot be a name", expected="letters, digits, dot, dash, underscore, space")
    corpus = run.corpus(corpus)
    if name in run.cells(corpus) and name not in run.imported:
        raise UserError(f"the run has a cell named {name!r}", expected="a name of its own")
    truth = reference(run, corpus)
    if truth.empty:
        raise UserError(
            "the run keeps no predictions to pair with", where=str(run.folder), expected="predictions/*.parquet"
        )
    labels = sorted(truth["label"].unique())
    rows = pd.DataFrame(read_predictions(file, labels))
    known = set(truth["utterance"])
    strangers = sorted(set(rows["utterance"]) - known)
    if strangers:
        raise UserError(
            f"{len(strangers)} utterances are not in the test split of {corpus}, such as {strangers[0]!r}",
            where=str(file),
            expected="utterance ids of the corpus",
            nearest=nearest(strangers[0], known),
        )
    studies = set(run.by_study(corpus).columns)
    wrong = sorted(set(rows["study"]) - studies - {EVERY_STUDY})
    if wrong:
        raise UserError(f"the run has no study {wrong[0]}", where=str(file), expected=f"0 to {max(studies)}")
    conditions = set(run.conditions)
    odd = sorted(set(rows["condition"]) - conditions)
    if odd:
        raise UserError(
            f"unknown condition {odd[0]!r}",
            where=str(file),
            expected=", ".join(sorted(conditions)),
            nearest=nearest(odd[0], conditions),
        )
    for (study, fold, condition), part in rows.groupby(["study", "fold", "condition"]):
        expected = set(truth.loc[truth["fold"] == fold, "utterance"])
        lacking = sorted(expected - set(part["utterance"]))
        if lacking:
            which = "" if study == EVERY_STUDY else f" of study {study}"
            raise UserError(
                f"{len(lacking)} of {len(expected)} test utterances{which} under {condition!r} have no prediction, "
                f"such as {lacking[0]!r}",
                where=str(file),
                expected="every utterance of the test split: rows are compared on the same",
            )
    rows["corpus"] = corpus
    import pyarrow as pa

    table = pa.Table.from_pandas(rows.assign(name=name), preserve_index=False)
    target = run.folder / FOLDER / f"{corpus}-{name}.parquet"
    write(target, sealed.encode([table], table.schema))
    return target


def reference(run: Run, corpus: str) -> pd.DataFrame:
    """Label, speaker and dialogue of every test utterance, by fold, from the first cell that has predictions."""
    import pandas as pd

    columns = ["utterance", "label", "speaker", "dialogue", "fold"]
    for cell in run.cells(corpus):
        if cell in run.imported:
            continue
        frame = run.predictions(corpus, cell)
        if len(frame):
            return frame[columns].drop_duplicates(["utterance", "fold"]).sort_values(["fold", "utterance"])
    return pd.DataFrame(columns=columns)


def imported_predictions(run: Run) -> pd.DataFrame:
    """All imported predictions with study, fold, label, speaker, dialogue; `trial` made from name, study, fold."""
    import pandas as pd

    folder = run.folder / FOLDER
    files = sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("_")) if folder.is_dir() else []
    parts = []
    for path in files:
        rows = sealed.read(plain(path).read_bytes(), str(path)).to_pandas()
        corpus = str(rows["corpus"].iloc[0])
        if corpus not in run.corpora:
            continue
        t = run.trials
        studies = sorted(t.loc[(t["stage"] == "confirm") & (t["corpus"] == corpus), "study"].unique())
        every = rows[rows["study"] == EVERY_STUDY]
        rows = rows.assign(single=False)
        every = every.assign(single=True)
        spread = [every.assign(study=study) for study in studies] if len(every) else []
        rows = pd.concat([rows[rows["study"] != EVERY_STUDY], *spread])
        rows = rows.merge(reference(run, corpus), on=["utterance", "fold"], how="inner")
        key = rows["study"].astype(str) + "-" + rows["fold"].astype(str)
        parts.append(rows.assign(trial=f"imported-{corpus}-" + rows["name"] + "-" + key))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def scores_of(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """trial, condition, metric, value of imported predictions."""
    import numpy as np
    import pandas as pd

    from experiments.reporting.statistics.confusion import KNOWN, score

    labels = sorted(set(rows["label"]) | set(rows["prediction"]))
    place = {label: i for i, label in enumerate(labels)}
    found = []
    for (trial, condition), part in rows.groupby(["trial", "condition"], sort=True):
        index = (part["label"].map(place).to_numpy(), part["prediction"].map(place).to_numpy())
        counts = np.zeros((len(labels), len(labels)))
        np.add.at(counts, index, 1)
        for metric in metrics:
            if metric in KNOWN:
                value = float(score(counts, metric))
                found.append({"trial": trial, "condition": condition, "metric": metric, "value": value, "n": len(part)})
    return pd.DataFrame(found)
