"""Looking after the store: what is in it, is it sound, what can go."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer.data.store.shard import SUFFIX, Damaged, Shard
from mer.data.store.store import DESCRIPTION
from mer.errors import UserError
from mer.files import disk_errors, plain, remove_stale


@dataclass(frozen=True)
class Entry:
    """What the store holds of one frontend.

    used     seconds since the epoch; when it was last asked for
    damaged  files whose index cannot be trusted, with the reason (`verify` looks at the frames as well)
    """

    folder: Path
    description: dict[str, Any]
    shards: int
    items: int
    frames: int
    bytes: int
    used: float
    damaged: dict[Path, str]

    @property
    def digest(self) -> str:
        return self.folder.name

    def summary(self) -> str:
        """The identity on one line."""
        identity = self.description.get("identity", {})
        if not isinstance(identity, dict) or not identity:
            return "?"
        names = sorted(identity, key=lambda key: key not in ("frontend", "encoder", "model", "name"))
        return " ".join(f"{name}={_short(identity[name])}" for name in names if identity[name] not in (None, "", {}))


def entries(root: Path, prefixes: Sequence[str] = (), frames: bool = False) -> list[Entry]:
    """Everything in the store, or the frontends whose digest begins with one of these; the latest used first.

    frames    check the frames' checksums too, not only the indexes: reads every byte
    """
    folders = [folder for folder in (root / "features").glob("*") if folder.is_dir()]
    for prefix in prefixes:
        if not any(folder.name.startswith(prefix) for folder in folders):
            known = ", ".join(sorted(folder.name[:8] for folder in folders)) or "nothing: the store is empty"
            raise UserError(f"no features {prefix!r}", where=str(root), expected=known)
    chosen = [folder for folder in folders if not prefixes or folder.name.startswith(tuple(prefixes))]
    return sorted((_entry(folder, frames) for folder in chosen), key=lambda entry: (-entry.used, entry.digest))


def remove_damaged(entry: Entry) -> None:
    """Remove damaged files; what they held is extracted again when it is needed."""
    with disk_errors(entry.folder):
        for path in entry.damaged:
            path.unlink(missing_ok=True)


def to_prune(
    found: Sequence[Entry], unused_for: float | None = None, keep: int | None = None, now: float | None = None
) -> list[Entry]:
    """The entries to remove: unused for so many seconds, then the least recently used until `keep` bytes remain.
    With neither, all."""
    if unused_for is None and keep is None:
        return list(found)
    now = time.time() if now is None else now
    latest_first = sorted(found, key=lambda entry: -entry.used)
    gone = [entry for entry in latest_first if unused_for is not None and now - entry.used > unused_for]
    if keep is not None:
        total = 0
        for entry in latest_first:
            if entry in gone:
                continue
            if total + entry.bytes > keep:
                gone.append(entry)
            else:
                total += entry.bytes
    return gone


def remove(entry: Entry) -> None:
    """Remove an entry. Runs that have its files open keep them; runs to come extract again."""
    with disk_errors(entry.folder):
        for path in sorted(entry.folder.glob(f"*{SUFFIX}")):
            path.unlink(missing_ok=True)
        shutil.rmtree(entry.folder, ignore_errors=True)


def _entry(folder: Path, frames: bool) -> Entry:
    remove_stale(folder)
    description_file = folder / DESCRIPTION
    try:
        description = json.loads(plain(description_file).read_text("utf-8"))
        used = description_file.stat().st_mtime
    except (OSError, ValueError):
        description, used = {}, folder.stat().st_mtime
    damaged: dict[Path, str] = {}
    shards: list[Shard] = []
    size = 0
    for path in sorted(folder.glob(f"[!_]*{SUFFIX}")):
        try:
            size += path.stat().st_size
            shard = Shard(path, folder.name)
            if frames:
                shard.verify()
            shards.append(shard)
        except FileNotFoundError:
            continue
        except Damaged as damage:
            damaged[path] = str(damage)
    items = {key for shard in shards for key in shard.keys}
    total = sum(int(shard.offsets[-1]) for shard in shards)
    return Entry(folder, description, len(shards), len(items), total, size, used, damaged)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"
