"""A bucket whose objects lie in a folder, for as many processes as a test likes to start."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs

from mer.storage import ObjectStore


def object_store(folder: Path, address: str = "s3://bucket") -> ObjectStore:
    """A store on such a bucket."""
    folder.mkdir(exist_ok=True)
    return ObjectStore(Bucket(folder), str(folder), address)  # type: ignore[arg-type]


class Bucket:
    """What S3 promises and a folder does not keep: an object is seen once its upload is complete, as old as it was
    then, and a listing shows one moment. And what it does that one would not expect: closing a stream completes the
    upload, whatever has happened before.
    """

    def __init__(self, folder: Path) -> None:
        self._inner = fs.LocalFileSystem()
        self._lock = folder.parent / f"{folder.name}.lock"
        self._uploads = folder.parent / f"{folder.name}.uploads"

    def open_output_stream(self, path: str, compression: None) -> Any:
        return _Upload(self, Path(path))

    def complete(self, path: Path, data: bytes) -> None:
        self._uploads.mkdir(exist_ok=True)
        upload = self._uploads / uuid.uuid4().hex
        upload.write_bytes(data)
        with self._one_moment():
            os.utime(upload)
            os.replace(upload, path)

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)

        def at_once(*values: Any, **named: Any) -> Any:
            with self._one_moment():
                return act(*values, **named)

        return at_once

    @contextlib.contextmanager
    def _one_moment(self) -> Iterator[None]:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Upload(io.BytesIO):
    def __init__(self, bucket: Bucket, path: Path) -> None:
        super().__init__()
        self._bucket, self._path = bucket, path

    def close(self) -> None:
        if not self.closed:
            self._bucket.complete(self._path, self.getvalue())
        super().close()
