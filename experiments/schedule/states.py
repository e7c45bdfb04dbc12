"""Resume states: what a trial needs to go on after its worker is gone, on the storage that all machines share.

    _state/<trial>     one file: a line of JSON (rows and cost so far), then the trainer's own bytes

Apart from checkpoints, replaced atomically, removed when the trial is committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from experiments.results.records import EpochRow
from mer.faults import visit
from mer.storage import Store

FOLDER = "_state"


@dataclass
class Saved:
    """Rows and cost of the epochs so far, and the trainer's state."""

    rows: list[EpochRow] = field(default_factory=list)
    wall_s: float = 0.0
    device_s: float = 0.0
    peak_memory_mb: float | None = None
    started: str | None = None
    payload: bytes = b""


def save(store: Store, trial: str, saved: Saved) -> None:
    head = {
        "rows": [asdict(row) for row in saved.rows],
        "wall_s": saved.wall_s,
        "device_s": saved.device_s,
        "peak_memory_mb": saved.peak_memory_mb,
        "started": saved.started,
    }
    store.put(f"{FOLDER}/{trial}", json.dumps(head).encode() + b"\n" + saved.payload)
    visit("state.saved")


def load(store: Store, trial: str) -> Saved | None:
    """The saved state of a trial; None if there is none or it cannot be read (the trial then starts over)."""
    try:
        head, _, payload = store.read(f"{FOLDER}/{trial}").partition(b"\n")
        found = json.loads(head)
        rows = [EpochRow(**row) for row in found.pop("rows")]
        return Saved(rows=rows, payload=payload, **found)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        drop(store, trial)
        return None


def drop(store: Store, trial: str) -> None:
    store.remove(f"{FOLDER}/{trial}")
    visit("state.dropped")


def sweep(store: Store, finished: Iterable[str]) -> int:
    """Remove the states of trials that are in the ledger; a crash between committing and removing leaves one."""
    done = set(finished)
    removed = 0
    for entry in store.list(FOLDER):
        if entry.name in done:
            store.remove(f"{FOLDER}/{entry.name}")
            removed += 1
    return removed
