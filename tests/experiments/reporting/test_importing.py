from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from experiments.reporting.cli import add_parser
from experiments.reporting.importing import import_predictions
from experiments.reporting.run import Run, load_run
from mer.errors import UserError

MakeRun = Callable[..., Run]


@pytest.fixture
def run(make_run: MakeRun, tmp_path: Path) -> Run:
    shutil.copytree(make_run().folder, tmp_path / "run")
    return load_run(tmp_path / "run")


def write(path: Path, header: list[str], rows: Iterable[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def truth(run: Run) -> list[tuple[str, str]]:
    frame = run.predictions("demo", "fusion=concat")
    return list(frame[frame["study"] == 0][["utterance", "label"]].itertuples(index=False, name=None))


def test_one_more_row_paired_by_utterance(run: Run, tmp_path: Path) -> None:
    rows = [[u, label if i % 5 else "sad"] for i, (u, label) in enumerate(truth(run))]
    import_predictions(run, write(tmp_path / "p.csv", ["utterance", "prediction"], rows), "gcnet")
    with_it = load_run(run.folder)
    assert with_it.cells() == [*run.cells(), "gcnet"]
    assert with_it.by_study().loc["gcnet"].nunique() == 1
    right = sum(p == label for (_, label), (_, p) in zip(truth(run), rows, strict=True)) / len(rows)
    assert with_it.by_study(metric="wa").loc["gcnet", 0] == pytest.approx(right)
    assert with_it.compare("gcnet", "concat").n == 5
    table = with_it.tables["main"]
    last = len(table.rows) - 1
    assert table.value(last, "score").half == ""
    assert "b" in table.value(last, "score").mark
    assert with_it.tables["accounting"].rows == run.tables["accounting"].rows
    assert "gcnet" in [table.value(last, "fusion").text]
    assert "p" not in table.rows[last]  # how much that system varies is not known
    assert with_it.compare("gcnet", "concat").p is None
    [note] = [note.text for note in table.notes if note.mark == "b"]
    assert "how that system was trained and tuned is not known here" in note
    assert "there is no p" in note


def test_scores_of_labels_studies_and_conditions(run: Run, tmp_path: Path) -> None:
    labels = ["angry", "happy", "neutral", "sad"]
    rows = [
        [u, study, condition, *[0.9 if name == label and (i + study) % 4 else 0.1 * k for k, name in enumerate(labels)]]
        for i, (u, label) in enumerate(truth(run))
        for study in (0, 1, 2)
        for condition in ("complete", "missing 0.3")
    ]
    header = ["utterance", "study", "condition", *[f"score_{label}" for label in labels]]
    import_predictions(run, write(tmp_path / "p.csv", header, rows), "other system")
    with_it = load_run(run.folder)
    scores = with_it.by_study(condition="missing 0.3").loc["other system"]
    assert scores.notna().sum() == 3
    assert scores.dropna().between(0, 1).all()
    assert with_it.single == set()


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (["utt", "prediction"], ["x", "sad"], "no column of utterance ids"),
        (["utterance", "guess"], ["x", "sad"], "no predictions"),
        (["utterance", "prediction"], ["x", "sadd"], "did you mean 'sad'"),
        (["utterance", "prediction"], ["nobody", "sad"], "not in the test split"),
        (["utterance", "prediction", "study"], ["f0u0000", "sad", "9"], "the run has no study 9"),
        (["utterance", "prediction", "study"], ["f0u0000", "sad", "one"], "study 'one'"),
        (["utterance", "prediction", "condition"], ["f0u0000", "sad", "completo"], "did you mean 'complete'"),
        (["utterance", "prediction"], ["f0u0000", "sad"], "have no prediction"),
        (["utterance", "score_sad"], ["f0u0000", "0.5"], "no score column for angry"),
    ],
)
def test_mistakes_are_refused_in_words(
    run: Run, tmp_path: Path, header: list[str], row: list[object], message: str
) -> None:
    path = write(tmp_path / "p.csv", header, [row])
    with pytest.raises(UserError, match=message):
        import_predictions(run, path, "x")
    assert not (run.folder / "imported").exists()


def test_names_stay_inside_the_folder(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", ["utterance", "prediction"], truth(run))
    for name in ("../evil", "/etc/x", "", "a/b"):
        with pytest.raises(UserError, match="cannot be a name"):
            import_predictions(run, path, name)


def test_the_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    path = write(tmp_path / "p.csv", ["utterance", "prediction"], truth(run))
    args = parser.parse_args(
        ["import-predictions", str(path), "--as", "gcnet", "--space", "run", "--results", str(tmp_path)]
    )
    assert args.func(args) == 0
    page = (run.folder / "report" / "index.html").read_text()
    assert "gcnet" in page
    args = parser.parse_args(
        ["import-predictions", str(path), "--as", "y", "--space", "rum", "--results", str(tmp_path)]
    )
    with pytest.raises(UserError, match="did you mean 'run'"):
        args.func(args)
