"""An object store (S3, GCS, MinIO ...), through pyarrow, and patience with one that does not answer."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from mer.errors import UserError
from mer.faults import visit
from mer.storage.base import Entry
from mer.storage.local import explained

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

T = TypeVar("T")

PATIENCE_S = 300.0
"""How long an object store may not answer before that ends a run."""

PASSING = ("NETWORK_CONNECTION", "CURLCODE", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "REQUEST_TIMEOUT",
           "THROTTLING", "COULDN'T CONNECT", "TIMED OUT")  # fmt: skip
"""What pyarrow's errors contain where trying again may help."""

_BLOCK = 8 << 20


class ObjectStore:
    """A bucket: no rename, no fsync; an upload is seen when it is complete.

    An endpoint that does not answer is waited for: trials go on where they stopped when it is back.
    """

    def __init__(
        self, filesystem: FileSystem, base: str, root: str, hint: str = "", patience: float = PATIENCE_S
    ) -> None:
        self.filesystem, self.base, self.root = filesystem, base.rstrip("/"), root.rstrip("/")
        self.hint, self.patience = hint, patience

    def put(self, name: str, data: bytes) -> None:
        self._write(name, len(data), lambda stream: stream.write(data))

    def upload(self, name: str, source: Path) -> None:
        def copy(stream: Any) -> None:
            with source.open("rb") as found:
                shutil.copyfileobj(found, stream, _BLOCK)

        self._write(name, source.stat().st_size, copy)

    def _write(self, name: str, size: int, fill: Callable[[Any], object]) -> None:
        def upload() -> None:
            self.filesystem.create_dir(f"{self.base}/{name}".rpartition("/")[0], recursive=True)
            visit("store.opened")
            stream = self.filesystem.open_output_stream(f"{self.base}/{name}", compression=None)
            try:
                fill(stream)
                visit("store.written")
            except BaseException:
                self._abandon(stream, name)
                raise
            stream.close()
            visit("store.renamed")

        with explained(self.path(name), size, self.hint):
            self._patiently(upload, name)

    def _abandon(self, stream: Any, name: str) -> None:
        """Give up an upload that was broken off. pyarrow can only close one, which shows what was written so far."""
        with contextlib.suppress(Exception):
            stream.close()
            self.filesystem.delete_file(f"{self.base}/{name}")

    def _patiently(self, act: Callable[[], T], name: str) -> T:
        return patiently(act, self.path(name), self.patience)

    def read(self, name: str) -> bytes:
        def download() -> bytes:
            with self.filesystem.open_input_stream(f"{self.base}/{name}", compression=None) as stream:
                return bytes(stream.read())

        return self._patiently(download, name)

    def open(self, name: str) -> IO[bytes]:
        file = self._patiently(lambda: self.filesystem.open_input_file(f"{self.base}/{name}"), name)
        return cast("IO[bytes]", io.BufferedReader(_Remote(file, self.path(name), self.patience), 1 << 16))

    def _infos(self, folder: str, recursive: bool = False) -> list[Any]:
        from pyarrow.fs import FileSelector

        where = FileSelector(f"{self.base}/{folder}".rstrip("/"), allow_not_found=True, recursive=recursive)
        return list(self._patiently(lambda: self.filesystem.get_file_info(where), folder))

    def _files(self, infos: list[Any], name: Callable[[Any], str]) -> list[Entry]:
        from pyarrow.fs import FileType

        files = [Entry(name(info), info.size, info.mtime_ns or 0) for info in infos if info.type == FileType.File]
        return sorted((file for file in files if _is_data(file.name)), key=lambda entry: entry.name)

    def tree(self, folder: str) -> Sequence[Entry]:
        above = f"{self.base}/{folder}".rstrip("/") + "/"
        return self._files(self._infos(folder, recursive=True), lambda info: str(info.path).removeprefix(above))

    def list(self, folder: str) -> list[Entry]:
        return self._files(self._infos(folder), lambda info: str(info.base_name))

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self.filesystem.delete_file(f"{self.base}/{name}"), name)

    def folders(self, folder: str) -> tuple[str, ...]:
        from pyarrow.fs import FileType

        names = [info.base_name for info in self._infos(folder) if info.type == FileType.Directory]
        return tuple(sorted(name for name in names if _is_data(name)))

    def remove_tree(self, folder: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self.filesystem.delete_dir(f"{self.base}/{folder}"), folder)

    def path(self, name: str) -> str:
        address, mark, options = self.root.partition("?")  # s3://bucket/results?endpoint_override=...
        return f"{address.rstrip('/')}/{name}{mark}{options}"


def _is_data(name: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in name.split("/"))


class StoreUnreachable(UserError):
    """An object store did not answer for so long that the run cannot go on. What was finished before is there."""


def patiently(act: Callable[[], T], path: str, patience: float | None = None) -> T:
    """Do something with an object store; wait for a store that does not answer.

    pyarrow itself tries three times within some seconds, which an endpoint that is restarted outlasts.
    """
    patience = PATIENCE_S if patience is None else patience
    deadline, pause = time.monotonic() + patience, 1.0
    while True:
        try:
            return act()
        except FileNotFoundError:
            raise
        except OSError as error:
            if not any(sign in str(error).upper() for sign in PASSING):
                raise
            if time.monotonic() > deadline:
                raise StoreUnreachable(
                    f"the object store has not answered for {patience:.0f} s: {error}",
                    where=path,
                    hint="Everything finished before is safe. Run the same command again when it answers.",
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, 15.0)


class _Remote(io.RawIOBase):
    """A remote file read in places, patiently."""

    def __init__(self, file: Any, path: str, patience: float) -> None:
        self._file, self._path, self._patience, self._at = file, path, patience, 0
        self._size: int = patiently(file.size, path, patience)

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
        wanted = min(len(buffer), max(self._size - self._at, 0))
        data = patiently(lambda: self._file.read_at(wanted, self._at), self._path, self._patience) if wanted else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
