"""Fault points: places where a crash could hurt, each of which a test kills the process at.

`MER_FAULT=ledger.staged:3` makes the third visit of that point in this process end in SIGKILL: nothing is flushed,
no handler runs, exactly as when the machine loses power to the process. Without the variable a visit costs one
dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

POINTS = {
    "ledger.before": "an attempt is finished, nothing of it is on disk",
    "store.opened": "a temporary file exists and is empty",
    "store.written": "the temporary file is whole but not yet synced",
    "store.synced": "the temporary file is durable, not yet renamed",
    "store.renamed": "renamed, the folder not yet synced",
    "ledger.after": "the attempt is committed, nobody has been told",
    "state.saved": "resume state of a running trial has been replaced",
    "state.dropped": "a finished trial's resume state has been removed",
    "decision.before": "decisions are made, perhaps acted upon, and not yet on disk",
    "decision.after": "decisions are on disk",
    "checkpoint.before": "a confirm trial is trained and scored, its checkpoint not written",
    "checkpoint.after": "its checkpoint is written, its record not",
    "compact.merged": "the compacted part is durable, the parts it replaces still there",
    "compact.removing": "some of the parts it replaces are gone",
    "quarantine.copied": "a damaged part has been found, not yet moved",
    "tables.some": "some of the tables are replaced, others not yet",
    "declared.before": "the declaration times are known, not yet written",
}
"""Every fault point by name. `visit` refuses a name that is not here, so that the tests' enumeration is complete."""

_visits: Counter[str] = Counter()


def visit(point: str) -> None:
    """Pass a fault point; end here if the environment says so."""
    if point not in POINTS:
        raise KeyError(point)
    wanted = os.environ.get("MER_FAULT")
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    if name == point:
        _visits[point] += 1
        if _visits[point] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
