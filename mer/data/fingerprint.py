"""A digest of a corpus's content; the digests of its big files are remembered while the file system shows no change."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mer.errors import UserError
from mer.files import commit, make_folder, plain, state_of, temporary

if TYPE_CHECKING:
    from mer.data.corpus import Corpus, Utterance

VERSION = 1
DIGESTS = "digests-2.json"
"""Earlier versions kept other rows in digests.json, and would misread these."""

_BLOCK = 1 << 20


def cache_root() -> Path:
    """Where this project keeps what can be made again: `MER_CACHE`, else `mer` in the user's cache folder."""
    given = os.environ.get("MER_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mer"
    except RuntimeError:
        raise UserError("this user has no home folder", hint="Set HOME, or MER_CACHE to a folder to keep.") from None


def fingerprint(corpus: Corpus) -> str:
    """Hex digest of utterances, labels, split, feature files and wavs; independent of where the folder lies."""
    folder = corpus.info.folder
    total = hashlib.blake2b(f"mer corpus {VERSION}".encode(), digest_size=16)
    _feed(total, list(corpus.info.labels))
    for split in ("train", "valid", "test"):
        _feed(total, split)
        for utterance in getattr(corpus, split):
            _feed(total, _content(utterance))
    files = [f"features/{modality}{end}" for modality in corpus.info.features for end in (".npy", ".offsets.npy")]
    files = [name for name in files if (folder / name).exists()]
    files += [utterance.wav for utterance in corpus.utterances() if utterance.wav is not None]
    digests = FileDigests(cache_root())
    for name in sorted(set(files)):
        _feed(total, [name, digests.of(folder / name)])
    digests.save()
    return total.hexdigest()


class FileDigests:
    """Content digests of files, kept in a JSON file and trusted while `mer.files.state_of` them stays the same."""

    def __init__(self, root: Path) -> None:
        self.path = root / DIGESTS
        self._fresh: dict[str, list[int | str]] = {}
        self._known = self._read()

    def of(self, file: Path) -> str:
        state, key = state_of(file), str(file.resolve())
        found = self._known.get(key)
        if found is not None and found[:-1] == [*state]:
            return str(found[-1])
        digest = hashlib.blake2b(digest_size=16)
        with plain(file).open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        self._known[key] = self._fresh[key] = [*state, digest.hexdigest()]
        return digest.hexdigest()

    def remember(self, file: Path, digest: str) -> None:
        """What is in a file, where that is known already."""
        key = str(file.resolve())
        self._known[key] = self._fresh[key] = [*state_of(file), digest]

    def save(self) -> None:
        """Write what is new, atomically; a cache folder that cannot be written costs time and nothing else."""
        if not self._fresh:
            return
        merged = {**self._read(), **self._fresh}
        try:
            make_folder(self.path.parent)
            with temporary(self.path.parent) as (stream, name):
                stream.write(json.dumps(merged).encode())
                commit(stream, name, self.path)
        except OSError:
            return
        self._fresh = {}

    def _read(self) -> dict[str, list[int | str]]:
        try:
            found = json.loads(plain(self.path).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        rows = found.items() if isinstance(found, dict) else ()
        return {key: row for key, row in rows if isinstance(row, list) and row}


def _content(utterance: Utterance) -> list[object]:
    return [
        utterance.id, utterance.speaker, utterance.emotion, utterance.wav, utterance.start, utterance.end,
        utterance.transcript, utterance.dialogue, utterance.turn, utterance.row, sorted(utterance.lacks),
    ]  # fmt: skip


def _feed(total: hashlib.blake2b, value: object) -> None:
    total.update(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
