"""What a trial costs beside its own training, and how close a run comes to a bare loop over processes.

    python -m benchmarks.bench_overhead [--trials 200] [--seconds 1.0] [--plain 24]

All in one run, two workers each: a bare `multiprocessing.Pool` over the same trials (no ledger, no protocol, no
pruning), this project on Ray, plain Ray Tune with a function per trial and with reused class trainables, Optuna's
`optimize(n_jobs=2)` with its journal on disk, and Hydra's multirun with joblib (in an environment of its own, made for
this; left out where it cannot be had). Trials sleep, so that what is measured is everything but training. Start-up
(connecting to Ray, importing) is left out of all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
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


def optuna_study(trials: int, seconds: float) -> float:
    """Threads of one process, every trial in a journal on disk."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        for epoch in range(EPOCHS):
            time.sleep(seconds / EPOCHS)
            trial.report(0.5, epoch)
        return 0.5

    with tempfile.TemporaryDirectory() as folder:
        storage = JournalStorage(JournalFileBackend(f"{folder}/journal"))
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
        started = time.perf_counter()
        study.optimize(objective, n_trials=trials, n_jobs=2)
        return time.perf_counter() - started


HYDRA_APP = """
import time
import hydra
@hydra.main(version_base=None, config_path=None)
def main(config):
    began = time.time()
    for _ in range({epochs}):
        time.sleep({seconds} / {epochs})
    open("{folder}/" + str(config.trial), "w").write(f"{{began}} {{time.time()}}")
main()
"""


def hydra_multirun(trials: int, seconds: float) -> float | None:
    """Seconds from the first trial's start to the last one's end; None where Hydra cannot be installed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ends").mkdir()
        (folder / "app.py").write_text(HYDRA_APP.format(epochs=EPOCHS, seconds=seconds, folder=folder / "ends"))
        python = str(folder / "venv" / "bin" / "python")
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
            install = ["-m", "pip", "install", "--quiet", "hydra-core==1.3.8", "hydra-joblib-launcher==1.2.0"]
            subprocess.run([python, *install], check=True, capture_output=True)
        except (OSError, subprocess.SubprocessError):
            return None
        options = ["--multirun", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"+trial=range({trials})"]
        subprocess.run([python, str(folder / "app.py"), *options], check=True, capture_output=True, cwd=folder)
        ends = [tuple(map(float, file.read_text().split())) for file in (folder / "ends").iterdir()]
        assert len(ends) == trials
        return max(end for _, end in ends) - min(began for began, _ in ends)


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
    optuna_s = optuna_study(args.trials, args.seconds)
    hydra_s = hydra_multirun(args.plain, args.seconds)

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
    print(row("Optuna, optimize(n_jobs=2), journal on disk", optuna_s, args.trials))
    if hydra_s is None:
        print("| Hydra multirun, joblib | | could not be installed | | |")
    else:
        print(row("Hydra multirun, joblib", hydra_s, args.plain))


if __name__ == "__main__":
    main()
