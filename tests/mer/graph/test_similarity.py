"""Learned edges: pruned, within dialogues, continuous at the cut."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mer.batch import Dialogues
from mer.graph.edges import Layout, layout
from mer.graph.similarity import SimilarityEdges


def packed(lengths: tuple[int, ...]) -> Layout:
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return layout(Dialogues(index, torch.zeros_like(index), torch.arange(float(len(index)))))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("neighbours", [1, 3, 50])
def test_weights_equal_the_definition_in_loops(causal: bool, neighbours: int) -> None:
    torch.manual_seed(0)
    graph = packed((7, 1, 12))
    heard = torch.rand(graph.size) < 0.8
    layer = SimilarityEdges(6, neighbours=neighbours, causal=causal, chunk=5).requires_grad_(False)
    h = torch.randn(graph.size, 6)
    edges = layer(h, graph, heard)
    weight = torch.zeros(graph.size, graph.size)
    weight[edges.index[1], edges.index[0]] = edges.weight
    query, key = F.normalize(layer.query(h), dim=-1), F.normalize(layer.key(h), dim=-1)
    expected = torch.zeros_like(weight)
    for i in range(graph.size):
        candidates = [
            j
            for j in range(graph.size)
            if graph.dialogue[i] == graph.dialogue[j] and i != j and heard[j] and (j < i or not causal)
        ]
        scores = sorted(((float(query[i] @ key[j]), j) for j in candidates), reverse=True)
        cut = max(0.0, scores[neighbours][0]) if len(scores) > neighbours else 0.0
        strengths = {j: layer.log_gamma.exp().item() * max(0.0, s - cut) for s, j in scores[:neighbours]}
        for j, strength in strengths.items():
            expected[i, j] = strength / (1 + sum(strengths.values()))
    torch.testing.assert_close(weight, expected)
    assert expected.any()


def test_a_tie_at_the_cut_carries_no_weight() -> None:
    layer = SimilarityEdges(4, neighbours=1)
    h = torch.randn(1, 4).expand(3, 4).contiguous()  # three utterances that say the same
    edges = layer(h, packed((3,)), torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(edges.weight, torch.zeros(3), atol=1e-5, rtol=0)


def test_gradients_reach_keys_queries_and_strength() -> None:
    layer = SimilarityEdges(6, neighbours=3)
    edges = layer(torch.randn(12, 6), packed((12,)), torch.ones(12, dtype=torch.bool))
    edges.weight.pow(2).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
