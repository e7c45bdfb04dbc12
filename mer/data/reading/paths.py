"""Whether a wav path of a line may be followed."""

from __future__ import annotations

import os
import re
from pathlib import Path


class WavPaths:
    """Judges wav paths: they must stay inside the corpus folder, and exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = os.path.realpath(folder)
        self.known: dict[str, tuple[str, str, str] | None] = {}

    def fault(self, path: str) -> tuple[str, str, str] | None:
        """Code, problem and expectation, or None where the path is sound."""
        if path not in self.known:
            self.known[path] = self._judge(path)
        return self.known[path]

    def _judge(self, path: str) -> tuple[str, str, str] | None:
        relative = "a path relative to the corpus folder"
        if "\0" in path:
            return "path", "holds a NUL character", relative
        if re.match(r"^[A-Za-z][A-Za-z0-9+.\-]+:", path):
            return "path", "is a URL", relative
        if path.startswith(("/", "~")) or re.match(r"^[A-Za-z]:", path):
            return "path", "is absolute", relative
        if "\\" in path:
            return "path", "uses backslashes", "slashes"
        if ".." in path.split("/"):
            return "path", "climbs out with '..'", relative
        real = os.path.realpath(os.path.join(self.root, path))
        if real != self.root and not real.startswith(self.root + os.sep):
            return "path", "leads out of the corpus folder by a symbolic link", "a file inside the corpus folder"
        if not os.path.exists(real):
            return "wav_missing", "does not exist", "an audio file"
        if not os.path.isfile(real):
            return "wav_missing", "is not a file", "an audio file"
        if os.path.getsize(real) == 0:
            return "wav_empty", "has 0 bytes", "an audio file"
        return None
