"""The head: a multi-layer perceptron from the pooled utterance to the logits of the classes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from mer.layers import ACTIVATIONS, Dropout


class Classifier(nn.Module):
    """`logits = W_n drop(act(... drop(act(W_1 x + b_1)))) + b_n`, `[B, D] -> [B, C]`.

    With `hidden=()` it is multinomial logistic regression on the pooled vector. MER-VN uses `(256, 128)`, the fusion
    pipeline `(256,)`. Takes the fields of `mer.recipe.Classifier`.

    >>> import torch
    >>> tuple(Classifier(8, 4, hidden=(16, 16))(torch.randn(3, 8)).shape)
    (3, 4)
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        hidden: Sequence[int] = (64,),
        dropout: float = 0.1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        widths = [dim, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.out = nn.Linear(widths[-1], num_classes)
        self.dropout, self.activation = Dropout(dropout), ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.hidden:
            x = self.dropout(self.activation(linear(x)))
        logits: Tensor = self.out(x)
        return logits
