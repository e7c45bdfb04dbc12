"""Real processes for tests: what goes wrong in one is printed, and is its exit status."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any


def fork(work: Callable[[], Any]) -> int:
    """Do this in a process of its own; its number. Exit status 0, or 1 after an exception."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def status(pid: int) -> int:
    """Wait for a process; its exit status, -9 where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
