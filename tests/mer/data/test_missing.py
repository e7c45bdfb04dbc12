"""Masks: pure in ids, names, seed and epoch; at least one kept; rates within binomial error of what is promised."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.data.missing import attainable, availability, patterns, realised, remark
from mer.errors import UserError
from mer.recipe import MissingConfig

AVT = ("audio", "visual", "text")
MANY = [f"Ses0{i % 5}F_{i:05d}" for i in range(20_000)]

rates = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
configs = st.one_of(
    st.just(MissingConfig()),
    st.builds(lambda rate: MissingConfig(protocol="random", rate=rate), rates),
    st.builds(lambda rate: MissingConfig(protocol="sample", rate=rate), rates),
    st.builds(lambda a, v: MissingConfig(protocol="per_modality", rates={"audio": a, "visual": v}), rates, rates),
    st.builds(
        lambda names: MissingConfig(protocol="pattern", available=names),
        st.sampled_from([("audio",), ("text",), ("audio", "text"), AVT]),
    ),
)


def _present(ids: list[str], modalities: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """What a corpus might have, as a function of the id: some utterances lack up to two modalities."""
    lacks = [{"audio"} if hash_(i) % 5 == 0 else {"audio", "text"} if hash_(i) % 5 == 1 else set() for i in ids]
    return np.array([[name not in lack for name in modalities] for lack in lacks], bool)


def hash_(name: str) -> int:
    return sum(name.encode())


@settings(max_examples=150, deadline=None)
@given(
    config=configs,
    ids=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=30, unique=True),
    seed=st.integers(0, 2**62),
    epoch=st.one_of(st.none(), st.integers(0, 50)),
    modalities=st.permutations(AVT),
    lacking=st.booleans(),
    data=st.data(),
)
def test_an_utterance_alone_gets_what_it_gets_in_company(
    config: MissingConfig,
    ids: list[str],
    seed: int,
    epoch: int | None,
    modalities: list[str],
    lacking: bool,
    data: st.DataObject,
) -> None:
    names = tuple(modalities)
    present = _present(ids, names) if lacking else None
    mask = availability(config, ids, names, seed, epoch, present)
    assert mask.shape == (len(ids), 3)
    assert mask.any(axis=1).all()
    assert present is None or not (mask & ~present).any()

    chosen = data.draw(st.permutations(range(len(ids))))[: len(ids) // 2 + 1]
    some = [ids[i] for i in chosen]
    part = None if present is None else present[chosen]
    np.testing.assert_array_equal(availability(config, some, names, seed, epoch, part), mask[chosen])
    for i in chosen[:3]:
        alone = availability(config, [ids[i]], names, seed, epoch, None if present is None else present[i : i + 1])
        np.testing.assert_array_equal(alone[0], mask[i])

    columns = data.draw(st.permutations(range(3)))
    turned = availability(
        config, ids, [names[c] for c in columns], seed, epoch, None if present is None else present[:, columns]
    )
    np.testing.assert_array_equal(turned, mask[:, columns])


def _oracle(config: MissingConfig, rng: np.random.Generator, present: list[str]) -> set[str]:
    """One utterance's modalities, drawn as the papers describe it, in a loop."""
    m = len(present)
    if config.protocol == "random":  # GCNet: one for certain, the others by p = (M (1 - eta) - 1) / (M - 1)
        certain = present[rng.integers(m)]
        p = max(0.0, (m * (1 - config.rate) - 1) / (m - 1)) if m > 1 else 0.0
        return {certain} | {name for name in present if name != certain and rng.random() < p}
    if config.protocol == "sample":  # MPLMM: with probability q one of the incomplete codes
        incomplete = [set(s) for size in range(1, m) for s in itertools.combinations(present, size)]
        if incomplete and rng.random() < config.rate:
            return incomplete[rng.integers(len(incomplete))]
        return set(present)
    raise AssertionError


@pytest.mark.parametrize("protocol", ["random", "sample"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("lacking", [False, True])
def test_the_distribution_is_that_of_the_definition(protocol: str, rate: float, lacking: bool) -> None:
    config = MissingConfig(protocol=protocol, rate=rate)
    present = _present(MANY, AVT) if lacking else np.ones((len(MANY), 3), bool)
    mask = availability(config, MANY, AVT, 5, present=present)
    rng = np.random.default_rng(0)
    drawn = [_oracle(config, rng, [n for n, yes in zip(AVT, row, strict=True) if yes]) for row in present]
    wanted = np.array([[name in kept for name in AVT] for kept in drawn])
    code = np.array([4, 2, 1])
    for has in np.unique(present @ code):
        rows = present @ code == has
        counts = [np.bincount((a[rows] @ code), minlength=8) / rows.sum() for a in (mask, wanted)]
        error = 5 * np.sqrt(np.maximum(counts[1], 1 / rows.sum()) * 2 / rows.sum())
        assert (np.abs(counts[0] - counts[1]) <= error).all()


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
def test_gcnets_mix(rate: float) -> None:
    """Shares of utterances with 1, 2, 3 modalities as GCNet's own procedure gives them (within its tolerance)."""
    published = {
        0.1: (0.025, 0.264, 0.711), 0.2: (0.095, 0.422, 0.483), 0.3: (0.21, 0.50, 0.295), 0.4: (0.37, 0.475, 0.155),
        0.5: (0.57, 0.37, 0.06), 0.6: (0.82, 0.17, 0.01), 0.7: (1.0, 0.0, 0.0),
    }  # fmt: skip
    found = realised(availability(MissingConfig(protocol="random", rate=rate), MANY, AVT, 1), AVT)
    assert found.kept[0] == 0
    assert found.kept[1:] == pytest.approx(published[rate], abs=0.02)
    assert found.rate == pytest.approx(attainable(rate, 3), abs=5 * np.sqrt(0.25 / (3 * len(MANY))))
    for share in found.per_modality.values():
        assert share == pytest.approx(attainable(rate, 3), abs=5 * np.sqrt(0.25 / len(MANY)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers(0, 2**40))
def test_rates_per_modality_are_exact_where_one_can_be_kept(wanted: list[float], seed: int) -> None:
    config = MissingConfig(protocol="per_modality", rates=dict(zip(AVT, wanted, strict=True)))
    mask = availability(config, MANY[:5000], AVT, seed)
    kept = 1 - np.array(wanted)
    expected = kept if kept.sum() >= 1 else kept / kept.sum() if kept.sum() > 0 else np.full(3, 1 / 3)
    assert mask.mean(axis=0) == pytest.approx(expected, abs=6 * np.sqrt(0.25 / 5000))
    assert mask.any(axis=1).all()
    if kept.sum() <= 1:
        assert (mask.sum(axis=1) == 1).all()


def test_utterances_and_modalities_are_independent_of_each_other() -> None:
    mask = availability(MissingConfig(protocol="random", rate=0.3), MANY, AVT, 9).astype(float)
    neighbours = [np.corrcoef(mask[:-1, m], mask[1:, m])[0, 1] for m in range(3)]
    assert np.abs(neighbours).max() < 5 / np.sqrt(len(MANY))
    two = availability(MissingConfig(protocol="per_modality", rates={"audio": 0.5, "text": 0.0, "visual": 0.5}),
                       MANY, AVT, 9).astype(float)  # fmt: skip
    assert two[:, 2].all()


def test_epochs_differ_and_frozen_masks_do_not() -> None:
    config = MissingConfig(protocol="random", rate=0.5)
    masks = [availability(config, MANY, AVT, 3, epoch) for epoch in (0, 1, None, 0, None)]
    np.testing.assert_array_equal(masks[0], masks[3])
    np.testing.assert_array_equal(masks[2], masks[4])
    for a, b in itertools.combinations(masks[:3], 2):
        assert 0.4 < (a == b).mean() < 0.6  # as two independent masks agree
    assert (availability(config, MANY, AVT, 4) != masks[2]).any()


def test_what_is_missing_at_a_low_rate_is_missing_at_a_high_one() -> None:
    masks = [availability(MissingConfig(protocol="random", rate=r / 10), MANY[:2000], AVT, 3) for r in range(8)]
    for low, high in itertools.pairwise(masks):
        assert not (high & ~low).any()
        assert high.sum() < low.sum() or high.sum() == 2000


def test_literal_masks() -> None:
    """Frozen for ever: another value here would change every published number."""
    mask = availability(MissingConfig(protocol="random", rate=0.5), ["a", "b", "c", "d"], AVT, 0)
    assert mask.astype(int).tolist() == [[0, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]]


def test_patterns() -> None:
    assert patterns(("a", "v", "t")) == [
        ("a",), ("v",), ("t",), ("a", "v"), ("a", "t"), ("v", "t"), ("a", "v", "t"),
    ]  # fmt: skip
    mask = availability(MissingConfig(protocol="pattern", available=("text", "audio")), MANY[:9], AVT, 0)
    assert (mask == [True, False, True]).all()


def test_a_pattern_over_what_the_corpus_lacks_leaves_one_real_modality() -> None:
    present = np.array([[True, True, True], [True, True, False], [True, False, False], [False, False, False]])
    mask = availability(MissingConfig(protocol="pattern", available=("text",)), list("abcd"), AVT, 0, present=present)
    assert mask[0].tolist() == [False, False, True]
    assert mask[1].sum() == 1
    assert mask[2].tolist() == [True, False, False]
    assert not mask[3].any()  # nothing is there: nothing can be kept
    many = np.tile([True, True, False], (len(MANY), 1))
    kept = availability(MissingConfig(protocol="pattern", available=("text",)), MANY, AVT, 0, present=many)
    assert kept.mean(axis=0) == pytest.approx([0.5, 0.5, 0], abs=5 * 0.5 / np.sqrt(len(MANY)))


def test_no_protocol_leaves_what_is_there() -> None:
    present = _present(MANY[:50], AVT)
    mask = availability(MissingConfig(), MANY[:50], AVT, 0, present=present)
    np.testing.assert_array_equal(mask, present)
    assert not np.shares_memory(mask, present)


def test_a_single_modality_is_never_taken_away() -> None:
    for protocol in ("random", "sample"):
        assert availability(MissingConfig(protocol=protocol, rate=0.9), MANY[:99], ["text"], 0).all()


def test_realised_rates_are_of_what_is_there() -> None:
    present = np.array([[True, True], [True, False]])
    found = realised(np.array([[True, False], [True, False]]), ["audio", "text"], present)
    assert found.rate == pytest.approx(1 / 3)
    assert found.of_all == 0.5
    assert found.per_modality == {"audio": 0.0, "text": 1.0}
    assert found.kept == (0.0, 1.0, 0.0)


def test_the_reader_is_told_what_a_rate_really_is() -> None:
    high = MissingConfig(protocol="random", rate=0.7)
    assert remark(high, AVT) == "missing rate 0.7 is 2/3 (0.667): each utterance keeps at least one of its 3 modalities"
    assert remark(high, ("a", "t")) == (
        "missing rate 0.7 is 1/2 (0.500): each utterance keeps at least one of its 2 modalities"
    )
    assert remark(high, ("t",)) == "missing rate 0.7 is 0: each utterance keeps its only modality"
    assert remark(MissingConfig(protocol="random", rate=0.6), AVT) is None
    assert remark(MissingConfig(protocol="sample", rate=0.7), AVT) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MissingConfig(protocol="pattern"), "without what is available"),
        (MissingConfig(protocol="pattern", available=("txet",)), r"unknown modality 'txet'.*did you mean 'text'"),
        (MissingConfig(protocol="pattern", available=("gesture",)), "of which the model uses nothing"),
        (MissingConfig(protocol="per_modality"), "without rates"),
        (MissingConfig(protocol="per_modality", rates={"audio": 1.5}), r"missing rate 1.5 of audio; expected 0 to 1"),
        (MissingConfig(protocol="per_modality", rates={"audoi": 0.5}), r"did you mean 'audio'"),
        (MissingConfig(protocol="file"), "without a file"),
    ],
)
def test_bad_settings_are_refused(config: MissingConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        availability(config, ["a"], AVT, 0)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UserError, match=r"shape \(1, 2\).*\(1, 3\)"):
        availability(MissingConfig(), ["a"], AVT, 0, present=np.ones((1, 2), bool))
    with pytest.raises(UserError, match="each once"):
        availability(MissingConfig(), ["a"], ["text", "text"], 0)


def test_a_protocol_from_outside(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "lab_masks.py").write_text(
        "import numpy as np\n"
        "def never_text(config, ids, modalities, seed):\n"
        "    return np.array([[m != 'text' for m in modalities] for _ in ids])\n"
        "def counts(config, ids, modalities, seed):\n"
        "    return np.zeros((1, 3), np.int64)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mask = availability(MissingConfig(protocol="lab_masks:never_text"), ["a", "b"], AVT, 0)
    assert mask.tolist() == [[True, True, False]] * 2
    with pytest.raises(UserError, match="gave int64 of shape"):
        availability(MissingConfig(protocol="lab_masks:counts"), ["a"], AVT, 0)
    alone = availability(MissingConfig(protocol="lab_masks:never_text"), ["a"], ["text"], 0)
    assert alone.all()  # at least one is kept, whoever decides
