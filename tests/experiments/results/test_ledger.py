"""The ledger: nothing half there, nothing twice, nothing lost; damage is found and set aside."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.results.identity import TrialKey
from experiments.results.ledger import FOLDER, Ledger
from experiments.results.records import Cost, EpochRow, PredictionRow, ScoreRow, TrialRecord, record_table
from experiments.results.schema import TRIAL_PART
from experiments.slots import Status
from mer.errors import UserError
from mer.storage import LocalStore, ObjectStore, check_writable, free_bytes, open_store

START = datetime(2026, 1, 1, tzinfo=UTC)


def record(number: int = 0, status: Status = Status.COMPLETE, attempt: int = 0, epochs: int = 3) -> TrialRecord:
    curve = [EpochRow(e, "valid", "ua", 0.1 * e + number / 1000) for e in range(1, epochs + 1)]
    done = status is Status.COMPLETE
    return TrialRecord(
        key=TrialKey(f"recipe{number}", "code", "data", "demo", 0, 0, "confirm", 0),
        recipe="{}",
        status=status,
        attempt=attempt,
        reason=None if done else f"because {attempt}",
        space="s",
        cell="c",
        valid={"ua": 0.3},
        curve=[EpochRow(1, "train", "loss", 2.0), *curve],
        scores=[ScoreRow("complete", "ua", 0.5, 2)] if done else [],
        predictions=[PredictionRow("complete", "u1", "a", "b", (0.25, 0.75), "s", None)] if done else [],
        labels=("a", "b"),
        cost=Cost(1.0, 0.5, epochs),
        ended=START + timedelta(seconds=attempt, microseconds=number),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path))


def test_what_is_appended_is_read_back(ledger: Ledger) -> None:
    ledger.append(record())
    snapshot = Ledger(ledger.store.root).refresh()
    (known,) = snapshot.known("ua").values()
    assert (known.trial, known.status, known.attempts, known.epochs) == (record().trial, Status.COMPLETE, 1, 3)
    assert known.curve == (0.1, 0.2, 0.1 * 3)
    assert known.conditions == {"complete"}
    assert snapshot.known("wa")[record().trial].curve == ()
    (row,) = next(ledger.predictions([record().trial])).to_pylist()
    assert row["predictions"][0]["probabilities"] == [0.25, 0.75]
    assert row["valid"] == [{"metric": "ua", "value": 0.3}]


def test_the_folder_of_parts_reads_as_one_table_with_pandas(ledger: Ledger) -> None:
    import pandas as pd

    for number, status in enumerate(Status.__members__.values()):
        if status not in (Status.SKIPPED, Status.MISSING):
            ledger.append(record(number, status))
    (Path(ledger.store.root) / FOLDER / "_left-over.parquet").write_bytes(b"")
    (Path(ledger.store.root) / FOLDER / "_decisions").mkdir()
    assert len(pd.read_parquet(Path(ledger.store.root) / FOLDER)) == 5


def test_nan_is_never_written(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="diverged"):
        ledger.append(replace(record(), scores=[ScoreRow("complete", "ua", float("nan"), 1)]))
    with pytest.raises(ValueError, match="NaN"):
        ledger.append(replace(record(), curve=[EpochRow(1, "valid", "ua", float("inf"))]))
    assert len(ledger.refresh()) == 0


@pytest.mark.parametrize(
    ("statuses", "counts"),
    [
        (["failed", "complete"], 1),
        (["complete", "complete"], 0),
        (["pruned", "complete"], 1),
        (["failed", "oom"], 1),
        (["diverged", "failed"], 0),
        (["complete", "diverged"], 0),
    ],
)
def test_one_attempt_counts(ledger: Ledger, statuses: list[str], counts: int) -> None:
    for attempt, status in enumerate(statuses):
        ledger.append(record(0, Status(status), attempt))
    (row,) = ledger.refresh().effective.to_pylist()
    assert row["attempt"] == counts
    assert ledger.refresh().attempts[record().trial] == 2


def test_the_longest_of_two_pruned_attempts_counts(ledger: Ledger) -> None:
    ledger.append(record(0, Status.PRUNED, 0, epochs=3))
    ledger.append(record(0, Status.PRUNED, 1, epochs=9))
    (row,) = ledger.refresh().effective.to_pylist()
    assert row["epochs"] == 9


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    attempts=st.lists(
        st.tuples(
            st.integers(0, 3), st.sampled_from(["complete", "pruned", "failed", "oom", "diverged"]), st.integers(0, 2)
        ),
        min_size=1,
        max_size=8,
    ),
    shuffle=st.randoms(use_true_random=False),
    compactions=st.sets(st.integers(0, 8)),
)
def test_order_repetition_and_compaction_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    attempts: list[tuple[int, str, int]],
    shuffle: random.Random,
    compactions: set[int],
) -> None:
    records = [record(number, Status(status), attempt) for number, status, attempt in attempts]
    plain = Ledger(str(tmp_path_factory.mktemp("plain")))
    for item in records:
        plain.append(item)
    mixed = Ledger(str(tmp_path_factory.mktemp("mixed")))
    twice = [*records, *records]
    shuffle.shuffle(twice)
    for position, item in enumerate(twice):
        mixed.append(item)
        if position in compactions:
            mixed.compact(everything=position % 2 == 0)
    expected, found = plain.refresh().effective, mixed.refresh().effective
    same = [name for name in expected.column_names if name != "reason"]
    assert found.select(same).to_pylist() == expected.select(same).to_pylist()
    assert Ledger(mixed.store.root).refresh().effective.equals(found)


def test_compaction_keeps_everything_and_leaves_one_file(ledger: Ledger) -> None:
    for number in range(50):
        ledger.append(record(number))
    before = ledger.refresh().effective
    assert ledger.compact() == 50
    assert ledger.loose() == 0
    assert len(ledger.store.list(FOLDER)) == 1
    fresh = Ledger(ledger.store.root)
    assert fresh.refresh().effective.equals(before)
    tables = list(fresh.predictions([record(7).trial, record(49).trial]))
    assert sorted(t for table in tables for t in table["trial"].to_pylist()) == sorted(
        [record(7).trial, record(49).trial]
    )
    assert ledger.compact() == 0


def test_compaction_does_not_disturb_readers_and_writers(ledger: Ledger) -> None:
    """Readers see every committed attempt at every moment, with compactions under their eyes."""
    root = ledger.store.root
    written: list[str] = []
    failures: list[str] = []
    stop = threading.Event()

    def read() -> None:
        reader = Ledger(root)
        while not stop.is_set():
            expected = set(written)
            missing = expected - set(reader.refresh().rows)
            if missing:
                failures.append(f"missed {len(missing)}")

    def merge() -> None:
        while not stop.is_set():
            Ledger(root).compact(everything=True)

    threads = [threading.Thread(target=target) for target in (read, merge, merge)]
    for thread in threads:
        thread.start()
    for number in range(60):
        ledger.append(record(number))
        written.append(record(number).trial)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(Ledger(root).refresh()) == 60


def test_predictions_are_found_though_parts_are_merged_while_they_are_read(ledger: Ledger) -> None:
    trials = {record(number).trial for number in range(6)}
    for number in range(6):
        ledger.append(record(number))
    reader = Ledger(ledger.store.root)
    reader.refresh()
    pieces = reader.predictions(trials)
    first = next(pieces)  # the reader has its listing, and one part of it
    assert ledger.compact() == 6
    found = [row["trial"] for table in [first, *pieces] for row in table.to_pylist()]
    assert set(found) == trials
    assert set(Ledger(ledger.store.root).refresh()) == trials


def test_forgetting_reaches_parts_that_are_merged_meanwhile(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        ledger.append(record(number))
    other = Ledger(ledger.store.root)
    real, visited = ledger._groups, []

    def merged_under_its_eyes(name: str, wanted: pa.Array | None = None) -> Iterator[pa.Table]:
        if len(visited) == 1:
            assert other.compact() == 6
        visited.append(name)
        return real(name, wanted)

    monkeypatch.setattr(ledger, "_groups", merged_under_its_eyes)
    ledger.rewrite_without({record(number).trial for number in range(5)})
    assert set(Ledger(ledger.store.root).refresh()) == {record(5).trial}


@pytest.mark.parametrize("compacted", [False, True])
def test_any_flipped_byte_is_found_and_the_part_set_aside(ledger: Ledger, compacted: bool) -> None:
    ledger.append(record(0))
    if compacted:
        ledger.append(record(1))
        ledger.compact()
    folder = Path(ledger.store.root) / FOLDER
    (part,) = folder.glob("*.parquet")
    whole = part.read_bytes()
    draw = random.Random(0)
    positions = [*draw.sample(range(len(whole)), 60), len(whole) - 1, len(whole) - 6, 2]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << draw.randrange(8)
        part.write_bytes(bytes(damaged))
        fresh = Ledger(ledger.store.root)
        rows = fresh.refresh()
        predicted = [r for t in fresh.predictions([record(0).trial, record(1).trial]) for r in t.to_pylist()]
        good = {row["trial"]: row for row in predicted}
        for trial, row in good.items():  # whatever is still shown is right
            number = 0 if trial == record(0).trial else 1
            (expected,) = record_table([record(number)]).to_pylist()
            assert row["predictions"] == expected["predictions"]
            assert row["curve"] == expected["curve"]
        assert set(rows) == set(good)
        if not compacted:
            assert "run again" in fresh.notices[0]
        for leftover in folder.glob("*.parquet"):
            leftover.unlink()
    part.write_bytes(whole)
    assert len(Ledger(ledger.store.root).refresh()) == 1 + compacted


@pytest.mark.parametrize("length", [0, 3, 100])
def test_a_part_cut_short_is_set_aside(ledger: Ledger, length: int) -> None:
    ledger.append(record(0))
    ledger.append(record(1))
    ledger.compact()
    ledger.append(record(2))
    ledger.refresh()
    for part in (Path(ledger.store.root) / FOLDER).glob("*.parquet"):
        part.write_bytes(part.read_bytes()[:length])
    assert len(ledger.refresh()) == 3  # parts never change: what was read stays read
    fresh = Ledger(ledger.store.root)
    assert len(fresh.refresh()) == 0
    assert len(list((Path(ledger.store.root) / FOLDER / "_corrupt").iterdir())) == 2
    assert len(fresh.notices) == 2


def test_row_groups_of_a_damaged_compacted_part_are_saved(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.results.ledger.GROUP", 4)
    for number in range(12):
        ledger.append(record(number))
    ledger.compact()
    (part,) = (Path(ledger.store.root) / FOLDER).glob("*.parquet")
    data = bytearray(part.read_bytes())
    start = pq.read_metadata(part).row_group(1).column(0).data_page_offset
    data[start + 30] ^= 255
    part.write_bytes(bytes(data))
    fresh = Ledger(ledger.store.root)
    assert len(fresh.refresh()) == 8
    assert "8 attempts saved" in fresh.notices[0]


def test_an_older_schema_is_read_with_nulls(ledger: Ledger) -> None:
    from experiments.results.records import checksum, encode, record_table

    old = record_table([record()]).drop_columns(["energy_j", "parameters"])
    data = encode(old)
    ledger.store.put(f"{FOLDER}/{record().trial}-000-abcdefgh.{checksum(data)}.parquet", data)
    (row,) = ledger.refresh().effective.to_pylist()
    assert row["energy_j"] is None
    assert ledger.refresh().table.schema.names == [n for n in TRIAL_PART.names if n != "predictions"]
    ledger.append(record(1))
    ledger.compact()
    assert len(Ledger(ledger.store.root).refresh()) == 2


# ---- stores --------------------------------------------------------------------------------------------------


def test_an_object_store_keeps_a_ledger() -> None:
    """pyarrow's in-memory file system stands for a bucket: no rename, no folders that anyone syncs."""
    filesystem = pyarrow.fs._MockFileSystem()
    ledger = Ledger(ObjectStore(filesystem, "bucket/results", "s3://bucket/results"))
    check_writable(ledger.store)
    for number in range(4):
        ledger.append(record(number))
    assert len(ledger.refresh()) == 4
    assert ledger.compact() == 4
    again = Ledger(ObjectStore(filesystem, "bucket/results", "s3://bucket/results"))
    assert len(again.refresh()) == 4
    assert len(list(again.predictions([record(2).trial]))) == 1
    assert again.store.folders("") == (FOLDER,)
    assert again.store.path("x") == "s3://bucket/results/x"
    assert free_bytes(again.store) is None
    with pytest.raises(FileNotFoundError):
        again.store.read("nothing")
    again.store.remove("nothing")


def test_an_address_is_opened_by_pyarrow(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path)), LocalStore)
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    with pytest.raises(UserError, match="cannot open nonsense://x"):
        open_store("nonsense://x")


def test_a_full_disk_is_named_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.append(record(0))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"no space left: 0\.\d+ MB are needed"):
        ledger.append(record(1))
    monkeypatch.setattr("os.fsync", lambda handle: None)
    assert len(Ledger(str(tmp_path)).refresh()) == 1
    assert not list((tmp_path / FOLDER).glob("_*"))


@pytest.mark.parametrize(
    "place", ["file", "file/results", "loop", "loop/results", "n" * 300, "/proc/results", "/dev/null"]
)
def test_a_place_that_cannot_be_written_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="cannot write there"):
        check_writable(open_store(str(tmp_path / place)))


def test_listing_what_is_not_there_is_empty(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert store.list("nowhere") == []
    assert store.folders("nowhere") == ()
    store.put("a/b/c", b"1")
    store.remove_tree("a")
    assert store.folders("") == ()


def test_two_drivers_that_disagree_about_an_attempt_are_both_kept(ledger: Ledger) -> None:
    """Same trial, attempt and time, other outcome: compaction must not decide which one counts by chance."""
    for status in (Status.FAILED, Status.COMPLETE):
        ledger.append(record(3, status, 0))
    assert ledger.refresh().effective.to_pylist()[0]["status"] == "complete"
    ledger.compact(everything=True)
    assert Ledger(ledger.store.root).refresh().effective.to_pylist()[0]["status"] == "complete"
