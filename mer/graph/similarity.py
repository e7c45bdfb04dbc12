"""Learned edges: each utterance may hear the most similar utterances of its dialogue, however far away."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.graph.edges import Layout, blocks, pairs
from mer.precision import wide


@dataclass(frozen=True, slots=True)
class WeightedEdges:
    """`index [2, E]` (source, target) and `weight [E]`; the weights into a node sum to less than 1."""

    index: Tensor
    weight: Tensor


class SimilarityEdges(nn.Module):
    """Edges by cosine similarity of learned keys, pruned to the `neighbours` best of each utterance.

        s_ij = cos(Wq h_i, Wk h_j),   a_ij = gamma * relu(s_ij - tau_i),   w_ij = a_ij / (1 + sum_j a_ij)

    with tau_i the best similarity that is pruned (and at least 0). Weights reach zero exactly where an edge is cut, so
    the result is continuous in h: a tie at the cut changes nothing. (A softmax over a hard top-k jumps there, and then
    rounding noise, hence the composition of a batch, decides.)

    Cost: time O(pairs within a dialogue), memory O(chunk × key_dim + neighbours × N): pairs are looked at a chunk at a
    time.

    >>> import torch
    >>> from mer.batch import Dialogues
    >>> from mer.graph.edges import layout
    >>> packed = layout(Dialogues(torch.zeros(5).long(), torch.zeros(5).long(), torch.arange(5.0)))
    >>> edges = SimilarityEdges(8, neighbours=2)(torch.randn(5, 8), packed, torch.ones(5, dtype=torch.bool))
    >>> int(torch.bincount(edges.index[1], minlength=5).max()) <= 2
    True
    """

    def __init__(
        self, dim: int, *, neighbours: int = 4, key_dim: int = 32, causal: bool = False, chunk: int = 1 << 18
    ) -> None:
        super().__init__()
        self.neighbours, self.causal, self.chunk = neighbours, causal, chunk
        self.query = nn.Linear(dim, key_dim, bias=False)
        self.key = nn.Linear(dim, key_dim, bias=False)
        self.log_gamma = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, h: Tensor, packed: Layout, heard: Tensor) -> WeightedEdges:
        """`packed` and `heard` are best on the host (`mer.graph.edges.on_host`), wherever `h` is."""
        with torch.autocast(h.device.type, enabled=False):
            query = F.normalize(self.query(wide(h)), dim=-1)
            key = F.normalize(self.key(wide(h)), dim=-1)
            source, target, cut = self._prune(query.detach(), key.detach(), packed, heard)
            score = (query[target] * key[source]).sum(-1)
            # The cut's own similarity, with its gradient; where nothing was pruned the threshold is 0.
            pruned = (query * key[cut.clamp(min=0)]).sum(-1)
            threshold = torch.where(cut >= 0, pruned, torch.zeros_like(pruned)).clamp(min=0)
            strength = self.log_gamma.exp() * (score - threshold[target]).clamp(min=0)
            total = torch.zeros_like(threshold).index_add(0, target, strength)
            return WeightedEdges(torch.stack([source, target]), strength / (1 + total[target]))

    @torch.no_grad()
    def _prune(self, query: Tensor, key: Tensor, packed: Layout, heard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sources and targets of the pairs to keep, and for each node the source that was pruned first (-1: none)."""
        cut = torch.full((packed.size,), -1, device=query.device)
        sources, targets = [], []

        def send(x: Tensor) -> Tensor:
            return x.to(query.device, non_blocking=True)

        for block in blocks(packed, self.chunk):
            source, target = pairs(packed, heard, causal=self.causal, targets=block)
            # Pairs come by target, so where each target's best will stand is known before anything is compared.
            counts = torch.bincount(target, minlength=packed.size)
            rank = torch.arange(target.numel(), device=target.device) - (counts.cumsum(0) - counts)[target]
            first, best = (found.nonzero().squeeze(1) for found in (rank == self.neighbours, rank < self.neighbours))
            source, whole = send(source), send(target)
            score = (query[whole] * key[source]).sum(-1)
            # Similarities lie within [-1, 1], so one sort orders by target, then from most to least similar.
            source = source[torch.argsort(whole.double() * 4 - score.double())]
            cut[send(target[first])] = source[send(first)]
            sources.append(source[send(best)])
            targets.append(send(target[best]))
        return torch.cat(sources), torch.cat(targets), cut
