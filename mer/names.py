"""Names that people give (levels, labels, corpora, utterances) and that tables, figures and folders have to show."""

from __future__ import annotations

import unicodedata

LONGEST = 200
"""Bytes of a name in UTF-8. Of a corpus, which names folders and files, half as many; of an id, five times."""


def fault(name: str, longest: int = LONGEST) -> str | None:
    """What is wrong with a name, or None.

    >>> fault("a $ & _ % {b}"), fault(" "), fault("one\\ntwo")
    (None, 'is empty', "holds the character '\\\\n', which cannot be shown")
    """
    hidden = next((char for char in name if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")), None)
    if hidden is not None:
        return f"holds the character {hidden!a}, which cannot be shown"
    if not name.strip():
        return "is empty"
    size = len(name.encode())
    return f"is {size} bytes long, {longest} are allowed" if size > longest else None


def corpus_fault(name: str) -> str | None:
    """The same of a corpus's name, which is part of paths."""
    return "holds a slash" if "/" in name else "begins with a dot" if name[:1] == "." else fault(name, LONGEST // 2)


MASKS = "+masks-"
"""What goes before the digest of a file of masks in a trial's `data`."""
