"""Ragged arrays: utterances of different lengths lie frame after frame in flat, memory-mapped arrays.

No padding is stored. A batch is gathered from the flat arrays when it is needed, padded to its longest utterance.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence as ListLike
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from mer.batch import Sequence

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

STORED: dict[str, type[np.generic]] = {
    "float16": np.float16,
    "bfloat16": np.uint16,  # numpy has no bfloat16: the bits are kept, see `to_bfloat16`
    "float32": np.float32,
    "int32": np.int32,
}
"""Element types of frames, and the numpy type that holds their bits."""

_SLICE_FROM = 4096
"""Elements per utterance from which copying slice by slice beats index arithmetic on the CPU (benchmarks/)."""


class Ragged:
    """N utterances of `lengths[n]` frames each, of width d (or plain numbers: token ids, samples).

    `Ragged(values [F, d] or [F], offsets int64 [N + 1])` is the plain case: utterance n is
    `values[offsets[n]:offsets[n + 1]]`. The feature store hands out arrays whose utterances lie in several files,
    in any order (`from_blocks`); everything but `values` and `offsets` works on them without a copy.

    >>> frames = Ragged(np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 2, 2, 3]))
    >>> len(frames), frames.dim, frames.lengths.tolist()
    (3, 2, [2, 0, 1])
    >>> frames.row(2)
    array([[4., 5.]], dtype=float32)
    """

    def __init__(self, values: Array, offsets: Array, *, dtype: str | None = None) -> None:
        offsets = np.asarray(offsets, dtype=np.int64)
        if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(values):
            raise ValueError(f"offsets must run from 0 to {len(values)}, the number of frames")
        lengths = np.diff(offsets)
        if (lengths < 0).any():
            raise ValueError("offsets must not decrease")
        self._set((values,), np.zeros(len(lengths), np.int64), offsets[:-1], lengths, dtype)

    @classmethod
    def from_blocks(
        cls, blocks: ListLike[Array], block: Array, starts: Array, lengths: Array, dtype: str | None = None
    ) -> Ragged:
        """Utterance n is `blocks[block[n]][starts[n]:starts[n] + lengths[n]]`."""
        made = cls.__new__(cls)
        made._set(tuple(blocks), block, starts, lengths, dtype)
        return made

    @classmethod
    def of(cls, arrays: ListLike[Array], dtype: str | None = None) -> Ragged:
        """From one array per utterance (copied)."""
        offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
        return cls(np.concatenate(list(arrays)), offsets, dtype=dtype)

    def _set(self, blocks: tuple[Array, ...], block: Array, starts: Array, lengths: Array, dtype: str | None) -> None:
        if not blocks:
            raise ValueError("a ragged array needs at least one block, if an empty one")
        self.blocks = blocks
        self.block = np.ascontiguousarray(block, dtype=np.int64)
        self.starts = np.ascontiguousarray(starts, dtype=np.int64)
        self.lengths: Rows = np.ascontiguousarray(lengths, dtype=np.int64)
        self.dtype = dtype or str(blocks[0].dtype)
        for values in blocks:
            if values.ndim not in (1, 2) or values.shape[1:] != blocks[0].shape[1:] or values.dtype != blocks[0].dtype:
                raise ValueError("blocks must be [F, d] or [F], alike in width and type")

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"Ragged({len(self)} utterances, {int(self.lengths.sum())} frames, dim {self.dim}, {self.dtype})"

    @property
    def dim(self) -> int:
        """Width d; 0 where a frame is a plain number."""
        return int(self.blocks[0].shape[1]) if self.blocks[0].ndim == 2 else 0

    @property
    def nbytes(self) -> int:
        """Bytes of all frames as stored."""
        return int(self.lengths.sum()) * max(1, self.dim) * self.blocks[0].itemsize

    @property
    def offsets(self) -> Rows:
        """`[N + 1]`: where each utterance begins in `values`."""
        found: Rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        return found

    @property
    def values(self) -> Array:
        """`[F, d]`: all frames in order, in the stored type. A copy unless they already lie so in one block."""
        offsets = self.offsets
        if len(self.blocks) == 1 and np.array_equal(self.starts[self.lengths > 0], offsets[:-1][self.lengths > 0]):
            whole: Array = self.blocks[0][: offsets[-1]]
            return whole
        return self.flat(np.arange(len(self)))

    def row(self, i: int) -> Array:
        """`[T, d]`: the frames of one utterance, as stored (a view; bfloat16 as its bits)."""
        start = self.starts[i]
        found: Array = self.blocks[self.block[i]][start : start + self.lengths[i]]
        return found

    def select(self, rows: Array) -> Ragged:
        """These utterances in this order; nothing is copied."""
        rows = np.asarray(rows)
        return Ragged.from_blocks(self.blocks, self.block[rows], self.starts[rows], self.lengths[rows], self.dtype)

    def flat(self, rows: Array, available: Array | None = None) -> Array:
        """`[sum of lengths, d]`: the frames of these utterances one after the other, as stored."""
        rows, lengths = self._resolve(rows, available)
        if not self._by_index(len(rows), lengths):
            places = zip(self.block[rows].tolist(), self.starts[rows].tolist(), lengths.tolist(), strict=True)
            empty = self.blocks[0][:0]
            return np.concatenate([empty, *(self._arrays[b][start : start + n] for b, start, n in places)])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        index = np.repeat(self.starts[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return np.take(self._arrays[0], index, axis=0)

    def gather(
        self,
        rows: Array,
        available: Array | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Sequence:
        """A padded batch `[n, T, d]` (`[n, T]` for plain numbers) and its mask `[n, T]`.

        T is the length of the longest utterance, at least 1. An utterance without frames, or with `available`
        False, has a mask row of all False. Padding is zero. Floating point comes as float32 and integers as int64
        unless `dtype` says otherwise.

        >>> frames = Ragged(np.arange(3, dtype=np.float16).reshape(3, 1), np.array([0, 2, 2, 3]))
        >>> batch = frames.gather(np.array([2, 0, 1]))
        >>> batch.values[..., 0].tolist(), batch.mask.tolist()
        ([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [[True, False], [True, True], [False, False]])
        """
        import torch

        from mer.batch import Sequence

        rows, lengths = self._resolve(rows, available)
        longest = max(1, int(lengths.max(initial=0)))
        width = self.blocks[0].shape[1:]
        dtype = dtype or _batch_dtype(self.dtype)
        values = torch.empty((len(rows), longest, *width), dtype=dtype)
        mask = torch.from_numpy(np.arange(longest) < lengths[:, None])
        if self._by_index(len(rows), lengths):
            self._copy_indexed(values, mask, rows)
        else:
            self._copy_slices(values, rows, lengths)
        batch = Sequence(values, mask)
        return batch if device is None else batch.to(device)

    def to(self, device: torch.device | str, share: float = 0.5) -> Ragged:
        """The same utterances, whose batches come out on `device`.

        Where the frames fit into `share` of a GPU's free memory they are copied there once and gathered there;
        otherwise, and on the CPU, they stay in the memory-mapped files.
        """
        import torch

        device = torch.device(device)
        if device.type == "cpu":
            return self
        if device.type == "cuda" and self.nbytes > share * torch.cuda.mem_get_info(device)[0]:
            return _HostRagged(self, device)
        return DeviceRagged(self, device)

    @cached_property
    def _arrays(self) -> list[Array]:
        return [block.view(np.ndarray) for block in self.blocks]  # slicing a memmap object is slow

    @cached_property
    def _tensors(self) -> list[torch.Tensor]:
        return [_tensor(block, self.dtype) for block in self.blocks]

    def _resolve(self, rows: Array, available: Array | None) -> tuple[Rows, Rows]:
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        return rows, lengths if available is None else np.where(np.asarray(available, bool), lengths, 0)

    def _by_index(self, n: int, lengths: Rows) -> bool:
        # Slice by slice costs a few microseconds per utterance; index arithmetic costs a pass over the batch to
        # gather it, one to convert it, one to clear the padding. Wide frames: slices are 4 to 6 times faster.
        return len(self.blocks) == 1 and int(lengths.sum()) * max(1, self.dim) < _SLICE_FROM * n

    def _copy_slices(self, values: torch.Tensor, rows: Rows, lengths: Rows) -> None:
        places = zip(self.block[rows].tolist(), self.starts[rows].tolist(), lengths.tolist(), strict=True)
        for n, (b, start, length) in enumerate(places):
            values[n, :length].copy_(self._tensors[b][start : start + length])
            values[n, length:].zero_()

    def _copy_indexed(self, values: torch.Tensor, mask: torch.Tensor, rows: Rows) -> None:
        import torch

        values.zero_()
        index = torch.from_numpy(self.starts[rows])[:, None] + torch.arange(mask.shape[1])
        values[mask] = self._tensors[0][index[mask]].to(values.dtype)


class DeviceRagged(Ragged):
    """A `Ragged` whose flat frames also lie on a device in their stored type; batches are gathered there.

    Lengths and places stay on the host, so that a gather never waits for the device.
    """

    def __init__(self, source: Ragged, device: torch.device | str) -> None:
        import torch

        self._set(source.blocks, source.block, source.starts, source.lengths, source.dtype)
        self.device = torch.device(device)
        values = _tensor(source.values, source.dtype)
        pad = torch.zeros((1, *values.shape[1:]), dtype=values.dtype)  # where padding points: never out of range
        self._flat = torch.cat([values, pad]).to(self.device)
        self._first = source.offsets[:-1]

    def gather(
        self,
        rows: Array,
        available: Array | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Sequence:
        """As `Ragged.gather`, bit for bit; the result is on this device unless `device` says otherwise."""
        import torch

        from mer.batch import Sequence

        rows, lengths = self._resolve(rows, available)
        longest = max(1, int(lengths.max(initial=0)))
        sent = torch.from_numpy(np.stack([self._first[rows], lengths])).to(self.device, non_blocking=True)
        position = torch.arange(longest, device=self.device)
        mask = position < sent[1][:, None]
        index = torch.where(mask, sent[0][:, None] + position, len(self._flat) - 1)
        batch = Sequence(self._flat[index].to(dtype or _batch_dtype(self.dtype)), mask)
        return batch if device is None else batch.to(device)

    def select(self, rows: Array) -> DeviceRagged:
        """These utterances in this order; the frames on the device are shared."""
        rows = np.asarray(rows)
        made = DeviceRagged.__new__(DeviceRagged)
        made._set(self.blocks, self.block[rows], self.starts[rows], self.lengths[rows], self.dtype)
        made.device, made._flat, made._first = self.device, self._flat, self._first[rows]
        return made


class _HostRagged(Ragged):
    """Frames that do not fit the device: gathered on the host, sent batch by batch."""

    def __init__(self, source: Ragged, device: torch.device | str) -> None:
        self._set(source.blocks, source.block, source.starts, source.lengths, source.dtype)
        self.device = device

    def select(self, rows: Array) -> _HostRagged:
        return _HostRagged(super().select(rows), self.device)

    def gather(
        self,
        rows: Array,
        available: Array | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Sequence:
        import torch

        found, to = super().gather(rows, available, None, dtype), device or self.device
        # From page-locked memory the copy goes on beside what the device computes.
        return found.pinned().to(to) if torch.device(to).type == "cuda" else found.to(to)


def to_bfloat16(values: Array) -> npt.NDArray[np.uint16]:
    """The bits of float32 values rounded to bfloat16, half to even, as torch does.

    >>> [hex(bits) for bits in to_bfloat16(np.array([1.0, -2.0, 1.00390625], np.float32)).tolist()]
    ['0x3f80', '0xc000', '0x3f80']
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _tensor(values: Array, dtype: str) -> torch.Tensor:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of memory that is read-only: frames are only ever read
        tensor = torch.from_numpy(values.view(np.int16) if dtype == "bfloat16" else values)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def _batch_dtype(dtype: str) -> torch.dtype:
    import torch

    return torch.int64 if dtype.startswith(("int", "uint")) else torch.float32
