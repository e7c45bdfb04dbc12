"""Declared comparisons as weights over cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from experiments.slots import Cell, Scalar
from experiments.space.design import Factor, check_selection
from experiments.space.model import Comparison, Space
from experiments.space.plan import Condition, Contrast
from experiments.space.yaml_text import Document
from mer.errors import UserError, unknown

Side = Mapping[str, Scalar]


@dataclass(frozen=True)
class Claim:
    """One comparison before it meets cells: signed sides, and the name that tables show."""

    name: str
    sides: tuple[tuple[float, Side], ...]


def claims(comparison: Comparison, factors: Mapping[str, Factor], baseline: Side) -> Iterator[Claim]:
    """What a line under `compare` claims: one difference, one interaction, or one difference for each level."""
    if comparison.each is not None:
        base = baseline[comparison.each]
        for label in factors[comparison.each].labels:
            if label != base:
                name = f"{comparison.each}: {label} vs {base}"
                yield Claim(name, ((1.0, {comparison.each: label}), (-1.0, {comparison.each: base})))
    elif comparison.interaction is not None:
        (one, (a, b)), (other, (c, d)) = comparison.interaction.items()
        name = comparison.name or f"{one} × {other}: ({b} - {a} at {d}) - ({b} - {a} at {c})"
        sides = [(1.0, {one: b, other: d}), (-1.0, {one: a, other: d})]
        sides += [(-1.0, {one: b, other: c}), (1.0, {one: a, other: c})]
        yield Claim(name, tuple(sides))
    else:
        assert comparison.a is not None
        assert comparison.b is not None
        left, right = dict(comparison.a), dict(comparison.b)
        for factor in (*left, *right):  # named on one side only: the other is at the baseline there
            left.setdefault(factor, baseline[factor])
            right.setdefault(factor, baseline[factor])
        name = comparison.name or f"{_shown(left, right)} vs {_shown(right, left)}"
        yield Claim(name, ((1.0, left), (-1.0, right)))


def _shown(side: Side, other: Side) -> str:
    return " ".join(f"{name}={label}" for name, label in side.items() if label != other[name]) or "the same"


def weights(claim: Claim, cells: Sequence[Cell], around: Side | None = None) -> dict[str, float]:
    """Weights of a claim over the cells of one corpus: the mean over all settings of the factors it does not name.

    A setting counts where each side of the claim has a cell that can be run. `around`: the baseline of a design of one
    factor at a time; a claim is then made there alone, unless no cells meet there.
    """
    named = {name for _, side in claim.sides for name in side}
    settings: dict[tuple[tuple[str, Scalar], ...], dict[int, str]] = {}
    for cell in cells:
        if cell.skip is not None:
            continue
        rest = tuple((name, label) for name, label in cell.levels.items() if name not in named)
        for number, (_, side) in enumerate(claim.sides):
            if all(cell.levels[name] == label for name, label in side.items()):
                settings.setdefault(rest, {})[number] = cell.name
    whole = [found for found in settings.values() if len(found) == len(claim.sides)]
    if around is not None:
        base = tuple((name, label) for name, label in around.items() if name not in named)
        found = settings.get(base, {})
        whole = [found] if len(found) == len(claim.sides) else whole
    result: dict[str, float] = {}
    for found in whole:
        for number, name in found.items():
            result[name] = result.get(name, 0.0) + claim.sides[number][0] / len(whole)
    return {name: weight for name, weight in result.items() if weight}


def expand(
    space: Space,
    document: Document,
    factors: Mapping[str, Factor],
    baseline: Side,
    cells: Sequence[Cell],
    conditions: Sequence[Condition],
) -> tuple[list[Contrast], list[str]]:
    """All declared contrasts on all corpora, and notices of those that a corpus cannot carry."""
    declared, found, notices = space.contrasts, list[Contrast](), list[str]()
    known = [condition.name for condition in conditions]
    around = baseline if space.design.kind in ("one_factor", "list") else None
    for index, comparison in enumerate(declared.compare):
        at = ("contrasts", "compare", index) if "compare" in document.data["contrasts"] else ("contrasts", index)
        _check(comparison, factors, document, at)
        for claim in claims(comparison, factors, baseline):
            for corpus in dict.fromkeys(cell.corpus for cell in cells):
                weight = weights(claim, [cell for cell in cells if cell.corpus == corpus], around)
                if not weight:
                    notices.append(f"contrast {claim.name!r} has no cells to compare on corpus {corpus}")
                    continue
                metrics = [comparison.metric] if comparison.metric else declared.metrics or [space.metric]
                wanted = [comparison.condition] if comparison.condition else declared.conditions or ["complete"]
                for metric in metrics:
                    for condition in wanted:
                        if condition not in known:
                            raise unknown("condition", condition, known, document.where(*at))
                        found.append(
                            Contrast(
                                claim.name, corpus, weight, metric, condition, declared.test, comparison.equivalence,
                                declared.family, comparison.scope or declared.scope,
                            )
                        )  # fmt: skip
    twice = {(c.name, c.corpus, c.metric, c.condition) for c in found}
    if len(twice) < len(found):
        raise UserError("two contrasts are the same", where=document.where("contrasts"))
    return found, notices


def _check(
    comparison: Comparison, factors: Mapping[str, Factor], document: Document, at: tuple[str | int, ...]
) -> None:
    if comparison.each is not None and comparison.each not in factors:
        raise unknown("factor", comparison.each, factors, document.where(*at, "each"))
    for name in ("a", "b"):
        side = getattr(comparison, name)
        if side is not None:
            check_selection({key: [label] for key, label in side.items()}, factors, document, *at, name)
    if comparison.interaction is not None:
        check_selection(comparison.interaction, factors, document, *at, "interaction")
    if comparison.a is not None and comparison.a == comparison.b:
        raise UserError("a and b are the same cells", where=document.where(*at))
