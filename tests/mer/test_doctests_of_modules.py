"""The examples in the docstrings of layers, fusions, poolings, contexts, losses, metrics and contracts run."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch

MODULES = (
    "mer.layers",
    "mer.bundle.declared",
    "mer.bundle.dropout",
    "mer.fusion.base",
    "mer.fusion.simple",
    "mer.fusion.cross_attention",
    "mer.fusion.mer_vn",
    "mer.fusion.gate",
    "mer.fusion.tacfn",
    "mer.pooling",
    "mer.context",
    "mer.classifier",
    "mer.losses",
    "mer.metrics",
    "mer.contracts.report",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    torch.manual_seed(0)
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0
