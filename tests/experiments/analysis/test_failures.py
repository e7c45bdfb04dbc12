"""Error pairs, shared errors and parts, against counting by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from experiments.analysis.failures import by_length, by_speaker, error_overlaps, error_pairs, never_right, wilson
from experiments.analysis.variant import Variant


def test_error_pairs_are_the_most_frequent_confusions(variants: list[Variant]) -> None:
    variant = variants[2]
    view = variant.test
    counted: Counter[tuple[str, str]] = Counter()
    for true, predicted in zip(view.labels, view.predicted, strict=True):
        if true != predicted:
            counted[variant.labels[true], variant.labels[predicted]] += 1
    found = error_pairs(variant, variants)
    assert [pair.count for pair in found] == sorted(counted.values(), reverse=True)[:5]
    for pair in found:
        assert counted[pair.true, pair.predicted] == pair.count
        assert pair.support == 30
        sure = [case.probability_predicted for case in pair.cases]
        assert sure == sorted(sure, reverse=True)
        assert len(pair.cases) == min(5, pair.count)


def test_cases_name_the_variants_that_got_it_right(variants: list[Variant]) -> None:
    right = {v.name: {i for i, w in zip(v.test.ids, v.test.wrong, strict=True) if not w} for v in variants}
    for pair in error_pairs(variants[0], variants):
        for case in pair.cases:
            assert set(case.right) == {n for n, ids in right.items() if case.utterance in ids}
            assert case.file == f"wavs/{case.utterance}.wav"
            assert variants[0].name not in case.right


def test_overlaps_against_sets(variants: list[Variant]) -> None:
    wrong = {v.name: {i for i, w in zip(v.test.ids, v.test.wrong, strict=True) if w} for v in variants}
    for overlap in error_overlaps(variants):
        one, two = wrong[overlap.first], wrong[overlap.second]
        assert (overlap.both, overlap.either) == (len(one & two), len(one | two))
        assert overlap.expected == pytest.approx(len(one) * len(two) / 90)
    assert set(never_right(variants)) == set.intersection(*wrong.values())


def test_parts_cover_everybody_once(variants: list[Variant]) -> None:
    view = variants[0].test
    for parts in (by_speaker(view), by_length(view)):
        assert sum(part.n for part in parts) == 90
        assert sum(part.accuracy * part.n for part in parts) == pytest.approx(float((~view.wrong).sum()))
        assert all(part.low <= part.accuracy <= part.high for part in parts)
    accuracies = [part.accuracy for part in by_speaker(view)]
    assert accuracies == sorted(accuracies)


def test_one_length_is_one_part(variants: list[Variant]) -> None:
    import dataclasses

    view = dataclasses.replace(variants[0].test, seconds=np.zeros(90), words=np.full(90, 3))
    (part,) = by_length(view)
    assert (part.name, part.n) == ("3 words", 90)


def test_wilson_published_value() -> None:
    low, high = wilson(11, 25)
    assert (round(low, 3), round(high, 3)) == (0.267, 0.629)
