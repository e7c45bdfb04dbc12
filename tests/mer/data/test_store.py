"""The feature store: what is extracted, what is found again, what is never read."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mer.data.audio import AudioClip
from mer.data.ragged import Ragged, to_bfloat16
from mer.data.store import FeatureStore, shard
from mer.data.store.shard import Damaged, Shard
from mer.errors import UserError


class Letters:
    """A frontend that spells: one frame per character. Remembers what it was asked for."""

    def __init__(self, dim: int = 3, dtype: str = "float32", **identity: object) -> None:
        self.dim, self.dtype, self.kind = dim, dtype, "text"
        self._identity = identity
        self.asked: list[list[str]] = []

    def identity(self) -> dict[str, object]:
        return {"name": "letters", **self._identity}

    def extract(self, items: Sequence[str]) -> list[np.ndarray]:
        self.asked.append(list(items))
        return [spell(item, self.dim) for item in items]

    @property
    def extracted(self) -> list[str]:
        return [item for chunk in self.asked for item in chunk]


def spell(item: str, dim: int = 3) -> np.ndarray:
    codes = np.array([ord(letter) for letter in item], np.float64)
    return codes if dim == 0 else codes[:, None] + np.arange(dim) / 4


def check(found: Ragged, items: Sequence[str], dim: int = 3) -> None:
    assert len(found) == len(items)
    for i, item in enumerate(items):
        np.testing.assert_array_equal(found.row(i), spell(item, dim))


ITEMS = ["xin chào", "cảm ơn", "a", "tạm biệt nhé", "vui quá", "buồn"]


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("features/*/*.frames"))


def test_only_what_is_missing_is_extracted(tmp_path: Path) -> None:
    frontend = Letters()
    check(FeatureStore(tmp_path).get(frontend, ITEMS[:4]), ITEMS[:4])
    check(FeatureStore(tmp_path).get(frontend, ITEMS[::-1]), ITEMS[::-1])
    assert sorted(frontend.extracted) == sorted(ITEMS)
    store = FeatureStore(tmp_path)
    check(store.get(frontend, ["a", "a", "buồn", "a"]), ["a", "a", "buồn", "a"])
    check(store.get(frontend, ["a"]), ["a"])
    assert store.has(frontend, ["a", "b", None]) == [True, False, True]
    assert len(frontend.extracted) == len(ITEMS)


def test_the_same_item_twice_is_extracted_once(tmp_path: Path) -> None:
    frontend = Letters()
    check(FeatureStore(tmp_path).get(frontend, ["ab", "cd", "ab"]), ["ab", "cd", "ab"])
    assert sorted(frontend.extracted) == ["ab", "cd"]


def test_items_come_longest_first_in_chunks_that_are_committed_one_by_one(tmp_path: Path) -> None:
    frontend = Letters()
    seen: list[tuple[int, int, int]] = []
    FeatureStore(tmp_path, chunk=4).get(
        frontend, ITEMS, lambda done, of: seen.append((done, of, len(shards(tmp_path))))
    )
    assert [len(item) for item in frontend.extracted] == sorted((len(item) for item in ITEMS), reverse=True)
    assert [len(chunk) for chunk in frontend.asked] == [4, 2]
    assert seen == [(4, 6, 1), (6, 6, 2)]


def test_what_was_done_before_a_failure_is_kept(tmp_path: Path) -> None:
    class Failing(Letters):
        def extract(self, items: Sequence[str]) -> list[np.ndarray]:
            if "a" in items:
                raise UserError("bad")
            return super().extract(items)

    with pytest.raises(UserError, match="bad"):
        FeatureStore(tmp_path, chunk=2).get(Failing(), ITEMS)
    assert not list(tmp_path.rglob("_*"))
    frontend = Letters()
    check(FeatureStore(tmp_path, chunk=2).get(frontend, ITEMS), ITEMS)
    assert len(frontend.extracted) == 2


def test_items_without_a_modality_have_no_frames(tmp_path: Path) -> None:
    found = FeatureStore(tmp_path).get(Letters(), [None, "ab", None])
    assert found.lengths.tolist() == [0, 2, 0]
    nothing = FeatureStore(tmp_path).get(Letters(), [None, None])
    assert nothing.gather(np.array([0, 1])).values.shape == (2, 1, 3)
    assert len(FeatureStore(tmp_path).get(Letters(), [])) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32"])
@pytest.mark.parametrize("dim", [0, 2])
def test_types_and_widths(tmp_path: Path, dtype: str, dim: int) -> None:
    class Numbers(Letters):
        def extract(self, items: Sequence[str]) -> list[np.ndarray]:
            return [np.floor(spell(item, dim)) if dtype == "int32" else spell(item, dim) / 3 for item in items]

    for chunk in (1, 10):
        found = FeatureStore(tmp_path / str(chunk), chunk=chunk).get(Numbers(dim, dtype), ITEMS)
        assert found.dtype == dtype
        assert found.dim == dim
        for i, item in enumerate(ITEMS):
            given = np.floor(spell(item, dim)) if dtype == "int32" else spell(item, dim) / 3
            wanted = to_bfloat16(given) if dtype == "bfloat16" else given.astype(dtype)
            np.testing.assert_array_equal(found.row(i), wanted)


def test_frames_are_memory_mapped_when_they_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FeatureStore(tmp_path, chunk=2).get(Letters(), ITEMS)
    assert len(found.blocks) == 1  # a few bytes over many shards: one copy
    monkeypatch.setattr("mer.data.store.store._COPY_BELOW", 0)
    found = FeatureStore(tmp_path, chunk=2).get(Letters(), ITEMS)
    assert len(found.blocks) == 3
    assert all(isinstance(block, np.memmap) for block in found.blocks)
    check(found, ITEMS)


@pytest.mark.parametrize(
    "other",
    [
        Letters(layer=9), Letters(revision="b"), Letters(name="words"), Letters(dim=4), Letters(dtype="float16"),
        Letters(segmenter="pyvi==0.1.1"), Letters(rate=8000),
    ],
)  # fmt: skip
def test_another_identity_shares_nothing(tmp_path: Path, other: Letters) -> None:
    store = FeatureStore(tmp_path)
    store.get(Letters(), ITEMS)
    found = store.get(other, ITEMS)
    assert len(other.extracted) == len(ITEMS)
    assert found.dim == other.dim
    assert store.folder(other) != store.folder(Letters())


class Samples(Letters):
    """A frontend of audio: first and last sample of a clip."""

    def __init__(self) -> None:
        super().__init__(dim=0)
        self.kind = "audio"

    def extract(self, items: Sequence[AudioClip]) -> list[np.ndarray]:  # type: ignore[override]
        from mer.data.audio import read_audio

        self.asked.append([str(item.path) for item in items])
        return [read_audio(item, 8000)[[0, -1]] for item in items]


def _wav(path: Path, values: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((values * 32767).astype("<i2").tobytes())


def test_audio_is_addressed_by_content_and_crop(tmp_path: Path) -> None:
    root, one, two = tmp_path / "cache", tmp_path / "1.wav", tmp_path / "2.wav"
    ramp = np.linspace(0, 0.9, 8000)
    _wav(one, ramp)
    _wav(two, ramp)
    frontend = Samples()
    first = FeatureStore(root).get(frontend, [AudioClip(one), AudioClip(two), AudioClip(one, 0.0, 0.5)])
    assert len(frontend.extracted) == 2  # two files of one content, and a crop
    np.testing.assert_array_equal(first.row(0), first.row(1))
    assert first.row(2)[1] == pytest.approx(0.45, abs=1e-3)

    _wav(two, ramp[::-1])  # the same size; the content decides
    os.utime(two, ns=(0, 10**18))
    second = FeatureStore(root).get(frontend, [AudioClip(one), AudioClip(two)])
    assert len(frontend.extracted) == 3
    assert second.row(1)[0] == pytest.approx(0.9, abs=1e-3)

    with pytest.raises(UserError, match=r"3\.wav.*"):
        FeatureStore(root).get(frontend, [AudioClip(tmp_path / "3.wav")])


# What is damaged is rebuilt and never read ---------------------------------------------------------------------


def _fill(root: Path) -> Path:
    FeatureStore(root).get(Letters(dim=2, dtype="float16"), ["ab", "c"])
    (path,) = shards(root)
    return path


def test_every_flipped_byte_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _fill(tmp_path)
    sound = path.read_bytes()
    for position in range(len(sound)):
        data = bytearray(sound)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        frontend = Letters(dim=2, dtype="float16")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check(FeatureStore(tmp_path).get(frontend, ["ab", "c"]), ["ab", "c"], dim=2)
        assert len(frontend.extracted) == 2, position
        assert "damaged" in caplog.text
        assert path.read_bytes() == sound


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path = _fill(tmp_path)
    sound = path.read_bytes()
    for size in range(len(sound)):
        path.write_bytes(sound[:size])
        check(FeatureStore(tmp_path).get(Letters(dim=2, dtype="float16"), ["ab", "c"]), ["ab", "c"], dim=2)
        assert path.read_bytes() == sound


def test_an_open_store_notices_that_a_file_was_replaced(tmp_path: Path) -> None:
    store, frontend = FeatureStore(tmp_path), Letters(dim=2, dtype="float16")
    store.get(frontend, ["ab", "c"])
    (path,) = shards(tmp_path)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.unlink()
    path.write_bytes(data)
    check(store.get(frontend, ["ab", "c"]), ["ab", "c"], dim=2)
    assert len(frontend.extracted) == 4
    path.unlink()  # pruned by somebody
    check(store.get(frontend, ["c"]), ["c"], dim=2)
    assert len(frontend.extracted) == 5


def test_a_shard_of_another_frontend_is_not_read(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.get(Letters(layer=1), ["ab"])
    (path,) = shards(tmp_path)
    other = Letters(layer=2)
    store.get(other, ["c"])
    stray = store.folder(other) / path.name
    stray.write_bytes(path.read_bytes())
    check(FeatureStore(tmp_path).get(other, ["ab"]), ["ab"])
    assert other.extracted == ["c", "ab"]
    assert not stray.exists()
    with pytest.raises(Damaged, match="another frontend"):
        Shard(path, "0" * 32)


def test_garbage_under_the_name_of_a_shard(tmp_path: Path) -> None:
    store, frontend = FeatureStore(tmp_path), Letters()
    store.get(frontend, ["ab"])
    for content in (b"", b"x", os.urandom(500), b"\0" * 4096):
        (store.folder(frontend) / "0123.frames").write_bytes(content)
        check(FeatureStore(tmp_path).get(frontend, ["ab"]), ["ab"])
        assert len(shards(tmp_path)) == 1


def test_a_disk_that_never_keeps_what_was_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "verify", lambda self, rows: (_ for _ in ()).throw(Damaged("no")))
    with pytest.raises(UserError, match="not once read back"):
        FeatureStore(tmp_path).get(Letters(), ["ab"])


def test_no_other_item_suffers_where_only_unneeded_frames_are_damaged(tmp_path: Path) -> None:
    path = _fill(tmp_path)  # longest first: "ab" at 0, "c" behind it
    data = bytearray(path.read_bytes())
    data[8] ^= 1  # in "c"
    path.write_bytes(data)
    frontend = Letters(dim=2, dtype="float16")
    check(FeatureStore(tmp_path).get(frontend, ["ab"]), ["ab"], dim=2)
    assert frontend.extracted == []


def test_a_description_that_was_damaged_is_written_again(tmp_path: Path) -> None:
    _fill(tmp_path)
    (path,) = tmp_path.glob("features/*/frontend.json")
    text = path.read_text()
    path.write_text(text[:20])
    _fill(tmp_path)
    assert path.read_text() == text


# What cannot be stored faithfully is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "frames", "message"),
    [
        ("float32", np.zeros((2, 4)), r"gave an array of shape \(2, 4\); expected \[T, 3\]"),
        ("float32", np.zeros(3), r"shape \(3,\); expected \[T, 3\]"),
        ("float32", np.array([[1, np.nan, 0]]), "NaN or infinite"),
        ("float16", np.array([[1, 7e4, 0]]), r"value of 70000, too large for float16\n.*bfloat16"),
        ("bfloat16", np.array([[1, 3.4e38, 0]]), "too large for bfloat16"),
        ("int32", np.array([[1, 2.5, 0]]), "not 32-bit integers"),
        ("int32", np.array([[1, 2**40, 0]]), "not 32-bit integers"),
    ],
)
def test_frames_that_cannot_be_stored(tmp_path: Path, dtype: str, frames: np.ndarray, message: str) -> None:
    class Bad(Letters):
        def extract(self, items: Sequence[str]) -> list[np.ndarray]:
            return [frames for _ in items]

    with pytest.raises(UserError, match=message) as caught:
        FeatureStore(tmp_path).get(Bad(dtype=dtype), ["ab"])
    assert "text 'ab'" in str(caught.value)
    assert not shards(tmp_path)


def test_a_frontend_that_loses_items(tmp_path: Path) -> None:
    class Bad(Letters):
        def extract(self, items: Sequence[str]) -> list[np.ndarray]:
            return []

    with pytest.raises(UserError, match="gave 0 arrays; expected 2"):
        FeatureStore(tmp_path).get(Bad(), ["ab", "c"])


@pytest.mark.parametrize(("attribute", "value"), [("dtype", "float61"), ("kind", "tekst")])
def test_a_frontend_that_does_not_know_itself(tmp_path: Path, attribute: str, value: str) -> None:
    frontend = Letters()
    setattr(frontend, attribute, value)
    with pytest.raises(UserError, match="did you mean"):
        FeatureStore(tmp_path).get(frontend, ["ab"])


# Disks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "quota"), (errno.EACCES, "cannot write features")],
)
def test_full_and_unwritable_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str) -> None:
    FeatureStore(tmp_path).get(Letters(), ["x"])
    with monkeypatch.context() as patch:
        patch.setattr(shard.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
        with pytest.raises(UserError, match=rf"{message}(.|\n)*MER_CACHE"):
            FeatureStore(tmp_path).get(Letters(), ITEMS)
    assert len(shards(tmp_path)) == 1
    assert not list(tmp_path.rglob("_*"))
    check(FeatureStore(tmp_path).get(Letters(), ITEMS), ITEMS)


def test_nothing_has_its_name_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def replace(source: Path, target: Path) -> None:
        if target.suffix == ".frames":
            assert not target.exists()
            seen.append(source.read_bytes())
        os.rename(source, target)

    monkeypatch.setattr(shard.os, "replace", replace)
    FeatureStore(tmp_path, chunk=2).get(Letters(), ITEMS)
    assert sorted(seen) == sorted(path.read_bytes() for path in shards(tmp_path))
    assert len(seen) == 3


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The real thing: the kernel refuses the write."""

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(UserError, match="file too large"):
            FeatureStore(tmp_path).get(Letters(), ["x" * 10_000])

    assert _in_child(child) == 0
    assert not shards(tmp_path)
    assert not list(tmp_path.rglob("_*"))


def _in_child(work: object) -> int:
    """Exit status of a forked process; -9 where it was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            work()  # type: ignore[operator]
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "default"))


def test_the_default_root(tmp_path: Path) -> None:
    FeatureStore().get(Letters(), ["ab"])
    assert len(shards(tmp_path / "default")) == 1
