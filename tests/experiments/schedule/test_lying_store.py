"""A store that lies: whatever it does that it may, no row of the final tables is lost or doubled."""

from __future__ import annotations

import io
import random
from typing import Any

import pyarrow.parquet as pq
import pytest

from experiments.results import ledger as ledger_module
from experiments.results.ledger import Ledger
from experiments.schedule import worker
from experiments.schedule.fake import MakeFake
from experiments.schedule.publish import publish
from experiments.schedule.session import Session
from experiments.schedule.work import Order
from experiments.schedule.worker import Worker
from experiments.space.plan import Plan
from mer.errors import UserError
from mer.storage import ObjectStore, check_writable
from tests.experiments.small_run import VOLATILE, make_plan
from tests.mer.lying import LyingBucket

PLAN = make_plan(cells=2, studies=1, draws=2, epochs=3)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(ledger_module, "LOOSE", 2)


def store_on(bucket: LyingBucket) -> ObjectStore:
    return ObjectStore(bucket, "bucket/results", "s3://bucket/results")  # type: ignore[arg-type]


class Driver:
    """One `mer run` with two workers, a step at a time."""

    def __init__(self, plan: Plan, bucket: LyingBucket, number: int) -> None:
        self.plan, self.bucket = plan, bucket
        self.ledger = Ledger(store_on(bucket))
        self.session = Session(plan, self.ledger)
        self.workers = {name: self._worker() for name in (f"{number}a", f"{number}b")}
        self.todo: dict[str, list[Order]] = {}

    def _worker(self) -> Worker:
        made = Worker("/nowhere", MakeFake())
        made.ledger = Ledger(store_on(self.bucket))
        made.store = made.ledger.store
        return made

    def step(self, draw: random.Random) -> bool:
        """Do something; False: there is nothing left to do."""
        for name in self.workers:
            if name not in self.todo and (orders := self.session.orders(name)):
                self.todo[name] = orders
        if not self.todo:
            return False
        name = draw.choice(sorted(self.todo))
        more = self.session.report(name, self.workers[name].run(self.todo.pop(name)))
        if more:
            self.todo[name] = more
        if draw.random() < 0.2:
            self.ledger.compact_if_needed()
        if draw.random() < 0.1:
            self.publish()
        return True

    def publish(self) -> None:
        self.session.compact_decisions()
        publish(self.plan, self.ledger, store_on_run(self.bucket), self.session)


def store_on_run(bucket: LyingBucket) -> Any:
    return ObjectStore(bucket, "bucket/results/small", "s3://bucket/results/small")  # type: ignore[arg-type]


def final(bucket: LyingBucket) -> dict[str, list[dict[str, Any]]]:
    """The tables that lie there in the end."""
    found = {}
    for name in sorted(bucket.objects):
        if name.startswith("bucket/results/small/") and name.endswith(".parquet"):
            rows = pq.read_table(io.BytesIO(bucket.objects[name])).to_pylist()
            found[name] = [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows]
    return found


def run(bucket: LyingBucket, drivers: int, draw: random.Random, patch: pytest.MonkeyPatch) -> list[Driver]:
    patch.setattr("time.sleep", bucket.sleep)
    patch.setattr("time.monotonic", bucket.monotonic)
    team: list[Driver] = []
    going: list[Driver] = []
    while going or len(team) < drivers:
        if len(team) < drivers and (not going or draw.random() < 0.1):
            team.append(Driver(PLAN, bucket, len(team)))
            going.append(team[-1])
        driver = draw.choice(going)
        if not driver.step(draw):
            driver.publish()
            going.remove(driver)
    return team


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")
        bucket = LyingBucket(0, lies=0.0)
        run(bucket, 1, random.Random(0), patch)
        return final(bucket)


def lie(seed: int, truth: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        draw = random.Random(seed)
        bucket = LyingBucket(seed, lies=draw.choice([0.05, 0.2, 0.4]), lag=draw.choice([2.0, 8.0, 20.0]))
        run(bucket, draw.randint(1, 3), draw, patch)
        assert final(bucket) == truth, seed
        bucket.sleep(100)
        bucket.lies = 0.0
        snapshot = Ledger(store_on(bucket)).refresh()
        assert set(snapshot) == {row["trial"] for row in truth["bucket/results/small/trials.parquet"]}, seed


@pytest.mark.parametrize("seed", [*range(30), 390])
def test_no_row_is_lost_or_doubled(seed: int, truth: dict[str, Any]) -> None:
    lie(seed, truth)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 1100, 50))
def test_a_thousand_runs(first: int, truth: dict[str, Any]) -> None:
    for seed in range(first, first + 50):
        lie(seed, truth)


# ---- promises that are asked for -------------------------------------------------------------------------------


def checked(bucket: LyingBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", bucket.sleep)
    monkeypatch.setattr("time.monotonic", bucket.monotonic)
    check_writable(store_on(bucket))


def test_a_store_may_lie_about_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(50):
        bucket = LyingBucket(seed, lies=0.4, lag=20.0)
        checked(bucket, monkeypatch)


def test_a_listing_that_is_a_minute_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = LyingBucket(0, lies=0.0)
    monkeypatch.setattr(
        bucket, "_listed", lambda: next(f for w, f in reversed(bucket.history) if w <= bucket.now - 60 or not w)
    )
    with pytest.raises(UserError, match="promise of list after write") as caught:
        checked(bucket, monkeypatch)
    assert "not in the listing" in str(caught.value)


@pytest.mark.parametrize("old", [None, b"mer"])
def test_a_store_that_shows_what_was_before_a_write_is_named(
    old: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, read = LyingBucket(0, lies=0.0), LyingBucket._read

    def late(path: str) -> bytes:
        if old is None:
            raise FileNotFoundError(path)
        read(bucket, path)
        return old

    monkeypatch.setattr(bucket, "_read", late)
    with pytest.raises(UserError, match="promise of read after write"):
        checked(bucket, monkeypatch)
