"""Several contrasts tested together."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None], size: int | None = None) -> list[float | None]:
    """Holm's adjusted p values (1979): the chance of any false difference in the family stays at the nominal level.

    `None` marks a declared contrast that could not be tested (cells missing, one study). It keeps its place in the
    family, so that what failed to run makes nothing else easier. `size` is the family as declared, where larger.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    family = max(size or 0, len(p_values))
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(known):
        running = max(running, min(1.0, (family - rank) * p))
        adjusted[i] = running
    return adjusted


def adjusted(
    p_values: Sequence[float | None], post_hoc: Sequence[bool], declared: int, ever: int
) -> list[float | None]:
    """Holm's p values of claims of which some are post hoc.

    declared, ever   sizes of the family as it was declared in time, and of all that was ever declared: what is left out
                     of the claims at hand keeps its place

    >>> [round(p, 3) for p in adjusted([0.01, 0.01], [False, True], declared=2, ever=5)]
    [0.02, 0.05]
    """
    timely = [i for i, late in enumerate(post_hoc) if not late]
    found = holm(p_values, ever)
    for i, p in zip(timely, holm([p_values[i] for i in timely], declared), strict=True):
        found[i] = p
    return found
