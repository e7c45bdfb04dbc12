"""Files that several processes, machines and users share: temporary names, locks, durable renames, permissions."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from mer.errors import UnfitMachine, UserError
from mer.faults import visit

NO_SPACE = {
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file too large",
}


# ---- who may write ---------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> Path:
    """Make a folder and what is missing above it, each as open to the group as the folder that it is made in.

    So a folder that a laboratory shares (`chmod g+rws`) stays shared below, whatever the umask of who writes. Each
    survives a power cut: what is written into it later would be lost with its name.
    """
    missing = itertools.takewhile(lambda path: not path.is_dir(), (folder, *folder.parents))
    for path in reversed(list(missing)):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            share(path)
        sync_folder(path.parent)
    return folder


def share(path: Path) -> None:
    """Open a new file or folder to the group as far as the folder around it is."""
    around = path.parent.stat().st_mode
    if not around & stat.S_IWGRP:
        return
    found = path.stat().st_mode
    bits = stat.S_IRWXG | stat.S_ISGID if stat.S_ISDIR(found) else stat.S_IRGRP | stat.S_IWGRP
    with contextlib.suppress(OSError):  # somebody else's, or on a file system without groups
        path.chmod(stat.S_IMODE(found) | around & bits)


def share_tree(folder: Path) -> None:
    """The same for a folder and all that is in it, once it is written."""
    share(folder)
    for path in sorted(folder.rglob("*")):
        share(path)


# ---- reading what others made ----------------------------------------------------------------------------------


def data_file(path: Path, root: Path | None = None, what: str = "file") -> Path:
    """A file that may be read: one with an end. A pipe would be waited for, a device may go on for ever.

    root  the corpus folder that it must lie in, links followed
    what  how messages call it
    """
    where = str(path)
    try:
        plain(path, what)
        outside = root is not None and not path.resolve().is_relative_to(root.resolve())
    except FileNotFoundError as error:
        raise UserError(f"the {what} does not exist", where=where) from error
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise UserError(f"cannot be read: {getattr(error, 'strerror', error)}", where=where) from error
    if outside:
        raise UserError("leads out of the corpus folder by a symbolic link", where=where, expected="a file inside it")
    return path


def plain(path: Path, what: str = "file") -> Path:
    """The same path, if it is a plain file. Errors of the operating system come through as they are."""
    found = path.stat().st_mode
    if not stat.S_ISREG(found):
        kind = "a folder" if stat.S_ISDIR(found) else "a pipe" if stat.S_ISFIFO(found) else "no plain file"
        raise UserError(f"is {kind}", where=str(path), expected=f"a {what}")
    return path


def read_data(path: Path, root: Path | None = None, most: int | None = None) -> bytes:
    """The bytes of a data file; `most`: how many at the most."""
    try:
        with data_file(path, root).open("rb") as stream:
            found = stream.read() if most is None else stream.read(most + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if most is not None and len(found) > most:
        raise UserError(f"holds more than {most} bytes", where=str(path), expected=f"at most {most}")
    return found


# ---- writing ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def temporary(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A file under a temporary name (`_...`), locked while its writer lives, gone afterwards unless renamed."""
    while True:
        name = folder / f"_{os.getpid()}-{os.urandom(6).hex()}.tmp"
        stream = name.open("xb")
        lock(stream.fileno(), wait=True)
        if is_named(stream.fileno(), name):  # `remove_stale` may have taken it between creation and lock
            break
        stream.close()
    try:
        share(name)
        yield stream, name
    finally:
        with contextlib.suppress(OSError):
            stream.close()
        with contextlib.suppress(OSError):
            name.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` once it is written: readers see the old content or the new, and a power
    cut leaves one of them. Takes no lock, which a results folder on NFS may have to wait for."""
    make_folder(path.parent)
    name = path.with_name(f"_{os.urandom(6).hex()}.{path.name}"[:255])
    try:
        with name.open("xb") as stream:
            visit("store.opened")
            share(name)
            yield stream
            commit(stream, name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            name.unlink(missing_ok=True)
        raise


def write(path: Path, data: bytes) -> None:
    """Write a file whole and durably; what a killed writer leaves behind is for `remove_stale`."""
    with temporary(make_folder(path.parent)) as (stream, name):
        stream.write(data)
        commit(stream, name, path)


def commit(stream: IO[bytes], name: Path, path: Path) -> None:
    """Give a file that was written under a temporary name its own: synced, renamed, the folder synced."""
    stream.flush()
    visit("store.written")
    os.fsync(stream.fileno())
    visit("store.synced")
    os.replace(name, path)
    visit("store.renamed")
    sync_folder(path.parent)


def commit_folder(building: Path, folder: Path, *, replace: bool = False) -> None:
    """The same for a folder and all that is in it. Fails where there is another that is not empty, unless it is to be
    replaced: a reader then sees the old one, none, or the new one, and never a mixture."""
    share_tree(building)
    sync_tree(building)
    old = folder.with_name(f"_{os.urandom(6).hex()}.{folder.name}"[:255])
    try:
        while True:
            if replace and not old.exists():
                with contextlib.suppress(FileNotFoundError):
                    os.rename(folder, old)
            try:
                os.rename(building, folder)
                break
            except OSError as error:
                if not replace or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                shutil.rmtree(old, ignore_errors=True)  # another process has put its own there meanwhile
        sync_folder(folder.parent)
    finally:
        if replace and old.exists():
            if not folder.exists():
                os.rename(old, folder)
            shutil.rmtree(old, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Make all that is in a folder survive a power cut, so that it can be renamed into place."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def remove_stale(folder: Path) -> int:
    """Remove what killed writers left behind; the files of living ones are locked and stay."""
    removed = 0
    for name in [*folder.glob("_*.tmp"), *folder.glob("_*.lock")]:
        with contextlib.suppress(OSError), name.open("r+b") as stream:
            if lock(stream.fileno(), wait=False) and is_named(stream.fileno(), name):
                name.unlink(missing_ok=True)
                removed += 1
    return removed


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a folder, and need not
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


# ---- what has changed --------------------------------------------------------------------------------------------


def state_of(file: Path) -> tuple[int, ...]:
    """What every write or replacement of a file changes, also one that keeps its size and sets its time back (`cp -p`,
    `rsync -t`, `tar`)."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


SUMS = "SHA256SUMS"
"""A list of the files beside it, with their digests; `sha256sum -c SHA256SUMS` checks it too."""


def write_sums(folder: Path, names: Sequence[str]) -> None:
    (folder / SUMS).write_bytes(b"".join(_sums(folder, names)))


def check_sums(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder of which a single bit is not as it was written."""
    found, expected = plain(folder / SUMS).read_bytes(), _sums(folder, names)
    if found != b"".join(expected):
        changed = [name for name, line in zip(names, expected, strict=True) if line not in found.splitlines(True)]
        raise UserError(
            f"damaged: {' and '.join(changed) or SUMS} changed after it was written",
            where=str(folder),
            hint=f"`sha256sum -c {SUMS}` there says the same. Take the folder from a backup, or train it again.",
        )


def sums_digest(folder: Path) -> str | None:
    """One digest for all files that a folder's `SHA256SUMS` lists; None where it has no such list."""
    try:
        return hashlib.sha256(plain(folder / SUMS).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _sums(folder: Path, names: Sequence[str]) -> list[bytes]:
    lines = []
    for name in names:
        with plain(folder / name).open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n".encode())
    return lines


# ---- one at a time ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def claim(folder: Path, work: str, wait: bool) -> Iterator[bool]:
    """Hold a piece of work, or learn that another process does (False). The claim dies with its holder.

    Whoever holds the lock of the file that has the name, and nobody else, may remove it, and does so at the end; so it
    can vanish between any two lines of those who wait, who then begin again.
    """
    name = folder / f"_{work}.lock"
    with contextlib.ExitStack() as closing:
        while True:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
            closing.callback(os.close, descriptor)
            with contextlib.suppress(FileNotFoundError):
                share(name)
            held = lock(descriptor, wait)
            if not held or is_named(descriptor, name):
                break
            closing.close()
        try:
            yield held or wait  # no lock after waiting: there are no locks here
        finally:
            if held:
                name.unlink(missing_ok=True)


def is_named(descriptor: int, name: Path) -> bool:
    """Whether an open file still has its name: it may have been removed, and another made under the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), name.stat())
    except FileNotFoundError:
        return False


def lock(descriptor: int, wait: bool) -> bool:
    """Take an advisory lock, which the kernel releases when its holder dies. False: somebody else has it.

    Where the file system has no locks nobody has one: whatever is shared stays right (all commits are renames), only
    work may be done twice. False is returned there too, so that nothing is taken for abandoned.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (OSError, ImportError):
        return False
    return True


# ---- words -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_errors(folder: Path, what: str = "features") -> Iterator[None]:
    """Full and unwritable disks are the user's to solve: say so without a traceback."""
    try:
        yield
    except OSError as error:
        hint = "Free space (mer features prune), or point the environment variable MER_CACHE to another disk."
        if error.errno in NO_SPACE:
            problem = f"cannot write {what}: {NO_SPACE[error.errno]}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            problem, hint = (
                f"cannot write {what}: {error.strerror}",
                "Point the environment variable MER_CACHE to a folder that you may write to.",
            )
        else:
            raise
        raise UnfitMachine(problem, where=str(folder), hint=hint) from error
