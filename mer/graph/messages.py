"""Message passing over typed dialogue edges: the mean of each relation's sources, by one sparse product.

A pair (relation, target) is treated as a target of its own, so the mean over a relation is an ordinary mean
aggregation and all relations are one product `[R N, N] @ [N, D]`. Nothing of size edges × width ever exists: memory
is a few numbers an edge, and the time on a CPU is a tenth of gathering and scattering.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from mer.graph.edges import RELATIONS, Edges, Layout, on_host, window_edges
from mer.graph.similarity import SimilarityEdges, WeightedEdges
from mer.layers import Dropout
from mer.precision import wide

with warnings.catch_warnings():
    # torch calls its CSR tensors beta, once per process; what is used of them here is covered by tests.
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor(torch.zeros(2, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0), (1, 1))


@dataclass(frozen=True, slots=True)
class Adjacency:
    """`forward [R N, N]` averages the sources of each (relation, target); `backward` is its transpose."""

    forward: Tensor
    backward: Tensor

    @property
    def nodes(self) -> int:
        return self.forward.shape[1]


def adjacency(
    edges: Edges, nodes: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Adjacency:
    """Both sparse matrices of a set of edges, each value 1 / (number of edges of its relation and target).

    What they consist of is computed where the edges are, and then lies on `device`.
    """
    device = edges.bounds.device if device is None else device
    counts = edges.bounds.diff()
    value = torch.repeat_interleave(1.0 / counts.clamp(min=1).to(dtype), counts, output_size=edges.count)
    rows = counts.numel()
    order = torch.argsort(edges.index[0], stable=True)
    slot = edges.relation * nodes + edges.index[1]
    bounds = torch.zeros(nodes + 1, dtype=torch.long, device=value.device)
    torch.cumsum(torch.bincount(edges.index[0], minlength=nodes), 0, out=bounds[1:])
    forward = _sparse(edges.bounds, edges.index[0], value, (rows, nodes), device)
    backward = _sparse(bounds, slot[order], value[order], (nodes, rows), device)
    return Adjacency(forward, backward)


def _sparse(bounds: Tensor, columns: Tensor, value: Tensor, shape: tuple[int, int], device: torch.device) -> Tensor:
    bounds, columns, value = (x.to(device, non_blocking=True) for x in (bounds, columns, value))
    return torch.sparse_csr_tensor(bounds, columns, value, shape, check_invariants=False)


class _Product(torch.autograd.Function):
    """`forward @ x`, with the transpose at hand so that no backward pass has to build it."""

    @staticmethod
    def forward(ctx: Any, forward: Tensor, backward: Tensor, x: Tensor) -> Tensor:
        ctx.backward_matrix = backward
        return forward @ x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.backward_matrix @ gradient.contiguous()


class RelationalMean(MessagePassing):  # type: ignore[misc]
    """`[N, D] -> [R, N, D]`: for every node and relation, the mean over the nodes it hears. fp32 throughout.

    Cost: edges × D multiplications, R × N × D memory.
    """

    def __init__(self) -> None:
        super().__init__(aggr="mean")

    def forward(self, x: Tensor, matrix: Adjacency) -> Tensor:
        # Sums in half precision would depend on the order of a dialogue's edges.
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.propagate(matrix.forward, x=(wide(x), None), transpose=matrix.backward)
        return out.view(-1, matrix.nodes, x.shape[-1])

    def message_and_aggregate(self, adj_t: Tensor, x: tuple[Tensor, None], transpose: Tensor) -> Tensor:
        out: Tensor = _Product.apply(adj_t, transpose, x[0])  # type: ignore[no-untyped-call]
        return out


class WeightedSum(MessagePassing):  # type: ignore[misc]
    """`[N, D] -> [N, D]`: the sum of sources weighted by learned weights; few edges, gradients reach the weights."""

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, x: Tensor, edges: WeightedEdges) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.propagate(edges.index, x=wide(x), weight=edges.weight, size=(len(x), len(x)))
        return out

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return weight.unsqueeze(-1) * x_j


@dataclass(frozen=True, slots=True)
class Graph:
    """One batch's graph as the layers use it.

    heard       `[N]` bool: who is heard; an utterance of which nothing is available has nothing to say
    similarity  None before they are found, and where learned edges are switched off
    host        packed and heard where Python can look at them
    """

    packed: Layout
    heard: Tensor
    edges: Edges
    matrix: Adjacency
    similarity: WeightedEdges | None = None
    host: tuple[Layout, Tensor] | None = None


class RelationalLayer(nn.Module):
    """`h + dropout(gelu(W0 h' + sum_r Wr mean_r(h') + Ws sum_j w_ij h'_j))` with `h' = LN(h)`.

    The relational convolution of R-GCN (Schlichtkrull et al., 2018) as DialogueGCN uses it, pre-norm and residual.

    Shapes: `[N, D] -> [N, D]`. Cost: (R + 2) D² multiplications an utterance.
    """

    def __init__(self, dim: int, *, dropout: float, similarity: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.own = nn.Linear(dim, dim)
        self.relations = nn.Parameter(torch.empty(len(RELATIONS), dim, dim))
        nn.init.uniform_(self.relations, -(dim**-0.5), dim**-0.5)
        self.similar = nn.Linear(dim, dim, bias=False) if similarity else None
        self.mean, self.sum = RelationalMean(), WeightedSum()
        self.dropout = Dropout(dropout)

    def forward(self, h: Tensor, graph: Graph) -> Tensor:
        x = self.norm(h)
        out = self.own(x)
        if graph.edges.count:
            for mean, weight in zip(self.mean(x, graph.matrix), self.relations, strict=True):
                out = out + mean @ weight
        if self.similar is not None and graph.similarity is not None:
            out = out + self.similar(self.sum(x, graph.similarity))
        result: Tensor = h + self.dropout(nn.functional.gelu(out))
        return result


class DialogueGraph(nn.Module):
    """Builds a batch's graph and passes messages over it: the graph part of CADGL and the level `context: graph`.

    Args:
        dim: width of the nodes.
        past, future: the window, in utterances; None: the whole dialogue. `future=0` reads nothing that is yet to
            be said, similarity edges included.
        layers: rounds of message passing.
        similarity: learned edges, pruned to the `neighbours` most similar utterances of the dialogue.
    """

    def __init__(
        self,
        dim: int,
        *,
        past: int | None,
        future: int | None,
        layers: int,
        dropout: float,
        similarity: bool,
        neighbours: int,
    ) -> None:
        super().__init__()
        self.past, self.future = past, future
        self.layers = nn.ModuleList(RelationalLayer(dim, dropout=dropout, similarity=similarity) for _ in range(layers))
        self.similarity = SimilarityEdges(dim, neighbours=neighbours, causal=future == 0) if similarity else None

    def window(
        self, packed: Layout, heard: Tensor, dtype: torch.dtype, host: tuple[Layout, Tensor] | None = None
    ) -> Graph:
        """A batch's fixed edges, which do not depend on content. `dtype`: that of the sums, at least float32.

        host: `packed` and `heard` on the host, where whoever calls has them.
        """
        if host is None:
            known, flags = on_host(packed, heard.unsqueeze(1))
            host = known, flags.squeeze(1)
        edges = window_edges(host[0], self.past, self.future, host[1])
        matrix = adjacency(edges, packed.size, dtype, heard.device)
        return Graph(packed, heard, edges.to(heard.device), matrix, host=host)

    def complete(self, h: Tensor, graph: Graph) -> Graph:
        """Add the learned edges, which depend on the nodes' content."""
        if self.similarity is None:
            return graph
        return replace(graph, similarity=self.similarity(h, *(graph.host or (graph.packed, graph.heard))))

    def forward(self, h: Tensor, graph: Graph) -> Tensor:
        for layer in self.layers:
            h = layer(h, graph)
        return h
