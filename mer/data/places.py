"""Where a corpus is: by name, by folder, or by its address in an object store."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mer.data.fetching import fetch_corpus
from mer.data.fingerprint import cache_root
from mer.errors import UserError, nearest, refuse_secrets
from mer.names import LONGEST
from mer.storage import is_address

HURRY_S = 20.0
"""How long a person waits for an endpoint that does not answer. A worker waits as long as for results."""


def find_corpus(name: str, root: Path | str | None = None) -> Path:
    """The folder that a corpus name, path or address means.

    `demo` is made on first use; what lies in an object store (`s3://bucket/vnemos`, `gs://...`) is fetched; other names
    lie below `root`, by default the environment's `MER_DATA`, else `data`. A path to a folder is taken as it is.
    """
    refuse_secrets(name)
    if is_address(name):
        return fetch_corpus(name, patience=HURRY_S)
    name = name.removeprefix("file://")
    base = Path(root if root is not None else os.environ.get("MER_DATA", "data"))
    try:
        for candidate in (base / name, Path(name)):
            if is_folder(candidate) and not (candidate == Path(name) and name == "demo"):
                return candidate
    except PermissionError as error:
        raise UserError(
            f"you may not look for the corpus {name!r} there",
            where=str(error.filename),
            hint="Ask for membership of the group that may (`id -nG` shows yours), or set MER_DATA to another folder.",
        ) from None
    if name == "demo":
        from mer.data.demo import demo_corpus

        return demo_corpus()
    known = ["demo", *sorted(entry.name for entry in base.iterdir() if entry.is_dir())] if is_folder(base) else ["demo"]
    shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    raise UserError(
        f"there is no corpus {shown!r}: neither in {base} nor as a folder",
        expected=", ".join(known),
        nearest=nearest(shown, known),
    )


def is_folder(path: Path) -> bool:
    """Is there such a folder? False for what can be no name of a file (too long, a NUL in it); `PermissionError` where
    it may not be looked for."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return False


def address_of(name: str, folder: Path) -> str | None:
    """What any machine can find a corpus by that was found here; None for a folder, which only a shared disk has
    everywhere."""
    if is_address(name):
        return name
    return "demo" if name == "demo" and folder.parent == cache_root() / "corpora" else None


def copy_here(folder: Path, address: str | None) -> Path:
    """Where a corpus lies on this machine that was found in `folder` on the one that planned."""
    if address is None:
        return folder
    if address == "demo":
        from mer.data.demo import demo_corpus

        return demo_corpus()
    return fetch_corpus(address, copy=folder.parent.name)
