"""What grows with the number of trials and of workers: the driver's time and memory, the ledger, the tables.

    python -m benchmarks.bench_scale                      # small: two numbers of trials, two of workers
    python -m benchmarks.bench_scale --full               # up to 10 000 trials, 64 workers: half an hour; scale.png

A trial follows a known curve (`experiments.schedule.fake`) and sleeps, so that everything but training is real: Ray
with as many logical CPUs as there are workers, a process for each, the protocol with its pruning, orders, outcomes,
records in a ledger on disk, tables every half a minute. Every row is a run in a process of its own.

    trials   for a number of workers whose trials take so long that the machine keeps up, more and more trials
    workers  for a number of trials at about the same rate (trials take longer), more and more workers
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.made_up_plan import CELLS, DRAWS, made_up_plan
from experiments.space.plan import Plan, Tuning

HERE = Path(__file__).parent
EPOCHS = 8
RATE = 18.0
"""Trials a second that a run is given time for: two cores can record more, the driver alone far more."""

SMALL = {"trials": (500, 1000), "workers": (2, 4), "fixed_workers": 4, "fixed_trials": 500}
FULL = {"trials": (1000, 2500, 5000, 10000), "workers": (2, 8, 32, 64), "fixed_workers": 16, "fixed_trials": 1000}


@dataclass
class Sample:
    """What was seen at one moment of a run. CPU in seconds, memory in MB."""

    trials: int
    driver_cpu: float
    driver_mb: float
    gcs_cpu: float
    gcs_mb: float


@dataclass
class Run:
    """One run. `samples` begin when the first trial has ended."""

    trials: int
    workers: int
    wall_s: float = 0.0
    resume_s: float = 0.0
    tables_s: float = 0.0
    read_s: float = 0.0
    files: int = 0
    samples: list[Sample] = field(default_factory=list)

    def per_trial(self, kind: str, share: slice = slice(None)) -> float:
        """Growth of something per trial, over the whole run or a part of it."""
        part = self.samples[share]
        done = part[-1].trials - part[0].trials
        return float(getattr(part[-1], kind) - getattr(part[0], kind)) / max(done, 1)

    def quarters(self, kind: str) -> tuple[float, float]:
        """The same over the first and the last quarter of the trials: alike where it is flat."""
        counts = [sample.trials for sample in self.samples]
        first = max(2, bisect.bisect_left(counts, counts[-1] / 4) + 1)
        last = min(bisect.bisect_left(counts, counts[-1] * 3 / 4), len(counts) - 2)
        return self.per_trial(kind, slice(first)), self.per_trial(kind, slice(last, None))


def make_plan(trials: int) -> Plan:
    """About that many trials, with pruning."""
    studies = max(1, round(trials / (CELLS * (DRAWS + 1))))
    return made_up_plan("scale", studies, EPOCHS, Tuning(draws=DRAWS))


# ---- one run, in a process of its own --------------------------------------------------------------------------


def run_once(trials: int, workers: int) -> Run:
    from experiments.results.ledger import Ledger
    from experiments.schedule import run as running
    from experiments.schedule.fake import MakeFake
    from experiments.schedule.publish import publish
    from experiments.schedule.session import Session

    sessions: list[Session] = []

    class Watched(Session):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            sessions.append(self)

    plan = make_plan(trials)
    found = Run(plan.n_slots, workers)
    stop = threading.Event()
    with patch.object(running, "Session", Watched), tempfile.TemporaryDirectory(prefix="scale-") as folder:
        watcher = threading.Thread(target=_watch, args=(sessions, found.samples, stop), daemon=True)
        watcher.start()
        started = time.perf_counter()
        result = running.execute(
            plan,
            Ledger(folder),
            workers=workers,
            address="local",
            progress=False,
            make_work=MakeFake(seconds=workers / RATE / EPOCHS),
            say=lambda text: None,
        )
        found.wall_s = time.perf_counter() - started
        stop.set()
        watcher.join()
        assert result.exit_code == 0
        assert sum(result.counts.values()) == plan.n_slots
        found.files = sum(1 for _ in Path(folder).rglob("*"))
        found.resume_s = _cpu(lambda: Session(plan, Ledger(folder)))
        fresh = Ledger(folder)
        found.tables_s = _cpu(lambda: publish(plan, fresh, str(Path(folder) / "tables")))
        import pandas as pd

        found.read_s = _cpu(lambda: pd.read_parquet(Path(folder) / "tables" / "trials.parquet"))
    return found


def _watch(sessions: Sequence[Any], samples: list[Sample], stop: threading.Event) -> None:
    gcs = None
    while not stop.wait(1.0):
        done = sum(sessions[0].tally.done.values()) if sessions else 0
        gcs = gcs or _gcs_of(os.getpid())
        if done:
            cpu, mb = _usage(gcs) if gcs else (0.0, 0.0)
            samples.append(Sample(done, time.process_time(), _usage(os.getpid())[1], cpu, mb))


def _gcs_of(driver: int) -> int | None:
    """Ray's head process of the cluster that a process has started for itself."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == driver and "gcs_server" in (entry / "cmdline").read_text():
                return int(entry.name)
        except (OSError, IndexError, ValueError):
            continue
    return None


def _usage(process: int) -> tuple[float, float]:
    """CPU seconds and resident MB of a process."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0.0, 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks, pages * resource.getpagesize() / 1e6


def _cpu(call: Any) -> float:
    """Processor seconds of this process: on a shared machine they say more than the clock."""
    started = time.process_time()
    call()
    return time.process_time() - started


# ---- all of them -----------------------------------------------------------------------------------------------


def in_its_own_process(trials: int, workers: int) -> Run | None:
    """A run; None, and why, where the machine is too small for it: the other rows are worth having."""
    command = [sys.executable, "-m", "benchmarks.bench_scale", "--one", str(trials), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        print(f"{trials} trials on {workers} workers: {said[0]}", file=sys.stderr)
        return None
    # Ray may have the last word: what its processes print while they end comes after ours.
    found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    return Run(**{**found, "samples": [Sample(**sample) for sample in found["samples"]]})


def table(runs: Sequence[Run]) -> str:
    lines = [
        "| trials | workers | run, s | driver, ms of CPU a trial | first, last quarter | driver, KB a trial "
        "| Ray's head process, KB a trial | resume, s | tables, s | reading them, s |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in runs:
        first, last = run.quarters("driver_cpu")
        lines.append(
            f"| {run.trials} | {run.workers} | {run.wall_s:.0f} | {run.per_trial('driver_cpu') * 1e3:.1f} "
            f"| {first * 1e3:.1f}, {last * 1e3:.1f} | {run.per_trial('driver_mb') * 1e3:.0f} "
            f"| {run.per_trial('gcs_mb') * 1e3:.0f} | {run.resume_s:.2f} | {run.tables_s:.2f} | {run.read_s:.3f} |"
        )
    return "\n".join(lines)


def draw(by_trials: Sequence[Run], by_workers: Sequence[Run], path: Path) -> None:
    """Four pictures: time and memory of the driver along the longest run, ledger and tables, and workers."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    longest = by_trials[-1]
    done = [sample.trials for sample in longest.samples]
    axes[0, 0].plot(done, [sample.driver_cpu for sample in longest.samples])
    axes[0, 0].set(title=f"Driver's CPU along a run, {longest.workers} workers", xlabel="trials done",
                   ylabel="CPU s since its start", ylim=(0, None))  # fmt: skip
    axes[0, 1].plot(done, [sample.driver_mb for sample in longest.samples], label="driver")
    axes[0, 1].plot(done, [sample.gcs_mb for sample in longest.samples], label="Ray's head process")
    axes[0, 1].set(title="Memory along the same run", xlabel="trials done", ylabel="MB", ylim=(0, None))
    axes[0, 1].legend()
    counts = [run.trials for run in by_trials]
    axes[1, 0].plot(counts, [run.resume_s for run in by_trials], "o-", label="resume: ledger and protocol")
    axes[1, 0].plot(counts, [run.tables_s for run in by_trials], "o-", label="all tables")
    axes[1, 0].set(title="Ledger and tables", xlabel="trials", ylabel="CPU s", xlim=(0, None), ylim=(0, None))
    axes[1, 0].legend()
    crews = [run.workers for run in by_workers]
    axes[1, 1].plot(crews, [run.per_trial("driver_cpu") * 1e3 for run in by_workers], "o-")
    axes[1, 1].set(title=f"Driver's CPU by workers, {by_workers[0].trials} trials", xlabel="workers",
                   ylabel="ms a trial", ylim=(0, None))  # fmt: skip
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--full", action="store_true", help="half an hour and more rather than minutes; draws scale.png"
    )
    parser.add_argument("--one", nargs=2, type=int, metavar=("TRIALS", "WORKERS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.one:
        print(json.dumps(asdict(run_once(*args.one))))
        return
    sizes: Mapping[str, Any] = FULL if args.full else SMALL
    print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}\n", flush=True)
    by_trials = [run for n in sizes["trials"] if (run := in_its_own_process(n, sizes["fixed_workers"]))]
    print(table(by_trials) + "\n", flush=True)
    by_workers = [run for n in sizes["workers"] if (run := in_its_own_process(sizes["fixed_trials"], n))]
    print(table(by_workers), flush=True)
    if args.full and by_trials and by_workers:
        draw(by_trials, by_workers, HERE / "scale.png")
    if len(by_trials) < len(sizes["trials"]) or len(by_workers) < len(sizes["workers"]):
        raise SystemExit("some runs did not start or did not end: their rows are lacking")


if __name__ == "__main__":
    main()
