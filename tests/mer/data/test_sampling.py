"""Samplers: coverage, shares, padding, determinism, dialogues."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import mer.data.sampling
from mer.data.sampling import (
    LEVELS,
    SampleInfo,
    Sampler,
    make_sampler,
    padding_ratio,
    rows_by_dialogue,
    utterance_weights,
)
from mer.errors import UserError
from mer.recipe import Sampler as SamplerConfig

N = 600


@pytest.fixture(scope="module")
def info() -> SampleInfo:
    """5 unbalanced classes; the rare ones are longer; 40 dialogues."""
    rng = np.random.default_rng(0)
    labels = rng.choice(5, N, p=[0.5, 0.25, 0.15, 0.07, 0.03])
    seconds = rng.lognormal(1.0 + 0.2 * labels, 0.6)
    return SampleInfo(labels, seconds, rng.poisson(3 * seconds), np.sort(rng.integers(0, 40, N)))


def _sampler(info: SampleInfo, name: str, seed: int = 1, by_dialogue: bool = False, **options: object) -> Sampler:
    return make_sampler(SamplerConfig(name=name, batch_size=16, **options), info, seed, by_dialogue)  # type: ignore[arg-type]


@pytest.mark.parametrize("by_dialogue", [False, True])
@pytest.mark.parametrize("name", LEVELS)
def test_pure_in_seed_and_epoch(info: SampleInfo, name: str, by_dialogue: bool) -> None:
    one, two = (_sampler(info, name, 1, by_dialogue) for _ in range(2))
    two.batches(0)  # what was asked before does not matter
    for epoch in (3, 0):
        for a, b in zip(one.batches(epoch), two.batches(epoch), strict=True):
            np.testing.assert_array_equal(a, b)
    flat = [
        np.concatenate(s.batches(e)).tolist()
        for s, e in [(one, 0), (one, 1), (_sampler(info, name, 2, by_dialogue), 0)]
    ]
    assert flat[0] != flat[1]
    assert flat[0] != flat[2]


@pytest.mark.parametrize("name", ["plain", "length_bucket"])
def test_every_utterance_once(info: SampleInfo, name: str) -> None:
    for by_dialogue in (False, True):
        batches = _sampler(info, name, by_dialogue=by_dialogue).batches(0)
        assert sorted(np.concatenate(batches).tolist()) == list(range(N))
    assert [len(batch) for batch in _sampler(info, "plain").batches(0)] == [16] * 37 + [8]


def test_bucketed_batches_are_other_sets_in_another_order_each_epoch(info: SampleInfo) -> None:
    sampler = _sampler(info, "length_bucket")
    sets = [{frozenset(batch.tolist()) for batch in sampler.batches(epoch)} for epoch in range(3)]
    assert not sets[0] & sets[1]
    assert not sets[1] & sets[2]
    for name in ("length_bucket", "both"):
        batches = _sampler(info, name, bucket=1000).batches(0)  # one bucket: sorted from short to long
        means = [info.audio_seconds[batch].mean() for batch in batches]
        assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5  # and shuffled


def _padding(info: SampleInfo, name: str, by_dialogue: bool = False, **options: object) -> float:
    sampler = _sampler(info, name, by_dialogue=by_dialogue, **options)
    lengths = info.mixed_length(SamplerConfig().alpha)
    return float(np.mean([padding_ratio(sampler.batches(epoch), lengths) for epoch in range(8)]))


@pytest.mark.parametrize(("plain", "bucketed"), [("plain", "length_bucket"), ("weighted", "both")])
def test_bucketing_lowers_padding(info: SampleInfo, plain: str, bucketed: str) -> None:
    assert _padding(info, plain) > 2
    assert _padding(info, bucketed, bucket=2) > _padding(info, bucketed, bucket=8) > _padding(info, bucketed, bucket=40)
    assert _padding(info, bucketed, bucket=40) < 1.15  # one bucket: the whole epoch is sorted
    assert _padding(info, bucketed, by_dialogue=True) < _padding(info, plain, by_dialogue=True)


def _shares(info: SampleInfo, name: str, epochs: int, **options: object) -> np.ndarray:
    sampler = _sampler(info, name, **options)
    drawn = np.concatenate([rows for epoch in range(epochs) for rows in sampler.batches(epoch)])
    return np.bincount(info.labels[drawn], minlength=5) / len(drawn)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_class_shares_are_what_the_power_says_with_and_without_buckets(info: SampleInfo, power: float) -> None:
    wanted = np.bincount(info.labels) ** (1 - power)
    wanted = wanted / wanted.sum()
    epochs = 100
    error = 5 * np.sqrt(wanted * (1 - wanted) / (epochs * N))
    for name in ("weighted", "both"):
        found = _shares(info, name, epochs, class_power=power, length_power=0.5)
        assert (np.abs(found - wanted) < error).all(), name


def test_both_draws_the_same_utterances_as_weighted_and_orders_them_by_length(info: SampleInfo) -> None:
    weighted, both = _sampler(info, "weighted").batches(4), _sampler(info, "both").batches(4)
    assert sorted(np.concatenate(weighted).tolist()) == sorted(np.concatenate(both).tolist())
    assert len(np.unique(np.concatenate(both))) < N  # drawn with replacement
    lengths = info.mixed_length(SamplerConfig().alpha)
    spread = [np.mean([np.ptp(lengths[rows]) for rows in batches]) for batches in (weighted, both)]
    assert spread[1] < spread[0] / 4


def test_weights_by_a_loop(info: SampleInfo) -> None:
    config = SamplerConfig(class_power=0.7, length_power=0.4)
    weights = utterance_weights(config, info)
    bins = [int(np.floor(2 * np.log2(s + 0.03 * w))) for s, w in zip(info.audio_seconds, info.text_words, strict=True)]
    rarity = [(bins.count(b) / N) ** -0.4 for b in bins]
    counts = {c: int((info.labels == c).sum()) for c in range(5)}
    total = sum(count**0.3 for count in counts.values())
    for i in range(0, N, 37):
        c = info.labels[i]
        within = rarity[i] / sum(r for r, label in zip(rarity, info.labels, strict=True) if label == c)
        assert weights[i] == pytest.approx(counts[c] ** 0.3 / total * within)
    assert weights.sum() == pytest.approx(1)


def test_length_power_favours_rare_lengths() -> None:
    info = SampleInfo(np.zeros(10, int), np.array([1.0] * 9 + [8.0]), np.zeros(10))
    flat, full = (utterance_weights(SamplerConfig(length_power=p), info) for p in (0.0, 1.0))
    assert flat.tolist() == pytest.approx([0.1] * 10)
    assert full.tolist() == pytest.approx([0.5 / 9] * 9 + [0.5])


@pytest.mark.parametrize("name", LEVELS)
def test_whole_dialogues_in_turn_order(info: SampleInfo, name: str) -> None:
    assert info.dialogue is not None
    members = {d: np.flatnonzero(info.dialogue == d).tolist() for d in np.unique(info.dialogue).tolist()}
    for batch in _sampler(info, name, by_dialogue=True).batches(0):
        runs = [list(rows) for _, rows in itertools.groupby(batch.tolist(), key=lambda row: info.dialogue[row])]
        for run in runs:
            assert run == members[info.dialogue[run[0]]]
        dialogues = [info.dialogue[run[0]] for run in runs]
        assert len(set(dialogues)) == len(dialogues)
        assert sum(map(len, runs[:-1])) < 16  # closed as soon as it is full


def test_weighting_of_dialogues_follows_their_utterances(info: SampleInfo) -> None:
    sampler = _sampler(info, "weighted", by_dialogue=True)
    weights = utterance_weights(SamplerConfig(), info)
    groups = rows_by_dialogue(info.dialogue)  # type: ignore[arg-type]
    wanted = np.array([weights[rows].mean() for rows in groups])
    wanted /= wanted.sum()
    epochs, found = 300, np.zeros(len(groups))
    for epoch in range(epochs):
        drawn = np.concatenate(sampler.batches(epoch))
        found += [np.isin(drawn, rows[0]).sum() for rows in groups]
    assert found.sum() == epochs * len(groups)
    assert (np.abs(found / found.sum() - wanted) < 5 * np.sqrt(wanted / found.sum())).all()


def test_dialogues_need_not_be_contiguous() -> None:
    info = SampleInfo(np.zeros(5, int), np.ones(5), np.ones(5), np.array([4, 9, 4, 9, 2]))
    batches = make_sampler(SamplerConfig(batch_size=2), info, 0, by_dialogue=True).batches(0)
    assert sorted(batch.tolist() for batch in batches) in (
        [[0, 2], [1, 3], [4]],
        [[0, 2], [4, 1, 3]],
        [[1, 3], [4, 0, 2]],
    )


def test_bad_choices_are_refused() -> None:
    info = SampleInfo(np.zeros(2, int), np.ones(2), np.ones(2))
    with pytest.raises(UserError, match=r"unknown sampler 'length-bucket'.*did you mean 'length_bucket'"):
        make_sampler(SamplerConfig(name="length-bucket"), info, 0)
    with pytest.raises(UserError, match="whole dialogues"):
        make_sampler(SamplerConfig(), info, 0, by_dialogue=True)


def test_a_sampler_from_outside() -> None:
    info = SampleInfo(np.zeros(2, int), np.ones(2), np.ones(2))
    assert type(make_sampler(SamplerConfig(name="mer.data.sampling:Both"), info, 0)) is mer.data.sampling.Both
