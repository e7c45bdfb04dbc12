"""What a run does beside its work: curves for TensorBoard, the page, readings of energy, tables on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WITHOUT = ", and the run goes on without: "


class Aside:
    """Tries side outputs. Where one fails the run goes on without it, and says so, once."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._failed: set[str] = set()

    def __call__(self, what: str, act: Callable[[], T]) -> T | None:
        """Do something that may fail; None if it did. `what`: said of it, as `no curves for TensorBoard`."""
        try:
            return act()
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                with contextlib.suppress(Exception):
                    self._say(f"{what}{WITHOUT}{type(error).__name__}: {error}")
            return None


def what_failed(note: str) -> str:
    """What a note is about."""
    return note.partition(WITHOUT)[0]
