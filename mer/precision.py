"""Devices by name, mixed precision as a recipe names it, and where single precision is the least that will do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from mer.errors import UserError

_asked: ContextVar[torch.device | None] = ContextVar("asked", default=None)


def default_device() -> torch.device:
    """Where nothing else is asked for: a GPU if there is one."""
    return _asked.get() or torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def default_is(device: torch.device | str) -> Iterator[None]:
    """Inside, `default_device` is this one: frozen bodies, which no model holds, compute where their model does."""
    before = _asked.set(torch.device(device))
    try:
        yield
    finally:
        _asked.reset(before)


def find_device(name: str | None) -> torch.device:
    """`cpu`, `cuda`, `cuda:1`; `auto` or None: a GPU if there is one.

    >>> find_device("cpu")
    device(type='cpu')
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name in (None, "auto"):
        return default_device()
    known = ["cpu", *(["cuda"] if there else []), *(f"cuda:{number}" for number in range(there))]
    if name not in known:
        raise UserError(f"device {name!r}", expected=f"auto, or one of what is here: {', '.join(known)}")
    return torch.device(name)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision for a recipe's `precision`; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def lowered(x: Tensor) -> Tensor:
    """What autocast would make of a product's operand: `x` in the lower precision, where there is autocast around."""
    if not torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


def wide(x: Tensor) -> Tensor:
    """At least single precision: float64 stays what it is, everything else becomes float32.

    For sums over edges, similarities, integration and losses.

    >>> wide(torch.zeros(1, dtype=torch.bfloat16)).dtype, wide(torch.zeros(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return x if x.dtype == torch.float64 else x.float()
