"""Which version of this project runs here, and of a space: what is printed where files may be stale."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from experiments.results.provenance import source_version

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mer", "experiments")


def project_line(space: str | None = None) -> str:
    """`project 66cb1331f938 (files 1a2b3c4d), space fusion_vn (9f8e7d6c)`: alike on two machines that have the same."""
    line = f"project {project_commit() or 'without a checkout'} (files {source_digest()[:8]})"
    return line if space is None else f"{line}, space {space} ({space_digest(space)[:8]})"


@functools.cache
def project_commit() -> str:
    """Commit of the source tree this package runs from; `-dirty` where it has changes, empty outside a checkout."""
    commit, dirty = source_version()
    return f"{commit[:12]}{'-dirty' if dirty else ''}" if commit else ""


@functools.cache
def source_digest() -> str:
    """Digest of every source file of this project, as they are when it is first asked for."""
    total = hashlib.blake2b(digest_size=16)
    for file in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        total.update(f"{file.relative_to(ROOT).as_posix()}\0".encode() + file.read_bytes())
    return total.hexdigest()


def space_digest(space: str) -> str:
    """Digest of a space's file with all that it includes."""
    from experiments.space.find import find_space
    from experiments.space.includes import load_with_includes

    text = json.dumps(load_with_includes(find_space(space)).data, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
