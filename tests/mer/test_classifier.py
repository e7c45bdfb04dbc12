"""The classifier against the same network spelled out."""

from __future__ import annotations

import pytest
import torch

from mer import recipe
from mer.classifier import Classifier


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_equals_the_layers_one_by_one(activation: str) -> None:
    head = Classifier(5, 3, hidden=(7, 4), dropout=0.5, activation=activation).eval()
    act = {"relu": torch.relu, "gelu": torch.nn.functional.gelu, "tanh": torch.tanh}[activation]
    x = torch.randn(2, 5)
    expected = head.out(act(head.hidden[1](act(head.hidden[0](x)))))
    torch.testing.assert_close(head(x), expected)


def test_without_hidden_layers_it_is_linear() -> None:
    head = Classifier(5, 3, hidden=())
    assert {name for name, _ in head.named_parameters()} == {"out.weight", "out.bias"}


def test_takes_the_recipe_as_it_is() -> None:
    config = recipe.Classifier(hidden=(8,))
    assert Classifier(5, 3, **config.model_dump())(torch.randn(2, 5)).shape == (2, 3)
