"""Where single precision is the least that will do: sums over edges, similarities, integration, losses."""

from __future__ import annotations

from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """At least single precision: float64 stays what it is, everything else becomes float32.

    >>> import torch
    >>> wide(torch.zeros(1, dtype=torch.bfloat16)).dtype, wide(torch.zeros(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return x if x.dtype.itemsize == 8 and x.is_floating_point() else x.float()
