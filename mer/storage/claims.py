"""Claims on pieces of work that machines share: one does it, the others wait for it or do something else.

On a file system a claim is a lock, which ends with its holder. An object store has no locks that pyarrow reaches: there
a claim is a queue of tickets, ordered by the time that the store itself put on them. A holder shows that it lives by
renewing; whoever has not for a minute is passed over. Should two ever hold the same claim, work is done twice, and
nothing else happens: what is claimed here is written under names that say what is in it.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator

from mer import files
from mer.errors import UserError
from mer.storage.base import Store
from mer.storage.local import LocalStore

SETTLE_S = 1.5
"""Longer than the second to which an object store tells the time: after it, all tickets of one second are seen."""

RENEW_S = 15.0
STALE_S = 60.0
POLL_S = 2.0
_BEAT = ".beat"


@contextlib.contextmanager
def claim(store: Store, folder: str, work: str, *, wait: bool) -> Iterator[bool]:
    """Hold a piece of work, or learn that another machine does (False; not with `wait`)."""
    if isinstance(store, LocalStore):
        with files.claim(files.make_folder(store.folder / folder), work, wait) as held:
            yield held
        return
    ticket = _Ticket(store, f"{folder}/_claims", work)
    try:
        yield ticket.take(wait)
    finally:
        ticket.give_back()


class _Ticket:
    """A place in the queue for a piece of work, renewed by a thread of its own."""

    def __init__(self, store: Store, folder: str, work: str) -> None:
        self.store, self.folder, self.work = store, folder, work
        self.name = f"{work}.{uuid.uuid4().hex[:12]}"
        self._done = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def take(self, wait: bool) -> bool:
        self.store.put(f"{self.folder}/{self.name}", b"")
        self._renewing.start()
        time.sleep(SETTLE_S)
        while True:
            first = self._first()
            if first == self.name or not wait:
                return first == self.name
            time.sleep(POLL_S)

    def give_back(self) -> None:
        self._done.set()
        self._renewing.join()
        self._remove(self.name)

    def _first(self) -> str:
        """The oldest ticket whose holder lives. The store's clock is read off the youngest object."""
        tickets = (entry for entry in self.store.list(self.folder) if entry.name.startswith(f"{self.work}."))
        seen = {entry.name: entry.modified for entry in tickets}
        now = max(seen.values(), default=0)
        queue = sorted((when, name) for name, when in seen.items() if not name.endswith(_BEAT))
        for when, name in queue:
            if now - max(when, seen.get(name + _BEAT, 0)) < STALE_S * 1e9:
                return name
            self._remove(name)
        return self.name

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError, UserError):
            self.store.remove(f"{self.folder}/{name}")
            self.store.remove(f"{self.folder}/{name}{_BEAT}")

    def _renew(self) -> None:
        while not self._done.wait(RENEW_S):
            with contextlib.suppress(OSError, UserError):
                self.store.put(f"{self.folder}/{self.name}{_BEAT}", b"")
