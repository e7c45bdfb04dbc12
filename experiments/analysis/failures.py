"""Where models fail: error pairs, concrete cases, what the variants share, worst speakers and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.analysis.variant import BoolArray, SplitView, Variant


@dataclass(frozen=True)
class Case:
    """One misclassified utterance. `right` names the other variants that got it right."""

    utterance: str
    file: str | None
    transcript: str | None
    speaker: str
    probability_true: float
    probability_predicted: float
    right: tuple[str, ...]


@dataclass(frozen=True)
class ErrorPair:
    """True class taken for another: how often, out of how many of the true class, with concrete cases."""

    true: str
    predicted: str
    count: int
    support: int
    cases: tuple[Case, ...]


def error_pairs(
    variant: Variant, others: Sequence[Variant], *, pairs: int = 5, cases: int = 5
) -> tuple[ErrorPair, ...]:
    """The most frequent confusions, each with its most confidently wrong cases.

    Ties are broken by the order of the labels, so that the same predictions give the same report.
    """
    view = variant.test
    counts: dict[tuple[int, int], int] = {}
    for true, predicted in zip(view.labels[view.wrong], view.predicted[view.wrong], strict=True):
        counts[int(true), int(predicted)] = counts.get((int(true), int(predicted)), 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:pairs]
    correct = {other.name: _correct_ids(other.test) for other in others if other.name != variant.name}
    return tuple(
        ErrorPair(
            true=variant.labels[true],
            predicted=variant.labels[predicted],
            count=count,
            support=int((view.labels == true).sum()),
            cases=_cases(view, true, predicted, correct, cases),
        )
        for (true, predicted), count in ranked
    )


def _cases(view: SplitView, true: int, predicted: int, correct: dict[str, set[str]], limit: int) -> tuple[Case, ...]:
    rows = np.flatnonzero((view.labels == true) & (view.predicted == predicted))
    rows = rows[np.argsort(-view.probabilities[rows, predicted], kind="stable")][:limit]
    return tuple(
        Case(
            utterance=view.ids[row],
            file=view.files[row],
            transcript=view.transcripts[row],
            speaker=view.speakers[row],
            probability_true=float(view.probabilities[row, true]),
            probability_predicted=float(view.probabilities[row, predicted]),
            right=tuple(name for name, ids in correct.items() if view.ids[row] in ids),
        )
        for row in rows
    )


def _correct_ids(view: SplitView) -> set[str]:
    return {view.ids[row] for row in np.flatnonzero(~view.wrong)}


@dataclass(frozen=True)
class Overlap:
    """How much two variants fail on the same utterances. `expected`: by chance, if their errors were independent."""

    first: str
    second: str
    both: int
    either: int
    expected: float

    @property
    def jaccard(self) -> float:
        return self.both / self.either if self.either else 0.0


def error_overlaps(variants: Sequence[Variant]) -> tuple[Overlap, ...]:
    """Every pair of variants on the utterances that both were tested on."""
    found = []
    wrong = {v.name: {v.test.ids[row] for row in np.flatnonzero(v.test.wrong)} for v in variants}
    ids = {v.name: set(v.test.ids) for v in variants}
    for position, first in enumerate(variants):
        for second in variants[position + 1 :]:
            common = ids[first.name] & ids[second.name]
            one, two = wrong[first.name] & common, wrong[second.name] & common
            expected = len(one) * len(two) / len(common) if common else 0.0
            found.append(Overlap(first.name, second.name, len(one & two), len(one | two), expected))
    return tuple(found)


def never_right(variants: Sequence[Variant]) -> tuple[str, ...]:
    """Utterances that every variant gets wrong: look at their labels first."""
    shared = set.intersection(*({v.test.ids[row] for row in np.flatnonzero(v.test.wrong)} for v in variants))
    return tuple(sorted(shared))


@dataclass(frozen=True)
class Part:
    """Accuracy on one part of the test set, with a Wilson 95 % interval: small parts look extreme by chance."""

    name: str
    n: int
    accuracy: float
    low: float
    high: float


def by_speaker(view: SplitView) -> tuple[Part, ...]:
    """Accuracy per speaker, worst first."""
    speakers = np.asarray(view.speakers)
    parts = [_part(str(name), ~view.wrong[speakers == name]) for name in sorted(set(view.speakers))]
    return tuple(sorted(parts, key=lambda part: (part.accuracy, part.name)))


def by_length(view: SplitView, groups: int = 4) -> tuple[Part, ...]:
    """Accuracy per quartile of length: seconds where there is audio, else words."""
    in_seconds = bool(view.seconds.any())
    lengths = view.seconds if in_seconds else view.words.astype(float)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, groups + 1)))
    if len(edges) < 2:
        return (_part(f"{lengths[0]:g} {'s' if in_seconds else 'words'}", ~view.wrong),)
    group = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, len(edges) - 2)
    unit, form = ("s", ".1f") if in_seconds else ("words", ".0f")
    return tuple(
        _part(f"{edges[g]:{form}} to {edges[g + 1]:{form}} {unit}", ~view.wrong[group == g])
        for g in range(len(edges) - 1)
        if (group == g).any()
    )


def _part(name: str, right: BoolArray) -> Part:
    low, high = wilson(int(right.sum()), len(right))
    return Part(name, len(right), float(right.mean()), low, high)


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval for a proportion.

    >>> low, high = wilson(11, 25)
    >>> round(low, 2), round(high, 2)
    (0.27, 0.63)
    """
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(centre - half), float(centre + half)
