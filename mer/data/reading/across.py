"""What no line shows alone: ids that occur twice, dialogues in two splits, labels unseen in training, modalities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from mer.data.reading.found import Reading
from mer.errors import nearest


def check_ids(reading: Reading) -> None:
    seen: dict[str, str] = {}
    rows: dict[int, str] = {}
    for utterances in reading.splits.values():
        for utterance in utterances:
            first = seen.setdefault(utterance.id, utterance.source)
            if first != utterance.source:
                reading.add(
                    "error",
                    "duplicate_id",
                    f"utterance_id {utterance.id!r} occurs already at {first}",
                    utterance.source,
                    expected="each id once in all splits",
                )
            if utterance.row is not None:
                first = rows.setdefault(utterance.row, utterance.source)
                if first != utterance.source:
                    reading.add(
                        "warning", "duplicate_row", f"row {utterance.row} is also that of {first}", utterance.source
                    )


def check_dialogues(reading: Reading) -> None:
    """Turns that are missing follow the order of the lines; a dialogue in two splits or a turn twice is suspicious."""
    homes: dict[str, str] = {}
    for split, utterances in reading.splits.items():
        turns: dict[str, dict[float, str]] = {}
        count: Counter[str] = Counter()
        for number, utterance in enumerate(utterances):
            if utterance.dialogue is None:
                if utterance.turn is not None:
                    reading.add("warning", "turn", "turn without dialogue_id, which is ignored", utterance.source)
                continue
            home = homes.setdefault(utterance.dialogue, split)
            if home != split and not count[utterance.dialogue]:
                reading.add(
                    "warning",
                    "dialogue_leak",
                    f"dialogue {utterance.dialogue!r} occurs in {home} as well",
                    utterance.source,
                    expected="each dialogue in one split",
                )
            if utterance.turn is None:
                turn = float(count[utterance.dialogue])
                utterances[number] = replace(utterance, turn=turn)
            else:
                turn = utterance.turn
            count[utterance.dialogue] += 1
            first = turns.setdefault(utterance.dialogue, {}).setdefault(turn, utterance.source)
            if first != utterance.source:
                reading.add(
                    "warning",
                    "turn",
                    f"turn {turn:g} of dialogue {utterance.dialogue!r} occurs already at {first}",
                    utterance.source,
                    expected="one utterance a turn",
                )


def settle_labels(reading: Reading, declared: list[str] | None) -> tuple[str, ...]:
    """The labels in order; labels that are unknown, or unseen in train, are errors that name their lines."""
    in_train = reading.trained
    labels = tuple(declared) if declared else tuple(sorted(in_train))
    lines: dict[str, list[str]] = {}
    for split, utterances in reading.splits.items():
        for utterance in utterances:
            unseen = split != "train" and utterance.emotion not in in_train
            if unseen or utterance.emotion not in labels:
                lines.setdefault(utterance.emotion, []).append(utterance.source)
    for label, sources in lines.items():
        more = f" and {len(sources) - 1} more: {_listed(sources[1:])}" if len(sources) > 1 else ""
        if label not in labels and declared:
            problem, expected = f"emotion {label!r} is not among the labels of corpus.json", ", ".join(labels)
            close = nearest(label, labels)
        else:
            problem, expected = f"emotion {label!r} does not occur in train.jsonl", ", ".join(sorted(in_train))
            close = nearest(label, in_train)
        reading.add(
            "error",
            "label",
            problem,
            sources[0],
            expected=expected or None,
            nearest=close,
            hint=f"also at{more.removeprefix(' and')}" if more else None,
        )
    for label in labels:
        if in_train and label not in in_train and label not in lines:
            reading.add("warning", "class_absent", f"no utterance of {label!r}", "train.jsonl")
    if len(in_train) == 1:
        reading.add(
            "error",
            "label",
            f"every utterance is {next(iter(in_train))!r}",
            "train.jsonl",
            expected="two labels or more",
        )
    return labels


def settle_lacks(reading: Reading) -> None:
    """Complete `lacks` from what each line gives: a modality without any source for it is lacking."""
    modalities = tuple(dict.fromkeys(("text", "audio", *reading.features)))
    for split, utterances in reading.splits.items():
        for number, utterance in enumerate(utterances):
            given: set[str] = set()
            if utterance.transcript is not None and utterance.transcript.strip():
                given.add("text")
            if utterance.wav is not None:
                given.add("audio")
            if utterance.row is not None:
                given |= {name for name, file in reading.features.items() if utterance.row not in file.empty}
            for name in sorted(utterance.lacks - set(modalities)):
                reading.add(
                    "error",
                    "lacks",
                    f"lacks names {name!r}",
                    utterance.source,
                    expected=", ".join(modalities),
                    nearest=nearest(name, modalities),
                )
            lacks = (utterance.lacks & set(modalities)) | (set(modalities) - given)
            if len(lacks) == len(modalities):
                reading.add(
                    "error",
                    "no_modality",
                    f"utterance {utterance.id!r} has no modality at all",
                    utterance.source,
                    expected="transcript, wav_path or row",
                )
            reading.splits[split][number] = replace(utterance, lacks=frozenset(lacks))


def _listed(items: Iterable[str], limit: int = 8) -> str:
    found = list(items)
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")
