"""What a researcher wants to know of a corpus before training on it: `mer data check FOLDER`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer.data.arrays import load_array
from mer.data.corpus import SPLITS, Utterance
from mer.data.fingerprint import cache_root
from mer.data.reading import Problem, Reading, read_folder
from mer.errors import UserError, UserErrors
from mer.files import write

if TYPE_CHECKING:
    import numpy as np

PERCENTILES = (0, 5, 50, 95, 100)

SHORT_SECONDS = 0.3
LONG_SECONDS = 30.0  # Whisper's window
LONG_WORDS = 200  # PhoBERT reads 256 pieces
SILENT_PEAK = 1e-3  # -60 dB of full scale
CLIPPED_SHARE = 1e-3
OFFSET = 0.02


@dataclass(frozen=True)
class SplitSummary:
    """One split in numbers. `seconds`, `words`, `turns` hold the percentiles 0, 5, 50, 95 and 100."""

    utterances: int
    labels: dict[str, int]
    speakers: int
    dialogues: int
    modalities: dict[str, int]
    hours: float
    seconds: tuple[float, ...] | None
    words: tuple[float, ...] | None
    turns: tuple[float, ...] | None

    @property
    def majority(self) -> float:
        """Share of the commonest label: the accuracy of a model that has learnt nothing."""
        return max(self.labels.values(), default=0) / max(1, self.utterances)


@dataclass
class Check:
    """The findings: a structure for programs, `page()` for people."""

    folder: str
    name: str
    labels: tuple[str, ...]
    language: str | None
    note: str
    synthetic: bool
    splits: dict[str, SplitSummary] = field(default_factory=dict)
    overlap: dict[str, dict[str, int]] = field(default_factory=dict)
    features: dict[str, dict[str, float]] = field(default_factory=dict)
    audio: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def has_errors(self) -> bool:
        """Can it not be trained on?"""
        return any(problem.severity == "error" for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Plain data, with every problem (the page shortens long lists)."""
        found = asdict(self)
        found["trainable"] = not self.has_errors
        return found

    def page(self) -> str:
        from mer.data.check_page import page

        return page(self)


def check_corpus(folder: Path | str, *, audio: bool = True, features: Collection[str] | None = None) -> Check:
    """Read, decode and count everything in a corpus folder; all problems in one pass, none raised.

    `audio=False` leaves the sound undecoded (headers and durations only where the lines give them); `features` names
    the modalities whose arrays are read through (None: all).
    """
    reading = read_folder(Path(folder))
    info = reading.info
    check = Check(str(folder), info.name, info.labels, info.language, info.note, info.synthetic)
    seconds = _check_audio(reading, check, decode=audio)
    _check_text(reading)
    _check_features(reading, check, features)
    _check_balance(reading)
    for split in SPLITS:
        if split in reading.splits:
            check.splits[split] = _summary(reading, reading.splits[split], seconds)
    check.overlap = overlap(reading.splits)
    order = {"error": 0, "warning": 1, "note": 2}
    check.problems = sorted(reading.problems, key=lambda problem: order[problem.severity])
    return check


MOST_SHOWN = 10
"""Files that a refusal names; `mer data check` names them all."""


def refuse_unsound(folder: Path, fingerprint: str, *, audio: bool, features: Collection[str]) -> None:
    """Refuse a corpus of which a file that will be read is broken behind a sound header. Reading all of it takes time,
    so it is done once for a content, by its fingerprint."""
    key = json.dumps([fingerprint, audio, sorted(features)])
    seen = cache_root() / "checked" / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    if seen.exists():
        return
    check = check_corpus(folder, audio=audio, features=features)
    errors = [problem.as_error() for problem in check.problems if problem.severity == "error"]
    if len(errors) > MOST_SHOWN:
        errors[MOST_SHOWN:] = [UserError(f"and {len(errors) - MOST_SHOWN} more: `mer data check {folder}` lists them")]
    if errors:
        raise errors[0] if len(errors) == 1 else UserErrors(errors)
    with contextlib.suppress(OSError):  # it is read again the next time
        write(seen, b"")


# ------------------------------------------------------------------------------------------------- counting


def _summary(reading: Reading, utterances: Sequence[Utterance], seconds: dict[str, float]) -> SplitSummary:
    counts = Counter(utterance.emotion for utterance in utterances)
    dialogues = Counter(utterance.dialogue for utterance in utterances if utterance.dialogue is not None)
    modalities = tuple(dict.fromkeys(("text", "audio", *reading.features)))
    present = {name: sum(name not in utterance.lacks for utterance in utterances) for name in modalities}
    lengths = [seconds[utterance.id] for utterance in utterances if utterance.id in seconds]
    words = [len(utterance.transcript.split()) for utterance in utterances if utterance.transcript]
    return SplitSummary(
        utterances=len(utterances),
        labels={label: counts[label] for label in dict.fromkeys((*reading.info.labels, *sorted(counts)))},
        speakers=len({utterance.speaker for utterance in utterances}),
        dialogues=len(dialogues),
        modalities={name: count for name, count in present.items() if count},
        hours=sum(lengths) / 3600,
        seconds=_percentiles(lengths),
        words=_percentiles(words),
        turns=_percentiles(list(dialogues.values())),
    )


def _percentiles(values: Sequence[float]) -> tuple[float, ...] | None:
    if not values:
        return None
    import numpy as np

    return tuple(float(value) for value in np.percentile(values, PERCENTILES))


def overlap(splits: Mapping[str, Sequence[Utterance]]) -> dict[str, dict[str, int]]:
    """How many speakers, dialogues and sentences two splits share; without a kind that no utterance names."""
    found: dict[str, dict[str, int]] = {}
    for kind, value in _KINDS.items():
        sets = {split: {value(utterance) for utterance in utterances} - {None} for split, utterances in splits.items()}
        if not any(sets.values()):
            continue
        found[kind] = {
            f"{one}-{two}": len(sets[one] & sets[two])
            for one, two in (("train", "valid"), ("train", "test"), ("valid", "test"))
            if one in sets and two in sets
        }
    return found


def _sentence(utterance: Utterance) -> str | None:
    from mer.data.text import normalise

    return normalise(utterance.transcript).lower() if utterance.transcript else None


_KINDS: dict[str, Callable[[Utterance], str | None]] = {
    "speakers": lambda utterance: utterance.speaker,
    "dialogues": lambda utterance: utterance.dialogue,
    "sentences": _sentence,
}

COPIED_WORDS = 5
"""Shorter sentences than this are said again by chance."""


def caveats(splits: Mapping[str, Sequence[Utterance]], labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """What must be said of scores on these splits: (split, code, sentence). The check of a corpus says it, and so does
    every report: classes that are absent, test sentences that were trained on."""
    found = []
    for split in ("valid", "test"):
        utterances = splits.get(split, ())
        present = {utterance.emotion for utterance in utterances}
        absent = [label for label in labels if utterances and label not in present]
        found += [(split, "class_absent", f"no utterance of {label!r}: its recall is undefined") for label in absent]
    seen = {_sentence(utterance) for split in ("train", "valid") for utterance in splits.get(split, ())}
    said = [sentence for utterance in splits.get("test", ()) if (sentence := _sentence(utterance))]
    copied = sum(sentence in seen for sentence in said if len(sentence.split()) >= COPIED_WORDS)
    if copied:
        what = f"{copied} of {len(said)} transcripts are word for word in train or valid too"
        found.append(("test", "copied_sentences", f"{what}: a model may have learnt them by heart"))
    return found


def _all(reading: Reading) -> Iterable[Utterance]:
    for utterances in reading.splits.values():
        yield from utterances


def _check_balance(reading: Reading) -> None:
    for split, code, sentence in caveats(reading.splits, reading.info.labels):
        expected = "every label in every split" if code == "class_absent" else None
        reading.add("warning", code, sentence, f"{split}.jsonl", expected=expected)
    trained = {utterance.speaker for utterance in reading.splits.get("train", [])}
    tested = {utterance.speaker for utterance in reading.splits.get("test", [])}
    if shared := len(trained & tested):
        reading.add(
            "note",
            "shared_speakers",
            f"shares {shared} of its {len(tested)} speakers with train.jsonl: results do not speak for new speakers",
            "test.jsonl",
        )
    everyone = list(_all(reading))
    speakers = Counter(utterance.speaker for utterance in everyone)
    if all(reading.splits.values()) and len(speakers) == len(everyone) > 1:
        reading.add(
            "warning",
            "speakers",
            "every utterance has a speaker of its own, so nobody can tell whether speakers are shared by splits",
            "speaker_id",
        )


# ---------------------------------------------------------------------------------------------------- audio


def _check_audio(reading: Reading, check: Check, *, decode: bool) -> dict[str, float]:
    """Decode every crop; returns its seconds by utterance id."""
    seconds: dict[str, float] = {}
    contents: dict[bytes, str] = {}
    rates: Counter[str] = Counter()
    for utterance in _all(reading):
        if utterance.wav is None:
            continue
        if utterance.end is not None:
            seconds[utterance.id] = utterance.end - (utterance.start or 0.0)
        if not decode:
            continue
        samples = _decode(reading, utterance, rates)
        if samples is None:
            continue
        data, rate = samples
        seconds[utterance.id] = len(data) / rate
        _judge_sound(reading, utterance, data, rate)
        key = hashlib.blake2b(data.tobytes(), digest_size=16).digest()
        first = contents.setdefault(key, utterance.source)
        if first != utterance.source:
            reading.add("warning", "duplicate_audio", f"the same sound as {first}", utterance.source)
    check.audio = dict(rates)
    if len(rates) > 1:
        found = ", ".join(f"{rate} ({count})" for rate, count in rates.most_common())
        reading.add("note", "rates", f"several sampling rates, which are resampled: {found}", "wavs")
    return seconds


def _decode(
    reading: Reading, utterance: Utterance, rates: Counter[str]
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int] | None:
    from mer.data.audio import clip_of, decode

    clip = clip_of(reading.info, utterance)
    assert clip is not None
    try:
        samples, rate = decode(clip)
    except UserError as error:
        reading.add("error", "audio", f"{utterance.wav}: {error.problem}", utterance.source, expected=error.expected)
        return None
    rates[f"{rate} Hz"] += 1
    return samples, rate


def _judge_sound(reading: Reading, utterance: Utterance, samples: np.ndarray[Any, Any], rate: int) -> None:
    import numpy as np

    seconds, loudness = len(samples) / rate, np.abs(samples)
    peak = float(loudness.max())
    wav, where = utterance.wav, utterance.source
    if peak < SILENT_PEAK:
        reading.add(
            "warning",
            "silent",
            f"{wav} is silent (peak {peak:.2g})",
            where,
            expected=f"at least {SILENT_PEAK:g} of full scale",
        )
        return
    clipped = float((loudness > 0.999).mean())
    if clipped > CLIPPED_SHARE:
        reading.add("warning", "clipped", f"{clipped:.1%} of {wav} is clipped", where)
    if seconds < SHORT_SECONDS:
        reading.add("warning", "short", f"{wav} lasts {seconds:.2f} s", where, expected=f"at least {SHORT_SECONDS:g} s")
    if seconds > LONG_SECONDS:
        reading.add("warning", "long", f"{wav} lasts {seconds:.1f} s", where, expected=f"up to {LONG_SECONDS:g} s")
    offset = float(samples.mean())
    if abs(offset) > OFFSET:
        reading.add("warning", "offset", f"{wav} has a constant offset of {offset:.3f}", where, expected="0")


# ----------------------------------------------------------------------------------------- text and features


def _check_text(reading: Reading) -> None:
    decomposed = 0
    for utterance in _all(reading):
        text = utterance.transcript
        if text is None:
            continue
        if not text.strip():
            reading.add("warning", "empty_text", "transcript is empty; the utterance lacks text", utterance.source)
            continue
        words = len(text.split())
        if words > LONG_WORDS:
            reading.add("warning", "long_text", f"{words} words", utterance.source, expected=f"up to {LONG_WORDS}")
        decomposed += unicodedata.normalize("NFC", text) != text
    if decomposed:
        reading.add("note", "unicode", f"{decomposed} are not in Unicode NFC; they are normalised", "transcript")


def _check_features(reading: Reading, check: Check, wanted: Collection[str] | None) -> None:
    """NaN and infinity by line; widths, scales and constant columns of what train uses."""
    if not reading.features:
        return
    import numpy as np

    train_rows = [utterance.row for utterance in reading.splits["train"] if utterance.row is not None]
    for modality, file in reading.features.items():
        if wanted is not None and modality not in wanted:
            continue
        where = f"features/{modality}.npy"
        array = load_array(file.path, "f", reading.folder)
        offsets_path = file.path.with_name(f"{modality}.offsets.npy")
        offsets = load_array(offsets_path, "iu", reading.folder) if offsets_path.exists() else np.arange(file.rows + 1)
        broken = _broken_rows(array, offsets)
        for utterance in _all(reading):
            if utterance.row in broken and modality not in utterance.lacks:
                reading.add(
                    "error",
                    "features",
                    f"row {utterance.row} of {where} holds NaN or infinity",
                    utterance.source,
                    expected='finite numbers, or "lacks": ["' + modality + '"]',
                )
        rows = [row for row in train_rows if row not in broken]
        sample = rows[:: max(1, len(rows) // 2000)]
        parts = [array[offsets[row] : offsets[row + 1]] for row in sample]
        taken = np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, file.dim))
        if not len(taken):
            continue
        spread = taken.std(axis=0)
        frames = np.diff(offsets)
        check.features[modality] = {
            "dim": file.dim,
            "frames_median": float(np.median(frames[frames > 0])) if (frames > 0).any() else 0.0,
            "mean": float(taken.mean()),
            "std_smallest": float(spread.min()),
            "std_largest": float(spread.max()),
            "constant": int((spread == 0).sum()),
        }
        if len(taken) > 1 and (spread == 0).any():
            reading.add("note", "features", f"{int((spread == 0).sum())} columns never change in train", where)
        positive = spread[spread > 0]
        if len(positive) and positive.max() > 1000 * positive.min():
            low, high = f"{positive.min():.2g}", f"{positive.max():.2g}"
            reading.add("note", "scale", f"column spreads go from {low} to {high}: standardise on train", where)


def _broken_rows(array: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> frozenset[int]:
    import numpy as np

    broken: set[int] = set()
    step = max(1, (1 << 22) // max(1, array.shape[1]))
    for first in range(0, len(array), step):
        bad = np.flatnonzero(~np.isfinite(array[first : first + step]).all(axis=1)) + first
        broken.update(int(row) for row in np.searchsorted(offsets, bad, side="right") - 1)
    return frozenset(broken)
