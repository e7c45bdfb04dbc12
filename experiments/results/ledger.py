"""The ledger: the append-only record of finished attempts, and the only truth about what has been done.

    ledger/<trial>-<attempt>-<unique>.<checksum>.parquet    one attempt, or those of trials that ended together, written
                                                            by the worker that made them; named by the first
    ledger/compact-<unique>.<checksum>.<footer>.parquet     many attempts in one file; replaces their parts
    ledger/_decisions/  _code/  _corrupt/                   prunings and selections; accepted code; damaged parts

There are no locks. Parts have unique names and are never changed; what several drivers or a crash write twice is
told apart when it is read: one attempt counts for each trial (`effective`). Compaction first writes the compacted
part and only then removes what it replaces, and only ever removes files whose every row lies in a durable file, so
that any number of readers, writers and compactions may run at once and may be killed at any instant.

    ledger = Ledger("results")          # or "s3://bucket/results"
    ledger.append(record)
    ledger.refresh().get(record.trial)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import operator
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments.results.records import TrialRecord, checksum, conform, encode, record_table
from experiments.results.schema import TRIAL_PART, check_version
from experiments.results.snapshot import Snapshot
from mer import sealed
from mer.errors import UserError
from mer.faults import visit
from mer.sealed import Damaged, unreadable
from mer.storage import LISTED_S, Store, open_store, parent_of

FOLDER = "ledger"
LIGHT = tuple(name for name in TRIAL_PART.names if name != "predictions")
"""What a driver needs of an attempt: all but its predictions."""

GROUP = 32
"""Attempts in one row group of a compacted part: what a reader or a compaction holds in memory at a time."""
REPETITION = ("trial", "attempt", "status", "ended")
"""Rows that agree in these are one attempt written twice; two drivers may disagree about an attempt, and both count."""

LOOSE = 256
"""Parts that may lie about before a driver compacts them."""

TARGET = 4096
"""Attempts in one compacted part, about."""


class _Gone(Exception):
    """A part that was listed and cannot be read any more: whatever is left of it lies in a newer part."""


class _Waiting:
    """Patience with a listing that does not show yet what was written: at first none, `LISTED_S` in all.

    The last look begins after that time: one that began earlier may have spent it on a store that did not answer.
    """

    def __init__(self) -> None:
        self._deadline, self._pause, self._last = time.monotonic() + LISTED_S, 0.0, False

    def goes_on(self) -> bool:
        """Wait a little; False when it was long enough."""
        if self._last:
            return False
        self._last = time.monotonic() > self._deadline
        time.sleep(self._pause)
        self._pause = min(2 * self._pause + 0.05, 5.0)
        return True


def _attempts(table: pa.Table, trials: pa.Array) -> set[tuple[str, int]]:
    rows = table.filter(pc.is_in(table["trial"], trials))
    return set(zip(rows["trial"].to_pylist(), rows["attempt"].to_pylist(), strict=True))


class Ledger:
    """A ledger under a results folder. Reading remembers what it has read: parts never change."""

    def __init__(self, root: str | Store) -> None:
        self.store = open_store(root) if isinstance(root, str) else root
        self._parts: dict[str, pa.Table] = {}
        self._ignored: set[str] = set()
        self._wanted: set[str] = set()
        self._given_up: set[str] = set()
        self._snapshot: Snapshot | None = None
        self.notices: list[str] = []
        """What a person should know of the last refresh: damaged parts and what was done about them."""

    # ---- writing ---------------------------------------------------------------------------------------------

    def append(self, *records: TrialRecord) -> None:
        """Commit attempts: all of them or none. They are durable when this returns, and were not there in any form
        before the rename."""
        data, first = encode(record_table(records)), records[0]
        visit("ledger.before")
        unique = uuid.uuid4().hex[:8]
        self.store.put(f"{FOLDER}/{first.trial}-{first.attempt:03d}-{unique}.{checksum(data)}.parquet", data)
        visit("ledger.after")

    # ---- reading ---------------------------------------------------------------------------------------------

    def refresh(self, expected: Iterable[str] = ()) -> Snapshot:
        """Everything there is now; reads only what is new.

        What is known to have been written (`expected`, and what was there before) is waited for: a listing may be
        some seconds old, on NFS and in some object stores. So are parts that are listed and gone: what is left of
        them lies in a newer one.
        """
        self._wanted = (self._wanted | set(expected)) - self._given_up
        waiting = _Waiting()
        while True:
            found, gone = self._look()
            lacking = self._wanted - self._given_up - found.rows.keys()
            if not (gone or lacking) or not waiting.goes_on():
                break
        if lacking:
            self._given_up |= lacking
            self.notices.append(f"{len(lacking)} trials are not there any more: removed, or not listed by the storage")
        self._wanted = set(found.rows)
        return found

    def _look(self) -> tuple[Snapshot, bool]:
        """What a listing shows, and whether something of it was gone when it was read."""
        names = [name for name in self._list() if name not in self._ignored]
        new = [name for name in names if name not in self._parts]
        if self._snapshot is not None and not new and len(names) == len(self._parts):
            return self._snapshot, False
        gone = False
        for name, table in self._read_all(new):
            if table is None:
                gone = gone or name not in self._ignored
            else:
                self._parts[name] = table
        for name in set(self._parts) - set(names):
            del self._parts[name]
        tables = list(self._parts.values())
        whole = pa.concat_tables(tables) if tables else pa.Table.from_batches([], schema=TRIAL_PART).select(LIGHT)
        self._snapshot = Snapshot(whole)
        return self._snapshot, gone

    def holdings(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Each part by name, as of the last refresh, with its trials."""
        for name, table in self._parts.items():
            yield name, table["trial"].to_pylist()

    def predictions(self, trials: Iterable[str]) -> Iterator[pa.Table]:
        """The whole rows, predictions included, of the attempts that count for some trials, a row group at a time.

        A row that counts may lie in several parts (a crash during compaction): the reader of this keeps one. Attempts
        that the last refresh saw are waited for as a refresh does.
        """
        wanted = pa.array(sorted(set(trials)), pa.string())
        lacking = set() if self._snapshot is None else _attempts(self._snapshot.table, wanted)
        waiting = _Waiting()

        def is_mine(name: str) -> bool:
            known = self._parts.get(name)
            return known is None or bool(pc.any(pc.is_in(known["trial"], wanted)).as_py())

        while True:
            for _, group in self._walk(is_mine, wanted):
                lacking -= _attempts(group, wanted)
                yield group.filter(pc.is_in(group["trial"], wanted))
            if not any(trial not in self._given_up for trial, _ in lacking) or not waiting.goes_on():
                return

    def _walk(
        self, is_mine: Callable[[str], bool] = lambda name: True, wanted: pa.Array | None = None
    ) -> Iterator[tuple[str, pa.Table]]:
        """The row groups of all parts, each with the name of its part.

        A part that is merged or set aside between the listing and its reading is read in what replaces it, so that
        a row may come twice, and none is missed.
        """
        seen: set[str] = set()
        again = True
        while again:
            again = False
            for name in self._list():
                if name in seen or not is_mine(name):
                    continue
                seen.add(name)
                try:
                    for group in self._groups(name, wanted):
                        yield name, group
                except _Gone:
                    again = True

    def _list(self) -> list[str]:
        """The names of all parts, as three listings in a row agree on them.

        A folder is not listed in an instant: one that is compacted meanwhile may show neither the new part (made
        behind the reader's back) nor the old ones (removed before it came to them). The next listing shows the new one.
        """
        before: list[str] | None = None
        agreed = 0
        for _ in range(50):
            names = [entry.name for entry in self.store.list(FOLDER) if entry.name.endswith(".parquet")]
            agreed = agreed + 1 if names == before else 0
            if agreed == 2:
                break
            before = names
        return names

    def _read_all(self, names: Sequence[str]) -> list[tuple[str, pa.Table | None]]:
        if len(names) < 4:
            return [(name, self._read(name)) for name in names]
        with ThreadPoolExecutor(8) as pool:
            return list(zip(names, pool.map(self._read, names), strict=True))

    def _read(self, name: str) -> pa.Table | None:
        """The light columns of a part; None if it is gone, or damaged and moved away."""
        try:
            with self._opened(name) as parquet:
                names = set(parquet.schema_arrow.names)
                known = [column for column in LIGHT if column in names]
                return conform(parquet.read(known), LIGHT, name)
        except _Gone:
            return None

    def _groups(self, name: str, wanted: pa.Array | None = None) -> Iterator[pa.Table]:
        """A part's row groups with all columns; only those with a wanted trial."""
        with self._opened(name) as parquet:
            for group in range(parquet.num_row_groups):
                if wanted is not None:
                    trials = parquet.read_row_group(group, ["trial"])["trial"]
                    if not pc.any(pc.is_in(trials, wanted)).as_py():
                        continue
                yield conform(parquet.read_row_group(group), TRIAL_PART.names, name)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[pq.ParquetFile]:
        """A part to be read, each byte of it proven. Raises `_Gone`, then or later, if it is not there, or turns out
        to be damaged and is set aside."""
        try:
            with self.store.open(f"{FOLDER}/{name}") as file, _proven(file, name) as parquet:
                yield parquet
        except FileNotFoundError:
            raise _Gone from None
        except Damaged as damage:
            self._quarantine(name, damage)
            raise _Gone from None
        except OSError as error:
            raise unreadable(error, self.store.path(f"{FOLDER}/{name}")) from error

    def _quarantine(self, name: str, damage: Damaged) -> None:
        """Move a damaged part out of the way, saving the row groups of a compacted part that are whole."""
        path = f"{FOLDER}/{name}"
        if name in self._parts:
            self._given_up.update(self._parts[name]["trial"].to_pylist())
        try:
            data = self.store.read(path)
        except FileNotFoundError:
            return
        saved: list[pa.Table] = []
        with contextlib.suppress(Damaged):
            saved += (conform(group, TRIAL_PART.names, name) for group in sealed.salvage(data, name))
        kept = sum(map(len, saved))
        try:
            if kept:
                self._put_compact(lambda: iter(saved))
            self.store.put(f"{FOLDER}/_corrupt/{name}", data)
            visit("quarantine.copied")
            self.store.remove(path)
            what = f"damaged part moved to {self.store.path(f'{FOLDER}/_corrupt/{name}')}"
        except (UserError, OSError) as error:  # who only reads may have no right to move it
            self._ignored.add(name)
            kept, what = 0, f"damaged part {self.store.path(path)}, which could not be moved away ({error})"
        self.notices.append(
            f"{what}: {damage.problem}"
            + (f", {kept} attempts saved from it" if kept else "")
            + ". What it held counts as missing and will run again"
        )

    # ---- compaction ------------------------------------------------------------------------------------------

    def loose(self) -> int:
        """How many parts have not been compacted."""
        return sum(not name.startswith("compact-") for name in self._list())

    def compact_if_needed(self) -> None:
        """Keep the number of files bounded."""
        if self.loose() > LOOSE:
            self.compact()

    def compact(self, *, everything: bool = False) -> int:
        """Merge loose parts into one (`everything`: compacted ones too). Returns the number of files removed.

        Leaves what this object knows alone, so that a thread may do it while others read.
        """
        names = [name for name in self._list() if everything or not name.startswith("compact-")]
        removed = 0
        for batch in _batches(names, self._rows, TARGET):
            if len(batch) < 2:
                continue
            merged: list[str] = []

            def tables(batch: Sequence[str] = batch, merged: list[str] = merged) -> Iterator[pa.Table]:
                for name in batch:
                    try:
                        found = list(self._groups(name))
                    except _Gone:  # somebody else merged it
                        continue
                    merged.append(name)
                    yield from found

            self._put_compact(tables)
            visit("compact.merged")
            for name in merged:
                self.store.remove(f"{FOLDER}/{name}")
                visit("compact.removing")
            removed += len(merged)
        return removed

    def _rows(self, name: str) -> int:
        known = self._parts.get(name)
        if known is not None:
            return len(known)
        if not name.startswith("compact-"):
            return 1  # or the few of a bundle: not worth a reading of their own
        with contextlib.suppress(_Gone), self._opened(name) as parquet:
            return int(parquet.metadata.num_rows)
        return 0

    def _put_compact(self, tables: Callable[[], Iterator[pa.Table]]) -> None:
        """Write attempts as one part, sorted enough to compress and without exact repetitions."""
        seen: set[tuple[Any, ...]] = set()

        def groups() -> Iterator[pa.Table]:
            pending: list[pa.Table] = []
            for table in tables():
                keys = list(zip(*(table[name].to_pylist() for name in REPETITION), strict=True))
                fresh = [key not in seen for key in keys]
                seen.update(keys)
                pending.append(table.filter(pa.array(fresh, pa.bool_())))
                if sum(map(len, pending)) >= GROUP:
                    yield pa.concat_tables(pending)
                    pending = []
            if sum(map(len, pending)):
                yield pa.concat_tables(pending)

        data = sealed.encode(groups(), TRIAL_PART, GROUP, spare=True)
        if seen:
            unique, end = uuid.uuid4().hex[:8], checksum(_footer(io.BytesIO(data), ""))
            self.store.put(f"{FOLDER}/compact-{unique}.{checksum(data)}.{end}.parquet", data)

    def rewrite_without(self, trials: set[str]) -> int:
        """Forget trials (`mer gc`): parts that hold them are replaced by parts that do not. Returns rows removed."""
        removed = 0
        self._given_up |= trials
        forgotten = pa.array(sorted(trials), pa.string())
        for name, pairs in itertools.groupby(self._walk(), key=operator.itemgetter(0)):
            groups = [group for _, group in pairs]
            kept = [group.filter(pc.invert(pc.is_in(group["trial"], forgotten))) for group in groups]
            doomed = sum(map(len, groups)) - sum(map(len, kept))
            if not doomed:
                continue
            if sum(map(len, kept)):
                self._put_compact(lambda kept=kept: iter(kept))  # type: ignore[misc]
            self.store.remove(f"{FOLDER}/{name}")
            removed += doomed
        return removed

    # ---- code that was declared equal ------------------------------------------------------------------------

    def equal_code(self) -> Mapping[str, str]:
        """What `mer accept-code` has recorded: new digest to the digest it counts as."""
        from experiments.results.accepted import read

        return read(self.store)


def is_there(store: Store) -> bool:
    """Whether a folder is a results folder: there is a ledger once a run has begun."""
    return FOLDER in store.folders("")


def existing(results: str) -> Ledger:
    """The ledger of a results folder that is one. A name with a typo is refused before anything is written there."""
    store = open_store(results)
    if not is_there(store):
        parent, name = parent_of(store.root)
        run = is_there(open_store(parent)) and any(entry.name == "trials.parquet" for entry in store.list(""))
        raise UserError(
            "no results folder",
            where=results,
            expected=f"a folder with {FOLDER}/",
            hint=f"{name} is a run in the results folder {parent}." if run else None,
        )
    return Ledger(store)


@contextlib.contextmanager
def _proven(file: IO[bytes], name: str) -> Iterator[pq.ParquetFile]:
    """A part whose content is what its name says; what is read of it later is what was written."""
    fields = name.split(".")
    compact = name.startswith("compact-")
    if len(fields) != (4 if compact else 3):
        raise Damaged("not a part of a ledger: its name has no checksum", where=name)
    if compact:
        _check(checksum(_footer(file, name)), fields[2], name)
    else:
        file = io.BytesIO(file.read())
        _check(checksum(file.getvalue()), fields[1], name)
    with sealed.opened(file, name) as parquet:
        check_version(parquet.schema_arrow, name)
        if compact and sealed.BLOCKS not in (parquet.metadata.metadata or {}):  # an earlier version's: all, or nothing
            _check(_digest(file, name), fields[1], name)
        yield parquet


def _digest(file: IO[bytes], name: str) -> str:
    whole = hashlib.blake2b(digest_size=8)
    try:
        file.seek(0)
        while block := file.read(1 << 20):
            whole.update(block)
    except OSError as error:
        raise unreadable(error, name) from error
    return whole.hexdigest()


def _check(found: str, expected: str, name: str) -> None:
    if found != expected:
        raise Damaged("the content does not match its checksum", where=name)


def _footer(file: IO[bytes], name: str) -> bytes:
    size = file.seek(0, io.SEEK_END)
    if size >= 12:
        file.seek(size - 8)
        length = int.from_bytes(file.read(8)[:4], "little")
        if length + 12 <= size:
            file.seek(size - 8 - length)
            return file.read(length + 8)
    raise Damaged("cut off", where=name)


def _batches(names: Sequence[str], rows: Callable[[str], int], target: int) -> Iterator[list[str]]:
    batch: list[str] = []
    total = 0
    for name in names:
        count = rows(name)
        if batch and total + count > target:
            yield batch
            batch, total = [], 0
        batch.append(name)
        total += count
    if batch:
        yield batch


__all__ = ["FOLDER", "LIGHT", "LOOSE", "Ledger", "Snapshot"]
