"""The quickstart from nothing to its tables, against the shortest honest script for the same grid.

    python -m benchmarks.bench_quickstart [--studies 2] [--whole]

`benchmarks/student.py` trains the same trials (cells, studies, draws, epochs, conditions) with models of the same sizes
in one process. Both start as fresh processes on the same corpus, with nothing extracted; ours ends in tables, and with
a report beside it. `--whole`: all 8 studies, and the script also in its common form that computes features whenever
an utterance is read.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mer.data.demo import demo_corpus

STUDENT = Path(__file__).with_name("student.py")
RUN = Path(__file__).resolve().parents[1] / "experiments" / "run_ablation.py"


def timed(command: list[str], **environment: str) -> float:
    """Seconds of the wall clock."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    return time.perf_counter() - started


def ours(studies: int, report: bool, bundle: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--set", f"studies={studies}", "--set", f"bundle={bundle}", "--results", f"{folder}/results"]
        options += [] if report else ["--no-report"]
        return timed([str(RUN), "--space", "quickstart", *options], MER_CACHE=f"{folder}/cache", RAY_ADDRESS="local")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2)
    parser.add_argument("--whole", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    studies = 8 if args.whole else args.studies
    corpus = str(demo_corpus())
    rows = {
        "the script, features kept in memory": timed([str(STUDENT), corpus, "--studies", str(studies)]),
        "this project, 2 workers, with its report": ours(studies, True, "8"),
        "this project, 2 workers, tables alone": ours(studies, False, "8"),
        "this project, 2 workers, trials one by one": ours(studies, False, "off"),
    }
    if args.whole:
        rows["the script, features computed when read"] = timed(
            [str(STUDENT), corpus, "--studies", str(studies), "--on-the-fly"]
        )
    base = rows["the script, features kept in memory"]
    print(f"{15 * studies} trials; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs.\n")
    print("| | s | the script's time over it |\n|---|---:|---:|")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.0f} | {base / seconds:.2f} |")


if __name__ == "__main__":
    main()
