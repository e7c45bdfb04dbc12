"""What a trial costs beside its own training, and how close a run comes to a bare loop over processes.

    python -m benchmarks.bench_overhead [--trials 200] [--seconds 1.0] [--plain 24]

All in one run, two workers each: a bare `multiprocessing.Pool` over the same trials (no ledger, no protocol, no
pruning), this project on Ray, plain Ray Tune with a function per trial, and Ray Tune with reused class trainables.
Trials sleep, so that what is measured is everything but training. Start-up (connecting to Ray) is left out of all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.results.ledger import Ledger
from experiments.schedule.cluster import connect
from experiments.schedule.fake import MakeFake
from experiments.schedule.run import execute
from experiments.slots import Cell
from experiments.space.plan import CorpusRef, Plan, Tuning

EPOCHS = 5


def make_plan(trials: int) -> Plan:
    """So many confirm trials and nothing else: every executor has exactly the same work."""
    cell = Cell(
        "demo",
        "fusion=f",
        {"fusion": "f"},
        {"encoders": {"text": {"name": "words"}}, "training": {"epochs": EPOCHS}},
        tuning="t",
    )
    return Plan(
        space="bench",
        cells=(cell,),
        corpora={"demo": CorpusRef("demo", Path("demo"), "0" * 32, ("text",), True, True)},
        studies=trials,
        tuning=Tuning(draws=0, pruner="none"),
        hypers={("demo", cell.name): ()},
        factors={"fusion": ("f",)},
    )


def sleep_epochs(seconds: float) -> float:
    """The bare trial."""
    for _ in range(EPOCHS):
        time.sleep(seconds / EPOCHS)
    return seconds


def bare(trials: int, seconds: float) -> float:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(sleep_epochs, [0.0, 0.0])  # both processes are up
        started = time.perf_counter()
        list(pool.imap_unordered(sleep_epochs, [seconds] * trials))
        return time.perf_counter() - started


def ours(trials: int, seconds: float) -> tuple[float, float]:
    """Seconds from the first order to the last record, and until the tables are written."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(trials)
        started = time.perf_counter()
        result = execute(
            plan,
            Ledger(folder),
            workers=2,
            progress=False,
            make_work=MakeFake(seconds=seconds / EPOCHS),
            say=lambda text: None,
        )
        assert result.exit_code == 0
        assert result.counts == {"complete": trials}
        whole = time.perf_counter() - started
        ended = Ledger(folder).refresh().table
        first, last = min(ended["started"].to_pylist()), max(ended["ended"].to_pylist())
        return (last - first).total_seconds(), whole


def plain_tune(trials: int, seconds: float, reuse: bool) -> float:
    """Ray Tune as its documentation shows it: seconds from the first trial's start to the last one's end."""
    from ray import tune

    class Reused(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.done, self.began = 0, time.time()

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return

        def load_checkpoint(self, checkpoint: Any) -> None:
            return

        def step(self) -> dict[str, Any]:
            time.sleep(seconds / EPOCHS)
            self.done += 1
            return {"ua": 0.5, "began": self.began, "ended": time.time(), "done": self.done == EPOCHS}

    def function(config: dict[str, Any]) -> None:
        began = time.time()
        for _ in range(EPOCHS):
            time.sleep(seconds / EPOCHS)
            tune.report({"ua": 0.5, "began": began, "ended": time.time()})

    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            Reused if reuse else function,
            param_space={"draw": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(reuse_actors=reuse, max_concurrent_trials=2),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        metrics = [results[number].metrics or {} for number in range(len(results))]
    assert len(metrics) == trials
    return float(max(m["ended"] for m in metrics) - min(m["began"] for m in metrics))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--plain", type=int, default=24, help="trials for plain Ray Tune, which is slow")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.perf_counter()
    connect("local", workers=2)
    connecting = time.perf_counter() - started
    ideal = args.seconds / 2
    loop = bare(args.trials, args.seconds)
    mine, whole = ours(args.trials, args.seconds)
    function = plain_tune(args.plain, args.seconds, reuse=False)
    reused = plain_tune(args.plain, args.seconds, reuse=True)

    def row(name: str, seconds: float, trials: int) -> str:
        # Two workers side by side: what a trial takes of one of them beyond its own seconds.
        overhead = (seconds / trials - ideal) * 2
        return f"| {name} | {trials} | {seconds:.1f} | {overhead:.3f} | {seconds / trials / (loop / args.trials):.2f} |"

    print(f"Trials of {args.seconds:g} s on 2 workers; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs.")
    print(f"Connecting to a local Ray cluster: {connecting:.1f} s, once.\n")
    print("| | trials | seconds | overhead per trial, s | against the bare loop |")
    print("|---|---|---|---|---|")
    print(row("bare loop, 2 processes", loop, args.trials))
    print(row("this project on Ray, first start to last record", mine, args.trials))
    print(row("the same with workers' start and tables", whole, args.trials))
    print(row("Ray Tune, a function per trial", function, args.plain))
    print(row("Ray Tune, reused class trainables", reused, args.plain))


if __name__ == "__main__":
    main()
