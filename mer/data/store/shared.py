"""A feature store that machines share, behind the one that each has on its own disk.

    <shared>/features/<digest of the frontend>/<digest>.frames      as in a node's own store

A node fetches the shards that hold what it lacks, reading their indexes first, and gives what it has extracted: so an
utterance is extracted once for all machines. Shards are named by their content and never change. The shared store is a
folder (NFS, EFS, Lustre) or an object store; `MER_FEATURES` names it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mer.data.store.shard import SUFFIX, Damaged, Shard, read_keys
from mer.data.store.store import DESCRIPTION, FeatureStore
from mer.errors import UserError
from mer.files import claim, commit, disk_errors, temporary
from mer.storage import Entry, LocalStore, Store, open_store
from mer.storage.claims import claim as claim_among_machines

VARIABLE = "MER_FEATURES"
AT_ONCE = 8
"""Indexes, or shards, fetched at a time."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


def open_features(root: Path | str | None = None) -> FeatureStore:
    """This machine's feature store, with the shared one behind it that `MER_FEATURES` names, if it names one."""
    place = os.environ.get(VARIABLE)
    shared = SharedFeatures(place) if place else None
    own = FeatureStore(root)
    if shared is not None and not (isinstance(shared.store, LocalStore) and _same(shared.store.folder, own.root)):
        own.shared = shared
    return own


class SharedFeatures:
    """The shared store at a folder or an address. One that may only be read is only read, with a warning."""

    def __init__(self, place: str | Store) -> None:
        hint = f"Choose another with the environment variable {VARIABLE}."
        self.store = open_store(place, hint=hint) if isinstance(place, str) else place
        self._keys: dict[str, frozenset[bytes]] = {}
        self._read_only = False

    def fetch(self, folder: Path, wanted: frozenset[bytes]) -> None:
        """Bring the shards that hold any of these utterances to this node, each once however many ask."""
        chosen = []
        for name, keys in self._shards(folder.name).items():
            if wanted & keys:
                chosen.append(name)
                wanted -= keys
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda name: self._fetch(folder, name), chosen))

    def offer(self, folder: Path, found: Mapping[bytes, Path]) -> None:
        """Give the shards of these utterances, where nobody has given an utterance yet."""
        there = frozenset[bytes]().union(*self._shards(folder.name).values())
        fresh = sorted({path for key, path in found.items() if key not in there})
        if not fresh:
            return
        for path in (folder / DESCRIPTION, *fresh):
            self._allowed(functools.partial(self.store.upload, f"features/{folder.name}/{path.name}", path))

    @contextlib.contextmanager
    def claim(self, frontend: str, work: str, wait: bool) -> Iterator[bool]:
        """Hold a piece of work against all machines."""
        with contextlib.ExitStack() as stack:
            among = claim_among_machines(self.store, f"features/{frontend}", work, wait=wait)
            mine = self._allowed(lambda: stack.enter_context(among))
            yield mine is not False  # who may not write has nobody to wait for

    def _shards(self, frontend: str) -> dict[str, frozenset[bytes]]:
        """Every shard of a frontend with the keys in it; only new indexes are read."""
        there = [entry for entry in self.store.list(f"features/{frontend}") if entry.name.endswith(SUFFIX)]
        fresh = [entry for entry in there if entry.name not in self._keys]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for entry, keys in zip(fresh, pool.map(lambda entry: self._read_keys(frontend, entry), fresh), strict=True):
                if keys is not None:
                    self._keys[entry.name] = keys
        return {entry.name: self._keys[entry.name] for entry in there if entry.name in self._keys}

    def _read_keys(self, frontend: str, entry: Entry) -> frozenset[bytes] | None:
        """None: not to be had now. Somebody may write it anew under the same name, so that is not remembered."""
        try:
            with self.store.open(f"features/{frontend}/{entry.name}") as stream:
                return frozenset(read_keys(stream, entry.size, frontend))
        except FileNotFoundError:
            return None  # pruned under our eyes
        except Damaged as damage:
            self._discard(frontend, entry.name, damage)
            return None

    def _fetch(self, folder: Path, name: str) -> None:
        """One shard to this node's disk: under its name once it is whole and proven."""
        with disk_errors(folder), claim(folder, f"fetch-{name}", wait=True):
            if (folder / name).exists():
                return
            try:
                with temporary(folder) as (stream, path):
                    with self.store.open(f"features/{folder.name}/{name}") as source:
                        shutil.copyfileobj(source, stream, 8 << 20)
                    stream.flush()
                    Shard(path, folder.name).verify()
                    commit(stream, path, folder / name)
            except FileNotFoundError:
                return
            except Damaged as damage:
                self._discard(folder.name, name, damage)

    def _discard(self, frontend: str, name: str, damage: Damaged) -> None:
        where = self.store.path(f"features/{frontend}/{name}")
        _log.warning("%s is damaged (%s): removed; its utterances are extracted again", where, damage)
        self._allowed(lambda: self.store.remove(f"features/{frontend}/{name}"))
        self._keys.pop(name, None)

    def _allowed(self, act: Callable[[], T]) -> T | None:
        """Do what writes to the shared store; None where it has turned out that one may not."""
        if self._read_only:
            return None
        try:
            return act()
        except (UserError, OSError) as error:
            if not _forbidden(error):
                raise
            self._read_only = True
            _log.warning("%s may not be written: what is extracted here stays on this machine", self.store.root)
            return None


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _forbidden(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, UserError) else error
    denied = isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return denied or "ACCESS_DENIED" in str(cause).upper()
