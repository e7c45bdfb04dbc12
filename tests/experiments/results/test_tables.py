"""Tables: one row a slot, typed columns, the same bytes for the same input, and what was declared when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyarrow.fs import LocalFileSystem

from experiments.results.cli import add_parser
from experiments.results.declared import changed_corpora, declare
from experiments.results.ledger import Ledger
from experiments.results.schema import as_type, column_type, trials_schema
from experiments.results.status import status, status_text
from experiments.schedule.fake import MakeFake
from experiments.schedule.inline import run_inline
from experiments.schedule.publish import publish
from experiments.schedule.session import Session
from experiments.space.plan import Contrast, CorpusRef, Plan, Tuning
from mer.errors import UserError
from mer.storage import ObjectStore


@pytest.fixture(autouse=True)
def one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")


def run(plan: Plan, root: Path, utterances: int = 4, **options: Any) -> None:
    ledger = Ledger(str(root))
    plan = declare(plan, ledger)
    run_inline(Session(plan, ledger, **options), MakeFake(utterances=utterances), str(root))
    publish(plan, ledger, str(root / plan.space))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("utterances", [4, 0])
def test_the_same_input_gives_the_same_bytes_and_a_finished_file_is_left_alone(
    utterances: int, small_plan: Any, tmp_path: Path
) -> None:
    plan = small_plan()
    run(plan, tmp_path, utterances)
    first = bytes_of(tmp_path / "small")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "small").rglob("*.parquet")}
    publish(plan, Ledger(str(tmp_path)), str(tmp_path / "small"))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "small").rglob("*.parquet")} == times
    publish(plan, Ledger(str(tmp_path)), str(tmp_path / "again"))
    assert bytes_of(tmp_path / "again") == first
    Ledger(str(tmp_path)).compact()
    publish(plan, Ledger(str(tmp_path)), str(tmp_path / "compacted"))
    assert bytes_of(tmp_path / "compacted") == first
    assert len([name for name in first if name.startswith("predictions/")]) == 3


def test_predictions_that_lack_a_trial_are_written_again(small_plan: Any, tmp_path: Path) -> None:
    """A part is damaged between the reading of its scores and that of its predictions, and its trial runs again."""
    plan = small_plan()
    run(plan, tmp_path)
    first = bytes_of(tmp_path / "small")
    ledger = Ledger(str(tmp_path))
    ledger.refresh()
    confirmed = set(pq.read_table(next((tmp_path / "small" / "predictions").iterdir()))["trial"].to_pylist())
    part = next(file for file in (tmp_path / "ledger").glob("*.parquet") if file.name[:16] in confirmed)
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"?")
    publish(plan, ledger, str(tmp_path / "again"))
    assert bytes_of(tmp_path / "again") != first
    part.write_bytes(whole)
    publish(plan, Ledger(str(tmp_path)), str(tmp_path / "again"))
    assert bytes_of(tmp_path / "again") == first


def test_a_plan_that_has_not_begun_has_typed_tables(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan()
    publish(plan, Ledger(str(tmp_path)), str(tmp_path / "small"))
    table = pq.read_table(tmp_path / "small" / "trials.parquet")
    assert len(table) == 30
    assert set(table["status"].to_pylist()) == {"missing"}
    assert not [field.name for field in table.schema if pa.types.is_null(field.type)]
    assert table.schema.field("optimizer.lr").type == pa.float64()
    assert table["trial"].null_count == 6  # a confirm slot's trial is known only after its draws
    assert table.schema.metadata[b"mer.factors"] == b"fusion"
    import pandas as pd

    for name in ("trials", "epochs", "scores", "decisions"):
        pd.read_parquet(tmp_path / "small" / f"{name}.parquet")


def test_the_tables_of_an_unfinished_run_say_what_is_missing(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan()
    run(plan, tmp_path, trials=6)
    rows = pq.read_table(tmp_path / "small" / "trials.parquet").to_pylist()
    reasons = {row["reason"] for row in rows if row["status"] == "missing"}
    assert "not run" in reasons
    assert "its draws have not all been run" in reasons
    assert all(row["valid_ua"] is None for row in rows if row["status"] == "missing")


def test_skipped_cells_are_rows_with_their_rule(small_plan: Any, tmp_path: Path) -> None:
    import dataclasses

    plan = small_plan()
    cells = (dataclasses.replace(plan.cells[0], skip="needs dialogues"), *plan.cells[1:])
    run(dataclasses.replace(plan, cells=cells), tmp_path)
    rows = pq.read_table(tmp_path / "small" / "trials.parquet").to_pylist()
    assert {row["reason"] for row in rows if row["cell"] == "fusion=f0"} == {"needs dialogues"}
    assert {row["status"] for row in rows if row["cell"] == "fusion=f0"} == {"skipped"}


def contrast(name: str, other: str = "f1") -> Contrast:
    return Contrast(name, "demo", {"fusion=f0": 1.0, f"fusion={other}": -1.0}, "ua")


def test_what_is_declared_after_the_first_result_is_post_hoc(small_plan: Any, tmp_path: Path) -> None:
    run(small_plan(contrasts=(contrast("early"),)), tmp_path)
    document = yaml.safe_load((tmp_path / "small" / "space.yaml").read_text())
    assert [c["post_hoc"] for c in document["contrasts"]] == [False]
    assert document["declared"]["second_look"] is None
    later = small_plan(
        contrasts=(contrast("renamed"), contrast("late", "f2")), studies=3, tuning=Tuning(draws=6, grace=1)
    )
    run(later, tmp_path)
    document = yaml.safe_load((tmp_path / "small" / "space.yaml").read_text())
    assert [c["post_hoc"] for c in document["contrasts"]] == [False, True]  # a new name is no new claim
    assert document["declared"]["second_look"] == {"studies_before": 2, "draws_before": 4}
    assert document["declared"]["metric"]["post_hoc"] is False
    rows = pq.read_table(tmp_path / "small" / "trials.parquet").to_pylist()
    looked = {(row["stage"], row["study"], row["draw"]) for row in rows if row["second_look"]}
    assert {key for key in looked if key[1] < 2} == {
        *(("tune", study, draw) for study in (0, 1) for draw in (4, 5)), ("confirm", 0, -1), ("confirm", 1, -1),
    }  # fmt: skip
    assert ("tune", 2, 0) in looked


def test_a_changed_corpus_is_said(small_plan: Any, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    declare(small_plan(), ledger)
    other = CorpusRef("demo", Path("demo"), "beef", ("audio",), False, True, {"train": 12})
    changed = small_plan(corpora={"demo": other})
    (notice,) = changed_corpora(declare(changed, ledger), ledger.store)
    assert "utterances: train 10 -> 12" in notice
    assert changed_corpora(small_plan(), Ledger(str(tmp_path / "new")).store) == []


def test_columns_have_one_type_and_no_name_twice() -> None:
    assert str(column_type(["none", 0.1, True])) == "string"
    assert as_type(True, pa.string()) == "true"
    assert as_type(0.1, pa.string()) == "0.1"
    assert as_type(1, pa.float64()) == 1.0
    assert as_type(None, pa.string()) is None
    with pytest.raises(UserError, match="the column name 'status' is taken"):
        trials_schema({"status": pa.string()}, {})
    with pytest.raises(UserError, match="'lr' is taken"):
        trials_schema({"lr": pa.string()}, {"lr": pa.float64()})


def test_status_reads_files_alone(small_plan: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    plan = small_plan()
    run(plan, tmp_path, trials=8)
    run_inline(Session(plan, Ledger(str(tmp_path))), MakeFake(), str(tmp_path))  # and no tables since
    found = status(str(tmp_path / "small"))
    assert found["planned"] == 30
    assert found["since_tables"] > 0
    assert sum(found["counts"].values()) == 30
    assert "since the tables were written" in status_text(found)
    whole = status(str(tmp_path))
    assert whole["ledger"]["trials"] == 30
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    for command in (["status", str(tmp_path)], ["gc", str(tmp_path)], ["compact", str(tmp_path)]):
        args = parser.parse_args(command)
        assert args.func(args) == 0
    assert "30 trials; 30 files merged" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"neither a run nor a results folder; .* with ledger/$"):
        status(str(tmp_path / "nowhere"))
    (tmp_path / "killed" / "tensorboard").mkdir(parents=True)
    with pytest.raises(UserError, match="30 trials on record; tables of killed"):
        status(str(tmp_path / "killed"))


def test_status_of_a_bucket_that_is_reached_by_options(
    small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows `?` says how to reach the store, and belongs to every folder in it."""
    run(small_plan(), tmp_path, trials=8)
    options = "endpoint_override=http://127.0.0.1:9000&scheme=http"

    def opened(address: str, **more: Any) -> ObjectStore:
        place, _, given = address.removeprefix("s3://bucket").partition("?")
        assert given == options
        return ObjectStore(LocalFileSystem(), f"{tmp_path}{place}", address)

    for module in ("status", "ledger"):
        monkeypatch.setattr(f"experiments.results.{module}.open_store", opened)
    assert status(f"s3://bucket?{options}")["runs"]["small"]["planned"] == 30
    assert status(f"s3://bucket/small?{options}")["run"] == "small"


def test_status_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, experiments.results.status, experiments.results.cli, experiments.schedule.run;"
        "print([m for m in ('torch', 'ray', 'pandas', 'scipy', 'optuna', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_results_folder_has_a_status_before_its_first_trial_is_on_record(small_plan: Any, tmp_path: Path) -> None:
    declare(small_plan(), Ledger(str(tmp_path)))
    found = status(str(tmp_path))
    assert (found["runs"], found["ledger"]["trials"]) == ({}, 0)
