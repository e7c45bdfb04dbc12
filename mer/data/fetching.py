"""A corpus in an object store, fetched once by each machine: whole, proven, and named by its content.

<MER_CACHE>/corpora/<digest of all files>/<name>/     a copy
<MER_CACHE>/corpora/_<digest of the address>/<name>/  being fetched; goes on where it stopped
<MER_CACHE>/corpora/<digest of the address>.json      what lay at an address when it was last looked at
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mer.data.fingerprint import FileDigests, cache_root
from mer.errors import UnfitMachine, UserError
from mer.files import claim, commit_folder, disk_errors, make_folder, plain, write
from mer.storage import Entry, Store, open_store

AT_ONCE = 8
"""Files fetched at a time."""

_BLOCK = 4 << 20
Say = Callable[[str], None]


def listing(address: str, patience: float | None = None) -> str:
    """A digest of what lies at an address, by names, sizes and times: what can be told without fetching it."""
    return _listing(_files(_open(address, patience), address))


def fetch_corpus(
    address: str, *, copy: str | None = None, patience: float | None = None, say: Say | None = None
) -> Path:
    """The folder of this machine's copy of a corpus in an object store; fetched, once, if there is none.

    copy      the digest of the copy that is wanted (the name of the folder around the one that was returned where the
              run was planned): taken without a look at the store if it is here, and nothing else will do
    patience  seconds for which the store may not answer
    """
    home, name = cache_root() / "corpora", _name(address)
    if copy is not None and (home / copy / name).is_dir():
        return home / copy / name
    with disk_errors(home, "the corpus"):
        make_folder(home)
    place = hashlib.blake2b(address.encode(), digest_size=16).hexdigest()
    with claim(home, f"fetch-{place}", wait=True):
        if copy is not None and (home / copy / name).is_dir():
            return home / copy / name  # another process has fetched it while this one waited
        found = _brought(address, home, place, name, patience, say or _tell)
    if copy is not None and found != copy:
        raise UnfitMachine(
            "the corpus there is not the one that the run was planned with",
            where=_shown(address),
            expected=f"content {copy}, found {found}",
            hint="It has been changed since. Start the run again: it then plans with what is there now.",
        )
    return home / found / name


def _brought(address: str, home: Path, place: str, name: str, patience: float | None, say: Say) -> str:
    """The digest of the copy of what lies at an address now, which is there when this returns."""
    store = _open(address, patience)
    files = _files(store, address)
    known = _read(home / f"{place}.json")
    earlier = home / str(known.get("copy")) / name
    if known.get("listing") == _listing(files) and earlier.is_dir():
        return str(known["copy"])
    partial = home / f"_{place}" / name
    _fetch(store, files, partial, earlier, say)
    found = _keep(partial, files, home, name)
    with disk_errors(home, "the corpus"):
        about = {"address": address, "listing": _listing(files), "copy": found}
        write(home / f"{place}.json", json.dumps(about).encode())
    return found


def _open(address: str, patience: float | None) -> Store:
    return open_store(address, hint="", patience=patience)


def _name(address: str) -> str:
    """The last part of an address; a corpus that does not name itself is called by it."""
    parts = urlsplit(address)
    return (parts.path.rstrip("/").rpartition("/")[2] or parts.netloc) or "corpus"


def _files(store: Store, address: str) -> Sequence[Entry]:
    try:
        found = store.tree("")
    except OSError as error:
        raise UserError(
            f"cannot be read: {error}",
            where=_shown(address),
            hint="Are credentials in the environment, on every machine?",
        ) from error
    if not found:
        raise UserError(
            "there is no corpus: nothing lies there",
            where=_shown(address),
            expected="train.jsonl, valid.jsonl, test.jsonl",
        )
    for entry in found:
        if any(part in ("", "..") for part in entry.name.split("/")):
            raise UserError(f"a file called {entry.name!r} leads out of the corpus", where=_shown(address))
    return found


def _listing(files: Sequence[Entry]) -> str:
    rows = [[entry.name, entry.size, entry.modified] for entry in files]
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()


# ---- fetching --------------------------------------------------------------------------------------------------


def _fetch(store: Store, files: Sequence[Entry], partial: Path, earlier: Path, say: Say) -> None:
    """Every file to `partial`; what is there already, or is unchanged in an earlier copy, is not fetched again."""
    with disk_errors(partial, "the corpus"):
        make_folder(partial)
        _drop_strangers(partial, files)
        lacking = [entry for entry in files if not _has(partial, entry, earlier)]
        if not lacking:
            return
        started, size = time.monotonic(), sum(entry.size for entry in lacking)
        _refuse_full(partial, size, store)
        say(f"fetching {_shown(store.root)}: {len(lacking)} files, {_size(size)} -> {partial.parent.parent}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = [pool.submit(_fetch_file, store, entry, partial / entry.name) for entry in lacking]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        say(f"fetched {_size(size)} in {time.monotonic() - started:.0f} s")


def _has(partial: Path, entry: Entry, earlier: Path) -> bool:
    """Is this very file here? Its time is set to that of the original once it is whole."""
    for path in (partial / entry.name, earlier / entry.name):
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if (found.st_size, found.st_mtime_ns) == (entry.size, entry.modified):
            if path != partial / entry.name:
                make_folder((partial / entry.name).parent)
                os.link(path, partial / entry.name)
            return True
    return False


def _fetch_file(store: Store, entry: Entry, target: Path) -> None:
    """One file, going on where an earlier try of the same version stopped."""
    make_folder(target.parent)
    part = target.with_name(f"_{target.name}.{entry.size}-{entry.modified}.part")
    with part.open("ab") as stream, store.open(entry.name) as source:
        if stream.tell() > entry.size:
            stream.truncate(0)
        source.seek(stream.tell())
        shutil.copyfileobj(source, stream, _BLOCK)
        found = stream.tell()
        os.fsync(stream.fileno())
    if found != entry.size:
        part.unlink()
        raise UserError(
            f"{found} bytes were read, {entry.size} were announced",
            where=store.path(entry.name),
            hint="It was changed while it was fetched. Try again when nobody writes there.",
        )
    os.utime(part, ns=(entry.modified, entry.modified))
    os.replace(part, target)


def _drop_strangers(partial: Path, files: Sequence[Entry]) -> None:
    """What an earlier version of the corpus has left behind must not become part of this one."""
    wanted = {entry.name for entry in files}
    parts = {f"_{Path(e.name).name}.{e.size}-{e.modified}.part" for e in files}
    for path in partial.rglob("*"):
        if path.is_file() and path.relative_to(partial).as_posix() not in wanted and path.name not in parts:
            path.unlink()


def _refuse_full(partial: Path, size: int, store: Store) -> None:
    begun = sum(path.stat().st_size for path in partial.rglob("*.part"))
    free = shutil.disk_usage(partial).free
    if size - begun > free:
        raise UnfitMachine(
            f"no room for the corpus {_shown(store.root)}: {_size(size - begun)} to fetch, {_size(free)} free",
            where=str(partial.parent.parent),
            hint="Free space, or point the environment variable MER_CACHE to another disk.",
        )


def _keep(partial: Path, files: Sequence[Entry], home: Path, name: str) -> str:
    """Name a whole copy by its content. Returns the digest."""
    digests = FileDigests(cache_root())
    rows = [[entry.name, digests.of(partial / entry.name)] for entry in files]
    found = hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()
    target = home / found / name
    if not target.is_dir():
        make_folder(target.parent)
        commit_folder(partial, target)
    for file, digest in rows:  # the same files, under the path by which they will be asked for
        digests.remember(target / file, digest)
    digests.save()
    shutil.rmtree(partial.parent, ignore_errors=True)
    return found


def _read(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(plain(record).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown(address: str) -> str:
    """An address without its options."""
    return address.partition("?")[0]


def _size(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
