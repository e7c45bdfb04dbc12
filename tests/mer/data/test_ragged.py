"""Ragged arrays against a loop over utterances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mer.data.ragged
from mer.data.ragged import DeviceRagged, Ragged, _HostRagged, to_bfloat16


def _random(rng: np.random.Generator, lengths: list[int], dim: int, dtype: str, blocks: int) -> Ragged:
    """Utterances scattered over blocks in random order, with frames between them that belong to nobody."""
    shape = (dim,) if dim else ()
    places, parts, sizes = [], [[] for _ in range(blocks)], [0] * blocks
    for length in lengths:
        b = int(rng.integers(blocks))
        gap = int(rng.integers(3))
        if dtype == "int32":
            frames = rng.integers(-9, 9, (gap + length, *shape)).astype(np.int32)
        else:
            frames = rng.standard_normal((gap + length, *shape)).astype(np.float32)
            frames = to_bfloat16(frames) if dtype == "bfloat16" else frames.astype(dtype)
        parts[b].append(frames)
        places.append((b, sizes[b] + gap, length))
        sizes[b] += gap + length
    stored = np.uint16 if dtype == "bfloat16" else np.dtype(dtype)
    flat = [np.concatenate([np.zeros((0, *shape), stored), *part]) for part in parts]
    table = np.array(places, dtype=np.int64).reshape(len(lengths), 3)
    return Ragged.from_blocks(flat, table[:, 0], table[:, 1], table[:, 2], dtype)


def _as_torch(frames: np.ndarray, dtype: str) -> torch.Tensor:
    frames = np.array(frames)
    if dtype == "bfloat16":
        return torch.from_numpy(frames.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(frames)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    dim=st.sampled_from([0, 1, 3, 1000]),
    dtype=st.sampled_from(["float16", "bfloat16", "float32", "int32"]),
    blocks=st.integers(1, 3),
    masked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_gather_is_a_loop_over_utterances(
    lengths: list[int], dim: int, dtype: str, blocks: int, masked: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ragged = _random(rng, lengths, dim, dtype, blocks)
    rows = rng.integers(0, len(lengths), rng.integers(1, 12))
    available = rng.random(len(rows)) < 0.6 if masked else None

    kept = [lengths[r] if available is None or available[n] else 0 for n, r in enumerate(rows)]
    wanted = torch.zeros((len(rows), max(1, *kept, 1), *((dim,) if dim else ())), dtype=torch.float64)
    for n, r in enumerate(rows):
        wanted[n, : kept[n]] = _as_torch(ragged.row(r), dtype)[: kept[n]].double()

    for source in (ragged, DeviceRagged(ragged, "cpu"), _HostRagged(ragged, "cpu")):
        batch = source.gather(rows, available)
        assert batch.values.dtype == (torch.int64 if dtype == "int32" else torch.float32)
        assert batch.values.shape == wanted.shape
        assert torch.equal(batch.values.double(), wanted)
        assert batch.mask.sum(1).tolist() == kept
        assert (batch.mask == (torch.arange(wanted.shape[1]) < torch.tensor(kept)[:, None])).all()

    flat = ragged.flat(rows, available)
    np.testing.assert_array_equal(flat, np.concatenate([ragged.row(r)[: kept[n]] for n, r in enumerate(rows)]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(1, 3), st.integers(0, 999))
def test_values_and_offsets_agree_with_rows(lengths: list[int], blocks: int, seed: int) -> None:
    ragged = _random(np.random.default_rng(seed), lengths, 2, "float32", blocks)
    assert ragged.lengths.tolist() == lengths
    for i, frames in enumerate(np.split(ragged.values, ragged.offsets[1:-1])):
        np.testing.assert_array_equal(frames, ragged.row(i))
    again = Ragged(ragged.values, ragged.offsets)
    assert again.values.base is not None or len(again.values) == 0  # no copy in the plain case


def test_slices_and_indices_give_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    ragged = _random(np.random.default_rng(0), [5, 0, 3, 7], 4, "float16", 1)
    rows, available = np.array([3, 1, 0, 3, 2]), np.array([True, True, False, True, True])
    monkeypatch.setattr(mer.data.ragged, "_SLICE_FROM", 0)
    sliced = ragged.gather(rows, available)
    monkeypatch.setattr(mer.data.ragged, "_SLICE_FROM", 10**9)
    indexed = ragged.gather(rows, available)
    assert torch.equal(sliced.values, indexed.values)
    assert torch.equal(sliced.mask, indexed.mask)


def test_on_the_cpu_frames_stay_where_they_are() -> None:
    ragged = _random(np.random.default_rng(0), [5, 0, 3, 7], 4, "float16", 2)
    assert ragged.to("cpu") is ragged
    assert ragged.nbytes == 15 * 4 * 2


def test_literal_batch() -> None:
    ragged = Ragged.of([np.array([[1.0, 2.0]]), np.zeros((0, 2)), np.array([[3.0, 4.0], [5.0, 6.0]])])
    batch = ragged.gather(np.array([0, 2, 1]))
    assert batch.values.tolist() == [[[1, 2], [0, 0]], [[3, 4], [5, 6]], [[0, 0], [0, 0]]]
    assert batch.mask.tolist() == [[True, False], [True, True], [False, False]]
    assert batch.present.tolist() == [True, True, False]


def test_a_batch_without_any_frame_still_has_one_position() -> None:
    ragged = Ragged(np.zeros((0, 3), np.float16), np.array([0, 0]))
    for source in (ragged, DeviceRagged(ragged, "cpu"), _HostRagged(ragged, "cpu")):
        batch = source.gather(np.array([0, 0]))
        assert batch.values.shape == (2, 1, 3)
        assert not batch.mask.any()
        assert not batch.values.any()


def test_select_reorders_without_copying() -> None:
    ragged = Ragged.of([np.array([1, 2]), np.array([3]), np.array([4, 5])], dtype="int32")
    chosen = ragged.select(np.array([2, 0]))
    assert chosen.row(0).tolist() == [4, 5]
    assert np.shares_memory(chosen.row(0), ragged.row(2))
    assert chosen.values.tolist() == [4, 5, 1, 2]


def test_bfloat16_bits_are_those_of_torch() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [rng.standard_normal(5000) * 10.0 ** rng.integers(-30, 30, 5000), [0.0, -0.0, np.inf, -np.inf, 3.39e38]]
    ).astype(np.float32)
    wanted = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(to_bfloat16(values), wanted)
    assert torch.from_numpy(to_bfloat16(np.array([np.nan], np.float32)).view(np.int16)).view(torch.bfloat16).isnan()


def test_a_memory_mapped_file_is_gathered_without_a_warning(tmp_path, recwarn) -> None:  # type: ignore[no-untyped-def]
    np.arange(12, dtype=np.float16).tofile(tmp_path / "frames")
    for mode in ("r", "c"):
        mapped = np.memmap(tmp_path / "frames", dtype=np.float16, mode=mode, shape=(4, 3))
        batch = Ragged(mapped, np.array([0, 1, 4])).gather(np.array([1]))
        assert batch.values[0, 2].tolist() == [9, 10, 11]
    assert not recwarn.list


@pytest.mark.parametrize("offsets", [[0, 2], [1, 3], [0, 2, 1, 3], []])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        Ragged(np.zeros((3, 1)), np.array(offsets))


def test_a_selection_on_a_device_shares_the_frames() -> None:
    frames = Ragged(np.arange(12, dtype=np.float32).reshape(6, 2), np.array([0, 2, 2, 3, 6]))
    whole = DeviceRagged(frames, "cpu")
    part = whole.select(np.array([3, 0, 1]))
    assert part._flat is whole._flat
    one, other = part.gather(np.array([2, 1, 0])), frames.select(np.array([3, 0, 1])).gather(np.array([2, 1, 0]))
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.mask, other.mask)
    again = part.select(np.array([1]))
    assert again.gather(np.array([0])).values.tolist() == [[[0.0, 1.0], [2.0, 3.0]]]
