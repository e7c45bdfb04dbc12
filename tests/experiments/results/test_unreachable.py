"""An object store that does not answer: waited for, given up in the end, never taken for damage."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import fs, table

from experiments.results.ledger import FOLDER, Ledger
from mer.errors import UserError
from mer.storage import ObjectStore, StoreUnreachable
from mer.storage import objects as module
from mer.storage.objects import patiently

AWAY = OSError("AWS Error NETWORK_CONNECTION during HeadBucket operation: curlCode: 7, Could not connect to server")


class Flaky:
    """A file system whose every operation fails the next `failures` times."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.failures = inner, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)

        def act(*args: Any, **named: Any) -> Any:
            if self.failures > 0:
                self.failures -= 1
                raise AWAY
            return found(*args, **named)

        return act


@pytest.fixture
def flaky() -> Flaky:
    inner = fs._MockFileSystem()
    inner.create_dir("bucket")
    return Flaky(inner)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only by waiting."""
    waited: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(waited))
    return waited


def test_every_operation_waits(flaky: Flaky, pauses: list[float]) -> None:
    remote = ObjectStore(flaky, "bucket/results", "s3://bucket/results")  # type: ignore[arg-type]
    flaky.failures = 3
    remote.put("ledger/a", b"content")
    assert pauses == [1, 2, 4]
    for look in (lambda: remote.read("ledger/a"), lambda: remote.open("ledger/a").read()):
        flaky.failures = 2
        assert look() == b"content"
    flaky.failures = 2
    assert [(entry.name, entry.size) for entry in remote.list("ledger")] == [("a", 7)]
    flaky.failures = 2
    assert remote.folders("") == ("ledger",)
    flaky.failures = 2
    remote.remove("ledger/a")
    assert remote.list("ledger") == []
    with pytest.raises(FileNotFoundError):
        remote.read("ledger/a")


def test_it_is_given_up_in_the_end_with_words(pauses: list[float]) -> None:
    def never() -> None:
        raise AWAY

    with pytest.raises(StoreUnreachable, match=r"has not answered for 300 s.*NETWORK_CONNECTION") as caught:
        patiently(never, "s3://bucket/x")
    assert 300 < sum(pauses) <= 315 + 15
    assert isinstance(caught.value.__cause__, OSError)  # a worker tells by it that the results are to blame


def test_what_waiting_cannot_mend_is_said_at_once(pauses: list[float]) -> None:
    def refused() -> None:
        raise OSError("AWS Error ACCESS_DENIED during PutObject operation")

    with pytest.raises(OSError, match="ACCESS_DENIED"):
        patiently(refused, "s3://bucket/x")
    assert pauses == []


def test_a_store_that_is_away_is_not_taken_for_damage(flaky: Flaky) -> None:
    remote = ObjectStore(flaky, "bucket/results", "s3://bucket/results")  # type: ignore[arg-type]
    name = "0123456789abcdef-000-x.00000000.parquet"
    with flaky.open_output_stream(_made(flaky, f"bucket/results/{FOLDER}/{name}")) as stream:
        pq.write_table(table({"x": [1]}), stream)
    ledger = Ledger(remote)
    flaky.open_input_file = lambda path: (_ for _ in ()).throw(AWAY)
    with pytest.raises(StoreUnreachable):
        ledger.refresh()
    assert [entry.name for entry in remote.list(FOLDER)] == [name]
    assert issubclass(StoreUnreachable, UserError)


def _made(flaky: Flaky, path: str) -> str:
    flaky.create_dir(path.rpartition("/")[0], recursive=True)
    return path


def test_files_are_read_in_places(flaky: Flaky) -> None:
    remote = ObjectStore(flaky, "bucket/results", "s3://bucket/results")  # type: ignore[arg-type]
    numbers = table({"x": list(range(10_000)), "y": [0.5] * 10_000})
    with flaky.open_output_stream(_made(flaky, "bucket/results/a.parquet")) as stream:
        pq.write_table(numbers, stream, row_group_size=1000)
    with remote.open("a.parquet") as file, pq.ParquetFile(file) as parquet:
        assert parquet.read_row_group(3, ["x"])["x"].to_pylist() == list(range(3000, 4000))
        assert parquet.read() == numbers
    with remote.open("a.parquet") as file:
        assert file.read() == remote.read("a.parquet")


def test_an_address_with_options_keeps_them_behind_names() -> None:
    remote = ObjectStore(None, "bucket/results", "s3://bucket/results?region=eu-west-1")  # type: ignore[arg-type]
    assert remote.path("space/trials.parquet") == "s3://bucket/results/space/trials.parquet?region=eu-west-1"
