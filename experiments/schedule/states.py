"""Resume states: what a work item needs to go on after its worker is gone, on the storage that all machines share.

    _state/<item>     one file: a line of JSON (rows and cost so far of each trial), the trainer's own bytes, and a
                      line with a checksum of the two

Apart from checkpoints, replaced atomically, removed when the item's last trial is committed.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from experiments.results.records import EpochRow, checksum
from mer.errors import UserError
from mer.faults import visit
from mer.storage import Store

FOLDER = "_state"

_log = logging.getLogger(__name__)


@dataclass
class Part:
    """Rows and cost of one trial's epochs so far, and how its numbers were lost, if they were."""

    rows: list[EpochRow] = field(default_factory=list)
    wall_s: float = 0.0
    device_s: float = 0.0
    energy_j: float | None = None
    started: str | None = None
    diverged: str | None = None

    @property
    def epochs(self) -> int:
        return max((row.epoch for row in self.rows), default=0)


@dataclass
class Saved:
    """The parts of an item's trials, and the trainer's state."""

    parts: list[Part] = field(default_factory=list)
    peak_memory_mb: float | None = None
    payload: bytes = b""


def save(store: Store, item: str, saved: Saved) -> None:
    head = {"parts": [asdict(part) for part in saved.parts], "peak_memory_mb": saved.peak_memory_mb}
    data = json.dumps(head).encode() + b"\n" + saved.payload
    store.put(f"{FOLDER}/{item}", data + b"\n" + checksum(data).encode())
    visit("state.saved")


def load(store: Store, item: str) -> Saved | None:
    """The saved state of an item; None if there is none or it cannot be read (the item then starts over)."""
    try:
        data, _, seal = store.read(f"{FOLDER}/{item}").rpartition(b"\n")
        if seal != checksum(data).encode():
            raise ValueError("it does not match its checksum")
        head, _, payload = data.partition(b"\n")
        found: dict[str, Any] = json.loads(head)
        parts = [Part(**{**part, "rows": [EpochRow(**row) for row in part["rows"]]}) for part in found["parts"]]
        return Saved(parts, found["peak_memory_mb"], payload)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        where = store.path(f"{FOLDER}/{item}")
        _log.warning("%s cannot be used (%s): its trials start over from their first epoch", where, error)
        drop(store, item)
        return None


def epochs(store: Store, item: str) -> int:
    """How far the saved state of an item has come; 0 where there is none that can be read."""
    with contextlib.suppress(OSError, UserError, ValueError, TypeError, KeyError):
        with store.open(f"{FOLDER}/{item}") as file:
            parts: list[dict[str, Any]] = json.loads(file.readline())["parts"]
        return max(int(row["epoch"]) for part in parts for row in part["rows"])
    return 0


def drop(store: Store, item: str) -> None:
    store.remove(f"{FOLDER}/{item}")
    visit("state.dropped")


def sweep(store: Store, finished: Iterable[str]) -> int:
    """Remove the states of items that are in the ledger; a crash between committing and removing leaves one."""
    done = set(finished)
    removed = 0
    for entry in store.list(FOLDER):
        if entry.name in done:
            store.remove(f"{FOLDER}/{entry.name}")
            removed += 1
    return removed
