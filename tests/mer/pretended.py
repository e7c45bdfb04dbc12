"""A device that is not there: tensors that claim one, and a record of all that a real one would be waited for.

Values are computed on the CPU. What claims the device says so (`meta` is the name that torch accepts of anything), and
a tensor made on the CPU that meets it, or a value that Python asks of it, is written down with the line it comes from.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense: "its value is asked for (.item(), int(), bool(), tolist())",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique2: "unique",
    aten.unique_consecutive: "unique_consecutive",
    aten.unique_dim: "unique",
    aten.bincount: "bincount looks for the largest",
    aten.equal: "equal",
    aten.is_nonzero: "bool()",
}
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class Pretended(Tensor):
    """A tensor that claims the device; what it holds lies on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        strided = held.layout == torch.strided
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride() if strided else None,
            storage_offset=held.storage_offset() if strided else None,
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    @property
    def layout(self) -> torch.layout:  # type: ignore[override]
        """torch has no wrapper of sparse tensors: they say what they are here, and are matrices to it."""
        return self.held.layout

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of `pretending`")


def claim(x: Tensor) -> Tensor:
    return x if isinstance(x, Pretended) else Pretended(x.detach())


def held(x: Any) -> Any:
    return x.held if isinstance(x, Pretended) else x


class Watch(TorchDispatchMode):
    """Runs what claims the device on the CPU, and writes down what a device would make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def note(self, what: str) -> None:
        here = [f for f in traceback.extract_stack() if "/mer/" in f.filename and "/tests/" not in f.filename]
        place = f"{Path(here[-1].filename).name}:{here[-1].lineno} {here[-1].line}" if here else "outside"
        self.waits.append(f"{what} at {place}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        flat: list[Tensor] = []
        tree_map(lambda x: flat.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
        there = [x for x in flat if isinstance(x, Pretended)]
        asked = kwargs.get("device")
        on_device = bool(there) if asked is None else torch.device(asked) == DEVICE
        if asked is not None and on_device:
            kwargs["device"] = torch.device("cpu")
        if packet is aten._to_copy and asked is not None:
            if there and not on_device:
                self.note("copied to the host")
            elif not there and on_device and not kwargs.get("non_blocking"):
                self.note("copied to the device, blocking")
        elif packet is aten.copy_:
            if len(there) == 1 and not (args[2:3] == (True,) or kwargs.get("non_blocking")):
                self.note("copied between host and device, blocking")
        elif there:
            if packet in WAITS:
                self.note(WAITS[packet])
            elif packet is aten.repeat_interleave and kwargs.get("output_size") is None:
                self.note("repeat_interleave without its size")
            elif packet in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1]):
                self.note("indexed by a mask")
            for x in flat:
                if not isinstance(x, Pretended) and x.dim():
                    self.note(f"made on the CPU, {tuple(x.shape)}, meets the device in {packet}")
        out = func(*tree_map(held, args), **tree_map(held, kwargs))
        if not on_device:
            return out
        known = {id(held(x)): x for x in there}  # what works in place gives back what it was given
        return tree_map(lambda x: (known[id(x)] if id(x) in known else claim(x)) if isinstance(x, Tensor) else x, out)


@contextmanager
def pretending() -> Iterator[Watch]:
    """Within it, what `send` has sent claims the device."""
    patch = pytest.MonkeyPatch()
    watch = Watch()

    def from_values(make: Any) -> Any:
        def made(values: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if device is None or torch.device(device) != DEVICE or isinstance(values, Pretended):
                return make(values, *args, device=device, **kwargs)  # type: ignore[no-any-return]
            watch.note("copied to the device from Python's values, blocking")
            return claim(make(values, *args, **kwargs))

        return made

    def tolist(x: Pretended) -> Any:
        watch.note("tolist")
        return x.held.tolist()

    for name in ("tensor", "as_tensor"):
        patch.setattr(torch, name, from_values(getattr(torch, name)))
    patch.setattr(Pretended, "tolist", tolist)
    plain = torch.autocast
    patch.setattr(
        torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == DEVICE.type else plain(kind, *a, **k)
    )
    enabled = torch.is_autocast_enabled
    patch.setattr(torch, "is_autocast_enabled", lambda kind=None: kind != DEVICE.type and enabled(kind or "cpu"))
    try:
        with watch:
            yield watch
    finally:
        patch.undo()


def send(module: nn.Module) -> nn.Module:
    """Make a module's parameters and buffers claim the device."""
    for part in module.modules():
        for name, x in part._parameters.items():
            if x is not None:
                part._parameters[name] = nn.Parameter(claim(x.data), x.requires_grad)
        for name, x in part._buffers.items():
            if x is not None:
                part._buffers[name] = claim(x)
    return module
