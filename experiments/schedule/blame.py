"""What brought a trial down: its own training, which ends it, or something around it, which never does.

Only what the training computes is a verdict. A disk that is full, a store that does not answer, a file that cannot be
read now: the run is blocked, or the trial is run again.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.schedule.work import Ended
from mer.errors import UnfitMachine, UserError
from mer.storage import StoreUnreachable

SAFE = "Everything finished before is safe. Run the same command again to go on."


class Unstored(Exception):
    """A result or a state could not be written or read back. That says nothing about the trial: it runs again."""

    def __init__(self, reason: str, ended: Ended) -> None:
        super().__init__(reason)
        self.ended = ended


@contextmanager
def storing() -> Iterator[None]:
    """Around all that a worker writes and reads beside training: whatever goes wrong here is not the trial's doing."""
    try:
        yield
    except Exception as error:
        if _is_out_of_memory(error) or _is_device_error(error):  # of this process; another one may have room
            raise Unstored(one_line(error), Ended.BROKEN) from error
        reason = f"the results cannot be written or read: {one_line(error)}\n  {SAFE}"
        raise Unstored(str(error) if isinstance(error, UserError) else reason, Ended.BLOCKED) from error


def without_verdict(error: BaseException) -> Ended | None:
    """How an order ends that something else than the training has brought down; None: the training has."""
    if isinstance(error, Unstored):
        return error.ended
    if isinstance(error, UnfitMachine | StoreUnreachable):
        return Ended.BLOCKED
    if _has_os_error(error):  # the corpus or its features cannot be read now; what is wrong for good was refused before
        return Ended.BLOCKED if isinstance(error, UserError) else Ended.BROKEN
    if isinstance(error, UserError):
        return None
    if _is_out_of_memory(error):
        return Ended.OUT_OF_MEMORY
    return Ended.BROKEN if _is_device_error(error) else None


def one_line(error: BaseException) -> str:
    """What was raised and where in the code it came from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}{where}"


def _has_os_error(error: BaseException | None) -> bool:
    """Does the operating system stand behind it? Libraries wrap its errors, some only in words."""
    while error is not None:
        if isinstance(error, OSError) or re.search(r"\(os error \d+\)|\[Errno \d+\]|: System error\.", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_out_of_memory(error: BaseException) -> bool:
    """Out of device or host memory, by whatever name it comes."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "out of memory" in text


def _is_device_error(error: BaseException) -> bool:
    """After any other CUDA error nothing that this process computes can be trusted."""
    text = str(error)
    return any(sign in text for sign in ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "device-side assert", "NCCL"))
