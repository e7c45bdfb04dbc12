"""How long a report takes and how much memory, from 75 trials to 10 000.

    python benchmarks/bench_report.py

Each report is made in a process of its own, imports included. `cpu` is what it costs on an idle core.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

MAKER = Path(__file__).resolve().parent.parent / "tests" / "experiments" / "reporting" / "synthetic.py"

PROBE = """
import json, resource, sys, time
start = time.perf_counter()
from experiments.reporting import build_report
page = build_report(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"wall": time.perf_counter() - start, "cpu": used.ru_utime + used.ru_stime,
                  "mb": used.ru_maxrss / 1024, "page": page.stat().st_size / 1e6}))
"""


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("synthetic_runs", MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def measure(folder: Path, repeats: int) -> dict[str, float]:
    found = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", PROBE, str(folder)], capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(entry[key] for entry in found) for key in found[0]}


def main() -> None:
    runs = maker()
    worlds = {
        "3 cells, 5 studies": runs.World(),
        "10 cells, 10 studies, 9 draws": runs.World(
            factors={"fusion": [f"family_{i}" for i in range(5)], "pooling": ("mean", "attn")},
            studies=10,
            draws=9,
            utterances=200,
        ),
        "40 cells, 10 studies, 24 draws": runs.World(
            factors={"fusion": [f"family_{i}" for i in range(10)], "pooling": ("mean", "max", "attn", "cls")},
            studies=10,
            draws=24,
            utterances=500,
            dialogues=50,
        ),
    }
    print("| run | trials | wall, s | CPU, s | peak memory, MB | page, MB |")
    print("|:--|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as scratch:
        for i, (name, world) in enumerate(worlds.items()):
            folder = runs.write_run(Path(scratch) / f"run{i}", world)
            import pyarrow.parquet as pq

            trials = pq.read_metadata(folder / "trials.parquet").num_rows
            m = measure(folder, 3)
            print(f"| {name} | {trials} | {m['wall']:.1f} | {m['cpu']:.1f} | {m['mb']:.0f} | {m['page']:.1f} |")


if __name__ == "__main__":
    main()
