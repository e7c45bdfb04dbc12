"""A processor of its own for each worker that trains without a GPU, where that turns out to be faster.

A worker claims a processor that no other worker of this machine has (a file lock, which ends with the process), tries
itself on it and off it for a moment, while the other workers do the same, and stays where it was faster.
"""

from __future__ import annotations

import fcntl
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS, SECONDS = 5, 0.05
GAIN = 0.97
"""Pinned must take at most this share of the time: where there is no difference, a process had better be free."""

_claims: list[int] = []  # open handles: a claim lasts as long as its process


def settle(burn: Callable[[], None], folder: Path | None = None) -> int | None:
    """Pin this process to a processor of its own if that is faster; returns the processor, or None."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    free = os.sched_getaffinity(0)
    own = claim(sorted(free), folder or Path(tempfile.gettempdir()) / f"mer-processors-{os.geteuid()}")
    if own is None or len(free) < 2:
        return None
    took: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * ROUNDS):
        pinned = number % 2 == 1
        os.sched_setaffinity(0, {own} if pinned else free)
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS:
            burn()
            done += 1
        took[pinned].append((time.perf_counter() - started) / done)
    faster = statistics.median(took[True]) <= GAIN * statistics.median(took[False])
    os.sched_setaffinity(0, {own} if faster else free)
    return own if faster else None


def claim(processors: list[int], folder: Path) -> int | None:
    """The first processor that no living worker has claimed; None where there is none left, or claims cannot be kept:
    anybody can make a folder of this name in /tmp beforehand."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.lstat().st_uid != os.geteuid():
            return None
        for processor in processors:
            handle = os.open(folder / str(processor), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            _claims.append(handle)
            return processor
    except OSError:  # a read-only or full disk: a worker that is not pinned works as well
        pass
    return None


def small_steps() -> Callable[[], None]:
    """A piece of work like a training step of a small model: many small operations."""
    import torch

    weights = [torch.randn(64, 64, requires_grad=True) for _ in range(4)]
    x = torch.randn(32, 64)

    def step() -> None:
        y = x
        for weight in weights:
            y = torch.tanh(y @ weight)
        y.sum().backward()  # type: ignore[no-untyped-call]
        for weight in weights:
            weight.grad = None

    return step
