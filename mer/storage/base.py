"""What a store is, and how one is opened: a local folder, NFS, or an object store (`s3://...`).

Nothing is ever half there. On a file system a file is written under a temporary name that starts with `_`, synced,
renamed, and its folder synced; on an object store an object appears when its upload is complete, and nothing else
can be relied upon, so that names of records are unique and never written twice.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from mer.errors import UserError, refuse_secrets

PROBES = "ledger/_probes"
LISTED_S = 30.0
"""How long after it was written a file may be missing in the listing of its folder."""
HINT = "Choose another with --results DIR."


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a listing shows it: its name within the folder, its size, and when it was written (ns, the store's
    own clock)."""

    name: str
    size: int
    modified: int = 0


class Store(Protocol):
    """Files by slash-separated name below one root."""

    root: str

    def put(self, name: str, data: bytes) -> None:
        """Write a file; readers see the old content or the new, never a part."""

    def upload(self, name: str, source: Path) -> None:
        """Write a file from a file of this machine, however large."""

    def read(self, name: str) -> bytes:
        """The content of a file; `FileNotFoundError` if there is none."""

    def open(self, name: str) -> IO[bytes]:
        """A file to be read in places."""

    def list(self, folder: str) -> list[Entry]:
        """The data files directly in a folder, sorted by name; names that start with `_` or `.` are not data."""

    def tree(self, folder: str) -> Sequence[Entry]:
        """The data files in a folder and below it, named by their path within it, sorted."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if it is gone already."""

    def folders(self, folder: str) -> tuple[str, ...]:
        """The folders directly in a folder, sorted; names that start with `_` or `.` are not for readers."""

    def remove_tree(self, folder: str) -> None:
        """Remove a folder and all that is in it."""

    def path(self, name: str) -> str:
        """The full address of a file, for messages."""


def is_address(text: str | os.PathLike[str]) -> bool:
    """Does this name an object store, and not a folder?

    >>> is_address("s3://bucket/corpus"), is_address("data/corpus"), is_address("file:///data")
    (True, False, False)
    """
    text = os.fspath(text)
    return "://" in text and not text.startswith("file://")


def parent_of(address: str) -> tuple[str, str]:
    """The folder that holds a folder, and its name there; an address keeps what says how to reach it.

    >>> parent_of("/data/results/mine"), parent_of("s3://bucket/results?scheme=http&endpoint_override=http://host")
    (('/data/results', 'mine'), ('s3://bucket?scheme=http&endpoint_override=http://host', 'results'))
    """
    place, mark, options = address.partition("?") if is_address(address) else (address, "", "")
    scheme, slashes, path = place.rpartition("://")
    parent, slash, name = path.rpartition("/")
    if slashes and not slash:
        return address, ""  # a bucket lies in nothing
    return f"{scheme}{slashes}{parent or '/'}{mark}{options}", name


def open_store(root: str | os.PathLike[str], *, hint: str = HINT, patience: float | None = None) -> Store:
    """A store at a folder or at an address that pyarrow knows (`s3://bucket/path`, `gs://...`).

    hint      what to do where it cannot be written, for messages
    patience  seconds for which an object store may not answer; None: as long as a run can wait
    """
    from mer.storage.local import LocalStore
    from mer.storage.objects import PATIENCE_S, ObjectStore

    text = os.fspath(root)
    refuse_secrets(text)
    if not is_address(text):
        return LocalStore(Path(text.removeprefix("file://")).absolute(), hint)
    from pyarrow.fs import FileSystem

    try:
        filesystem, base = FileSystem.from_uri(text)
    except Exception as error:  # pyarrow raises several kinds, none of which names the address
        raise UserError(
            f"cannot open {text}: {error}", expected="a folder or an address such as s3://bucket/results"
        ) from error
    return ObjectStore(filesystem, base, text, hint, PATIENCE_S if patience is None else patience)


def free_bytes(store: Store) -> int | None:
    """Free space where a local store lies; None for an object store."""
    from mer.storage.local import LocalStore

    if not isinstance(store, LocalStore):
        return None
    folder = store.folder
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_writable(store: Store) -> None:
    """Try out what this project asks of its storage with a small file: better refused now than after the first trial.

    Nothing else is asked: no locks, no conditions, no order among files. Answers may get lost, what was removed may
    be listed for a while or come back, and a file may be written twice.
    """
    folder, name = PROBES, uuid.uuid4().hex
    try:
        for content in (b"mer", b"mer again"):
            store.put(f"{folder}/{name}", content)
            try:
                found = store.read(f"{folder}/{name}")
            except FileNotFoundError:
                found = b""
            _promised(found == content, store, "what was written there reads back differently", "read after write")
        deadline = time.monotonic() + LISTED_S
        while name not in (listed := [entry.name for entry in store.list(folder)]) and time.monotonic() < deadline:
            time.sleep(1.0)
        problem = f"a file is not in the listing of its folder {LISTED_S:.0f} s after it was written"
        _promised(name in listed, store, problem, "list after write")
    finally:
        with contextlib.suppress(OSError, UserError):
            store.remove(f"{folder}/{name}")


def _promised(kept: bool, store: Store, problem: str, promise: str) -> None:
    if not kept:
        raise UserError(
            problem,
            where=store.root,
            expected=f"storage that keeps the promise of {promise}, as S3, GCS, NFS and local disks do",
            hint="A cache or a mirror in front of it may be the cause.",
        )
