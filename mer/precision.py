"""Mixed precision as a recipe names it, and where single precision is the least that will do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision for a recipe's `precision`; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def wide(x: Tensor) -> Tensor:
    """At least single precision: float64 stays what it is, everything else becomes float32.

    For sums over edges, similarities, integration and losses.

    >>> wide(torch.zeros(1, dtype=torch.bfloat16)).dtype, wide(torch.zeros(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return x if x.dtype == torch.float64 else x.float()
