"""Conditions by name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mer.data.conditions import Condition, conditions
from mer.errors import UserError
from mer.recipe import MissingConfig

AVT = ("audio", "visual", "text")


def _pattern(*names: str) -> MissingConfig:
    return MissingConfig(protocol="pattern", available=names)


def test_all_patterns_of_three_and_two() -> None:
    assert conditions("all_patterns", AVT) == [
        Condition("only audio", _pattern("audio")),
        Condition("only visual", _pattern("visual")),
        Condition("only text", _pattern("text")),
        Condition("without text", _pattern("audio", "visual")),
        Condition("without visual", _pattern("audio", "text")),
        Condition("without audio", _pattern("visual", "text")),
        Condition("complete"),
    ]
    assert [c.name for c in conditions(["all_patterns"], ["a", "t"])] == ["only a", "only t", "complete"]
    assert [c.name for c in conditions(["all_patterns"], ["t"])] == ["complete"]


@pytest.mark.parametrize(
    ("entry", "name", "missing"),
    [
        ("complete", "complete", MissingConfig()),
        ("only text", "only text", _pattern("text")),
        ("text", "only text", _pattern("text")),
        ("{text}", "only text", _pattern("text")),
        ("{text, audio}", "without visual", _pattern("audio", "text")),
        ({"text": None, "audio": None}, "without visual", _pattern("audio", "text")),
        ("text+audio", "without visual", _pattern("audio", "text")),
        ("text+audio+visual", "complete", MissingConfig()),
        ("without  visual", "without visual", _pattern("audio", "text")),
        ("random 0.3", "random 0.3", MissingConfig(protocol="random", rate=0.3)),
        ("0.3", "random 0.3", MissingConfig(protocol="random", rate=0.3)),
        (0.3, "random 0.3", MissingConfig(protocol="random", rate=0.3)),
        (0, "random 0.0", MissingConfig(protocol="random", rate=0.0)),
        (
            {"name": "noisy", "missing": {"protocol": "per_modality", "rates": {"text": 0.5}}},
            "noisy",
            MissingConfig(protocol="per_modality", rates={"text": 0.5}),
        ),
        ({"available": ["text"]}, "only text", _pattern("text")),
        ({"available": ["audio", "text"], "name": "no camera"}, "no camera", _pattern("audio", "text")),
        ({"protocol": "random", "rate": 0.3}, "random 0.3", MissingConfig(protocol="random", rate=0.3)),
        ({"protocol": "sample", "rate": 0.3}, "sample 0.3", MissingConfig(protocol="sample", rate=0.3)),
        ({"protocol": "none"}, "complete", MissingConfig()),
        ({"protocol": "file", "file": "m.json"}, "masks m.json", MissingConfig(protocol="file", file="m.json")),
        (
            {"protocol": "per_modality", "rates": {"text": 0.5, "audio": 0.2}},
            "audio 0.2, text 0.5",
            MissingConfig(protocol="per_modality", rates={"text": 0.5, "audio": 0.2}),
        ),
    ],
)
def test_one_condition(entry: object, name: str, missing: MissingConfig) -> None:
    assert conditions([entry], AVT) == [Condition(name, missing)]


def test_rates_and_duplicates() -> None:
    found = conditions(["complete", {"rates": [0.0, 0.1, 0.7]}, "all_patterns", 0.1], AVT)
    assert [c.name for c in found[:4]] == ["complete", "random 0.0", "random 0.1", "random 0.7"]
    assert len(found) == 4 + 6


def test_a_list_of_rates_is_a_condition_each() -> None:
    found = conditions([{"protocol": "sample", "rate": [0.1, 0.2]}], AVT)
    assert [(c.name, c.missing.rate) for c in found] == [("sample 0.1", 0.1), ("sample 0.2", 0.2)]
    assert conditions([{"protocol": "random", "rate": [0.1, 0.2]}], AVT) == conditions([{"rates": [0.1, 0.2]}], AVT)


def test_names_of_larger_patterns() -> None:
    names = [c.name for c in conditions("all_patterns", "abcd")]
    assert names[4:7] == ["a+b", "a+c", "a+d"]
    assert len(set(names)) == 15


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("completed", "unknown condition 'completed'.*did you mean 'complete'"),
        ("only txt", "space.yaml:3: unknown modality 'txt'; expected audio, text, visual; did you mean 'text'"),
        ("without vision", "unknown modality 'vision'"),
        ("{}", "unknown modality ''"),
        ("random high", "not a condition"),
        (1.0, "missing rate 1; expected 0 to below 1"),
        (-0.1, "missing rate -0.1"),
        (None, "not a condition"),
        (True, "not a condition"),
        ({"rates": "0.1"}, "not a condition"),
        ({"available": ["txt"]}, "unknown modality 'txt'"),
        ({"protocol": "per_modality", "rates": {"txt": 0.1}}, "unknown modality 'txt'"),
        ({"protocol": "random", "rate": [0.1, 2.0]}, "rate: Input should be less than or equal to 1"),
        ({"rates": [True]}, "not a condition"),
        ({"name": "x", "missing": {"protocol": "rnadom"}}, "condition 'x': protocol"),
        ({"name": "x", "missing": {"protocol": "random", "rat": 0.1}}, "condition 'x': rat"),
    ],
)
def test_bad_conditions_are_refused(entry: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        conditions([entry], AVT, where="space.yaml:3")


def test_the_same_name_for_two_things_is_refused() -> None:
    other = {"name": "only text", "missing": {"protocol": "random", "rate": 0.1}}
    with pytest.raises(UserError, match="two different conditions are named 'only text'"):
        conditions(["only text", other], AVT)


@pytest.mark.parametrize("modalities", [("text",), ("audio", "text")])
def test_a_model_with_one_modality_cannot_lose_it(modalities: Sequence[str]) -> None:
    if len(modalities) == 1:
        with pytest.raises(UserError, match="at least one modality"):
            conditions(["without text"], modalities)
    else:
        assert conditions(["without text"], modalities)[0].name == "only audio"
