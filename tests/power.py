"""What a disk may hold after the power fails: a record of what a program did to its files, and images made from it.

Nothing is taken for granted that POSIX does not promise:

    data      of a file that was not synced since: as it was, nothing, zeros, the first blocks of it, any of them, all
    names     made, moved and removed in a folder: any of those since its last sync may be lost, a move as a whole;
              a folder whose own name is lost is lost with all that is in it
    order     between folders, and between names and data, there is none

    with Recorder(root) as recorder:
        work(root)
    for image in Disk(recorder.events).images(...): ...       # path to content
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

BLOCK = 512

Image = dict[str, bytes]
"""Path below the root to content."""


@dataclass(frozen=True)
class Event:
    """One thing done: create, data, sync, sync_folder, move, remove, mkdir, rmdir; or something said (`told`)."""

    act: str
    path: str
    other: str = ""
    data: bytes = b""
    site: str = ""
    """Who asked for a sync: file and function."""


class Recorder:
    """Records what this process does to the files below a folder, by Python's own audit events and `os.fsync`."""

    _active: ClassVar[list[Recorder]] = []
    _hooked = False

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.events: list[Event] = []
        self._lock = threading.RLock()

    def __enter__(self) -> Recorder:
        if not Recorder._hooked:
            sys.addaudithook(Recorder._audit)
            Recorder._hooked = True
        self._fsync = os.fsync
        os.fsync = self._sync
        Recorder._active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Recorder._active.remove(self)
        os.fsync = self._fsync

    def told(self, what: str) -> None:
        """Somebody was told that something is done."""
        with self._lock:
            self.events.append(Event("told", what))

    @staticmethod
    def _audit(event: str, values: tuple[Any, ...]) -> None:
        if Recorder._active and event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"):
            for recorder in Recorder._active:
                recorder._note(event, values)

    def _note(self, event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = values
            if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            if (name := self._below(path)) and not os.path.exists(path):
                self._add(Event("create", name))
            elif name and flags & os.O_TRUNC:
                raise AssertionError(f"{path} is written over where it lies")
            return
        folder = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.rename": 2, "os.link": 2}[event]
        path = self._resolved(values[0], values[folder])
        name = self._below(path)
        if event == "os.mkdir" and name and not os.path.exists(path):
            self._add(Event("mkdir", name))
        elif event in ("os.remove", "os.rmdir") and name and os.path.lexists(path):
            self._add(Event("remove", name))
        elif event == "os.rename" and name:
            self._look(path)
            self._add(Event("move", name, self._below(values[1])))
        elif event == "os.link" and name:
            raise AssertionError("links are not modelled")

    def _look(self, path: str) -> None:
        """Note what is in a file, or in all below a folder, as far as it is written now."""
        if os.path.isdir(path):
            for here, _, names in os.walk(path):
                for name in names:
                    self._look(os.path.join(here, name))
            return
        with open(path, "rb") as stream:
            self._add(Event("data", self._below(path), data=stream.read()))

    def _sync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        name = self._below(path)
        if name or path == self.root:
            if os.path.isdir(path):
                self._add(Event("sync_folder", name, site=_site()))
            else:
                with self._lock:
                    self._look(path)
                    self._add(Event("sync", name, site=_site()))

    def _add(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)

    def _below(self, path: Any) -> str:
        text = os.path.abspath(os.fsdecode(path))
        return text[len(self.root) + 1 :] if text.startswith(self.root + "/") else ""

    @staticmethod
    def _resolved(path: Any, descriptor: Any) -> str:
        text = os.fsdecode(path)
        if isinstance(descriptor, int) and descriptor >= 0 and not os.path.isabs(text):
            return os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), text)
        return os.path.abspath(text)


def _site() -> str:
    """The function that wants a sync, and for `sync_folder` the one that calls it."""
    frame = sys._getframe(2)
    names = []
    while frame.f_back is not None and not names:
        if frame.f_code.co_name != "sync_folder":
            names.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")
        frame = frame.f_back
    kind = "folder" if sys._getframe(2).f_code.co_name == "sync_folder" else "file"
    return f"{names[0]} ({kind})"


# ---- the disk --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class File:
    written: bytes = b""
    synced: bytes | None = None
    """None: nothing of it is sure to be there."""
    past: list[bytes] = field(default_factory=list)


@dataclass(eq=False)
class Folder:
    names: dict[str, File | Folder] = field(default_factory=dict)
    """As the program sees them."""
    synced: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[dict[str, File | Folder | None]] = field(default_factory=list)
    """What has changed since the last sync, one thing after another; None: removed."""

    def change(self, names: dict[str, File | Folder | None]) -> None:
        self.pending.append(names)
        self.names = changed(self.names, [names])


def changed(
    names: dict[str, File | Folder], changes: Sequence[dict[str, File | Folder | None]]
) -> dict[str, File | Folder]:
    whole: dict[str, File | Folder | None] = {**names}
    for change in changes:
        whole |= change
    return {name: inode for name, inode in whole.items() if inode is not None}


class Disk:
    """Replays a record; at any moment it gives what a power cut could leave."""

    def __init__(self) -> None:
        self.root = Folder()

    def _find(self, path: str) -> tuple[Folder, str]:
        here = self.root
        *above, name = path.split("/")
        for part in above:
            found = here.names[part]
            assert isinstance(found, Folder)
            here = found
        return here, name

    def play(self, event: Event) -> None:
        if event.act == "told":
            return
        if event.act == "sync_folder" and not event.path:
            folder: File | Folder = self.root
        else:
            above, name = self._find(event.path)
            if event.act in ("create", "mkdir"):
                above.change({name: File() if event.act == "create" else Folder()})
                return
            if event.act == "data" and name not in above.names:  # written by what the recorder does not see
                above.change({name: File()})
            folder = above.names[name]
            if event.act == "remove":
                above.change({name: None})
            elif event.act == "move":
                target, new = self._find(event.other)
                assert target is above, "moves between folders are not modelled"
                above.change({name: None, new: folder})
        if event.act == "sync_folder":
            assert isinstance(folder, Folder)
            folder.synced, folder.pending = dict(folder.names), []
        elif event.act in ("data", "sync"):
            assert isinstance(folder, File)
            if event.act == "data":
                folder.past.append(folder.written)
                folder.written = event.data
            else:
                folder.synced, folder.past = folder.written, []

    def image(self, draw: random.Random) -> Image:
        """One that is possible. The first of some draws favour the extremes: all is lost, all is there."""
        found: Image = {}
        taste = draw.choice(["lost", "there", "any", "any"])

        def walk(folder: Folder, path: str) -> None:
            share = {"lost": 0.0, "there": 1.0}.get(taste, draw.choice([0.0, 0.5, 0.9, 1.0]))
            kept = [change for change in folder.pending if draw.random() < share]
            for name, inode in changed(folder.synced, kept).items():
                if isinstance(inode, Folder):
                    found[f"{path}{name}/"] = b""
                    walk(inode, f"{path}{name}/")
                else:
                    found[path + name] = content(inode)

        def content(file: File) -> bytes:
            if file.synced == file.written:
                return file.written
            whole = file.written
            blocks = draw.randrange(len(whole) // BLOCK + 1) * BLOCK
            old = file.synced if file.synced is not None else draw.choice([b"", *file.past])
            kind = draw.choice(["there", "prefix", "zeros", "holes", "scattered"]) if taste == "any" else taste
            return {
                "lost": old,
                "there": whole,
                "prefix": whole[:blocks],
                "zeros": bytes(len(whole)),
                "holes": whole[:blocks] + bytes(len(whole) - blocks),
                "scattered": b"".join(draw.choice([block, bytes(len(block))]) for block in _blocks(whole)),
            }[kind]

        walk(self.root, "")
        return found


def _blocks(data: bytes) -> Iterator[bytes]:
    return (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))


def images(
    events: Sequence[Event], each: int, seed: int = 0, without: str | None = None
) -> Iterator[tuple[int, Image]]:
    """Images at every moment of a record, with the number of events before it.

    each     how many of each moment, if there are as many that no other moment has; one at least
    without  a site whose syncs are left out
    """
    disk, draw = Disk(), random.Random(seed)
    seen: set[int] = set()
    for number, event in enumerate(events):
        if event.site and event.site == without:
            continue
        disk.play(event)
        found = misses = 0
        while found < each and misses < (30 if event.act == "data" else 4):
            image = disk.image(draw)
            key = hash(frozenset(image.items()))
            if key not in seen or not found + misses:
                yield number + 1, image
            found, misses = (found + 1, 0) if key not in seen else (found, misses + 1)
            seen.add(key)


def materialise(image: Image, root: Path) -> Path:
    """Put an image onto a disk."""
    root.mkdir(parents=True)
    for name, data in image.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


@contextlib.contextmanager
def unsynced() -> Iterator[None]:
    """No disk is waited for."""
    before, os.fsync = os.fsync, lambda descriptor: None
    try:
        yield
    finally:
        os.fsync = before
