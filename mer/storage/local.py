"""A folder on a file system where rename is atomic: local disks, NFS, EFS, Lustre."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mer.errors import UserError
from mer.files import plain, replacing
from mer.storage.base import Entry

_BLOCK = 8 << 20
REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
"""Errors of the place itself. ENOENT: nothing can be made there, as in /proc."""


class LocalStore:
    """Files below one folder."""

    def __init__(self, root: Path, hint: str = "") -> None:
        self.folder, self.hint = root, hint
        self.root = str(root)

    def put(self, name: str, data: bytes) -> None:
        with self._replacing(name, len(data)) as stream:
            stream.write(data)

    def upload(self, name: str, source: Path) -> None:
        with source.open("rb") as found, self._replacing(name, source.stat().st_size) as stream:
            shutil.copyfileobj(found, stream, _BLOCK)

    @contextmanager
    def _replacing(self, name: str, size: int) -> Iterator[IO[bytes]]:
        with explained(self.path(name), size, self.hint), replacing(self.folder / name) as stream:
            yield stream

    def read(self, name: str) -> bytes:
        return plain(self.folder / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        return plain(self.folder / name).open("rb")

    def list(self, folder: str) -> list[Entry]:
        try:
            with os.scandir(self.folder / folder) as found:
                files = [_entry(item.name, item.stat()) for item in found if _is_data(item.name) and item.is_file()]
        except FileNotFoundError:
            return []
        return sorted(files, key=lambda entry: entry.name)

    def tree(self, folder: str) -> Sequence[Entry]:
        root, files = self.folder / folder, []
        for here, below, names in os.walk(root):
            below[:] = [name for name in below if _is_data(name)]
            for path in (Path(here, name) for name in names if _is_data(name)):
                with contextlib.suppress(FileNotFoundError):
                    files.append(_entry(path.relative_to(root).as_posix(), path.stat()))
        return sorted(files, key=lambda entry: entry.name)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def folders(self, folder: str) -> tuple[str, ...]:
        try:
            found = [item.name for item in (self.folder / folder).iterdir() if item.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(sorted(name for name in found if _is_data(name)))

    def remove_tree(self, folder: str) -> None:
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    def path(self, name: str) -> str:
        return str(self.folder / name)


def _is_data(name: str) -> bool:
    return not name.startswith(("_", "."))


def _entry(name: str, found: os.stat_result) -> Entry:
    return Entry(name, found.st_size, found.st_mtime_ns)


@contextmanager
def explained(path: str, size: int, hint: str) -> Iterator[None]:
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
        if error.errno in REFUSED:
            raise UserError(
                f"cannot write there: {os.strerror(error.errno)}",
                where=path,
                expected="a writable folder",
                hint=hint or None,
            ) from error
        raise
