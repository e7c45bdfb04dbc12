"""`make bench`: every benchmark that needs nothing but this machine, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time

SUITE: tuple[tuple[str, ...], ...] = (
    ("bench_store", "--rounds", "10"),
    ("bench_loading",),
    ("bench_samplers",),
    ("bench_fusion_step",),
    ("bench_bundle", "--rounds", "2"),
    ("bench_graph", "--rounds", "1"),
    ("bench_extraction", "--utterances", "8", "--repeats", "2"),
    ("bench_overhead", "--trials", "60", "--plain", "8"),
    ("bench_quickstart", "--studies", "1"),
    ("simulate_protocol", "--replications", "60", "--print-only"),
    ("bench_ledger",),
    ("bench_report",),
)
"""Checks on real corpora (`check_*`, `bench_epoch`) and the simulation of the protocol take a folder or far longer."""


def main() -> int:
    failed = []
    for name, *options in SUITE:
        print(f"\n## {name}\n", flush=True)
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False)
        print(f"\n({time.perf_counter() - started:.0f} s)", flush=True)
        if done.returncode != 0:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
