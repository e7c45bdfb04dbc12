"""Names that people give (levels, labels, corpora, utterances) and that tables, figures and folders have to show."""

from __future__ import annotations

import unicodedata

LONGEST = 200
"""Characters of a name. Of an utterance's id, which may be a path, five times as many."""


def fault(name: str, longest: int = LONGEST) -> str | None:
    """What is wrong with a name, or None.

    >>> fault("a $ & _ % {b}"), fault(" "), fault("one\\ntwo")
    (None, 'is empty', "holds the character '\\\\n', which cannot be shown")
    """
    if not name.strip():
        return "is empty"
    if len(name) > longest:
        return f"is {len(name)} characters long, {longest} are allowed"
    hidden = next((char for char in name if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")), None)
    return None if hidden is None else f"holds the character {hidden!a}, which cannot be shown"
