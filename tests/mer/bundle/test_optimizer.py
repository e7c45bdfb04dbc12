"""Updates of a bundle against `torch.optim`, member by member."""

from __future__ import annotations

import pytest
import torch

from mer.bundle.optimizer import BundleOptimizer

COLUMNS = [slice(0, 2), slice(2, 3), slice(3, 5)]
KIND = [0, 0, 1]
DECAY = [[0.1, 0.0], [0.0, 0.3], [0.5, 0.5]]
RATES = [[0.1, 0.02], [0.01, 0.01], [0.3, 0.1]]
CLIP = [1.0, 0.0, 0.1]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_each_row_as_torch_would(name: str, fused: bool) -> None:
    torch.manual_seed(0)
    flat = torch.randn(3, 5, dtype=torch.float64)
    single = [[torch.nn.Parameter(flat[i, columns].clone()) for columns in COLUMNS] for i in range(3)]
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    references = []
    for i in range(3):
        groups = [
            {"params": [p], "lr": RATES[i][g], "weight_decay": DECAY[i][g]}
            for g, p in zip(KIND, single[i], strict=True)
        ]
        references.append(torch.optim.SGD(groups, momentum=0.9) if name == "sgd" else kinds[name](groups))
    optimizer = BundleOptimizer(name, flat, [COLUMNS[:2], COLUMNS[2:]], DECAY, CLIP, fused=fused)
    rates = torch.tensor(RATES, dtype=torch.float64)
    for step in range(6):
        active = [True, step not in (1, 4), step < 5]
        grad = torch.randn(3, 5, dtype=torch.float64)
        for i in range(3):
            if active[i]:
                for p, columns in zip(single[i], COLUMNS, strict=True):
                    p.grad = grad[i, columns].clone()
                if CLIP[i]:
                    torch.nn.utils.clip_grad_norm_(single[i], CLIP[i])
                references[i].step()
        optimizer.step([grad[:, columns].clone() for columns in COLUMNS], rates, active)
        expected = torch.stack([torch.cat([p.detach() for p in own]) for own in single])
        torch.testing.assert_close(flat, expected, rtol=1e-12, atol=1e-12)
