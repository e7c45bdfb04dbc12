"""Results of the first schema version are read, reported, merged and extended; newer ones are left alone."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.results.ledger import Ledger
from experiments.results.records import encode
from experiments.results.schema import TRIAL_PART, VERSION, NewerSchema
from experiments.results.status import status

FIRST = Path(__file__).parents[2] / "data" / "schema_1"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of what the first version wrote."""
    return Path(shutil.copytree(FIRST, tmp_path / "results"))


def part(results: Path) -> Path:
    return next((results / "ledger").glob("compact-*.parquet"))


def as_written(results: Path) -> pa.Table:
    """The rows as they lie in the file, read by nothing of ours."""
    return pq.read_table(part(results)).sort_by("trial")


def rows(results: Path) -> pa.Table:
    ledger = Ledger(str(results))
    trials = as_written_trials()
    return pa.concat_tables(ledger.predictions(trials)).sort_by("trial")


def as_written_trials() -> list[str]:
    return list(pq.read_table(part(FIRST), columns=["trial"])["trial"].to_pylist())


def test_the_data_are_of_the_first_version() -> None:
    assert pq.read_schema(part(FIRST)).metadata[b"mer.schema"] == b"1"
    assert "bundle" not in pq.read_schema(FIRST / "first" / "trials.parquet").names
    assert VERSION > 1


def test_every_value_is_read_and_what_is_new_is_null(results: Path) -> None:
    before, found = as_written(results), rows(results)
    assert found.schema.equals(TRIAL_PART)
    assert len(found) == 12
    for name in before.column_names:
        assert found[name].to_pylist() == before[name].to_pylist(), name
    for name in set(TRIAL_PART.names) - set(before.column_names):
        assert found[name].null_count == 12, name
    assert Ledger(str(results)).refresh().rows.keys() == set(as_written_trials())


def test_nothing_is_taken_for_damaged(results: Path) -> None:
    ledger = Ledger(str(results))
    ledger.refresh()
    assert ledger.notices == []
    assert not (results / "ledger" / "_corrupt").exists()
    assert status(str(results / "first"))["counts"] == {"complete": 12}


def test_merged_with_todays_parts_it_keeps_its_values(results: Path) -> None:
    before = as_written(results)
    ledger = Ledger(str(results))
    row = {**rows(results).slice(0, 1).to_pylist()[0], "trial": "0123456789abcdef"}
    new = encode(pa.Table.from_pylist([row], schema=TRIAL_PART))
    from experiments.results.records import checksum

    (results / "ledger" / f"0123456789abcdef-000-00000000.{checksum(new)}.parquet").write_bytes(new)
    assert ledger.compact(everything=True) == 2
    merged = pq.read_table(part(results)).sort_by("trial")
    assert merged.schema.metadata[b"mer.schema"] == str(VERSION).encode()
    old = merged.filter(pa.compute.is_in(merged["trial"], pa.array(before["trial"].to_pylist())))
    for name in before.column_names:
        assert old[name].to_pylist() == before[name].to_pylist(), name
    assert len(merged) == 13


def test_a_run_of_the_first_version_can_be_reported(results: Path) -> None:
    from experiments.reporting import build_report, load_run

    run = load_run(results / "first")
    found = run.compare({"pooling": "max"}, {"pooling": "mean"})
    confirmed = pq.read_table(FIRST / "first" / "trials.parquet").to_pandas().query("stage == 'confirm'")
    wide = confirmed.pivot(index="study", columns="pooling", values="test_ua")
    assert found.mean == pytest.approx((wide["max"] - wide["mean"]).mean())
    assert build_report(results / "first").is_file()


def newer(data: bytes) -> bytes:
    """The same part as a version to come would write it: one more column."""
    table = pq.read_table(io.BytesIO(data))
    table = table.append_column("mood", pa.array(["?"] * len(table)))
    return encode(table.replace_schema_metadata({"mer.schema": str(VERSION + 1)}))


def test_a_newer_part_is_refused_and_left_where_it_is(results: Path) -> None:
    from experiments.results.records import checksum

    data = newer(part(results).read_bytes())
    path = results / "ledger" / f"fedcba9876543210-000-00000000.{checksum(data)}.parquet"
    path.write_bytes(data)
    ledger = Ledger(str(results))
    with pytest.raises(
        NewerSchema, match=f"newer version of mer .schema {VERSION + 1}, this one reads up to {VERSION}"
    ):
        ledger.refresh()
    with pytest.raises(NewerSchema):
        ledger.compact(everything=True)
    assert path.read_bytes() == data
    assert part(results).exists()
