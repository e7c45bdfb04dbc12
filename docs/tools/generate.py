"""Makes what is made from the code: pages of levels, the space file's reference and JSON schema, commands, licences.

python -m docs.tools.generate            # writes them
python -m docs.tools.generate --check    # says which are out of date; exit code 1
"""

from __future__ import annotations

import sys
from pathlib import Path

from docs.tools import command_page, level_pages, licences, space_reference
from experiments.space.schema import schema_text

DOCS = Path(__file__).resolve().parents[1]
SCHEMA = "../search_spaces/space.schema.json"
MADE = "<!-- Made by `make docs` from the code; change it there. -->\n\n"


def pages() -> dict[str, str]:
    """Path from docs/ to text, of everything that is made."""
    made = {
        **level_pages.pages(),
        "space_reference.md": space_reference.page(),
        "commands.md": command_page.page(),
        "licences.md": licences.page(),
    }
    return {SCHEMA: schema_text(), **{path: MADE + text for path, text in made.items()}}


def stale() -> list[str]:
    """Pages that are not what the code says now: to be written, or to be removed."""
    wanted = pages()
    found = [p for p, text in wanted.items() if not (DOCS / p).is_file() or (DOCS / p).read_text("utf-8") != text]
    return sorted([*found, *superfluous(wanted)])


def superfluous(wanted: dict[str, str]) -> list[str]:
    """Pages of levels that there are no more."""
    here = (path.relative_to(DOCS).as_posix() for path in (DOCS / "levels").rglob("*.md"))
    return [path for path in here if path not in wanted]


def main() -> int:
    if "--check" in sys.argv[1:]:
        found = stale()
        print("\n".join([*found, f"{len(found)} files are out of date: make pages"]) if found else "all up to date")
        return bool(found)
    wanted = pages()
    for path, text in wanted.items():
        (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / path).write_text(text, "utf-8")
    for path in superfluous(wanted):
        (DOCS / path).unlink()
    print(f"{len(wanted)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
