"""Where results lie: a local folder, NFS, or an object store (`s3://...`), behind five operations.

Nothing is ever half there. On a file system a file is written under a temporary name that starts with `_`, synced,
renamed, and its folder synced; on an object store an object appears when its upload is complete, and nothing else
can be relied upon, so that names of records are unique and never written twice.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar, cast

from experiments.results.faults import visit
from mer.errors import UserError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a listing shows it: its name within the folder, and its size."""

    name: str
    size: int


class Store(Protocol):
    """Files by slash-separated name below one root."""

    root: str

    def put(self, name: str, data: bytes) -> None:
        """Write a file; readers see the old content or the new, never a part."""

    def read(self, name: str) -> bytes:
        """The content of a file; `FileNotFoundError` if there is none."""

    def open(self, name: str) -> IO[bytes]:
        """A file to be read in places."""

    def list(self, folder: str) -> list[Entry]:
        """The data files directly in a folder, sorted by name; names that start with `_` or `.` are not data."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if it is gone already."""

    def folders(self, folder: str) -> tuple[str, ...]:
        """The folders directly in a folder, sorted; names that start with `_` or `.` are not for readers."""

    def remove_tree(self, folder: str) -> None:
        """Remove a folder and all that is in it."""

    def path(self, name: str) -> str:
        """The full address of a file, for messages."""


def open_store(root: str | os.PathLike[str]) -> Store:
    """A store at a folder or at an address that pyarrow knows (`s3://bucket/path`, `gs://...`)."""
    text = os.fspath(root)
    if "://" in text and not text.startswith("file://"):
        from pyarrow.fs import FileSystem

        try:
            filesystem, base = FileSystem.from_uri(text)
        except Exception as error:  # pyarrow raises several kinds, none of which names the address
            raise UserError(
                f"cannot open {text}: {error}", expected="a folder or an address such as s3://bucket/results"
            ) from error
        return ObjectStore(filesystem, base, text)
    return LocalStore(Path(text.removeprefix("file://")).absolute())


class LocalStore:
    """A folder on a file system where rename is atomic (local disks, NFS)."""

    def __init__(self, root: Path) -> None:
        self.folder = root
        self.root = str(root)

    def put(self, name: str, data: bytes) -> None:
        target = self.folder / name
        temporary = target.with_name(f"_{target.name}.{uuid.uuid4().hex[:12]}")
        with _explained(self.path(name), len(data)):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as stream:
                    visit("store.opened")
                    stream.write(data)
                    stream.flush()
                    visit("store.written")
                    os.fsync(stream.fileno())
                visit("store.synced")
                os.replace(temporary, target)
                visit("store.renamed")
                _sync_folder(target.parent)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        return (self.folder / name).open("rb")

    def list(self, folder: str) -> list[Entry]:
        try:
            with os.scandir(self.folder / folder) as found:
                files = [
                    Entry(item.name, item.stat().st_size)
                    for item in found
                    if not item.name.startswith(("_", ".")) and item.is_file()
                ]
        except FileNotFoundError:
            return []
        return sorted(files, key=lambda entry: entry.name)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def folders(self, folder: str) -> tuple[str, ...]:
        try:
            found = [item.name for item in (self.folder / folder).iterdir() if item.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(sorted(name for name in found if not name.startswith(("_", "."))))

    def remove_tree(self, folder: str) -> None:
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    def path(self, name: str) -> str:
        return str(self.folder / name)


class ObjectStore:
    """A bucket, through pyarrow: no rename, no fsync; an upload is seen when it is complete.

    An endpoint that does not answer is waited for: trials go on where they stopped when it is back.
    """

    def __init__(self, filesystem: FileSystem, base: str, root: str) -> None:
        self.filesystem, self.base, self.root = filesystem, base.rstrip("/"), root.rstrip("/")

    def put(self, name: str, data: bytes) -> None:
        def upload() -> None:
            self.filesystem.create_dir(f"{self.base}/{name}".rpartition("/")[0], recursive=True)
            visit("store.opened")
            with self.filesystem.open_output_stream(f"{self.base}/{name}") as stream:
                stream.write(data)
                visit("store.written")
            visit("store.renamed")

        with _explained(self.path(name), len(data)):
            patiently(upload, self.path(name))

    def read(self, name: str) -> bytes:
        def download() -> bytes:
            with self.filesystem.open_input_stream(f"{self.base}/{name}") as stream:
                return bytes(stream.read())

        return patiently(download, self.path(name))

    def open(self, name: str) -> IO[bytes]:
        file = patiently(lambda: self.filesystem.open_input_file(f"{self.base}/{name}"), self.path(name))
        return cast("IO[bytes]", io.BufferedReader(_Remote(file, self.path(name)), 1 << 16))

    def _infos(self, folder: str) -> list[Any]:
        from pyarrow.fs import FileSelector

        where = FileSelector(f"{self.base}/{folder}".rstrip("/"), allow_not_found=True)
        return list(patiently(lambda: self.filesystem.get_file_info(where), self.path(folder)))

    def list(self, folder: str) -> list[Entry]:
        from pyarrow.fs import FileType

        files = [
            Entry(info.base_name, info.size)
            for info in self._infos(folder)
            if info.type == FileType.File and not info.base_name.startswith(("_", "."))
        ]
        return sorted(files, key=lambda entry: entry.name)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            patiently(lambda: self.filesystem.delete_file(f"{self.base}/{name}"), self.path(name))

    def folders(self, folder: str) -> tuple[str, ...]:
        from pyarrow.fs import FileType

        names = [info.base_name for info in self._infos(folder) if info.type == FileType.Directory]
        return tuple(sorted(name for name in names if not name.startswith(("_", "."))))

    def remove_tree(self, folder: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            patiently(lambda: self.filesystem.delete_dir(f"{self.base}/{folder}"), self.path(folder))

    def path(self, name: str) -> str:
        address, mark, options = self.root.partition("?")  # s3://bucket/results?endpoint_override=...
        return f"{address.rstrip('/')}/{name}{mark}{options}"


class StoreUnreachable(UserError):
    """An object store did not answer for so long that the run cannot go on. What was finished before is there."""


PATIENCE_S = 300.0
"""How long an object store may not answer before that ends a run."""

PASSING = ("NETWORK_CONNECTION", "CURLCODE", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "REQUEST_TIMEOUT",
           "THROTTLING", "COULDN'T CONNECT", "TIMED OUT")  # fmt: skip
"""What pyarrow's errors contain where trying again may help."""


def patiently(act: Callable[[], T], path: str) -> T:
    """Do something with an object store; wait for a store that does not answer.

    pyarrow itself tries three times within some seconds, which an endpoint that is restarted outlasts.
    """
    deadline, pause = time.monotonic() + PATIENCE_S, 1.0
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
                    f"the object store has not answered for {PATIENCE_S:.0f} s: {error}",
                    where=path,
                    hint="Everything finished before is safe. Run the same command again when it answers.",
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, 15.0)


class _Remote(io.RawIOBase):
    """A remote file read in places, patiently."""

    def __init__(self, file: Any, path: str) -> None:
        self._file, self._path, self._at = file, path, 0
        self._size: int = patiently(file.size, path)

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
        data = patiently(lambda: self._file.read_at(wanted, self._at), self._path) if wanted else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def free_bytes(store: Store) -> int | None:
    """Free space where a local store lies; None for an object store."""
    if not isinstance(store, LocalStore):
        return None
    folder = store.folder
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_writable(store: Store) -> None:
    """Write, read back and remove a small file: better refused now than after the first trial."""
    name = f"_probe.{uuid.uuid4().hex[:12]}"
    store.put(name, b"mer")
    try:
        if store.read(name) != b"mer":
            raise UserError("what was written there reads back differently", where=store.root)
    finally:
        store.remove(name)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems cannot sync a folder, and need not
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


@contextmanager
def _explained(path: str, size: int) -> Iterator[None]:
    """Turn the failures of a full or unwritable disk into words. What was finished before is still there."""
    try:
        yield
    except OSError as error:
        needed = f"{max(size, 1) / 1e6:.2f} MB"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left: {needed} are needed for this file",
                where=path,
                hint="Everything finished before is safe. Free some space and run the same command again.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"cannot write there: {os.strerror(error.errno)}",
                where=path,
                expected="a writable folder",
                hint="Choose another with --results DIR.",
            ) from error
        raise
