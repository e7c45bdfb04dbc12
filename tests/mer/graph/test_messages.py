"""Message passing against loops and against torch-geometric's own relational convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import RGCNConv

from mer.batch import Dialogues
from mer.graph.edges import RELATIONS, Layout, layout, window_edges
from mer.graph.messages import Adjacency, DialogueGraph, RelationalMean, WeightedSum, adjacency
from mer.graph.similarity import WeightedEdges


def packed(lengths: tuple[int, ...] = (6, 1, 4)) -> Layout:
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    speaker = torch.randint(0, 2, index.shape, generator=torch.Generator().manual_seed(1))
    return layout(Dialogues(index, speaker, torch.arange(float(len(index)))))


def test_means_equal_a_loop_over_targets() -> None:
    graph = packed()
    edges = window_edges(graph, 3, 2)
    x = torch.randn(graph.size, 5)
    means = RelationalMean()(x, adjacency(edges, graph.size))
    for relation in range(len(RELATIONS)):
        for target in range(graph.size):
            into = (edges.relation == relation) & (edges.index[1] == target)
            sources = edges.index[0][into]
            expected = x[sources].mean(0) if len(sources) else torch.zeros(5)
            torch.testing.assert_close(means[relation, target], expected)


def test_relational_sum_equals_rgcn_of_torch_geometric() -> None:
    graph = packed()
    edges = window_edges(graph, None, None)
    reference = RGCNConv(5, 7, len(RELATIONS), aggr="mean")
    x = torch.randn(graph.size, 5)
    means = RelationalMean()(x, adjacency(edges, graph.size))
    ours = x @ reference.root + reference.bias + torch.einsum("rnd,rde->ne", means, reference.weight)
    torch.testing.assert_close(ours, reference(x, edges.index, edges.relation))


def test_gradient_is_that_of_the_dense_product() -> None:
    graph = packed()
    matrix = adjacency(window_edges(graph, 2, 4), graph.size, torch.float64)
    x = torch.randn(graph.size, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: RelationalMean()(value, matrix), (x,))
    torch.testing.assert_close(matrix.backward.to_dense(), matrix.forward.to_dense().T)


def test_memory_is_linear_in_edges() -> None:
    """Everything that a graph holds counts edges or nodes times relations; the width of the nodes is not in it."""

    def numbers(length: int) -> tuple[int, int]:
        graph = packed((length,))
        edges = window_edges(graph, None, None)
        matrix: Adjacency = adjacency(edges, graph.size)
        parts = [edges.index, edges.relation, edges.bounds]
        for sparse in (matrix.forward, matrix.backward):
            parts += [sparse.crow_indices(), sparse.col_indices(), sparse.values()]
        return edges.count, sum(part.numel() for part in parts) - 3 * length * (len(RELATIONS) + 1)

    for length in (10, 50, 100):
        edges, held = numbers(length)
        assert edges == length * (length - 1)
        assert held <= 7 * edges + 2


@pytest.mark.parametrize("width", [4, 32])
def test_what_a_step_keeps_grows_with_edges_and_not_with_edges_times_width(width: int) -> None:
    """Numbers held for the backward pass, at windows of 1 and of the whole dialogue: a few more per further edge."""
    torch.manual_seed(0)
    options = {"layers": 1, "dropout": 0.0, "similarity": False, "neighbours": 1}
    x, kept, edges = torch.randn(80, width, requires_grad=True), [], []
    for window in (1, None):
        torch.manual_seed(0)
        network = DialogueGraph(width, past=window, future=window, **options)
        graph = network.window(packed((80,)), torch.ones(80, dtype=torch.bool), torch.float32)
        matrix, held = graph.matrix, {}
        for sparse in (matrix.forward, matrix.backward):
            for part in (sparse.crow_indices(), sparse.col_indices(), sparse.values()):
                held[part.data_ptr()] = part.numel()

        def keep(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            if tensor.layout == torch.strided:
                held[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(x, graph).sum()
        kept.append(sum(held.values()))
        edges.append(graph.edges.count)
    assert kept[1] - kept[0] <= 5 * (edges[1] - edges[0])


def test_weighted_sum_of_literal_values() -> None:
    x = torch.tensor([[1.0], [10.0], [100.0]])
    edges = WeightedEdges(torch.tensor([[0, 1, 2], [2, 2, 0]]), torch.tensor([0.5, 0.25, 2.0]))
    assert WeightedSum()(x, edges).tolist() == [[200.0], [0.0], [3.0]]


def test_half_precision_gives_single_precision_sums() -> None:
    graph = packed()
    matrix = adjacency(window_edges(graph), graph.size)
    x = torch.randn(graph.size, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = RelationalMean()(x, matrix)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, RelationalMean()(x.float(), matrix))
