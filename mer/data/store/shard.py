"""One shard: a file that holds the frames of some utterances and, behind them, the index.

    frames    [F, dim], from byte 0: `np.memmap(path, dtype, "r", shape=(F, dim))` reads them without this module
    keys      16 bytes per utterance
    offsets   int64 [n + 1], in frames
    checks    uint32 [n], CRC-32 of each utterance's frames
    header    JSON: frontend, dtype, dim, number of utterances and frames
    trailer   where the index begins (int64), length of the header (int64), magic, BLAKE2b-128 of everything from
              the keys on

Frames and index share a file, so that one rename commits both. A file appears under its name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mer.data.ragged import STORED
from mer.files import commit, disk_errors, plain, temporary

SUFFIX = ".frames"
_MAGIC = b"MERFEAT1"
_TRAILER = struct.Struct("<qq8s16s")

Array = npt.NDArray[Any]
State = tuple[int, int, int]


class Damaged(Exception):
    """A shard that is not what was written: truncated, changed, of another frontend, or not a shard at all."""


class Shard:
    """An open shard: index in memory, frames memory-mapped. `verify` before reading frames."""

    def __init__(self, path: Path, frontend: str) -> None:
        self.path = path
        with plain(path).open("rb") as stream:
            self.state = _state(os.fstat(stream.fileno()))
            try:
                header, index = _read_index(stream, self.state[1], frontend)
                n, frames, dim, self.dtype = header["items"], header["frames"], header["dim"], header["dtype"]
                stored = np.dtype(STORED[self.dtype])
            except (KeyError, TypeError, ValueError) as error:
                raise Damaged(f"its header is not understood: {error!r}") from None
            self.keys = _keys(index, n)
            self.offsets = np.frombuffer(index, "<i8", n + 1, n * 16)
            self.checks = np.frombuffer(index, "<u4", n, n * 16 + (n + 1) * 8)
            shape = (frames, dim) if dim else (frames,)
            # Copy on write, never written: torch takes it without a warning, pages are shared all the same.
            self.frames: Array = (
                np.memmap(stream, stored, "c", 0, shape) if frames * max(dim, 1) else np.empty(shape, stored)
            )
        self._verified = np.zeros(n, bool)

    def __len__(self) -> int:
        return len(self.keys)

    def changed(self) -> bool:
        """Is the file under this name no longer the one that was opened?"""
        try:
            return _state(self.path.stat()) != self.state
        except FileNotFoundError:
            return True

    def verify(self, rows: npt.NDArray[np.int64] | None = None) -> None:
        """Check the frames of these utterances (default: all) against their checksums; each once per opening."""
        rows = np.arange(len(self)) if rows is None else rows
        whole = self.frames.view(np.ndarray)
        for row in rows[~self._verified[rows]].tolist():
            part = whole[self.offsets[row] : self.offsets[row + 1]]
            if zlib.crc32(part.data) != self.checks[row]:
                raise Damaged(f"the checksum of utterance {row} is wrong")
            self._verified[row] = True


def write_shard(
    folder: Path, frontend: str, dtype: str, dim: int, items: Mapping[bytes, Array] | Sequence[tuple[bytes, Array]]
) -> Path:
    """Write utterances (key, frames as stored) as one shard: temporary name, fsync, rename, fsync of the folder."""
    pairs = list(items.items()) if isinstance(items, Mapping) else list(items)
    arrays = [np.ascontiguousarray(frames, STORED[dtype]) for _, frames in pairs]
    offsets = np.concatenate([[0], np.cumsum([len(frames) for frames in arrays])]).astype("<i8")
    checks = np.array([zlib.crc32(frames.data) for frames in arrays], "<u4")
    header = json.dumps(
        {"frontend": frontend, "dtype": dtype, "dim": dim, "items": len(pairs), "frames": int(offsets[-1])}
    ).encode()
    index = b"".join(key for key, _ in pairs) + offsets.tobytes() + checks.tobytes() + header
    begin = sum(frames.nbytes for frames in arrays)
    index += struct.pack("<qq8s", begin, len(header), _MAGIC)
    digest = hashlib.blake2b(index, digest_size=16)
    final = folder / f"{digest.hexdigest()}{SUFFIX}"
    with disk_errors(folder), temporary(folder) as (stream, name):
        for frames in arrays:
            stream.write(frames.data)
        stream.write(index + digest.digest())
        commit(stream, name, final)
    return final


def read_keys(stream: IO[bytes], size: int, frontend: str) -> list[bytes]:
    """The utterances in a shard that may lie elsewhere: reads its end alone."""
    try:
        header, index = _read_index(stream, size, frontend)
        return _keys(index, header["items"])
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"its header is not understood: {error!r}") from None


def _keys(index: bytes, n: int) -> list[bytes]:
    return [index[i : i + 16] for i in range(0, n * 16, 16)]


def _read_index(stream: IO[bytes], size: int, frontend: str) -> tuple[dict[str, Any], bytes]:
    if size < _TRAILER.size:
        raise Damaged(f"it has {size} bytes, fewer than any shard")
    stream.seek(size - _TRAILER.size)
    begin, header_length, magic, digest = _TRAILER.unpack(stream.read(_TRAILER.size))
    if magic != _MAGIC:
        raise Damaged("it does not end as a shard does")
    end = size - _TRAILER.size - header_length
    if not 0 <= begin <= end <= size - _TRAILER.size:
        raise Damaged("its index lies outside the file")
    stream.seek(begin)
    body = stream.read(size - begin)
    if hashlib.blake2b(body[:-16], digest_size=16).digest() != digest:
        raise Damaged("the checksum of its index is wrong")
    header = json.loads(body[end - begin : end - begin + header_length])
    frame_bytes = header["frames"] * max(1, header["dim"]) * np.dtype(STORED[header["dtype"]]).itemsize
    if frame_bytes != begin:
        raise Damaged(f"it holds {begin} bytes of frames, its header says {frame_bytes}")
    if header["frontend"] != frontend:
        raise Damaged("it belongs to another frontend")
    index, n = body[: end - begin], header["items"]
    if len(index) != n * 16 + (n + 1) * 8 + n * 4:
        raise Damaged("its index has the wrong length")
    return header, index


def _state(found: os.stat_result) -> State:
    return found.st_ino, found.st_size, found.st_mtime_ns
