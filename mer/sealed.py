"""Parquet that proves itself: whatever is read from a file was checked against what was written.

    [row groups] [seal] [footer] [seal] [footer]      any Parquet reader reads it; one footer is a spare, or left out

Parquet's own checksums cover the content of pages alone: one flipped bit in a page's header or in the footer shows
other numbers, or none. Here the footer lists a digest for every block of the row groups (`mer.blocks`), and the seal
has the digest of the footer. Files without a seal, which earlier versions wrote, are read with Parquet's own checks.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mer.errors import UserError

BLOCK = 1 << 16
BLOCKS = b"mer.blocks"
_MAGIC = b"MERSEAL1"
_SEAL = struct.Struct("<8s16s")
_END = b"PAR1"


class Damaged(UserError):
    """A file that is not what was written: cut off, changed, or made by something else."""


def _digest(data: bytes | memoryview, size: int = 16) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()


def unreadable(error: OSError, where: str) -> UserError:
    """A disk or a store that fails says nothing about the content."""
    return UserError(
        f"cannot be read: {error.strerror or error}",
        where=where,
        hint="See who may read it, and whether the disk or the connection is sound. It was left as it is.",
    )


# ---- writing ---------------------------------------------------------------------------------------------------


def encode(tables: Iterable[pa.Table], schema: pa.Schema, rows: int | None = None, *, spare: bool = False) -> bytes:
    """Tables as one file: the same tables give the same bytes. Each becomes row groups of at most `rows` rows."""
    sink, ends = io.BytesIO(), [len(_END)]
    with pq.ParquetWriter(
        sink, schema, version="2.6", compression="zstd", write_page_checksum=True, write_statistics=False
    ) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=rows)
            ends += [*range(ends[-1] + BLOCK, sink.tell(), BLOCK), sink.tell()]
        with sink.getbuffer() as body:
            blocks = [[end, _digest(body[start:end], 8).hex()] for start, end in zip([0, *ends], ends, strict=False)]
        writer.add_key_value_metadata({BLOCKS.decode(): json.dumps(blocks, separators=(",", ":"))})
    sink.seek(ends[-1])
    footer = sink.read()
    sink.seek(ends[-1])
    sink.write((_SEAL.pack(_MAGIC, _digest(footer)) + footer) * (2 if spare else 1))
    return sink.getvalue()


# ---- reading ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(file: IO[bytes], where: str) -> Iterator[pq.ParquetFile]:
    """An open file, to be read in places. Raises `Damaged` here or at any reading.

    What the file itself raises (a disk or a store that fails) is no damage and comes through as a `UserError` about
    reading.
    """
    with judged(where):
        source = _Proven(file, where)
        with pq.ParquetFile(source, metadata=source.metadata(), page_checksum_verification=True) as parquet:
            yield parquet


def read(data: bytes, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A file as a table."""
    with opened(io.BytesIO(data), where) as parquet:
        return parquet.read(columns)


def of_a_run(data: bytes, where: str, columns: Sequence[str], *, only: bool = False) -> pa.Table:
    """One of the tables of a run, whose first columns are these; `only`: read no others."""
    try:
        with opened(io.BytesIO(data), where) as parquet:
            found = parquet.schema_arrow.names[: len(columns)]
            if found != list(columns):
                raise Damaged(f"not this table of a run: its columns are {', '.join(found)} ...", where=where)
            return parquet.read(list(columns) if only else None)
    except Damaged as damage:
        hint = "It is made from the ledger: run the same `mer run` again, which computes nothing that is on record."
        raise Damaged(f"cannot be read: {damage.problem}", where=where, hint=hint) from None


def salvage(data: bytes, where: str) -> Iterator[pa.Table]:
    """The row groups of a damaged file that are whole: those alone of which that can be proven."""
    end = _end_of_whole(data)
    if end is None:
        return
    with opened(io.BytesIO(data[:end]), where) as parquet:
        for group in range(parquet.num_row_groups):
            with contextlib.suppress(Damaged), judged(where):
                yield parquet.read_row_group(group)


@contextlib.contextmanager
def judged(where: str) -> Iterator[None]:
    """Whatever is raised over the content of a file means that it is not what was written."""
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # pyarrow raises half a dozen kinds over bytes that it does not understand
        raise Damaged(f"damaged, or not written by mer: {str(error).splitlines()[0]}", where=where) from None


def _end_of_whole(data: bytes) -> int | None:
    """Where the last footer ends that its seal proves: the file's own, or the spare."""
    at = data.rfind(_MAGIC)
    while at >= 0:
        start = at + _SEAL.size
        end = data.find(_END, start) + len(_END)
        while end >= start:
            if _digest(data[start:end]) == data[at + len(_MAGIC) : start]:
                return end
            end = data.find(_END, end) + len(_END)
        at = data.rfind(_MAGIC, 0, at)
    return None


class _Proven(io.RawIOBase):
    """A file whose every byte is compared with its block's digest before anybody sees it."""

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file, self.where = file, where
        self._size, self._at = file.seek(0, io.SEEK_END), 0
        self._ends: list[int] = []
        self._digests: list[str] = []
        self._block = (0, b"")

    def metadata(self) -> pq.FileMetaData:
        """What the footer says, once the seal has proven it; from now on it is the measure of the rest."""
        length = int.from_bytes(self._raw(self._size - 8, 4), "little") if self._size >= 12 else self._size
        start = self._size - 8 - length
        if start < len(_END):
            raise Damaged("cut off", where=self.where)
        footer = self._raw(start, length + 8)
        seal = self._raw(max(start - _SEAL.size, 0), min(start, _SEAL.size))
        found = pq.read_metadata(pa.BufferReader(_END + footer))
        blocks = (found.metadata or {}).get(BLOCKS)
        if blocks is not None and seal != _SEAL.pack(_MAGIC, _digest(footer)):
            raise Damaged("its end does not match its seal", where=self.where)
        for end, digest in json.loads(blocks or b"[]"):
            self._ends.append(end)
            self._digests.append(digest)
        return found

    def _raw(self, start: int, size: int) -> bytes:
        try:
            self._file.seek(start)
            return self._file.read(size)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unreadable(error, self.where) from error

    def _read_block(self, number: int) -> bytes:
        if self._block[0] != number or not self._block[1]:
            start = self._ends[number - 1] if number else 0
            data = self._raw(start, self._ends[number] - start)
            if _digest(data, 8).hex() != self._digests[number]:
                raise Damaged(f"bytes {start} to {self._ends[number]} are not what was written", where=self.where)
            self._block = (number, data)
        return self._block[1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._ends[-1] if self._ends else self._size)
        done = 0
        while self._at < end:
            if self._ends:
                number = bisect.bisect_right(self._ends, self._at)
                start = self._ends[number - 1] if number else 0
                data = self._read_block(number)[self._at - start : end - start]
            else:
                data = self._raw(self._at, end - self._at)
            if not data:
                break
            buffer[done : done + len(data)] = data
            done += len(data)
            self._at += len(data)
        return done
