"""What the fuzz suites of the doors share: a door takes what is sound, or says no in a sentence that names the place.

No other exception, no memory beyond a bound, no waiting. Inputs that waste processor time inside C, where no signal
arrives, are tried in a process of their own (`alone`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hypothesis import strategies as st

from mer.errors import UserError
from tests.mer.processes import fork, status

T = TypeVar("T")

MEMORY = 3 << 30
"""Bytes of address space that a door may take on top of what the process has."""

PATIENCE = 20
"""Seconds after which a door is said to hang."""


@contextlib.contextmanager
def bounds(memory: int = MEMORY, patience: int = PATIENCE) -> Iterator[None]:
    def hangs(*_: Any) -> None:
        raise AssertionError(f"the door hangs: nothing after {patience} s")

    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, hangs)
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, hard))
    signal.alarm(patience)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def through(door: Callable[[], T], *names: str) -> T | None:
    """What a door lets in, or None where it refuses in a sentence with one of these names (a file, a key, an option).

    Whatever else it raises ends the test.
    """
    try:
        with bounds():
            return door()
    except UserError as error:
        text = str(error)
        assert any(name in text for name in names), f"the message names none of {names}: {text}"
        assert len(text) < 20_000, f"a message of {len(text)} characters"
        return None


def refused(door: Callable[[], object], *names: str) -> str:
    """The refusal of an input that must not be let in."""
    try:
        with bounds():
            found = door()
    except UserError as error:
        text = str(error)
        assert any(name in text for name in names), f"the message names none of {names}: {text}"
        return text
    raise AssertionError(f"let in: {found!r:.200}")


def alone(work: Callable[[], object]) -> None:
    """The same in a process of its own, which the kernel ends where Python cannot."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
        sys.stdout.flush()
        work()

    found = status(fork(limited))
    assert found == 0, "it hangs" if found < 0 else "see the traceback above"


NASTY_TEXT = (
    "", " ", "\0", "\n", "a\nb", "\ud800", "\u202eabc", "$", "$x_1$", "a$b", "_", "\\", "{", "%", "é" * 300, "../x",
)  # fmt: skip
NASTY_NUMBERS: tuple[Any, ...] = (
    -1, 0, 1.5, True, 10**9, 2**63, 2**64, 10**400, -(10**400), 1e308, 5e-324, float("nan"), float("inf"), -1e308,
)  # fmt: skip


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


values = st.one_of(
    st.sampled_from(NASTY_TEXT),
    st.sampled_from(NASTY_NUMBERS),
    st.none(),
    st.text(max_size=8),
    st.integers(),
    st.floats(),
    st.sampled_from([[], {}, [[]], ["a", "a"], {"a": {}}, nested(20), nested(60)]),
)
"""Plain values that no door expects."""
