"""Ctrl-C, a terminal that closes, a scheduler that ends the job: a run says at once that it ends, in good order."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

INTERRUPTED = 130
"""The exit code."""

SIGNALS = tuple(number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)))

MESSAGE = "interrupted: saving running trials and tables; once more to stop at once"
"""Fits one line, so that a live page can take it back and print it anew below itself."""

ONE_S = 1.0
"""Signals within this time are one: `timeout`, schedulers and terminals send theirs to the process and to its group."""


class Interrupt:
    """Handlers of signals while a run goes on, and those of before when it is over.

    Until `tell` has been given somebody to tell, a signal ends this process like Ctrl-C any other; after that the first
    is passed on and the next one ends it at once.
    """

    def __init__(self) -> None:
        self.asked: float | None = None
        self._tell: Callable[[], None] | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.getsignal(number)
                for number in SIGNALS
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN  # nohup, say
            }
        self.arm()
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def arm(self) -> None:
        """Take the signals; again, where a library has put handlers of its own there."""
        for number in self._before:
            signal.signal(number, self._handle)

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Around what starts processes that this one ends itself, and that might put handlers of its own in place.

        A terminal and a scheduler send their signals to all of them: they must not be gone before the trials are saved.
        """
        with _blocked(set(self._before)):
            yield
        self.arm()

    def tell(self, act: Callable[[], None]) -> None:
        """Whom to tell of the first signal; within a handler, so it must neither wait nor write files."""
        self._tell = act

    def _handle(self, number: int, frame: FrameType | None) -> None:
        _leave_closed_terminal()
        if self._tell is None:
            raise KeyboardInterrupt
        now = time.monotonic()
        if self.asked is None:
            self.asked = now
            self._tell()
            with contextlib.suppress(OSError):
                os.write(2, f"\n{MESSAGE}\n".encode())
        elif now - self.asked > ONE_S:
            os._exit(INTERRUPTED)


@contextlib.contextmanager
def _blocked(signals: set[int]) -> Iterator[None]:
    """Hold signals back in this thread, and for ever in the processes that it starts meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_closed_terminal() -> None:
    """Where the terminal is gone, every further word would be an error."""
    for stream in (1, 2):
        try:
            os.tcgetpgrp(stream)
        except OSError as error:
            if error.errno == 5:  # EIO: it was a terminal
                with contextlib.suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
