"""On a GPU every fusion agrees with the CPU and trains in bf16 and fp16."""

from __future__ import annotations

import pytest
import torch

from mer import fusion
from mer.contracts.checks import with_padding
from mer.contracts.subjects import subjects
from mer.layers import set_generator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda"


@pytest.mark.parametrize("name", fusion.LEVELS)
def test_agrees_with_the_cpu(name: str) -> None:
    subject = subjects(name, "fusion", {"modality": "text"} if name == "none" else {})[-1]
    module, batch = subject.build().eval(), subject.batch()
    expected = subject.call(module, batch).rows
    found = subject.call(module.to(DEVICE), batch.to(DEVICE)).rows
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, atol=5e-3, rtol=5e-3)  # cuDNN's LSTMs may use TF32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in fusion.LEVELS if name != "none"])
def test_trains_in_half_precision(name: str, dtype: torch.dtype) -> None:
    subject = subjects(name, "fusion", {})[-1]
    module = subject.build().to(DEVICE)
    set_generator(module, torch.Generator(DEVICE).manual_seed(0))
    batch = with_padding(subject.batch(), float("nan")).to(DEVICE)
    with torch.autocast(DEVICE, dtype):
        outcome = subject.call(module, batch)
    assert all(torch.isfinite(row).all() for row in outcome.rows)
    loss = sum(row.float().square().mean() for row in outcome.rows if len(row)) + outcome.losses.float()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
