"""Where spaces are looked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mer.errors import UserError, nearest
from mer.files import data_file
from mer.names import LONGEST


def space_folders() -> list[Path]:
    """Where spaces are looked for: `search_spaces` here, of the checkout, of the installed package."""
    checkout = Path(__file__).resolve().parents[2] / "search_spaces"
    installed = Path(sys.prefix) / "share" / "mer-ablation" / "search_spaces"
    return [folder for folder in (Path("search_spaces"), checkout, installed) if folder.is_dir()]


def find_space(name: str) -> Path:
    """The file of a space: a path, or a name in one of the folders."""
    path = Path(name)
    if os.path.exists(path) and not os.path.isdir(path):  # False for what can be no name of a file
        return data_file(path)
    for folder in space_folders():
        file = folder / f"{name}.yaml"
        if os.path.isfile(file):
            return file
    known = sorted({file.stem for folder in space_folders() for file in folder.glob("*.yaml")})
    raise UserError(
        f"there is no space {name[:LONGEST]!r}",
        expected=", ".join(known) or "a YAML file",
        nearest=nearest(name, known),
    )
