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
import io
import itertools
import operator
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments.results.records import TrialRecord, checksum, decode, encode, record_table
from experiments.results.schema import TRIAL_PART, NewerSchema, check_version
from experiments.results.snapshot import Snapshot
from mer.errors import UserError
from mer.faults import visit
from mer.storage import Store, StoreUnreachable, open_store

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


class Ledger:
    """A ledger under a results folder. Reading remembers what it has read: parts never change."""

    def __init__(self, root: str | Store) -> None:
        self.store = open_store(root) if isinstance(root, str) else root
        self._parts: dict[str, pa.Table] = {}
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

    def refresh(self) -> Snapshot:
        """Everything there is now; reads only what is new."""
        before = self._snapshot
        found = self._refresh()
        for _ in range(5):  # what was there and is not any more was removed on purpose, or missed by a listing
            if before is None or before.rows.keys() <= found.rows.keys():
                break
            found = self._refresh()
        return found

    def _refresh(self) -> Snapshot:
        names = self._list()
        new = [name for name in names if name not in self._parts]
        if self._snapshot is not None and not new and len(names) == len(self._parts):
            return self._snapshot
        gone = False
        for name, table in self._read_all(new):
            if table is None:
                gone = True
            else:
                self._parts[name] = table
        for name in set(self._parts) - set(names):
            del self._parts[name]
        if gone:  # compacted or quarantined under our eyes: what replaces it is in a new listing
            return self._refresh()
        tables = list(self._parts.values())
        whole = pa.concat_tables(tables) if tables else pa.Table.from_batches([], schema=TRIAL_PART).select(LIGHT)
        self._snapshot = Snapshot(whole)
        return self._snapshot

    def holdings(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Each part by name, as of the last refresh, with its trials."""
        for name, table in self._parts.items():
            yield name, table["trial"].to_pylist()

    def predictions(self, trials: Iterable[str]) -> Iterator[pa.Table]:
        """The whole rows, predictions included, of the attempts that count for some trials, a row group at a time.

        A row that counts may lie in several parts (a crash during compaction): the reader of this keeps one.
        """
        wanted = pa.array(sorted(set(trials)), pa.string())

        def is_mine(name: str) -> bool:
            known = self._parts.get(name)
            return known is None or bool(pc.any(pc.is_in(known["trial"], wanted)).as_py())

        for _, group in self._walk(is_mine, wanted):
            yield group.filter(pc.is_in(group["trial"], wanted))

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
            with self.store.open(f"{FOLDER}/{name}") as file:
                if name.startswith("compact-"):
                    _check_footer(file, name)
                    return _light(file, name)
                data = file.read()
        except FileNotFoundError:
            return None
        except (StoreUnreachable, NewerSchema):
            raise
        except UserError:
            self._quarantine(name)
            return None
        try:
            _check_whole(data, name)
            return decode(data, name, LIGHT)
        except NewerSchema:
            raise
        except UserError:
            self._quarantine(name)
            return None

    def _groups(self, name: str, wanted: pa.Array | None = None) -> Iterator[pa.Table]:
        """A part's row groups with all columns, each proven whole; only those with a wanted trial.

        Raises `_Gone` if the part is not there, or turns out to be damaged and is set aside.
        """
        try:
            with self.store.open(f"{FOLDER}/{name}") as file:
                if not name.startswith("compact-"):
                    data = file.read()
                    _check_whole(data, name)
                    yield decode(data, name)
                    return
                with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                    check_version(parquet.schema_arrow, name)
                    for group in range(parquet.num_row_groups):
                        if wanted is not None:
                            trials = parquet.read_row_group(group, ["trial"])["trial"]
                            if not pc.any(pc.is_in(trials, wanted)).as_py():
                                continue
                        yield _complete(parquet.read_row_group(group), TRIAL_PART.names)
        except FileNotFoundError:
            raise _Gone from None
        except (StoreUnreachable, NewerSchema):
            raise
        except (UserError, OSError, pa.ArrowException):
            self._quarantine(name)
            raise _Gone from None

    def _quarantine(self, name: str) -> None:
        """Move a damaged part out of the way, saving the row groups of a compacted part that are whole."""
        path = f"{FOLDER}/{name}"
        try:
            data = self.store.read(path)
        except FileNotFoundError:
            return
        kept = 0
        if name.startswith("compact-"):
            rescued = _rescue(data)
            if rescued is not None:
                kept = len(rescued)
                self._put_compact(lambda: iter([rescued]))
        self.store.put(f"{FOLDER}/_corrupt/{name}", data)
        visit("quarantine.copied")
        self.store.remove(path)
        self.notices.append(
            f"damaged part moved to {self.store.path(f'{FOLDER}/_corrupt/{name}')}"
            + (f", {kept} attempts saved from it" if kept else "")
            + ": what it held counts as missing and will run again"
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
        with contextlib.suppress(_Gone):
            return sum(len(group) for group in self._groups(name))
        return 0

    def _put_compact(self, tables: Callable[[], Iterator[pa.Table]]) -> None:
        """Write attempts as one part, sorted enough to compress and without exact repetitions."""
        sink = io.BytesIO()
        seen: set[tuple[Any, ...]] = set()
        with pq.ParquetWriter(
            sink,
            TRIAL_PART,
            version="2.6",
            compression="zstd",
            write_page_checksum=True,
            write_statistics=False,
        ) as writer:
            pending: list[pa.Table] = []
            for table in tables():
                keys = list(zip(*(table[name].to_pylist() for name in REPETITION), strict=True))
                fresh = [key not in seen for key in keys]
                seen.update(keys)
                pending.append(table.filter(pa.array(fresh, pa.bool_())))
                if sum(map(len, pending)) >= GROUP:
                    writer.write_table(pa.concat_tables(pending), row_group_size=GROUP)
                    pending = []
            if sum(map(len, pending)):
                writer.write_table(pa.concat_tables(pending), row_group_size=GROUP)
        data = sink.getvalue()
        if seen:
            unique = uuid.uuid4().hex[:8]
            self.store.put(f"{FOLDER}/compact-{unique}.{checksum(data)}.{checksum(_footer(data))}.parquet", data)

    def rewrite_without(self, trials: set[str]) -> int:
        """Forget trials (`mer gc`): parts that hold them are replaced by parts that do not. Returns rows removed."""
        removed = 0
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


def _check_whole(data: bytes, name: str) -> None:
    if checksum(data) != name.split(".")[1]:
        raise UserError("the content does not match its checksum", where=name)


def _footer(data: bytes) -> bytes:
    length = int.from_bytes(data[-8:-4], "little")
    return data[-8 - length :]


def _check_footer(file: Any, name: str) -> None:
    """Prove a compacted part's footer; its pages carry checksums of their own."""
    size = file.seek(0, 2)
    if size < 12:
        raise UserError("cut off", where=name)
    file.seek(size - 8)
    length = int.from_bytes(file.read(8)[:4], "little")
    if length + 12 > size:
        raise UserError("cut off", where=name)
    file.seek(size - 8 - length)
    if checksum(bytes(file.read(length + 8))) != name.split(".")[2]:
        raise UserError("the footer does not match its checksum", where=name)
    file.seek(0)


def _light(file: Any, name: str) -> pa.Table:
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            check_version(parquet.schema_arrow, name)
            known = parquet.schema_arrow.names
            return _complete(parquet.read([column for column in LIGHT if column in known]), LIGHT)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"damaged part: {error}", where=name) from None


def _complete(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Add the columns that an older version of the schema lacks."""
    for name in names:
        if name not in table.column_names:
            kind = TRIAL_PART.field(name).type
            table = table.append_column(pa.field(name, kind), pa.nulls(len(table), kind))
    fields = [TRIAL_PART.field(name) for name in names]
    return table.select(list(names)).cast(pa.schema(fields, metadata=TRIAL_PART.metadata))


def _rescue(data: bytes) -> pa.Table | None:
    """The row groups of a damaged compacted part that can still be read, proven page by page."""
    found = []
    try:
        with pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True) as parquet:
            for group in range(parquet.num_row_groups):
                try:
                    found.append(_complete(parquet.read_row_group(group), TRIAL_PART.names))
                except (OSError, pa.ArrowException, UnicodeDecodeError):
                    continue
    except (OSError, pa.ArrowException):
        return None
    return pa.concat_tables(found) if found else None


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
