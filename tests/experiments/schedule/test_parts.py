"""The small parts of the schedule: packing, progress, exit codes, the real trainer behind the worker's interface."""

from __future__ import annotations

import io
import itertools
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.results.ledger import Ledger
from experiments.schedule import progress
from experiments.schedule.fake import MakeFake
from experiments.schedule.inline import run_inline
from experiments.schedule.occupancy import Occupancy
from experiments.schedule.packing import ENOUGH, Packing, share_for
from experiments.schedule.pinning import claim, settle
from experiments.schedule.run import execute
from experiments.schedule.session import Session
from experiments.schedule.work import Do, Ended, Order, Outcome
from experiments.space.plan import Limits
from mer.errors import UserError


def outcome(peak: float) -> Outcome:
    return Outcome(Order(Do.TRAIN, "item", ()), Ended.COMMITTED, peak_memory_mb=peak)


def test_shares_follow_measured_memory() -> None:
    packing = Packing(cpus=2, gpus=None)
    cluster = {"CPU": 16.0, "GPU": 2.0}
    assert packing.room(cluster) == 2
    packing.measured([outcome(3000.0)] * (ENOUGH - 1), 24_000.0)
    assert packing.share == 1.0
    packing.measured([outcome(4000.0)], 24_000.0)
    assert packing.share == share_for(4000.0, 24_000.0) == 1 / 4
    assert packing.room(cluster) == 8
    assert packing.larger == 0.5
    packing.measured([outcome(20_000.0)] * 9, 24_000.0)
    assert packing.share == 1 / 4  # one change of shape, no more
    assert packing.bundle(0.25) == {"CPU": 2.0, "GPU": 0.25}


def test_shares_follow_how_busy_a_gpu_is() -> None:
    for busy, workers in ((None, 8), (0.02, 8), (0.3, 3), (0.45, 2), (0.8, 2), (0.95, 1)):
        packing = Packing(cpus=1, gpus=None)
        for _ in range(ENOUGH):
            packing.measured([outcome(500.0)], 80_000.0, busy)
        assert packing.share == pytest.approx(1 / workers)


def test_occupancy_is_the_mean_of_what_the_driver_says() -> None:
    said = itertools.chain([0.5, 0.2, 0.4, 0.6], itertools.repeat(0.4))
    meter = Occupancy(lambda: next(said), every_s=0.001)
    meter.start()
    while len(meter._samples) < 4:
        time.sleep(0.001)
    assert meter.stop() == pytest.approx(0.4, abs=0.05)
    assert meter.stop() is None
    unknown = Occupancy(lambda: None)
    unknown.start()
    assert unknown.stop() is None


def test_workers_claim_processors_of_their_own(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom experiments.schedule.pinning import claim\n"
        "print(claim([3, 5], Path(sys.argv[1])), flush=True)\ninput()"
    )
    processes = []
    claimed = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        claimed.append(process.stdout.readline().strip())
    assert claimed == ["3", "5", "None"]
    processes[0].kill()
    processes[0].wait()
    assert claim([3, 5], tmp_path) == 3  # the kernel ends a claim with its process
    for process in processes[1:]:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("pinned_cost", "pinned"), [(0.5, True), (1.0, False), (2.0, False)])
def test_a_worker_is_pinned_only_where_that_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned_cost: float, pinned: bool
) -> None:
    now, where = [0.0], [{0, 1}]
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr("os.sched_setaffinity", lambda process, found: where.__setitem__(0, set(found)))
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def burn() -> None:
        now[0] += 0.001 * (pinned_cost if len(where[0]) == 1 else 1.0)

    assert settle(burn, tmp_path) == (0 if pinned else None)
    assert where[0] == ({0} if pinned else {0, 1})


def test_a_given_share_is_kept_and_processors_alone_need_none() -> None:
    packing = Packing(cpus=1, gpus=0.0, memory=10**9)
    packing.measured([outcome(1.0)] * 9, 1000.0)
    assert packing.share == packing.larger == 0.0
    assert packing.bundle(0.0) == {"CPU": 1.0, "memory": 1e9}
    assert packing.room({"CPU": 3.0, "memory": 2.5e9}) == 2
    assert Packing(cpus=1, gpus=2.0).larger == 2.0


@pytest.mark.parametrize("peak", [1.0, 500.0, 3000.0, 10_000.0, 50_000.0])
def test_what_is_packed_together_fits(peak: float) -> None:
    share = share_for(peak, 80_000.0)
    assert round(1 / share) * peak <= 80_000.0
    assert 0 < share <= 1


def test_the_interval_is_students() -> None:
    from scipy import stats

    values = [0.5, 0.61, 0.55, 0.58]
    mean, half = progress.interval(values)
    low, _ = stats.ttest_1samp(values, 0).confidence_interval()
    assert mean == pytest.approx(0.56)
    assert half == pytest.approx(mean - low, rel=1e-3)
    for freedom, quantile in enumerate(progress.T_975, start=1):
        assert quantile == pytest.approx(stats.t.ppf(0.975, freedom), abs=6e-4)
    assert progress.interval([0.5]) == (0.5, None)


def test_lines_and_pages_add_up_to_the_plan(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan()
    session = Session(plan, Ledger(str(tmp_path)))
    assert progress.line(session, 1) == "0/30 trials, 30 left, 1 worker"
    run_inline(session, MakeFake(), str(tmp_path))
    counts = progress.counts(session)
    assert sum(counts.values()) == 30
    assert progress.line(session, 0).endswith("0 left, 0 workers")
    rows = progress.best_cells(session)
    assert [row[2] for row in rows] == [2, 2, 2]
    assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)
    assert all(row[4] is not None and math.isfinite(row[4]) for row in rows)
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=80).print(progress.page(session, {"w": progress.At("[slot]", 3, 0.5, 0.1)}))
    [heading] = [line for line in stream.getvalue().splitlines() if "best cells so far" in line]
    assert heading.split()[0] == "corpus"  # not at the end of the bar
    assert "test ua (95 % t-interval)" in heading
    assert "[slot]" in stream.getvalue()  # names are text, not markup
    assert "fusion=f0" in stream.getvalue()


def test_lines_come_every_so_often(small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    shown = progress.Progress(Session(small_plan(), Ledger(str(tmp_path))), stream=stream)
    shown.update()
    assert not stream.getvalue()
    shown.update(now=True)
    shown.update()
    assert stream.getvalue().count("\n") == 1
    shown.close()


def quiet(plan: Any, root: Path, **options: Any) -> Any:
    settings = {"executor": "inline", "progress": False, "make_work": MakeFake(), "say": lambda text: None, **options}
    return execute(plan, Ledger(str(root)), **settings)


def test_exit_codes(small_plan: Any, tmp_path: Path) -> None:
    plan = small_plan()
    confirm = [slot for slot in plan.slots() if slot.draw < 0]
    failed = quiet(plan, tmp_path / "a", make_work=MakeFake(faults={str(confirm[0]): "error"}))
    assert (failed.exit_code, failed.counts["failed"]) == (3, 1)
    assert quiet(plan, tmp_path / "a", retry=True).exit_code == 0
    again = quiet(plan, tmp_path / "a")
    assert (again.exit_code, again.done, again.reason) == (0, {}, None)
    assert quiet(plan, tmp_path / "b", budget=0.0).exit_code == 3
    assert quiet(plan, tmp_path / "b", budget=0.0).counts == {"missing": 30}
    limited = quiet(small_plan(limits=Limits(trials=3)), tmp_path / "c")
    assert (limited.exit_code, limited.reason) == (3, "trials")
    with pytest.raises(UserError, match="ray, inline"):
        quiet(plan, tmp_path / "d", executor="slurm")


def test_a_disk_that_fills_stops_the_run_and_loses_nothing(
    small_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan()
    room = [20]

    def sync(handle: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", sync)
    with pytest.raises(UserError, match="no space left"):
        quiet(plan, tmp_path)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    kept = len(Ledger(str(tmp_path)).refresh())
    assert kept > 0
    result = quiet(plan, tmp_path)
    assert result.exit_code == 0
    assert len(result.verdicts) == 30
    assert sum(result.done.values()) == 30 - kept


@pytest.mark.slow
def test_the_real_trainer_killed_and_resumed_gives_the_same_tables(tmp_path: Path) -> None:
    """quickstart's smallest part on the demo corpus: interrupted after two epochs of a trial, restored bit for bit."""
    import pyarrow.parquet as pq

    from experiments.schedule.training_work import make_training_work
    from experiments.space.load import make_plan

    plan = make_plan("quickstart", sets=["studies=1", "training.epochs=3", "tune.draws=1"], only=["modalities=text"])
    options = {"make_work": make_training_work}
    whole = quiet(plan, tmp_path / "whole", **options)
    assert whole.exit_code == 0
    now = [0.0]
    ledger = Ledger(str(tmp_path / "parts"))
    session = Session(plan, ledger, seconds=2.5, clock=lambda: now[0])

    def pass_time(worker: str, spec: object, epochs: int, value: float) -> None:
        now[0] += 1.0

    run_inline(session, make_training_work, str(tmp_path / "parts"), watch=pass_time)
    assert session.ending == "budget"
    assert quiet(plan, tmp_path / "parts", **options).exit_code == 0
    same = ("trials", "epochs", "scores")
    clock = {"wall_s", "device_s", "energy_j", "peak_memory_mb", "started", "ended", "attempt"}
    for name in same:
        one, two = (
            pq.read_table(tmp_path / half / plan.folder / f"{name}.parquet").to_pylist() for half in ("whole", "parts")
        )
        assert [{k: v for k, v in r.items() if k not in clock} for r in one] == [
            {k: v for k, v in r.items() if k not in clock} for r in two
        ]
    assert list((tmp_path / "whole" / plan.folder / "tensorboard").iterdir())
    (row,) = [r for r in whole.verdicts if r.trial is not None][:1]
    from mer.checkpoint import load_checkpoint

    assert load_checkpoint(tmp_path / "whole" / "checkpoints" / str(row.trial)).details["trial"] == row.trial


@pytest.mark.slow
def test_a_run_trains_the_modalities_in_the_order_of_its_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker had the recipe from JSON with sorted keys: `pooling: cls` read the audio's first frame."""
    from experiments.schedule.training_work import make_training_work
    from experiments.space.load import make_plan
    from mer.checkpoint import load_checkpoint
    from mer.files import sums_digest

    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    folders = {}
    for order in ("text: words, audio: logmel", "audio: logmel, text: words"):
        (tmp_path / "order.yaml").write_text(
            f"corpora: demo\nstudies: 1\nbase:\n  encoders: {{{order}}}\n  fusion: concat\n  pooling: cls\n"
            "  projection.dim: 4\n  training.epochs: 1\n"
        )
        result = quiet(make_plan(tmp_path / "order.yaml"), tmp_path / "results", make_work=make_training_work)
        assert result.exit_code == 0
        (trial,) = [row.trial for row in result.verdicts if row.trial]
        folders[trial] = tmp_path / "results" / "checkpoints" / trial
    recorded = Ledger(str(tmp_path / "results")).refresh()
    assert len(folders) == 2  # another order is another trial
    for (trial, folder), first in zip(folders.items(), ("text", "audio"), strict=True):
        assert load_checkpoint(folder, digests=recorded.models(trial)).model.fusion.modalities[0] == first
        assert recorded.models(trial) == {sums_digest(folder)}


def test_where_less_is_better_the_lowest_wins_from_pruning_to_tables(
    small_plan: Any, tmp_path: Path, lower_is_better: Any
) -> None:
    import pyarrow.parquet as pq

    plan = small_plan()
    assert quiet(plan, tmp_path).exit_code == 0
    folder = tmp_path / plan.space
    trials = pq.read_table(folder / "trials.parquet").to_pylist()
    tune = [row for row in trials if row["stage"] == "tune"]
    for group in {(row["cell"], row["study"]) for row in tune}:
        own = [row for row in tune if (row["cell"], row["study"]) == group and row["status"] == "complete"]
        (winner,) = [row for row in own if row["selected"]]
        assert winner["valid_ua"] == min(row["valid_ua"] for row in own)
    pruned = [row for row in tune if row["status"] == "pruned"]
    assert pruned
    assert all(row["rung_value"] > row["cutoff"] for row in pruned)
    epochs = pq.read_table(folder / "epochs.parquet").to_pylist()
    for row in trials:
        curve = [e["value"] for e in epochs if (e["trial"], e["split"], e["metric"]) == (row["trial"], "valid", "ua")]
        assert row["valid_ua"] == min(curve)
        assert curve[row["best_epoch"] - 1] == row["valid_ua"]
