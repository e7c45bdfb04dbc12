"""Which trials of a plan are trained together in one step: a pure function of the plan, never of what has been run.

A cell that bundles has its draws bundled, and its confirm trials. Studies are taken in blocks, so that there are
confirm trials to put together, and cut into bundles of at most `size`, study by study. What the space says later about
other cells, or about studies beyond the last whole block, changes no bundle: a longer space runs only what is new.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from experiments.slots import Cell, Slot, Stage
from experiments.space.sampling import known_before

if TYPE_CHECKING:
    from experiments.space.plan import Plan


def slots(plan: Plan) -> Iterator[Slot]:
    """Every slot in planned order: block of studies by block, cells in their balanced order, draws, then confirms.

    A cell that is not bundled goes study by study inside a block. Blocks are of one study where nothing is bundled.
    """
    for block in blocks(plan):
        for cell in plan.cells:
            if is_bundled(plan, cell):
                yield from _draws(plan, cell, block)
                yield from _confirms(plan, cell, block)
                continue
            for study, fold in itertools.product(block, range(plan.folds.count)):
                yield from _draws(plan, cell, (study,), (fold,))
                yield from _confirms(plan, cell, (study,), (fold,))


def is_bundled(plan: Plan, cell: Cell) -> bool:
    return (cell.corpus, cell.name) in plan.bundled


def blocks(plan: Plan) -> list[tuple[int, ...]]:
    """Studies that are planned together."""
    size = plan.bundling.studies if plan.bundled else 1
    return [tuple(range(first, min(first + size, plan.studies))) for first in range(0, plan.studies, size)]


def units(plan: Plan) -> Iterator[tuple[Slot, ...]]:
    """The slots of the plan, those that are trained together in one tuple, each tuple in planned order."""
    for block in blocks(plan):
        for cell in plan.cells:
            yield from _of_cell(plan, cell, block)


def largest(plan: Plan, cell: Cell) -> int:
    """The size of a cell's largest bundle; 1 where each of its trials is trained alone."""
    if not is_bundled(plan, cell):
        return 1
    return max(len(unit) for unit in _of_cell(plan, cell, blocks(plan)[0]))


def _of_cell(plan: Plan, cell: Cell, block: Sequence[int]) -> Iterator[tuple[Slot, ...]]:
    draws, confirms = list(_draws(plan, cell, block)), list(_confirms(plan, cell, block))
    if not is_bundled(plan, cell):
        yield from ((slot,) for slot in (*draws, *confirms))
        return
    yield from _cut(draws, [_kind(plan, slot) for slot in draws], plan.bundling.size)
    alike = not plan.shaping(cell)
    yield from _cut(confirms, ["" if alike else None] * len(confirms), plan.bundling.size)


def _draws(plan: Plan, cell: Cell, studies: Sequence[int], folds: Sequence[int] | None = None) -> Iterator[Slot]:
    if not plan.is_lead(cell):
        return
    for study in studies:
        if study and plan.tuning.once:
            continue
        for fold in range(plan.folds.count) if folds is None else folds:
            for draw in range(plan.draws_of(cell)):
                yield Slot(cell.corpus, cell.name, study, fold, Stage.TUNE, draw)


def _confirms(plan: Plan, cell: Cell, studies: Sequence[int], folds: Sequence[int] | None = None) -> Iterator[Slot]:
    for study, fold in itertools.product(studies, range(plan.folds.count) if folds is None else folds):
        yield Slot(cell.corpus, cell.name, study, fold, Stage.CONFIRM)


def _kind(plan: Plan, slot: Slot) -> str | None:
    """Draws of one kind can be trained together: of one architecture, proposed at one time. None: none can.

    Where a hyperparameter shapes the model (a width, say) draws with the same values of it go together.
    """
    known, shaping = known_before(plan.tuning, slot.draw), plan.shaping(plan.cell_of(slot))
    if not shaping:
        return str(known)
    if known:
        return None
    params = plan.params(slot)
    return repr([known, *(params[path] for path in shaping)])


def _cut(found: Sequence[Slot], kinds: Sequence[str | None], size: int) -> Iterator[tuple[Slot, ...]]:
    """Bundles of at most `size` slots of a kind, in the order of their first slots."""
    groups: dict[str | int, list[Slot]] = {}
    for number, (slot, kind) in enumerate(zip(found, kinds, strict=True)):
        groups.setdefault(number if kind is None else kind, []).append(slot)
    cut = [tuple(group[a : a + size]) for group in groups.values() for a in range(0, len(group), size)]
    order = {slot: number for number, slot in enumerate(found)}
    yield from sorted(cut, key=lambda unit: order[unit[0]])
