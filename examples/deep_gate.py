"""A fusion of one's own: the class, its contract, and its row in a table.

    mer contract examples.deep_gate:DeepGate
    python examples/deep_gate.py

From YAML it is named the same way: `fusion: "examples.deep_gate:DeepGate"`.
"""

from __future__ import annotations

import torch
from torch import nn

from mer.batch import Batch, Fused, Sequence
from mer.fusion.base import Fusion, means, presence
from mer.layers import Dropout, masked_softmax


class DeepGate(Fusion):
    """A gate from all modalities at once decides how much of each goes into the fused vector.

    Equation:
        w = softmax over present m of MLP([p_1; ...; p_M])_m,   p_m = mean_t(x_m)
        F = sum_m w_m p_m

    Shapes: `[B, T_m, D]` each `-> [B, 1, D]`, and `weights [B, M]` for analysis.

    Args:
        hidden: width of the MLP's hidden layer.
        dropout: on that layer.
    """

    def __init__(self, modalities: tuple[str, ...], dim: int, *, hidden: int = 64, dropout: float = 0.1) -> None:
        super().__init__(modalities, dim)
        self.gate = None  # one modality alone always weighs 1: a gate would never get a gradient
        if len(modalities) > 1:
            widths = dim * len(modalities), hidden, len(modalities)
            self.gate = nn.Sequential(
                nn.Linear(widths[0], widths[1]), nn.ReLU(), Dropout(dropout), nn.Linear(widths[1], widths[2])
            )

    def forward(self, batch: Batch) -> Fused:
        parts = self.sequences(batch)  # zeros where a mask is False
        pooled, present = means(parts), presence(parts)  # [B, M, D], [B, M]
        scores = torch.zeros_like(pooled[:, :, 0]) if self.gate is None else self.gate(pooled.flatten(1))
        weights = masked_softmax(scores, present)
        fused = (weights.unsqueeze(-1) * pooled).sum(dim=1, keepdim=True)
        return Fused(Sequence(fused, present.any(1, keepdim=True)), {"weights": weights.detach()})


SPACE = """\
base:
  encoders: {text: words, audio: logmel}
  projection.dim: 32
  training.epochs: 4
factors:
  fusion: [{name: concat, layers: 0, label: concat}, "examples.deep_gate:DeepGate"]
studies: 3
contrasts: [fusion]
"""


def main() -> None:
    from pathlib import Path

    from experiments import Ledger, execute, load_run, make_plan

    Path("deep_gate.yaml").write_text(SPACE, encoding="utf-8")
    execute(make_plan("deep_gate.yaml"), Ledger("results"), executor="inline", progress=False)
    run = load_run("results/deep_gate")
    print(run.pivot("fusion", statistic="mean").round(3).to_string())
    found = run.compare("examples.deep_gate:DeepGate", "concat")
    print(f"difference {100 * found.mean:+.1f} points, 95 % CI {100 * found.low:.1f} to {100 * found.high:.1f}")


if __name__ == "__main__":
    main()
