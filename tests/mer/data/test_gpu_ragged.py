"""On a GPU: frames that live there make the batches that they make on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mer.data.ragged import DeviceRagged, Ragged, to_bfloat16

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_batches_are_the_same(share: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((length, 4)).astype(np.float32) for length in (5, 0, 3, 7)]
    ragged = Ragged.of([to_bfloat16(array) for array in arrays] if dtype == "bfloat16" else arrays, dtype=dtype)
    there = ragged.to("cuda", share)
    assert isinstance(there, DeviceRagged) == (share > 0)
    rows, available = np.array([3, 1, 0, 3, 2]), np.array([True, True, False, True, True])
    wanted, found = ragged.gather(rows, available), there.gather(rows, available)
    assert found.values.is_cuda
    assert torch.equal(found.values.cpu(), wanted.values)
    assert torch.equal(found.mask.cpu(), wanted.mask)
