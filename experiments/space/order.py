"""The order of cells: the baseline first, then so that every prefix is balanced over the factors' levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.slots import Scalar
from mer.streams import derive

CANDIDATES = 64
"""Cells looked at for each next place; a grid beyond that is sampled, which costs little balance and much less time."""

Levels = Mapping[str, Scalar]


def balanced(cells: Sequence[Levels], first: int = 0) -> list[int]:
    """Indices of the cells in the order in which to run them.

    Greedy: next is the cell whose levels, and pairs of levels, have stood in the fewest cells so far. In a design of
    one factor at a time that goes round the factors; in a full grid every prefix is close to an orthogonal array.
    """
    if not cells:
        return []
    numbers: dict[object, int] = {}
    keys = [[numbers.setdefault(key, len(numbers)) for key in _keys(cell)] for cell in cells]
    seen = [0] * len(numbers)
    order: list[int] = []
    left = sorted(range(len(cells)), key=lambda index: derive("order", index))  # ties: neither by name nor by size
    left.remove(first)
    chosen = first
    while True:
        order.append(chosen)
        for key in keys[chosen]:
            seen[key] += 1
        if not left:
            return order
        window = left[:CANDIDATES]
        best = min(range(len(window)), key=lambda i: sum(map(seen.__getitem__, keys[window[i]])))
        chosen = left.pop(best)


def _keys(cell: Levels) -> list[object]:
    single: list[object] = list(cell.items())
    items = list(cell.items())
    pairs: list[object] = [(items[i], items[j]) for i in range(len(items)) for j in range(i)]
    return single * 2 + pairs


def imbalance(cells: Sequence[Levels]) -> dict[str, tuple[int, int]]:
    """Per factor: how often its rarest and its most frequent level occur among these cells (levels seen only)."""
    counts: dict[str, Counter[Scalar]] = {}
    for cell in cells:
        for factor, level in cell.items():
            counts.setdefault(factor, Counter())[level] += 1
    return {factor: (min(found.values()), max(found.values())) for factor, found in counts.items()}
