"""What no run refers to any more: trials, checkpoints, resume states."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc

from experiments.results.ledger import Ledger
from experiments.slots import Status
from mer import sealed
from mer.storage import open_store


@dataclass(frozen=True)
class Garbage:
    """What would be removed, and what for."""

    trials: frozenset[str]
    checkpoints: tuple[str, ...]
    states: tuple[str, ...]
    bytes: int
    kept: int
    runs: tuple[str, ...]
    described: tuple[str, ...]


def find_garbage(results: str) -> Garbage:
    """Trials of the ledger that are in no run's trials.parquet; checkpoints and states of such trials."""
    ledger = Ledger(results)
    store = ledger.store
    used: set[str] = set()
    open_bundles: set[str] = set()
    runs = []
    for name in store.folders(""):
        try:
            data = store.read(f"{name}/trials.parquet")
        except (FileNotFoundError, NotADirectoryError):
            continue
        table = sealed.of_a_run(data, store.path(f"{name}/trials.parquet"), ["trial"])
        runs.append(name)
        used.update(trial for trial in table["trial"].to_pylist() if trial)
        if "bundle" in table.column_names:
            left = table.filter(pc.equal(table["status"], Status.MISSING.value))
            open_bundles.update(f"bundle-{layout}" for layout in left["bundle"].to_pylist() if layout)
    snapshot = ledger.refresh()
    unused = frozenset(snapshot.rows) - used
    checkpoints = tuple(name for name in store.folders("checkpoints") if name not in used)
    needed = (used - set(snapshot.rows)) | open_bundles
    states = tuple(e.name for e in store.list("_state") if e.name not in needed)
    size = sum(e.size for name in checkpoints for e in store.list(f"checkpoints/{name}"))
    size += sum(e.size for e in store.list("_state") if e.name in states)
    described: Counter[str] = Counter()
    rows = snapshot.effective.select(["trial", "space", "cell", "status"]).to_pylist()
    for row in rows:
        if row["trial"] in unused:
            described[f"{row['space']} | {row['cell']} | {row['status']}"] += 1
    lines = tuple(f"{count} x {text}" for text, count in described.most_common(20))
    return Garbage(unused, checkpoints, states, size, len(snapshot) - len(unused), tuple(runs), lines)


def collect(results: str, garbage: Garbage) -> None:
    """Remove it. The ledger's files are replaced before they are removed: a crash on the way loses nothing else."""
    ledger = Ledger(results)
    ledger.rewrite_without(set(garbage.trials))
    store = open_store(results)
    for name in garbage.checkpoints:
        store.remove_tree(f"checkpoints/{name}")
    for name in garbage.states:
        store.remove(f"_state/{name}")
