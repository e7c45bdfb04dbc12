"""Reading a sound folder, and splitting it again for a study."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mer.data.corpus import Corpus, CorpusInfo, Utterance, load_corpus
from mer.data.fingerprint import DIGESTS
from mer.data.places import find_corpus
from mer.errors import UserError


def corpus_of(train: list[Utterance], valid: list[Utterance], test: list[Utterance] | None = None) -> Corpus:
    labels = tuple(sorted({utterance.emotion for utterance in train}))
    return Corpus(CorpusInfo(Path("nowhere"), "c", labels), tuple(train), tuple(valid), tuple(test or ()))


def speaking(name: str, count: int, seed: int, dialogues: int = 1) -> list[Utterance]:
    draw = random.Random(seed)
    return [
        Utterance(f"{name}-{i}", name, draw.choice("abc"), f"train.jsonl:{i}", dialogue=f"{name}d{i % dialogues}")
        for i in range(count)
    ]


def test_a_sound_folder_is_read(sound: Path) -> None:
    corpus = load_corpus(sound)
    assert corpus.info.name == "corpus"
    assert corpus.info.labels == ("glad", "sad")  # sorted from train: there is no corpus.json
    assert corpus.info.features == {"visual": 3}
    assert corpus.modalities == ("text", "audio", "visual")
    assert [len(part) for part in (corpus.train, corpus.valid, corpus.test)] == [4, 2, 2]
    assert corpus.train[1] == Utterance(
        "u1", "train1", "glad", "train.jsonl:2", "wavs/u1.wav", 0.0, 0.5, "câu số 1", "train", 1.0, 1, frozenset()
    )


def test_the_order_of_labels_comes_from_corpus_json(sound: Path) -> None:
    (sound / "corpus.json").write_text(json.dumps({"name": "x", "labels": ["sad", "glad"], "synthetic": True}))
    info = load_corpus(sound).info
    assert (info.name, info.labels, info.synthetic) == ("x", ("sad", "glad"), True)


def test_an_utterance_may_lack_modalities_but_not_all(spoil: Callable[..., Path]) -> None:
    folder = spoil(wav_path=None, row=None)
    assert load_corpus(folder).train[1].lacks == {"audio", "visual"}
    spoil(transcript=None, row=1, wav_path=None)
    assert load_corpus(folder).train[1].lacks == {"audio", "text"}
    spoil(lacks=["visual"], transcript="x")
    assert load_corpus(folder).train[1].lacks == {"audio", "visual"}
    spoil(transcript=None, row=None)
    with pytest.raises(UserError, match=r"train.jsonl:2: utterance 'u1' has no modality at all"):
        load_corpus(folder)


def test_offsets_say_which_rows_are_empty(sound: Path) -> None:
    np.save(sound / "features" / "visual.npy", np.ones((9, 3), np.float32))
    np.save(sound / "features" / "visual.offsets.npy", np.array([0, 2, 2, 3, 4, 5, 6, 7, 9]))
    corpus = load_corpus(sound)
    assert ["visual" in utterance.lacks for utterance in corpus.utterances()] == [False, True] + [False] * 6


def test_turns_follow_the_lines_where_they_are_not_given(sound: Path, spoil: Callable[..., Path]) -> None:
    for line in (1, 2, 3, 4):
        spoil(line=line, turn=None)
    assert [utterance.turn for utterance in load_corpus(sound).train] == [0.0, 1.0, 2.0, 3.0]


def test_crlf_and_bom_are_read(sound: Path) -> None:
    path = sound / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert len(load_corpus(sound).train) == 4


def test_tuning_code_cannot_reach_the_test_split(sound: Path) -> None:
    corpus = load_corpus(sound)
    handed = corpus.train_valid(split_seed=3)
    assert not hasattr(handed, "test")
    assert {u.id for u in (*handed.train, *handed.valid)}.isdisjoint(u.id for u in corpus.test)
    assert corpus.test_set().test == corpus.test


def test_resplit_without_groups_keeps_sizes_and_label_shares_exactly() -> None:
    people = [Utterance(f"u{i}", f"s{i % 3}", "abc"[(i * i) % 3 % 2 + (i % 7 == 0)], f"t:{i}") for i in range(210)]
    corpus = corpus_of(people[:180], people[180:])
    before = Counter(utterance.emotion for utterance in people)
    splits = [corpus.train_valid(split_seed=seed) for seed in range(4)]
    for split in splits:
        assert (len(split.train), len(split.valid)) == (180, 30)
        assert {u.id for u in (*split.train, *split.valid)} == {u.id for u in people}
        for label, count in Counter(u.emotion for u in split.valid).items():
            assert abs(count - 30 * before[label] / 210) < 1
    assert len({tuple(u.id for u in split.valid) for split in splits}) == 4
    assert corpus.train_valid(split_seed=2) == splits[2]


def test_resplit_keeps_speakers_apart_where_they_were_apart() -> None:
    train = [u for n in range(12) for u in speaking(f"s{n}", 20, n)]
    valid = [u for n in range(12, 15) for u in speaking(f"s{n}", 20, n)]
    corpus = corpus_of(train, valid)
    chosen = set()
    for seed in range(10):
        split = corpus.train_valid(split_seed=seed)
        assert {u.speaker for u in split.train}.isdisjoint(u.speaker for u in split.valid)
        assert len(split.valid) == 60
        chosen.add(frozenset(u.speaker for u in split.valid))
    assert len(chosen) > 5  # studies do differ


def test_resplit_keeps_dialogues_whole_where_speakers_are_shared() -> None:
    train = [u for n in range(6) for u in speaking("ann", 12, n, 3)]
    train = [
        Utterance(f"{u.id}-{i}", u.speaker, u.emotion, u.source, dialogue=f"d{i // 6}") for i, u in enumerate(train)
    ]
    valid = [Utterance(f"v{i}", "ann", "abc"[i % 3], f"v:{i}", dialogue=f"v{i // 6}") for i in range(12)]
    split = corpus_of(train, valid).train_valid(split_seed=1)
    assert {u.dialogue for u in split.train}.isdisjoint(u.dialogue for u in split.valid)
    assert len(split.valid) == 12


def test_resplit_keeps_sentences_apart_in_a_corpus_split_by_sentence(real: Callable[[str], Path]) -> None:
    corpus = load_corpus(real("nemo"))
    for seed in range(3):
        split = corpus.train_valid(split_seed=seed)
        assert {u.transcript for u in split.train}.isdisjoint(u.transcript for u in split.valid)
        assert abs(len(split.valid) - 99) <= 6


@pytest.mark.parametrize(
    ("name", "sizes", "modalities"),
    [
        ("mosi", (1447, 218, 534), ("text", "audio", "visual")),
        ("nemo", (548, 99, 156), ("text", "audio")),
        ("meld", (9988, 1108, 2608), ("text",)),
    ],
)
def test_real_corpora(
    real: Callable[[str], Path], name: str, sizes: tuple[int, ...], modalities: tuple[str, ...]
) -> None:
    corpus = load_corpus(real(name))
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == sizes
    assert corpus.modalities == modalities


def test_fingerprint_follows_the_content_and_nothing_else(
    sound: Path, spoil: Callable[..., Path], tmp_path: Path
) -> None:
    first = load_corpus(sound).fingerprint()
    moved = tmp_path / "elsewhere" / "corpus"
    moved.parent.mkdir()
    sound.rename(moved)
    (moved / "corpus.json").write_text(json.dumps({"name": "other", "note": "a note"}))
    assert load_corpus(moved).fingerprint() == first
    moved.rename(sound)
    seen = {first}
    (sound / "wavs" / "u0.wav").write_bytes((sound / "wavs" / "u1.wav").read_bytes())
    seen.add(load_corpus(sound).fingerprint())
    np.save(sound / "features" / "visual.npy", np.zeros((8, 3), np.float32))
    seen.add(load_corpus(sound).fingerprint())
    for change in ({"transcript": "khác"}, {"emotion": "sad"}, {"speaker_id": "x"}, {"end": 0.4}, {"turn": 9}):
        spoil(**change)
        seen.add(load_corpus(sound).fingerprint())
    assert len(seen) == 8
    spoil("test", 1, transcript="khác")
    seen.add(load_corpus(sound).fingerprint())
    (sound / "corpus.json").write_text(json.dumps({"labels": ["sad", "glad"]}))
    seen.add(load_corpus(sound).fingerprint())
    assert len(seen) == 10


def rewritten(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def replaced(path: Path, data: bytes) -> None:
    path.with_name("_new").write_bytes(data)
    path.with_name("_new").rename(path)


@pytest.mark.parametrize("change", [rewritten, replaced])
def test_fingerprint_sees_a_recording_of_the_same_size_and_time(
    sound: Path, change: Callable[[Path, bytes], None]
) -> None:
    """As `cp -p`, `rsync -t` and archives with fixed times leave it."""
    first = load_corpus(sound).fingerprint()
    path = next(iter((sound / "wavs").iterdir()))
    then = path.stat()
    data = path.read_bytes()
    change(path, data[:-2] + bytes(2 * [data[-1] ^ 1]))
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert path.stat().st_size == then.st_size
    assert load_corpus(sound).fingerprint() != first


def test_fingerprint_works_where_what_is_remembered_is_damaged(sound: Path) -> None:
    first = load_corpus(sound).fingerprint()
    for path in Path(os.environ["MER_CACHE"]).rglob(DIGESTS):
        path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), 3)))
    assert load_corpus(sound).fingerprint() == first


def test_fingerprint_works_where_the_cache_cannot_be_written(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_corpus(sound).fingerprint()
    monkeypatch.setenv("MER_CACHE", "/dev/null/nowhere")
    assert load_corpus(sound).fingerprint() == first


def test_a_corpus_is_found_by_name_by_path_or_made(sound: Path) -> None:
    assert find_corpus("corpus", sound.parent) == sound
    assert find_corpus(str(sound), sound.parent) == sound
    with pytest.raises(UserError, match="did you mean 'corpus'"):
        find_corpus("corpsu", sound.parent)


def test_loading_needs_nothing_heavy(sound: Path) -> None:
    code = (
        "import sys; from mer.data.corpus import load_corpus; import mer.data.cli\n"
        f"c = load_corpus({str(sound)!r}); c.train_valid(split_seed=1); c.fingerprint()\n"
        "print([m for m in ('torch', 'ray', 'pandas', 'scipy', 'soundfile', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_that_one_may_not_enter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = str(tmp_path / "lab" / "vnemos")

    def stat(path: object, **more: object) -> os.stat_result:  # root, who may run this, may enter everywhere
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        with pytest.raises(UserError, match="you may not look for the corpus 'vnemos' there") as caught:
            find_corpus("vnemos", tmp_path / "lab")
    assert closed in str(caught.value)
