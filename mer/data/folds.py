"""Folds and resplits: who may stand on which side of a split, decided by groups that must stay together."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mer.errors import UserError, unknown
from mer.streams import derive

if TYPE_CHECKING:
    from mer.data.corpus import Corpus, Utterance

By = Literal["speaker", "dialogue", "session"]
BY = ("speaker", "dialogue", "session")

_SESSION = re.compile(r"ses(?:sion)?[_\-]?0*(\d+)", re.IGNORECASE)
_CANDIDATES = 16


@dataclass(frozen=True)
class Fold:
    """One outer fold, as utterance ids; what is in neither set is its training part.

    `Corpus.train_valid(fold=fold)` hands out no utterance of `test`, `Corpus.test_set(fold)` nothing else.
    """

    name: str
    by: str
    index: int
    count: int
    test: frozenset[str]
    valid: frozenset[str]


def folds(corpus: Corpus, by: By = "speaker", k: int | None = None, seed: int = 0) -> list[Fold]:
    """k outer folds over all utterances of a corpus, none of whose groups is cut.

    by     speaker, dialogue, or session (`Ses01` in utterance, dialogue or speaker id: IEMOCAP's)
    k      number of folds; None leaves one group out at a time
    seed   which groups share a fold, and which become validation; without effect on leave-one-out test parts

    Every utterance is in the test part of exactly one fold. Validation is taken from the rest, as large a share of
    it as valid is of train + valid in the files, in whole speakers (by speaker) or whole dialogues (otherwise, where
    the corpus has dialogues). Folds by speaker cut dialogues whose speakers lie in different folds: a model that
    reads context then sees a test utterance's neighbours in training; by session it does not.
    """
    utterances = list(corpus.utterances())
    groups = _grouped(utterances, _key(by))
    names = sorted(groups, key=_natural)
    if k is None:
        k = len(names)
    if not 2 <= k <= len(names):
        raise UserError(
            f"cannot make {k} folds by {by} of corpus {corpus.info.name!r}", expected=f"2 to {len(names)} ({by}s)"
        )
    parts = [[name] for name in names] if k == len(names) else _balanced(groups, names, k, derive("folds", by, seed))
    share = len(corpus.valid) / max(1, len(corpus.train) + len(corpus.valid))
    found = []
    for index, part in enumerate(parts):
        test = frozenset(utterance.id for name in part for utterance in groups[name])
        rest = [utterance for utterance in utterances if utterance.id not in test]
        units = list(_grouped(rest, _validation_key(by, rest)).values())
        if len(units) < 2:
            raise UserError(f"fold {index} by {by} leaves nothing to validate on", expected="two groups or more")
        chosen = choose(units, max(1, round(share * len(rest))), derive("valid", by, seed, index))
        name = part[0] if len(part) == 1 else str(index)
        valid = frozenset(utterance.id for unit in chosen for utterance in units[unit])
        found.append(Fold(f"{by} {name}", by, index, k, test, valid))
    return found


def resplit(
    train: Sequence[Utterance], valid: Sequence[Utterance], seed: int
) -> tuple[tuple[Utterance, ...], tuple[Utterance, ...]]:
    """Another train/valid split of the same utterances, of the same sizes and label shares.

    What train and valid did not share stays unshared: speakers and dialogues; where they share both, sentences and
    wav files (a corpus split by sentence stays split by sentence). Without any such groups sizes are kept exactly;
    with groups as nearly as whole groups allow. The order of the utterances is that of the files.
    """
    together = [*train, *valid]
    units = _components(together, _disjoint(train, valid))
    chosen = choose(units, len(valid), derive("resplit", seed))
    ids = {utterance.id for unit in chosen for utterance in units[unit]}
    return (
        tuple(utterance for utterance in together if utterance.id not in ids),
        tuple(utterance for utterance in together if utterance.id in ids),
    )


def session_of(utterance: Utterance) -> str | None:
    """IEMOCAP's session, from whichever id names it.

    >>> from mer.data.corpus import Utterance
    >>> session_of(Utterance("Ses03F_impro01_M004", "Ses03_M", "sad", "train.jsonl:1"))
    'Ses03'
    """
    for text in (utterance.id, utterance.dialogue, utterance.speaker):
        match = _SESSION.search(text or "")
        if match:
            return f"Ses{int(match.group(1)):02d}"
    return None


# ------------------------------------------------------------------------------------------------- groups

_Key = Callable[["Utterance"], str]


def _key(by: str) -> _Key:
    if by == "speaker":
        return lambda utterance: utterance.speaker
    if by == "dialogue":
        return _dialogue
    if by == "session":
        return _session
    raise unknown("way to make folds", by, BY)


def _dialogue(utterance: Utterance) -> str:
    if utterance.dialogue is None:
        raise UserError("no dialogue_id, so there are no folds by dialogue", where=utterance.source)
    return utterance.dialogue


def _session(utterance: Utterance) -> str:
    session = session_of(utterance)
    if session is None:
        raise UserError(
            f"no session in the ids of utterance {utterance.id!r}",
            where=utterance.source,
            expected="'Ses01' or the like in utterance_id, dialogue_id or speaker_id",
        )
    return session


def _validation_key(by: str, utterances: Sequence[Utterance]) -> _Key:
    if by != "speaker" and all(utterance.dialogue is not None for utterance in utterances):
        return _dialogue
    return _key("speaker")


def _grouped(utterances: Iterable[Utterance], key: _Key) -> dict[str, list[Utterance]]:
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(key(utterance), []).append(utterance)
    return groups


def _disjoint(train: Sequence[Utterance], valid: Sequence[Utterance]) -> list[Callable[[Utterance], str | None]]:
    """The attributes of which train and valid share no value."""
    who: list[Callable[[Utterance], str | None]] = [lambda u: u.speaker, lambda u: u.dialogue]
    what: list[Callable[[Utterance], str | None]] = [lambda u: u.transcript, lambda u: u.wav]
    for attributes in (who, what):
        found = [
            attribute
            for attribute in attributes
            if not ({attribute(u) for u in train} & {attribute(u) for u in valid})
            and any(attribute(u) is not None for u in (*train, *valid))
        ]
        if found:
            return found
    return []


def _components(
    utterances: Sequence[Utterance], attributes: Sequence[Callable[[Utterance], str | None]]
) -> list[list[Utterance]]:
    """Utterances that share a value of any attribute, directly or through others, in one group (union-find)."""
    parent = list(range(len(utterances)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for attribute in attributes:
        first: dict[str, int] = {}
        for number, utterance in enumerate(utterances):
            value = attribute(utterance)
            if value is not None:
                parent[root(number)] = root(first.setdefault(value, number))
    groups: dict[int, list[Utterance]] = {}
    for number, utterance in enumerate(utterances):
        groups.setdefault(root(number), []).append(utterance)
    return list(groups.values())


# ------------------------------------------------------------------------------------------------ choosing


def _balanced(groups: dict[str, list[Utterance]], names: list[str], k: int, seed: int) -> list[list[str]]:
    """Groups dealt to k parts, largest first to the smallest part: sizes come out nearly equal."""
    order = list(names)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda name: -len(groups[name]))
    parts: list[list[str]] = [[] for _ in range(k)]
    sizes = [0] * k
    for name in order:
        smallest = sizes.index(min(sizes))
        parts[smallest].append(name)
        sizes[smallest] += len(groups[name])
    return [sorted(part, key=_natural) for part in parts]


def choose(units: Sequence[Sequence[Utterance]], size: int, seed: int) -> list[int]:
    """Numbers of the units that make a validation part of about `size` utterances with the label shares of all."""
    draw = random.Random(seed)
    if all(len(unit) == 1 for unit in units):
        return _stratified([unit[0].emotion for unit in units], size, draw)
    labels = Counter(utterance.emotion for unit in units for utterance in unit)
    whole = sum(labels.values())
    best: tuple[float, list[int]] | None = None
    for _ in range(_CANDIDATES):
        order = list(range(len(units)))
        draw.shuffle(order)
        chosen: list[int] = []
        held = 0
        for unit in order:
            nearer = abs(held + len(units[unit]) - size) < abs(held - size)
            if nearer and len(chosen) < len(units) - 1:
                chosen.append(unit)
                held += len(units[unit])
        if not chosen:
            chosen = [min(order, key=lambda unit: len(units[unit]))]
            held = len(units[chosen[0]])
        counts = Counter(utterance.emotion for unit in chosen for utterance in units[unit])
        distance = abs(held - size) / size
        distance += sum(abs(counts[label] / held - count / whole) for label, count in labels.items())
        distance += sum(10 for label, count in labels.items() if counts[label] == count)  # none left to train on
        if best is None or distance < best[0]:
            best = (distance, chosen)
    assert best is not None
    return sorted(best[1])


def _stratified(labels: Sequence[str], size: int, draw: random.Random) -> list[int]:
    """Exactly `size` items, each label's share rounded by largest remainder."""
    places: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        places.setdefault(label, []).append(number)
    shares = {label: size * len(numbers) / len(labels) for label, numbers in sorted(places.items())}
    quota = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: (quota[label] - shares[label], label))
    for label in by_remainder[: size - sum(quota.values())]:
        quota[label] += 1
    return sorted(number for label in sorted(places) for number in draw.sample(places[label], quota[label]))


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """`s2` before `s10`."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part)
