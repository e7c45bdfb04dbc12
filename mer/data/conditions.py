"""Test-time conditions: the situations that a trained model is scored under, by name.

complete            everything that the corpus has
only text           one modality; `without audio`: all but one; `text+visual`: these
random 0.3            GCNet's random missing rate
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from mer.errors import UserError, unknown
from mer.recipe import MissingConfig


@dataclass(frozen=True)
class Condition:
    """One situation: its name in tables, and the masks that make it."""

    name: str
    missing: MissingConfig = field(default_factory=MissingConfig)


COMPLETE = Condition("complete")


def patterns(modalities: Iterable[str]) -> list[tuple[str, ...]]:
    """All non-empty subsets, smallest first: 7 for three modalities, 3 for two. The last is all of them.

    >>> patterns(["audio", "text"])
    [('audio',), ('text',), ('audio', 'text')]
    """
    names = list(modalities)
    return [subset for size in range(1, len(names) + 1) for subset in itertools.combinations(names, size)]


def pattern_name(available: Sequence[str], modalities: Sequence[str]) -> str:
    """How a pattern is called in tables.

    >>> [pattern_name(available, ["audio", "text", "visual"]) for available in (["text"], ["audio", "text"])]
    ['only text', 'without visual']
    """
    lost = [name for name in modalities if name not in available]
    if not lost:
        return "complete"
    if len(available) == 1:
        return f"only {available[0]}"
    if len(lost) == 1:
        return f"without {lost[0]}"
    return "+".join(name for name in modalities if name in available)


def conditions(spec: object, modalities: Sequence[str], where: str | None = None) -> list[Condition]:
    """Conditions from what a space or a command line names; each once, in order.

    An entry is `complete`, `all_patterns` (the incomplete ones and complete), `only text`, `without audio`,
    `text+audio`, `{text, audio}`, `{available: [text]}`, a missing rate (`0.3`, `random 0.3`), `{rates: [0.0, 0.1]}`,
    or any protocol, with a name or without: `{protocol: random, rate: [0.1, 0.3]}`,
    `{name: noisy, missing: {protocol: per_modality, rates: {text: 0.5}}}`.

    >>> [condition.name for condition in conditions(["all_patterns", {"rates": [0.3]}], ["audio", "text"])]
    ['only audio', 'only text', 'complete', 'random 0.3']
    """
    entries = spec if isinstance(spec, list | tuple) else [spec]
    found: dict[str, Condition] = {}
    for entry in entries:
        for condition in _parse(entry, modalities, where):
            known = found.setdefault(condition.name, condition)
            if known != condition:
                raise UserError(f"two different conditions are named {condition.name!r}", where=where)
    return list(found.values())


def _parse(entry: object, modalities: Sequence[str], where: str | None) -> list[Condition]:
    if isinstance(entry, Condition):
        return [entry]
    if isinstance(entry, int | float):
        return [_rate(entry, where)]
    if isinstance(entry, Mapping):
        return _from_mapping(entry, modalities, where)
    if not isinstance(entry, str):
        raise _refused(entry, where)
    text = " ".join(entry.split())
    if text == "complete":
        return [COMPLETE]
    if text == "all_patterns":
        return [_pattern(pattern, modalities, where) for pattern in patterns(modalities)]
    first, _, rest = text.partition(" ")
    if first == "only":
        return [_pattern([rest], modalities, where)]
    if first == "without":
        _check([rest], modalities, where)
        return [_pattern([name for name in modalities if name != rest], modalities, where)]
    number = rest if first == "random" else text
    try:
        return [_rate(float(number), where)]
    except ValueError:
        if first == "random":
            raise _refused(entry, where) from None
    if text.startswith("{") and text.endswith("}"):
        return [_pattern([name.strip() for name in text[1:-1].split(",")], modalities, where)]
    if "+" in text or text in modalities:
        return [_pattern([name.strip() for name in text.split("+")], modalities, where)]
    raise unknown("condition", entry, ["complete", "all_patterns", *_names(modalities), "random 0.3"], where)


def _from_mapping(entry: Mapping[Any, Any], modalities: Sequence[str], where: str | None) -> list[Condition]:
    if set(entry) == {"rates"} and isinstance(entry["rates"], list | tuple):
        return [_rate(rate, where) for rate in entry["rates"]]
    if entry and all(value is None for value in entry.values()):  # YAML reads {text, audio} as a mapping to nothing
        return [_pattern([str(name) for name in entry], modalities, where)]
    if "missing" in entry and set(entry) <= {"name", "missing"} and isinstance(entry["missing"], Mapping):
        entry = {**entry["missing"], **({"name": entry["name"]} if "name" in entry else {})}
    if not {"protocol", "available"} & set(entry):
        raise _refused(dict(entry), where)
    settings = {"protocol": "pattern", **entry}
    name = settings.pop("name", None)
    rates = settings.get("rate")
    if isinstance(rates, list | tuple):  # one condition for each
        return [made for rate in rates for made in _from_mapping({**settings, "rate": rate}, modalities, where)]
    try:
        missing = MissingConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"condition {name or dict(entry)!r}: {key}: {first['msg']}", where=where) from None
    _check([*(missing.available or ()), *(missing.rates or ())], modalities, where)
    return [Condition(str(name or name_of(missing, modalities)), missing)]


def name_of(missing: MissingConfig, modalities: Sequence[str]) -> str:
    """What tables call a protocol that was given no name.

    >>> name_of(MissingConfig(protocol="random", rate=0.3), ["audio", "text"])
    'random 0.3'
    >>> name_of(MissingConfig(protocol="per_modality", rates={"text": 0.5, "audio": 0.1}), ["audio", "text"])
    'audio 0.1, text 0.5'
    """
    if missing.protocol == "none":
        return COMPLETE.name
    if missing.protocol == "random":
        return f"random {missing.rate}"
    if missing.protocol == "pattern":
        return pattern_name(missing.available or (), modalities)
    if missing.protocol == "per_modality":
        rates = missing.rates or {}
        return ", ".join(f"{name} {rates[name]}" for name in modalities if name in rates)
    if missing.protocol == "file":
        return f"masks {missing.file}"
    return f"{missing.protocol} {missing.rate}"


def _pattern(available: Sequence[str], modalities: Sequence[str], where: str | None) -> Condition:
    _check(available, modalities, where)
    kept = tuple(name for name in modalities if name in available)
    if not kept:
        raise UserError("a condition must leave at least one modality", where=where)
    if len(kept) == len(modalities):
        return COMPLETE
    return Condition(pattern_name(kept, modalities), MissingConfig(protocol="pattern", available=kept))


def _rate(rate: object, where: str | None) -> Condition:
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise _refused(rate, where)
    if not 0 <= rate < 1:
        raise UserError(f"missing rate {rate:g}", where=where, expected="0 to below 1")
    missing = MissingConfig(protocol="random", rate=float(rate))
    return Condition(name_of(missing, ()), missing)


def _check(names: Sequence[str], modalities: Sequence[str], where: str | None) -> None:
    for name in names:
        if name not in modalities:
            raise unknown("modality", name, modalities, where)


def _names(modalities: Sequence[str]) -> list[str]:
    return [pattern_name(pattern, modalities) for pattern in patterns(modalities)[:-1]]


def _refused(entry: object, where: str | None) -> UserError:
    return UserError(
        f"not a condition: {entry!r}",
        where=where,
        expected="complete, all_patterns, 'only text', 'without audio', 'random 0.3', {rates: [...]} "
        "or {name: ..., missing: {protocol: ...}}",
    )
