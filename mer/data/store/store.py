"""The store itself: find what is there, extract what is not, hand out memory-mapped frames."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mer.data.fingerprint import FileDigests, cache_root
from mer.data.ragged import STORED, Ragged
from mer.data.store.frontend import Frontend, describe, frontend_digest, item_key, item_size, to_stored
from mer.data.store.shard import SUFFIX, Damaged, Shard, write_shard
from mer.errors import UserError
from mer.files import claim, disk_errors, make_folder, plain, remove_stale, write

if TYPE_CHECKING:
    from mer.data.audio import AudioClip

Progress = Callable[[int, int], None]
"""Called with (utterances done, utterances to extract) after each chunk."""

DESCRIPTION = "frontend.json"
_ATTEMPTS = 5
_COPY_BELOW = 16 << 20
"""Bytes below which frames scattered over shards are copied together: tokens, utterance-level features."""

Places = dict[bytes, tuple[Shard, int]]

_log = logging.getLogger(__name__)


@dataclass
class _Known:
    """What a folder holds, as last seen."""

    shards: dict[Path, Shard]
    places: Places


class Shared(Protocol):
    """A store that several machines fill and read, behind this machine's own (`mer.data.store.shared`)."""

    def fetch(self, folder: Path, wanted: frozenset[bytes]) -> None:
        """Bring what it has of these utterances to this machine."""

    def offer(self, folder: Path, found: Mapping[bytes, Path]) -> None:
        """Give it what it lacks of these utterances: key to file."""

    def claim(self, frontend: str, work: str, wait: bool) -> contextlib.AbstractContextManager[bool]:
        """Hold a piece of work against all machines, or learn that another does it."""


class FeatureStore:
    """Frames of utterances by content, under `<root>/features/<digest of the frontend>/`.

    root    default: the environment variable MER_CACHE, else `mer` in the user's cache folder
    chunk   utterances per shard: what is extracted and committed at a time, so what a crash can lose
    shared  a store behind this one: what it has is fetched before anything is extracted, what it lacks is given

    Safe with any number of processes at a time, which share the work, and with `kill -9` at any moment. A damaged
    file is found by its checksums before a frame of it is used, and rebuilt. Nothing is ever unpickled.

    >>> store = FeatureStore()                                     # doctest: +SKIP
    >>> frames = store.get(encoder.frontend, ["xin chào", "tạm biệt"])   # doctest: +SKIP
    >>> frames.gather(np.array([1, 0])).values.shape               # doctest: +SKIP
    torch.Size([2, 5, 768])
    """

    def __init__(self, root: Path | str | None = None, *, chunk: int = 256, shared: Shared | None = None) -> None:
        self.root = Path(root) if root is not None else cache_root()
        self.chunk, self.shared = chunk, shared
        self._known: dict[Path, _Known] = {}
        self._offered: set[Path] = set()
        self._digests: FileDigests | None = None

    def get(
        self, frontend: Frontend, items: Sequence[AudioClip | str | None], progress: Progress | None = None
    ) -> Ragged:
        """The frames of `items`, in their order; what is not there is extracted first. None: no frames."""
        keys = self.keys(items)
        wanted = {key: item for key, item in zip(keys, items, strict=True) if key is not None and item is not None}
        for _ in range(_ATTEMPTS):
            try:
                found = self._get(frontend, wanted, progress)
                if found is not None:
                    return _ragged(frontend, [None if key is None else found[key] for key in keys])
            except FileNotFoundError as error:
                if self.folder(frontend) not in (path := Path(error.filename or ""), path.parent):
                    raise
                # the folder was pruned under our eyes: it is made again
        raise UserError(
            f"features were written {_ATTEMPTS} times and not once read back as they were",
            where=str(self.folder(frontend)),
            hint="The disk may be faulty: point the environment variable MER_CACHE to another one.",
        )

    def _get(
        self, frontend: Frontend, wanted: dict[bytes, AudioClip | str], progress: Progress | None
    ) -> Places | None:
        """Where the frames of these utterances are, extracted if need be and verified; None if some are not sound."""
        folder = self._open(frontend)
        found = self._scan(folder, wanted)
        missing = [key for key in wanted if key not in found]
        if missing:
            self._extract(frontend, folder, {key: wanted[key] for key in missing}, progress)
            found = self._scan(folder)
        if not (wanted.keys() <= found.keys() and self._verify(found, wanted)):
            return None
        self._offer(folder, found, wanted)
        return found

    def has(self, frontend: Frontend, items: Sequence[AudioClip | str | None]) -> list[bool]:
        """Which items need no extraction. What the shared store has of them is fetched."""
        keys = self.keys(items)
        found = self._scan(self._open(frontend), [key for key in keys if key is not None])
        return [key is None or key in found for key in keys]

    def folder(self, frontend: Frontend) -> Path:
        """Where a frontend's frames lie."""
        return self.root / "features" / frontend_digest(frontend)

    def keys(self, items: Sequence[AudioClip | str | None]) -> list[bytes | None]:
        """The content keys of items; digests of audio files are remembered by size and time of change."""
        if self._digests is None:
            self._digests = FileDigests(self.root)
        keys = [None if item is None else item_key(item, self._digests) for item in items]
        self._digests.save()
        return keys

    def _open(self, frontend: Frontend) -> Path:
        """The frontend's folder, with its description in it; the time of that file says when it was last used."""
        folder = self.folder(frontend)
        description = folder / DESCRIPTION
        text = json.dumps(describe(frontend), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        with disk_errors(self.root):
            make_folder(folder)
            remove_stale(folder)
            try:
                same = plain(description).read_bytes() == text.encode()
            except FileNotFoundError:
                same = False
            if same:
                with contextlib.suppress(OSError):
                    os.utime(description)
                return folder
            write(description, text.encode())
        return folder

    def _scan(self, folder: Path, wanted: Iterable[bytes] = ()) -> Places:
        """Every utterance of every sound shard, after the shared store has been asked for those that are wanted and
        not here. A shard whose index is damaged is removed."""
        found = self._scan_here(folder)
        missing = frozenset(key for key in wanted if key not in found)
        if not missing or self.shared is None:
            return found
        self.shared.fetch(folder, missing)
        return self._scan_here(folder)

    def _offer(self, folder: Path, found: Places, wanted: Iterable[bytes]) -> None:
        """Let other machines have what lay here from before; what is extracted now is given as soon as it is there."""
        if self.shared is not None:
            paths = {key: found[key][0].path for key in wanted}
            if not set(paths.values()) <= self._offered:
                self.shared.offer(folder, paths)
                self._offered.update(paths.values())

    def _scan_here(self, folder: Path) -> Places:
        known = self._known.get(folder)
        paths = sorted(folder.glob(f"[!_]*{SUFFIX}"))
        if known is None or not known.shards.keys() <= set(paths) or any(s.changed() for s in known.shards.values()):
            known = self._known[folder] = _Known({}, {})
        for path in paths:
            if path in known.shards:
                continue
            try:
                shard = Shard(path, folder.name)
            except FileNotFoundError:
                continue  # pruned, or found damaged, by another process
            except Damaged as damage:
                self._discard(path, damage)
                continue
            known.shards[path] = shard
            for row, key in enumerate(shard.keys):
                known.places.setdefault(key, (shard, row))
        return known.places

    def _verify(self, found: Places, wanted: Iterable[bytes]) -> bool:
        """Are the frames of these utterances what was written? Damaged shards are removed."""
        rows: dict[Shard, list[int]] = {}
        for key in wanted:
            shard, row = found[key]
            rows.setdefault(shard, []).append(row)
        sound = True
        for shard, those in rows.items():
            try:
                shard.verify(np.array(those))
            except Damaged as damage:
                if not shard.changed():  # else another process has rebuilt it already
                    self._discard(shard.path, damage)
                sound = False
        return sound

    def _discard(self, path: Path, damage: Damaged) -> None:
        _log.warning("%s is damaged (%s): removed; its utterances are extracted again", path, damage)
        self._known.pop(path.parent, None)
        with disk_errors(path.parent):
            path.unlink(missing_ok=True)

    def _extract(
        self, frontend: Frontend, folder: Path, missing: dict[bytes, AudioClip | str], progress: Progress | None
    ) -> None:
        """Extract in chunks, longest first, so that what does not fit into memory fails at once. Processes that
        do so at the same time take different chunks, and wait for each other's at the end."""
        order = sorted(missing, key=lambda key: (-item_size(missing[key]), key))
        waiting = [order[i : i + self.chunk] for i in range(0, len(order), self.chunk)]
        taken: list[list[bytes]] = []
        done = 0
        while waiting or taken:
            wait = not waiting
            chunk = (taken if wait else waiting).pop(0)
            work = hashlib.blake2b(b"".join(chunk), digest_size=16).hexdigest()
            with self._claim(folder, work, wait) as mine:
                if not mine:
                    taken.append(chunk)
                    continue
                there = self._scan(folder, chunk)
                self._extract_chunk(frontend, folder, {k: missing[k] for k in chunk if k not in there})
            done += len(chunk)
            _log.info("%s: %d of %d utterances", type(frontend).__name__, done, len(order))
            if progress is not None:
                progress(done, len(order))

    @contextlib.contextmanager
    def _claim(self, folder: Path, work: str, wait: bool) -> Iterator[bool]:
        with contextlib.ExitStack() as stack:
            with disk_errors(folder):
                mine = stack.enter_context(claim(folder, work, wait))
            if mine and self.shared is not None:
                mine = stack.enter_context(self.shared.claim(folder.name, work, wait))
            yield mine

    def _extract_chunk(self, frontend: Frontend, folder: Path, chunk: dict[bytes, AudioClip | str]) -> None:
        if not chunk:
            return
        items = list(chunk.values())
        arrays = frontend.extract(items)
        if len(arrays) != len(items):
            raise UserError(
                f"frontend {type(frontend).__name__} gave {len(arrays)} arrays", expected=f"{len(items)}, one per item"
            )
        stored = [to_stored(array, frontend, item) for array, item in zip(arrays, items, strict=True)]
        path = write_shard(folder, folder.name, frontend.dtype, frontend.dim, list(zip(chunk, stored, strict=True)))
        if self.shared is not None:
            self.shared.offer(folder, dict.fromkeys(chunk, path))
            self._offered.add(path)


def _ragged(frontend: Frontend, places: Sequence[tuple[Shard, int] | None]) -> Ragged:
    """The frames at these places as one ragged array over their shards."""
    shards = list(dict.fromkeys(place[0] for place in places if place is not None))
    number = {shard: b for b, shard in enumerate(shards)}
    block, starts, lengths = (np.zeros(len(places), np.int64) for _ in range(3))
    for i, place in enumerate(places):
        if place is not None:
            shard, row = place
            block[i], starts[i] = number[shard], shard.offsets[row]
            lengths[i] = shard.offsets[row + 1] - starts[i]
    empty = np.empty((0, frontend.dim) if frontend.dim else (0,), STORED[frontend.dtype])
    blocks = [shard.frames for shard in shards] or [empty]
    ragged = Ragged.from_blocks(blocks, block, starts, lengths, frontend.dtype)
    if len(blocks) > 1 and ragged.nbytes < _COPY_BELOW:
        return Ragged(ragged.values, ragged.offsets, dtype=frontend.dtype)
    return ragged
