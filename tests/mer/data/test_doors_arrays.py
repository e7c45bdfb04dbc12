"""The door of `.npy` files: features, offsets, and masks of others; and of frozen masks."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mer.data.corpus import load_corpus
from mer.data.mask_files import file_digest, freeze, masks_for
from mer.encoders.features import Features
from mer.recipe import EncoderConfig, MissingConfig
from tests.doors import refused, through, values

FUZZ = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(shape: str, descr: str = "'<f4'", order: str = "False", data: bytes = bytes(96)) -> bytes:
    """A file whose header says what no array of numpy would."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def zipped() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros((8, 3), np.float32))
    return stream.getvalue()


GOOD = np.arange(24, dtype=np.float32).reshape(8, 3)
BAD: dict[str, bytes] = {
    "zip": zipped(),
    "objects": npy(np.array([[{"a": 1}]], dtype=object)),
    "complex": npy(GOOD.astype(np.complex64)),
    "structured": npy(np.zeros(8, [("a", "<f4"), ("b", "<f4")])),
    "long double": npy(GOOD.astype(np.longdouble)),
    "other byte order": npy(GOOD.astype(">f4")),
    "text": npy(GOOD.astype(str)),
    "dates": npy(np.zeros((8, 3), "<M8[s]")),
    "negative": header("(-8, -3)"),
    "huge": header("(1099511627776, 3)"),
    "overflowing": header("(4611686018427387904, 4)"),
    "no rows": header(f"(0, {2**40})"),
    "no columns": header(f"({2**40}, 0)"),
    "deep": header("(" * 400 + ")" * 400),
    "not a shape": header("(8.0, 'a')"),
    "not a type": header("(8, 3)", "'<Q99'"),
    "not a header": header("(8, 3)", "__import__('os')"),
    "truncated": npy(GOOD)[:-5],
    "empty": b"",
    "of another kind": b"PK\x03\x04" + bytes(60),
}


def used(folder: Path) -> None:
    """Read a corpus's features as a trial does."""
    corpus = load_corpus(folder)
    encoder = Features("visual", EncoderConfig(name="features"), corpus.info)
    frames = encoder.arrays(corpus.info, corpus.train)
    assert frames.gather(np.arange(len(frames))).values.shape[-1] == corpus.info.features["visual"]


@pytest.mark.parametrize("content", BAD.values(), ids=list(BAD))
def test_bad_features(sound: Path, content: bytes) -> None:
    (sound / "features" / "visual.npy").write_bytes(content)
    refused(lambda: used(sound), "features/visual.npy")


@pytest.mark.parametrize("content", BAD.values(), ids=list(BAD))
def test_bad_offsets(sound: Path, content: bytes) -> None:
    (sound / "features" / "visual.offsets.npy").write_bytes(content)
    refused(lambda: used(sound), "features/visual.offsets.npy")


@pytest.mark.parametrize("name", ["visual.npy", "visual.offsets.npy"])
@pytest.mark.parametrize("kind", ["out", "pipe", "device", "folder"])
def test_no_file_of_the_corpus(sound: Path, tmp_path: Path, name: str, kind: str) -> None:
    path = sound / "features" / name
    if name == "visual.offsets.npy":
        np.save(path, np.arange(9))
    path.rename(tmp_path / name)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / name if kind == "out" else "/dev/zero")
    refused(lambda: used(sound), f"features/{name}")


any_array = st.one_of(
    arrays.arrays(arrays.floating_dtypes(sizes=(16, 32, 64)), arrays.array_shapes(max_dims=3, max_side=9)),
    arrays.arrays(arrays.integer_dtypes() | arrays.boolean_dtypes(), arrays.array_shapes(max_dims=2, max_side=9)),
    arrays.arrays(arrays.complex_number_dtypes(), (8, 3)),
)


@FUZZ
@given(array=any_array, fortran=st.booleans(), cut=st.integers(0, 40), flip=st.integers(0, 200), offsets=st.booleans())
@example(np.full((8, 3), np.nan, np.float32), True, 0, 0, False)
@example(np.array([0, 2**63 + 3, 8], np.uint64), False, 0, 0, True)
def test_any_array(sound: Path, array: Any, fortran: bool, cut: int, flip: int, offsets: bool) -> None:
    content = bytearray(npy(np.asfortranarray(array) if fortran else array))
    if flip:
        content[flip % len(content)] ^= 1 << flip % 8
    name = "visual.offsets.npy" if offsets else "visual.npy"
    (sound / "features" / "visual.npy").write_bytes(npy(GOOD))
    (sound / "features" / name).write_bytes(bytes(content[: len(content) - cut]))
    through(lambda: used(sound), "features/visual", "beyond", "jsonl")


@pytest.mark.parametrize("name", ["a.b", "a\nb", "\udcff", " "])
def test_names_of_modalities(sound: Path, name: str) -> None:
    (sound / "features" / f"{name}.npy").write_bytes(npy(GOOD))
    refused(lambda: load_corpus(sound), "modality")


# ---- masks -----------------------------------------------------------------------------------------------------

IDS, NAMES = tuple(f"u{number}" for number in range(8)), ("audio", "text", "visual")
MASK = np.array([[True, number % 2 == 0, number % 3 == 0] for number in range(8)])


def masks(folder: Path, **settings: Any) -> Callable[[], object]:
    config = MissingConfig(protocol="file", **settings)

    def look_up() -> object:
        file_digest(config, folder)
        return masks_for(config, IDS, NAMES, folder)

    return look_up


FOREIGN = {"file": "m.npy", "axis": "utterances", "polarity": "available", "order": NAMES, "ids": "ids.txt"}


@pytest.mark.parametrize("content", BAD.values(), ids=list(BAD))
def test_bad_masks(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    (tmp_path / "m.npy").write_bytes(content)
    refused(masks(tmp_path, **FOREIGN), "m.npy")


@FUZZ
@given(content=st.binary(max_size=80) | st.lists(st.sampled_from([*IDS, "", "x", "\x85", "é"])).map("\n".join))
@example(b"\xff\xfe")
@example(b"\xef\xbb\xbf" + "\n".join(IDS).encode())
def test_any_list_of_ids(tmp_path: Path, content: bytes | str) -> None:
    (tmp_path / "ids.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "m.npy").write_bytes(npy(MASK))
    found = through(masks(tmp_path, **FOREIGN), "ids.txt", "m.npy")
    assert found is None or np.array_equal(found, MASK)  # type: ignore[arg-type]


@FUZZ
@given(key=st.sampled_from(["format", "modalities", "masks", "digest", "about", "whole"]), value=values)
@example("masks", {"u1": 5})
@example("masks", {"u1": {"0": 1}})
@example("modalities", [["a"]])
def test_any_frozen_masks(tmp_path: Path, key: str, value: Any) -> None:
    freeze(tmp_path / "m.json", IDS, NAMES, MASK)
    found = json.loads((tmp_path / "m.json").read_text())
    found = value if key == "whole" else {**found, key: value}
    (tmp_path / "m.json").write_text(json.dumps(found))
    loaded = through(masks(tmp_path, file="m.json"), "m.json")
    assert loaded is None or np.array_equal(loaded, MASK)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", '{"a": "\\ud800"}', "\xff", "{}"],
    ids=["deep", "5000 digits", "surrogate", "latin-1", "empty"],
)  # fmt: skip
def test_broken_frozen_masks(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_bytes(text.encode("latin-1"))
    refused(masks(tmp_path, file="m.json"), "m.json")


@pytest.mark.parametrize("name", ["nowhere.json", "n" * 300 + ".npy", "a\0b.json", ".", "pipe.json", "pipe.npy"])
def test_masks_that_are_no_file(tmp_path: Path, name: str) -> None:
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    refused(
        masks(tmp_path, **({**FOREIGN, "file": name} if name.endswith("npy") else {"file": name})),
        name[:20],
        "is a folder",
    )
