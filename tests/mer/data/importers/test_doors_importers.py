"""The doors of the importers: pickles, `.pt` files, tables. What is imported is a sound corpus, or nothing is left."""

from __future__ import annotations

import copy
import io
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mer.data.corpus import load_corpus
from mer.data.importers.conversation_pickles import import_conversation
from mer.data.importers.meld_csv import import_meld
from mer.data.importers.pt import import_pt
from mer.data.importers.restricted_pickle import load_pickle
from tests.doors import alone, refused, through, values

FUZZ = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def imported(door: Callable[[Path], Path], folder: Path, *names: str) -> None:
    """Through an importer's door: afterwards there is a sound corpus, or nothing."""
    target = folder / "made"
    if through(lambda: door(target), *names) is None:
        assert not target.exists()
        assert not list(folder.glob("_made*"))
        return
    corpus = load_corpus(target)
    assert corpus.train
    for split in (corpus.train, corpus.valid, corpus.test):
        assert all(utterance.emotion in corpus.info.labels for utterance in split)
    for path in sorted(target.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    target.rmdir()


# ---- conversation pickles --------------------------------------------------------------------------------------

VIDS = [f"Ses0{number}F_impro01" for number in range(1, 5)]


def conversation() -> list[Any]:
    """IEMOCAP's layout of nine parts, two turns a dialogue."""
    ids = {vid: [f"{vid}_F000", f"{vid}_M001"] for vid in VIDS}
    vectors = {vid: [np.ones(3, np.float32), np.zeros(3, np.float32)] for vid in VIDS}
    return [
        ids, {vid: ["F", "M"] for vid in VIDS}, {vid: [0, 1] for vid in VIDS}, vectors, copy.deepcopy(vectors),
        copy.deepcopy(vectors), {vid: ["yes", "no"] for vid in VIDS}, VIDS[:3], VIDS[3:],
    ]  # fmt: skip


def spoilt(part: int, where: str, value: Any) -> list[Any]:
    content = conversation()
    if where == "part":
        content[part] = value
    elif part >= 7:
        content[part] = [*content[part], value]
    elif where == "dialogue":
        content[part][VIDS[0]] = value
    else:
        content[part][VIDS[0]] = [value, content[part][VIDS[0]][1]]
    return content


def pickled(content: Any, protocol: int = 4) -> bytes:
    return pickle.dumps(tuple(content), protocol)


odd_values = values | st.sampled_from(
    [
        np.zeros((2, 2, 2)),
        np.float32(np.nan),
        np.array([], np.float32),
        [1.0, [2.0]],
        np.array(3),
        ["a", "b"],
        b"x",
        {1},
    ]
)


@FUZZ
@given(part=st.integers(0, 8), where=st.sampled_from(["part", "dialogue", "turn"]), value=odd_values)
@example(2, "turn", None)
@example(2, "turn", float("nan"))
@example(2, "turn", float("inf"))
@example(2, "turn", 10**400)
@example(2, "turn", "0")
@example(0, "turn", "\ud800")
@example(0, "turn", ["a"])
@example(0, "dialogue", 5)
@example(1, "turn", [[1, 2], [3]])
@example(3, "turn", np.zeros((2, 2, 2)))
@example(3, "turn", ["a", "b"])
@example(1, "turn", [[]])
@example(6, "turn", None)
@example(7, "turn", ["a", "list"])
@example(7, "part", [])
def test_any_value_in_a_conversation(tmp_path: Path, part: int, where: str, value: Any) -> None:
    source = tmp_path / "a.pkl"
    source.write_bytes(pickled(spoilt(part, where, value)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of imaginary parts that are dropped
        imported(lambda folder: import_conversation(source, folder), tmp_path, "a.pkl", "made", "jsonl:")


def test_a_sound_one_comes_through(tmp_path: Path) -> None:
    for protocol in range(6):
        (tmp_path / "a.pkl").write_bytes(pickled(conversation(), protocol))
        folder = import_conversation(tmp_path / "a.pkl", tmp_path / f"made{protocol}")
        assert len(load_corpus(folder).test) == 2


def doubled(depth: int) -> bytes:
    """Steps that leave a tuple (s, s) with s = (r, r) and so on: as many parts as grains on a chess board."""
    steps = b")\x940"
    for number in range(depth):
        steps += b"h" + bytes([number]) + b"h" + bytes([number]) + b"\x86\x940"
    return steps + b"h" + bytes([depth])


def lists(depth: int) -> bytes:
    """Lists that hold the next one twice, filled from the outermost on, when the inner ones are still empty."""
    steps = b"]\x940" * depth
    for number in range(depth - 1):
        steps += b"h" + bytes([number]) + b"(" + (b"h" + bytes([number + 1])) * 2 + b"e0"
    return steps + b"h\x00"


BOMBS = {
    "a key that is doubled tuples": b"\x80\x04}" + doubled(60) + b"Ns.",
    "a set of doubled tuples": b"\x80\x04\x8f(" + doubled(60) + b"\x90.",
    "doubled tuples": b"\x80\x04" + doubled(60) + b".",
    "doubled lists": b"\x80\x04" + lists(40) + b".",
    "a tower as a key": b"\x80\x04})" + b"\x85" * 200_000 + b"Ns.",
    "a memo of 2^32 places": b"\x80\x02]r\xff\xff\xff\xff.",
    "a memo in text": b"]p99999999999\n.",
    "nothing in the memo": b"\x80\x02j\xff\x00\x00\x00.",
    "a string of 2^60 bytes": b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"a.",
    "a frame of 2^60 bytes": b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"N.",
    "a number of 2^30 bytes": b"\x80\x02\x8b" + (2**30).to_bytes(4, "little") + b"\xff.",
    "a number of 10 000 digits": b"L" + b"9" * 10_000 + b"L\n.",
    "a number of 900 bytes": b"\x80\x02\x8b" + (900).to_bytes(4, "little") + b"\x7f" * 900 + b".",
    "no end": b"\x80\x04]",
    "an empty file": b"",
    "a stack that is empty": b"\x80\x04\x86.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=list(BOMBS))
def test_pickles_that_grow(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "a.pkl"
    source.write_bytes(content)

    def work() -> None:
        through(lambda: load_pickle(source), "a.pkl")
        refused(lambda: import_conversation(source, tmp_path / "made"), "a.pkl")

    alone(work)


def test_a_bomb_of_904_bytes(tmp_path: Path) -> None:
    """A conversation one of whose dialogues is called by a tuple of tuples."""
    program = b"\x80\x04(}" + doubled(120) + b"]s" + b"}" * 6 + b"]]t."
    source = tmp_path / "a.pkl"
    source.write_bytes(program + b"#" * (904 - len(program)))
    assert source.stat().st_size == 904
    alone(lambda: refused(lambda: import_conversation(source, tmp_path / "made"), "a.pkl"))


OPCODES = b"()]}NKJMX\x8c\x85\x86\x87t0125eaus\x90\x8f\x91h\x94q.lodbRc\x93\x81\x92(("


@settings(FUZZ, max_examples=300)
@given(st.lists(st.sampled_from(OPCODES) | st.integers(0, 255), max_size=40).map(bytes))
def test_any_program(tmp_path: Path, program: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + program + b".")
    through(lambda: load_pickle(tmp_path / "a.pkl"), "a.pkl")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "nothing"])
def test_no_pickle(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "a.pkl"
    if kind == "pipe":
        os.mkfifo(source)
    elif kind == "folder":
        source.mkdir()
    elif kind == "device":
        source.symlink_to("/dev/zero")
    refused(lambda: load_pickle(source), "a.pkl")


FRAMES: dict[str, np.ndarray[Any, Any]] = {
    "complex": np.ones((2, 3), np.complex64), "no axis": np.array(3.0), "objects": np.array([[None]], dtype=object),
    "text": np.array([["a"]]), "another width": np.ones((2, 5)),
}  # fmt: skip


@pytest.mark.parametrize("array", FRAMES.values(), ids=list(FRAMES))
def test_frames_of_gcnet(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    content = conversation()
    layout = [content[0], content[2], content[1], content[6], content[7], content[8]]
    (tmp_path / "a.pkl").write_bytes(pickled(layout))
    for vid in VIDS:
        for uid in content[0][vid]:
            (tmp_path / "v" / uid).mkdir(parents=True)
            np.save(tmp_path / "v" / uid / "0.npy", np.ones((1, 3)))
            np.save(tmp_path / "v" / uid / "1.npy", array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        imported(
            lambda folder: import_conversation(tmp_path / "a.pkl", folder, features={"visual": tmp_path / "v"}),
            tmp_path, "npy", "Ses0", "visual",
        )  # fmt: skip
    if array.dtype.kind in "cOU":
        assert not (tmp_path / "made").exists()


# ---- .pt -------------------------------------------------------------------------------------------------------


def tensors(**changed: Any) -> dict[str, Any]:
    good = {"x": torch.arange(36.0).reshape(4, 3, 3), "m": torch.ones(4, 3), "y": torch.tensor([0, 1, 0, 1])}
    return {**good, **changed}


def import_these(folder: Path, spoiled: Path) -> Callable[[Path], Path]:
    torch.save(tensors(), folder / "good.pt")
    rows = "label,emotion_name,file_path,transcript\n" + "".join(f"{n % 2},{'ab'[n % 2]},{n}.wav,t\n" for n in range(4))
    (folder / "a.csv").write_text(rows)
    good = folder / "good.pt"
    return lambda target: import_pt(
        target, train_speech_features=spoiled, train_text_features=good, val_speech_features=good,
        val_text_features=good, test_speech_features=good, test_text_features=good, csv_path=folder / "a.csv",
        test_csv_path=folder / "a.csv",
    )  # fmt: skip


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(4, 3, 3), 0.1, 0, torch.qint8)


TENSORS: dict[str, dict[str, Any]] = {
    "inf in y": {"y": torch.tensor([0.0, 1.0, float("inf"), 1.0])},
    "NaN in y": {"y": torch.tensor([0.0, 1.0, float("nan"), 1.0])},
    "a huge y": {"y": torch.tensor([0.0, 1.0, 1e30, 1.0])},
    "inf in x": {"x": torch.full((4, 3, 3), float("inf"))},
    "sparse": {"x": torch.ones(4, 3, 3).to_sparse()},
    "sparse mask": {"m": torch.ones(4, 3).to_sparse()},
    "complex": {"x": torch.ones(4, 3, 3, dtype=torch.complex64)},
    "meta": {"x": torch.ones(4, 3, 3, device="meta")},
    "meta mask": {"m": torch.ones(4, 3, device="meta")},
    "meta labels": {"y": torch.ones(4, device="meta")},
    "quantised": {"x": quantised()},
    "a view of 10^12": {"x": torch.ones(1).expand(4, 10**9, 300), "m": torch.ones(1).expand(4, 10**9)},
    "no utterances": {"x": torch.ones(0, 3, 3), "m": torch.ones(0, 3), "y": torch.ones(0)},
    "no axis": {"x": torch.tensor(1.0), "m": torch.tensor(1.0), "y": torch.tensor(1.0)},
    "text": {"x": "x", "m": "m", "y": "y"},
    "nothing": {"x": None, "m": None, "y": None},
    "ragged lists": {"x": [[1.0], [2.0, 3.0]]},
    "huge numbers": {"y": [10**400, 0, 1, 1]},
}


@pytest.mark.parametrize("changed", TENSORS.values(), ids=list(TENSORS))
def test_tensors(tmp_path: Path, changed: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(tensors(**changed), tmp_path / "bad.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(lambda: import_these(tmp_path, tmp_path / "bad.pt")(tmp_path / "made"), "bad.pt", "good.pt")


any_tensor = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.uint8, torch.complex64]),
)


@FUZZ
@given(key=st.sampled_from("xmy"), value=any_tensor | values)
def test_any_tensor(tmp_path: Path, key: str, value: Any) -> None:
    torch.save(tensors(**{key: value}), tmp_path / "bad.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        imported(import_these(tmp_path, tmp_path / "bad.pt"), tmp_path, ".pt", "a.csv", "made")


def compressed() -> bytes:
    stream, made = io.BytesIO(), io.BytesIO()
    torch.save(tensors(x=torch.zeros(4, 3, 1_000_000)), stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return made.getvalue()


def with_program(program: bytes) -> bytes:
    stream, made = io.BytesIO(), io.BytesIO()
    torch.save(tensors(), stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, program if name.endswith("data.pkl") else old.read(name))
    return made.getvalue()


ARCHIVES = {
    "compressed": compressed(),
    "a key that is doubled tuples": with_program(BOMBS["a key that is doubled tuples"]),
    "the same in the old format": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + BOMBS["a key that is doubled tuples"] * 4,
    "the head of an archive": b"PK\x03\x04" + bytes(40),
    "half of one": with_program(b"N.")[:300],
    "empty": b"",
    "text": b"no tensors here",
}


@pytest.mark.parametrize("content", ARCHIVES.values(), ids=list(ARCHIVES))
def test_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    door = import_these(tmp_path, tmp_path / "bad.pt")
    alone(lambda: refused(lambda: door(tmp_path / "made"), "bad.pt"))


def test_the_old_format_is_read(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(OrderedDict(tensors()), tmp_path / "ordered.pt")
    for name in ("old", "ordered"):
        assert load_corpus(import_these(tmp_path, tmp_path / f"{name}.pt")(tmp_path / name)).train


# ---- tables ----------------------------------------------------------------------------------------------------

HEAD = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID"
cell = st.sampled_from(
    ["", "neutral", "joy", "0", "1", "-1", "1.5", "nan", "inf", "1e400", "9" * 5000, "٣", "²", '"', "\0", "a\nb"]
) | st.text(max_size=5)  # fmt: skip


def meld(folder: Path, text: str, encoding: str = "utf-8") -> Callable[[Path], Path]:
    (folder / "csv").mkdir(exist_ok=True)
    for word in ("train", "dev", "test"):
        rows = "".join(f'"text {n}",Joey,{("joy", "fear")[n % 2]},{n},{n}\n' for n in range(4))
        (folder / "csv" / f"{word}_sent_emo.csv").write_text(f"{HEAD}\n{rows}", "utf-8")
    (folder / "csv" / "train_sent_emo.csv").write_bytes(text.encode(encoding, "replace"))
    return lambda target: import_meld(folder / "csv", target)


@FUZZ
@given(st.lists(st.lists(cell, min_size=1, max_size=6).map(",".join), min_size=1, max_size=4).map("\n".join))
@example("a,b,joy,1," + "9" * 5000)
@example("a,b,joy,²,1")
@example("a," + "x" * 300 + ",joy,1,1")
@example('"' + "x" * 200_000 + '",b,joy,1,1')
def test_any_rows_of_meld(tmp_path: Path, rows: str) -> None:
    imported(meld(tmp_path, f"{HEAD}\n{rows}\n"), tmp_path, "train_sent_emo.csv", "jsonl", "made")


@pytest.mark.parametrize(
    "text", ["", "\n", ",", "Emotion," * 5, HEAD + ",Emotion\na,b,joy,1,1,fear\n", '"' + "x" * 200_000]
)
def test_heads_of_tables(tmp_path: Path, text: str) -> None:
    refused(lambda: meld(tmp_path, text)(tmp_path / "made"), "train_sent_emo.csv")


@FUZZ
@given(label=cell, name=cell)
@example("inf", "a")
@example("1e400", "a")
@example("0.5", "a")
def test_any_label_of_the_fusion_pipeline(tmp_path: Path, label: str, name: str) -> None:
    torch.save(tensors(), tmp_path / "x.pt")
    door = import_these(tmp_path, tmp_path / "x.pt")
    rows = "".join(f"{n % 2},{'ab'[n % 2]},{n}.wav,t\n" for n in range(1, 4))
    quoted = (text.replace('"', '""') for text in (label, name))
    line = ",".join(f'"{text}"' for text in quoted)
    (tmp_path / "a.csv").write_text(f"label,emotion_name,file_path,transcript\n{line},0.wav,t\n{rows}", "utf-8")
    imported(door, tmp_path, "a.csv", "x.pt", "good.pt", "made", "jsonl")


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    door = meld(tmp_path, HEAD)
    (tmp_path / "csv" / "train_sent_emo.csv").unlink()
    os.mkfifo(tmp_path / "csv" / "train_sent_emo.csv")
    refused(lambda: door(tmp_path / "made"), "train_sent_emo.csv")


def test_names_too_long_for_a_folder(tmp_path: Path) -> None:
    door = meld(tmp_path, f"{HEAD}\na,b,joy,1,1\na,b,fear,1,2\n")
    assert door(tmp_path / ("m" * 250)).is_dir()
