"""Outer folds: every utterance tested once, no group cut, test never reachable from training."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.data.corpus import Corpus, CorpusInfo, Utterance
from mer.data.folds import Fold, folds, session_of
from mer.errors import UserError


def iemocap_like(sessions: int = 5, dialogues: int = 4, turns: int = 10) -> Corpus:
    draw = random.Random(0)
    people = []
    for session in range(1, sessions + 1):
        for number in range(dialogues):
            name = f"Ses{session:02d}F_impro{number:02d}"
            for turn in range(turns):
                who = "FM"[turn % 2]
                speaker = f"Ses{session:02d}_{who}"
                people.append(Utterance(f"{name}_{who}{turn:03d}", speaker, draw.choice("abcd"), "x", dialogue=name))
    cut = len(people) * 7 // 10
    info = CorpusInfo(Path("nowhere"), "iemocap", tuple("abcd"))
    return Corpus(info, tuple(people[:cut]), tuple(people[cut : cut + 20]), tuple(people[cut + 20 :]))


def check(corpus: Corpus, found: list[Fold]) -> None:
    everyone = Counter(utterance.id for utterance in corpus.utterances())
    assert Counter(name for fold in found for name in fold.test) == everyone
    for fold in found:
        handed = corpus.train_valid(fold=fold)
        train, valid = ({u.id for u in part} for part in (handed.train, handed.valid))
        test = {u.id for u in corpus.test_set(fold).test}
        assert test == fold.test
        assert valid == fold.valid
        assert train
        assert valid
        assert not train & valid
        assert not (train | valid) & test
        assert train | valid | test == set(everyone)


def test_leave_one_session_out() -> None:
    corpus = iemocap_like()
    found = folds(corpus, "session")
    check(corpus, found)
    assert [fold.name for fold in found] == [f"session Ses0{number}" for number in range(1, 6)]
    for fold in found:
        assert {session_of(u) for u in corpus.test_set(fold).test} == {fold.name.split()[1]}
        handed = corpus.train_valid(fold=fold)
        assert {u.dialogue for u in handed.train}.isdisjoint(u.dialogue for u in handed.valid)


@pytest.mark.parametrize("k", [None, 2, 5])
def test_by_speaker(k: int | None) -> None:
    corpus = iemocap_like()
    found = folds(corpus, "speaker", k)
    check(corpus, found)
    assert len(found) == (k or 10)
    for fold in found:
        handed, test = corpus.train_valid(fold=fold), corpus.test_set(fold).test
        parts = [{u.speaker for u in part} for part in (handed.train, handed.valid, test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 10


def test_by_dialogue_in_parts_of_equal_size() -> None:
    corpus = iemocap_like()
    found = folds(corpus, "dialogue", 10)
    check(corpus, found)
    assert {len(fold.test) for fold in found} == {20}


def test_folds_are_deterministic_and_the_seed_matters() -> None:
    corpus = iemocap_like()
    assert folds(corpus, "dialogue", 4, seed=1) == folds(corpus, "dialogue", 4, seed=1)
    assert folds(corpus, "dialogue", 4, seed=1) != folds(corpus, "dialogue", 4, seed=2)
    one, two = folds(corpus, "session", seed=1), folds(corpus, "session", seed=2)
    assert [fold.test for fold in one] == [fold.test for fold in two]


def test_a_study_resplits_inside_the_fold() -> None:
    corpus = iemocap_like()
    fold = folds(corpus, "session")[2]
    first, second = (corpus.train_valid(split_seed=seed, fold=fold) for seed in (1, 2))
    assert first.valid != second.valid
    for handed in (first, second):
        assert fold.test.isdisjoint(u.id for u in (*handed.train, *handed.valid))
        assert {u.dialogue for u in handed.train}.isdisjoint(u.dialogue for u in handed.valid)


@given(st.lists(st.integers(1, 30), min_size=4, max_size=12), st.integers(3, 5), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_any_sizes_of_groups(sizes: list[int], k: int, seed: int) -> None:
    k = min(k, len(sizes) - 1)
    people = [
        Utterance(f"s{s}u{i}", f"s{s}", "ab"[i % 2], "x", dialogue=f"d{s}")
        for s, n in enumerate(sizes)
        for i in range(n)
    ]
    corpus = Corpus(CorpusInfo(Path("."), "c", ("a", "b")), tuple(people[2:]), (people[0],), (people[1],))
    check(corpus, folds(corpus, "speaker", k, seed))


@pytest.mark.parametrize(
    ("text", "session"),
    [("Ses01F_impro01_M003", "Ses01"), ("session_3-a", "Ses03"), ("Session12", "Ses12"), ("dia3", None)],
)
def test_sessions(text: str, session: str | None) -> None:
    assert session_of(Utterance(text, "s", "a", "x")) == session
    assert session_of(Utterance("u", "s", "a", "x", dialogue=text)) == session
    assert session_of(Utterance("u", text, "a", "x")) == session


def test_refusals() -> None:
    corpus = iemocap_like()
    with pytest.raises(UserError, match=r"cannot make 11 folds by speaker.*expected 2 to 10 \(speakers\)"):
        folds(corpus, "speaker", 11)
    with pytest.raises(UserError, match=r"unknown way to make folds 'speakr'.*did you mean 'speaker'"):
        folds(corpus, "speakr")  # type: ignore[arg-type]
    plain = Corpus(corpus.info, (Utterance("u1", "s", "a", "train.jsonl:1"),), (), ())
    with pytest.raises(UserError, match=r"train.jsonl:1: no dialogue_id"):
        folds(plain, "dialogue")
    with pytest.raises(UserError, match=r"train.jsonl:1: no session in the ids of utterance 'u1'"):
        folds(plain, "session")
