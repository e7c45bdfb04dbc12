"""The demo corpus: Vietnamese-like conversations made by numpy alone, whose right answers are known beforehand.

Every utterance has a true emotion. Each modality *expresses* an emotion, which is the true one with a probability
that is a parameter, and otherwise one that this modality is prone to mistake it for. Text mistakes what has the
same valence (anger for sadness), audio what has the same arousal (anger for joy), independently: so the two together
know more than either. Visual features hardly know anything. Emotions persist along a dialogue, so the neighbours of
an utterance tell something about it. Within an utterance most words and syllables carry the expressed emotion and
some carry another, and every recording has silence and loud knocks: so the extremes over time say less than the mean.

The corpus is synthetic. `corpus.json` says so, and every table with its numbers must.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mer.data.corpus import SPLITS
from mer.errors import UserError
from mer.files import commit_folder, make_folder

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
LABELS = ("neutral", "happiness", "sadness", "angry", "fear")
PRIOR = (0.30, 0.24, 0.18, 0.16, 0.12)

TEXT_MISTAKES = {
    "neutral": ("happiness",),
    "happiness": ("neutral",),
    "sadness": ("angry", "fear"),
    "angry": ("sadness", "fear"),
    "fear": ("sadness", "angry"),
}
"""What text takes an emotion for: one of the same valence."""

AUDIO_MISTAKES = {
    "neutral": ("sadness",),
    "happiness": ("angry", "fear"),
    "sadness": ("neutral",),
    "angry": ("happiness", "fear"),
    "fear": ("happiness", "angry"),
}
"""What audio takes an emotion for: one of the same arousal."""


@dataclass(frozen=True)
class DemoParams:
    """What the demo corpus is made of. The defaults are the corpus that is called `demo`.

    text, audio, visual   probability that the modality expresses the true emotion (visual falls back on the prior)
    text_purity           share of an utterance's cue words that carry the expressed emotion
    audio_purity          share of its syllables that surely do; the others are of any emotion
    inertia               probability that a turn keeps the emotion of the turn before it
    pairs                 pairs of speakers in train, valid and test; no speaker is in two of them
    dialogues, turns      dialogues of each pair, turns of each dialogue
    decomposed            share of transcripts written in Unicode NFD
    unseen                share of utterances whose face is not in the picture: they lack the visual modality
    """

    text: float = 0.66
    audio: float = 0.72
    visual: float = 0.30
    text_purity: float = 0.75
    audio_purity: float = 0.50
    inertia: float = 0.78
    pairs: tuple[int, int, int] = (12, 4, 7)
    dialogues: int = 3
    turns: int = 10
    decomposed: float = 0.2
    unseen: float = 0.04
    rate: int = 16000
    seed: int = 0

    def digest(self) -> str:
        text = json.dumps([VERSION, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class KnownAnswer:
    """A comparison on the demo corpus whose outcome is built into it.

    a, b      the two arms, as what they differ in
    relation  `a > b`, or `a = b` where they may differ by less than `margin`
    margin    in points of UA (unweighted average recall, 0 to 1): what a sound implementation should at least show
    """

    name: str
    statement: str
    a: dict[str, str]
    b: dict[str, str]
    relation: str
    margin: float


KNOWN_ANSWERS: tuple[KnownAnswer, ...] = (
    KnownAnswer(
        "fusion_over_text",
        "Text and audio together beat text alone.",
        {"modalities": "text audio"},
        {"modalities": "text"},
        "a > b",
        0.04,
    ),
    KnownAnswer(
        "fusion_over_audio",
        "Text and audio together beat audio alone.",
        {"modalities": "text audio"},
        {"modalities": "audio"},
        "a > b",
        0.04,
    ),
    KnownAnswer(
        "visual_adds_little",
        "Visual features add almost nothing to text and audio.",
        {"modalities": "text audio visual"},
        {"modalities": "text audio"},
        "a = b",
        0.05,
    ),
    KnownAnswer(
        "visual_is_weak",
        "Text alone beats visual features alone by far.",
        {"modalities": "text"},
        {"modalities": "visual"},
        "a > b",
        0.15,
    ),
    KnownAnswer(
        "context_helps",
        "A model that sees the neighbouring turns beats one that sees the utterance alone.",
        {"modalities": "text audio", "context": "dialogue"},
        {"modalities": "text audio", "context": "none"},
        "a > b",
        0.03,
    ),
    KnownAnswer(
        "mean_over_min",
        "Mean pooling beats min pooling: silence and knocks own the extremes.",
        {"modalities": "text audio", "pooling": "mean"},
        {"modalities": "text audio", "pooling": "min"},
        "a > b",
        0.03,
    ),
    KnownAnswer(
        "missing_text_hurts",
        "A model of text and audio loses when text is missing at test time.",
        {"modalities": "text audio", "available": "text audio"},
        {"modalities": "text audio", "available": "audio"},
        "a > b",
        0.04,
    ),
    KnownAnswer(
        "missing_audio_hurts",
        "A model of text and audio loses when audio is missing at test time.",
        {"modalities": "text audio", "available": "text audio"},
        {"modalities": "text audio", "available": "text"},
        "a > b",
        0.04,
    ),
)


def demo_corpus(cache_dir: Path | str | None = None) -> Path:
    """The folder of the corpus called `demo`, made on first use (a few seconds) below the cache folder."""
    from mer.data.fingerprint import cache_root

    params = DemoParams()
    root = Path(cache_dir) if cache_dir is not None else cache_root() / "corpora"
    folder = root / f"demo-{params.digest()}"
    return folder if (folder / "corpus.json").exists() else make_demo(folder, params=params)


def make_demo(folder: Path | str, *, params: DemoParams = DemoParams()) -> Path:
    """Write a demo corpus: the same bytes for the same parameters. The folder appears whole or not at all."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("something is already there", where=str(folder), expected="a folder that does not exist")
    make_folder(folder.parent)
    building = Path(tempfile.mkdtemp(prefix=f"_{folder.name}.", dir=folder.parent))
    try:
        building.chmod(0o755)
        _write(building, params)
        try:
            commit_folder(building, folder)  # onto an empty folder is allowed, onto a full one is not
        except OSError:
            if not (folder / "corpus.json").exists():
                raise  # otherwise another process was faster, and made the same
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def written_dialogue(params: DemoParams, number: int) -> list[tuple[str, str]]:
    """Speakers and sentences of a further dialogue in the corpus's language: text alone, and no label.

    >>> [speaker for speaker, _ in written_dialogue(DemoParams(seed=1, turns=3), 0)]
    ['A', 'B', 'A']
    """
    random, lines = _random(params, "written", str(number)), []
    for turn, emotion in enumerate(_emotions(random, params)):
        who = turn % 2 if random.random_sample() < 0.9 else (turn + 1) % 2
        lines.append(("AB"[who], _sentence(random, _expressed(random, emotion, params.text, TEXT_MISTAKES), params)))
    return lines


def _write(folder: Path, params: DemoParams) -> None:
    import numpy as np

    from mer.data.demo_speech import Voice, write_wav

    (folder / "wavs").mkdir()
    (folder / "features").mkdir()
    visual: list[np.ndarray] = []
    pair_number = row = 0
    for split, pairs in zip(SPLITS, params.pairs, strict=True):
        lines = []
        for _ in range(pairs):
            speakers = (f"s{2 * pair_number + 1:02d}", f"s{2 * pair_number + 2:02d}")
            voices = [Voice.of(_random(params, "voice", speaker), number) for number, speaker in enumerate(speakers)]
            faces = [_random(params, "face", speaker).standard_normal(_FACE) * 0.7 for speaker in speakers]
            for number in range(params.dialogues):
                dialogue = f"d{pair_number + 1:02d}{'abcdefghij'[number % 10]}{number // 10 or ''}"
                random = _random(params, "dialogue", dialogue)
                clock, sound = 0.0, []
                for turn, emotion in enumerate(_emotions(random, params)):
                    who = turn % 2 if random.random_sample() < 0.9 else (turn + 1) % 2
                    said = _expressed(random, emotion, params.text, TEXT_MISTAKES)
                    voiced = _expressed(random, emotion, params.audio, AUDIO_MISTAKES)
                    shown = emotion if random.random_sample() < params.visual else _draw(random)
                    samples = voices[who].speak(random, voiced, params.audio_purity, params.rate)
                    gap = np.zeros(int(params.rate * (0.1 + 0.2 * random.random_sample())))
                    start = clock + len(gap) / params.rate
                    clock = start + len(samples) / params.rate
                    sound += [gap, samples]
                    visual.append(_frames(random, shown, faces[who], len(samples) / params.rate, params))
                    line = {
                        "utterance_id": f"{dialogue}_{turn:02d}",
                        "speaker_id": speakers[who],
                        "wav_path": f"wavs/{dialogue}.wav",
                        "start": round(start, 4),
                        "end": round(clock, 4),
                        "transcript": _sentence(random, said, params),
                        "emotion": emotion,
                        "dialogue_id": dialogue,
                        "turn": turn,
                        "row": row,
                    }
                    lines.append(json.dumps(line, ensure_ascii=False))
                    row += 1
                write_wav(folder / "wavs" / f"{dialogue}.wav", np.concatenate([*sound, np.zeros(800)]), params.rate)
            pair_number += 1
        (folder / f"{split}.jsonl").write_bytes(("\n".join(lines) + "\n").encode("utf-8"))
    offsets = np.cumsum([0] + [len(frames) for frames in visual], dtype=np.int64)
    np.save(folder / "features" / "visual.npy", np.concatenate(visual).astype(np.float32))
    np.save(folder / "features" / "visual.offsets.npy", offsets)
    description = {
        "name": "demo",
        "language": "vi",
        "labels": list(LABELS),
        "synthetic": True,
        "features": {"visual": _FACE},
        "note": "SYNTHETIC: made by mer.data.demo, not recorded from anybody; numbers on it say nothing about people",
        "parameters": {"version": VERSION, **dataclasses.asdict(params)},
    }
    (folder / "corpus.json").write_bytes((json.dumps(description, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))


# ------------------------------------------------------------------------------------------------- emotions


def _random(params: DemoParams, *parts: str) -> np.random.RandomState:
    """numpy's legacy generator, because its stream is frozen for ever: the corpus must not change with numpy."""
    import numpy as np

    from mer.streams import derive

    return np.random.RandomState(derive("demo", params.seed, *parts) % 2**32)


def _draw(random: np.random.RandomState) -> str:
    place, total = random.random_sample(), 0.0
    for label, share in zip(LABELS, PRIOR, strict=True):
        total += share
        if place < total:
            return label
    return LABELS[-1]


def _emotions(random: np.random.RandomState, params: DemoParams) -> list[str]:
    """A chain that keeps the emotion of the turn before with probability `inertia`, else draws from the prior."""
    found = [_draw(random)]
    while len(found) < params.turns:
        found.append(found[-1] if random.random_sample() < params.inertia else _draw(random))
    return found


def _expressed(
    random: np.random.RandomState, emotion: str, reliability: float, mistakes: dict[str, tuple[str, ...]]
) -> str:
    if random.random_sample() < reliability:
        return emotion
    others = mistakes[emotion]
    return others[random.randint(len(others))]


# ----------------------------------------------------------------------------------------------------- text

CUES = {
    "neutral": ("ghi chép", "họp", "kiểm tra", "sắp xếp", "trao đổi", "nấu cơm"),
    "happiness": ("vui", "mừng", "hạnh phúc", "phấn khởi", "cười", "hào hứng"),
    "sadness": ("buồn", "khóc", "tiếc nuối", "cô đơn", "tủi thân", "nghẹn ngào"),
    "angry": ("tức", "giận", "bực bội", "cáu", "nổi nóng", "phẫn nộ"),
    "fear": ("sợ", "lo", "run", "hoảng hốt", "giật mình", "ớn lạnh"),
}
"""Words that carry an emotion. No syllable belongs to two emotions."""

OPENINGS = (
    "hôm nay tôi", "sáng nay chị ấy", "tối qua anh ấy", "thật ra mẹ tôi", "bạn biết không, tôi",
    "ở trường em", "trên đường về tôi", "ngoài chợ bà ấy", "chiều nay cả nhà", "lúc nãy thầy giáo",
)  # fmt: skip
FRAMES = (
    "thấy {}", "cứ {}", "lại {}", "đang {}", "vừa {} vừa nói chuyện", "nghe xong thì {}",
    "về đến nhà là {}", "gặp mọi người rồi {}", "ngồi một mình mà {}", "nghĩ đến việc ấy nên {}",
)  # fmt: skip
LINKS = (" rồi ", ", sau đó ", " và ", ", thế mà ", " nhưng ", ", xong lại ")
ENDINGS = (".", ".", " ạ.", " đấy.", " nhé.", " đó!", " mà.", " thôi.")


def _sentence(random: np.random.RandomState, expressed: str, params: DemoParams) -> str:
    """Three or four clauses with a cue word each, mostly of the expressed emotion; sometimes typed in NFD."""
    clauses = []
    for _ in range(3 + random.randint(2)):
        emotion = _mixed(random, expressed, params.text_purity)
        cue = CUES[emotion][random.randint(len(CUES[emotion]))]
        clauses.append(FRAMES[random.randint(len(FRAMES))].format(cue))
    text = f"{OPENINGS[random.randint(len(OPENINGS))]} {clauses[0]}"
    for clause in clauses[1:]:
        text += LINKS[random.randint(len(LINKS))] + clause
    text = text[0].upper() + text[1:] + ENDINGS[random.randint(len(ENDINGS))]
    text = unicodedata.normalize("NFC", text)
    style = random.random_sample()
    if style < params.decomposed:
        text = unicodedata.normalize("NFD", text)
    return text.replace(" ", "  ", 1) if random.random_sample() < 0.05 else text


def _mixed(random: np.random.RandomState, expressed: str, purity: float) -> str:
    if random.random_sample() < purity:
        return expressed
    others = [label for label in LABELS if label != expressed]
    return others[random.randint(len(others))]


# --------------------------------------------------------------------------------------------------- visual

_FACE = 8
_FRAME_RATE = 5.0


def _frames(
    random: np.random.RandomState, shown: str, face: np.ndarray, seconds: float, params: DemoParams
) -> np.ndarray:
    """`[T, 8]`: a direction per emotion, the speaker's face, and heavy-tailed noise; empty where no face is seen."""
    import numpy as np

    count = max(1, round(seconds * _FRAME_RATE))
    directions = np.eye(_FACE)[: len(LABELS)]
    noise = random.standard_t(3, size=(count, _FACE))
    frames: np.ndarray = 1.5 * directions[LABELS.index(shown)] + face + noise
    return frames if random.random_sample() >= params.unseen else frames[:0]
