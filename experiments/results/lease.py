"""The lease of a results folder: one driver at a time runs what is planned there; others watch it, or take over.

    _drivers/<number>.<unique>    a driver at work, or one that waits for its turn: who it is, how often it has beaten

Every driver renews its ticket. Another one that has not seen a ticket change for long enough, by its own clock, passes
it over: no two machines' clocks are compared, and no file lock is relied upon. A process of this machine that is gone
is passed over at once. Who wants to work first says so in its ticket and then looks whether anyone else does: of two at
the same moment at least one sees the other, and waits. A driver that was suspended for long, or cut off from its
storage, looks again before it goes on (`holds`).

Should two ever work at once for a moment, some trials are trained twice, and nothing else: the ledger tells them apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mer.errors import UserError
from mer.storage import LocalStore, Store
from mer.storage.claims import SETTLE_S

FOLDER = "_drivers"

RENEW_S = 10.0
LOST_S = 120.0
"""A ticket that has not changed for so long is a dead driver's. NFS may show an old one for a minute."""
POLL_S = 1.0


@dataclass(frozen=True)
class Driver:
    """Who runs a space, or wants to."""

    space: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"space {self.space}, host {self.host}, process {self.pid}, since {self.since}"


@dataclass(frozen=True)
class _Ticket:
    """A ticket as it was read. `life`: changes with every beat. `runs`: does its process run, as far as can be seen
    from here; None from another machine."""

    name: str
    driver: Driver
    holding: bool
    life: object
    runs: bool | None

    @property
    def place(self) -> tuple[int, str]:
        """Its place in the queue."""
        return _number(self.name), self.name


def living(store: Store) -> tuple[Driver, ...]:
    """The drivers that are at work in a results folder, or wait for their turn.

    A driver of another machine is seen to live by its next beat; a dead one there takes as long as a lease lasts to be
    told from it, once.
    """
    queue = _Queue(store)
    while True:
        found = queue.look()
        if all(ticket.runs or queue.has_beaten(ticket) for ticket in found):
            return tuple(ticket.driver for ticket in found)
        time.sleep(POLL_S)


def drivers(store: Store) -> list[dict[str, Any]]:
    """Who is at work in a results folder, or waits for its turn, and whether they look alive: one look, which removes
    nothing. The age of a sign of life is by this machine's clock, so that `looks_dead` is a guess about others."""
    found = []
    for entry in store.list(FOLDER):
        age = time.time() - entry.modified / 1e9
        for ticket in _read(store, entry.name, entry.modified):
            gone, dead = ticket.runs is False, ticket.runs is False or age > LOST_S
            about = {"waits": not ticket.holding, "quiet_s": round(age), "gone": gone, "looks_dead": dead}
            found.append({**asdict(ticket.driver), **about})
    return found


def drivers_text(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """For people."""
    lines = []
    for driver in found:
        who = Driver(*(driver[part.name] for part in fields(Driver)))
        state = "waits for its turn" if driver["waits"] else "is at work"
        if driver["looks_dead"]:
            why = "its process is gone" if driver["gone"] else f"no sign of life for {driver['quiet_s']} s"
            state = f"looks dead ({why}); its command, given again, goes on"
        lines.append(f"a run {state}: {who}")
    return lines or ["no run is at work here"]


class Lease:
    """A place in the queue for a results folder. `take` until it answers None; `give_back` in the end."""

    def __init__(self, store: Store, space: str) -> None:
        self.store = store
        self._queue = _Queue(store)
        self._name = ""
        self._holding = self._lost = False
        self._beats = 0
        self._confirmed = _clock()
        self._writing = threading.Lock()
        self._done = threading.Event()
        self._about = {
            "space": space,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "machine": _machine(),
            "started": _started(os.getpid()),
        }
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self) -> Driver | None:
        """Try to begin: None if this driver holds the lease now, else the one that does, or comes before it."""
        if not self._name or self._lost:
            self._enter()
        ahead = [other for other in self._others() if other.holding or other.place < (_number(self._name), self._name)]
        if not ahead:
            self._write(holding=True)
            ahead = [other for other in self._others() if other.holding]
            if not ahead:
                return None
            self._write(holding=False)
        return max(ahead, key=lambda other: other.holding).driver

    def holds(self) -> bool:
        """Does this driver hold the lease still? Looks anew where it may have been taken for dead meanwhile."""
        if not self._lost and _clock() - self._confirmed > 3 * RENEW_S:
            with contextlib.suppress(OSError, UserError):
                self._confirm()
        return self._holding and not self._lost and _clock() - self._confirmed < LOST_S / 2

    def give_back(self) -> None:
        self._done.set()
        if self._renewing.is_alive():
            self._renewing.join()
        if self._name:
            with contextlib.suppress(OSError, UserError):
                self.store.remove(f"{FOLDER}/{self._name}")
        self._holding = False

    def _enter(self) -> None:
        last = max((_number(entry.name) for entry in self.store.list(FOLDER)), default=0)
        with self._writing:
            self._name, self._lost = f"{last + 1:06d}.{uuid.uuid4().hex[:12]}", False
        self._write(holding=False)
        if not self._renewing.is_alive():
            self._renewing.start()

    def _others(self) -> list[_Ticket]:
        return [ticket for ticket in self._queue.look(self._name) if ticket.name != self._name]

    def _write(self, *, holding: bool) -> None:
        """Say where this driver stands; on an object store, wait until everybody can see it."""
        with self._writing:
            self._holding = holding
            self._put()
        if not isinstance(self.store, LocalStore):
            time.sleep(SETTLE_S)

    def _put(self) -> None:
        then, self._beats = _clock(), self._beats + 1
        text = json.dumps({**self._about, "holding": self._holding, "beats": self._beats})
        self.store.put(f"{FOLDER}/{self._name}", text.encode())
        self._confirmed = then

    def _confirm(self) -> None:
        """Renew the ticket, unless others have passed it over: removed it, or begun to work after it."""
        with self._writing:
            try:
                self.store.read(f"{FOLDER}/{self._name}")
            except FileNotFoundError:
                self._lost = True
                return
            self._put()
            if self._holding:
                later = [entry.name for entry in self.store.list(FOLDER) if _number(entry.name) > _number(self._name)]
                self._lost = any(ticket.holding for name in later for ticket in _read(self.store, name, 0))

    def _renew(self) -> None:
        while not self._done.wait(RENEW_S):
            with contextlib.suppress(OSError, UserError):
                if not self._lost:
                    self._confirm()


@dataclass
class _Seen:
    """What one ticket has shown since it was first looked at: for how long nothing, and whether it has ever beaten."""

    life: object
    quiet_s: float = 0.0
    beaten: bool = False


@dataclass
class _Queue:
    """The tickets of a folder, as one process watches them."""

    store: Store
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _looked: float | None = None

    def look(self, mine: str = "") -> list[_Ticket]:
        """The tickets of living drivers in their order; those of dead ones are removed."""
        now = _clock()
        # Time in which nobody looked, because this process was suspended say, proves nothing of others.
        passed = 0.0 if self._looked is None else min(now - self._looked, RENEW_S)
        found = [
            ticket for entry in self.store.list(FOLDER) for ticket in _read(self.store, entry.name, entry.modified)
        ]
        self._looked = now
        alive = []
        for ticket in found:
            seen = self._seen.setdefault(ticket.name, _Seen(ticket.life))
            if seen.life != ticket.life:
                self._seen[ticket.name] = seen = _Seen(ticket.life, beaten=True)
            elif ticket.name != mine:
                seen.quiet_s += passed
            if ticket.runs is False or seen.quiet_s > LOST_S:
                with contextlib.suppress(OSError, UserError):  # somebody else's, perhaps
                    self.store.remove(f"{FOLDER}/{ticket.name}")
            else:
                alive.append(ticket)
        return sorted(alive, key=lambda ticket: ticket.place)

    def has_beaten(self, ticket: _Ticket) -> bool:
        return self._seen[ticket.name].beaten


def _number(name: str) -> int:
    head = name.partition(".")[0]
    return int(head) if head.isdecimal() else 0


def _read(store: Store, name: str, modified: int) -> Iterator[_Ticket]:
    """A ticket; none if it is gone. One that cannot be read or understood is a driver all the same, of whom nothing
    is known."""
    data = b""
    with contextlib.suppress(PermissionError):
        try:
            data = store.read(f"{FOLDER}/{name}")
        except FileNotFoundError:
            return
    ticket = _Ticket(name, Driver("unknown", "unknown", 0, "unknown"), True, (data, modified), None)
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        about = json.loads(data)
        driver = Driver(str(about["space"]), str(about["host"]), int(about["pid"]), str(about["since"]))
        runs = _runs(driver.pid, about["started"]) if about["machine"] == _machine() else None
        ticket = replace(ticket, driver=driver, holding=bool(about["holding"]), runs=runs)
    yield ticket


# ---- this machine ----------------------------------------------------------------------------------------------


def _clock() -> float:
    """Seconds, also those in which a laptop sleeps; nothing sets it back."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _machine() -> str:
    """What has one set of process numbers: a boot of a machine, or a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's own count; None where it does not say, "" for one that has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else fields[18]


def _runs(pid: int, started: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    now = _started(pid)
    return now is None or started is None or now == started
