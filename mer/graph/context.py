"""The dialogue graph as a level of the factor `context`: what does the graph bring to any fusion?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mer.batch import Batch
from mer.context import Context
from mer.errors import UserError
from mer.graph.edges import layout
from mer.graph.messages import DialogueGraph
from mer.graph.settings import check_window
from mer.precision import wide


class GraphContext(Context):
    """CADGL's dialogue graph over pooled utterances: typed window edges plus learned, pruned similarity edges.

        h_i <- h_i + gelu(W0 h_i + sum_r Wr mean_{j in N_r(i)} h_j + Ws sum_j w_ij h_j),   `layers` times

    with the relations past/future × same/other speaker (R-GCN, Schlichtkrull et al. 2018; DialogueGCN, Ghosal et al.
    2019). Choose it over `bilstm` where who speaks matters or where dialogues are long. Cost per utterance: about
    (R + 2) layers D²; memory linear in edges. An utterance of which no modality is available says nothing to others.

    >>> from mer.batch import Dialogues, Sequence
    >>> x = Sequence(torch.randn(3, 1, 8), torch.ones(3, 1, dtype=torch.bool))
    >>> dialogue = Dialogues(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), torch.tensor([0.0, 1.0, 0.0]))
    >>> GraphContext(8).eval()(torch.randn(3, 8), Batch({"text": x}, dialogue=dialogue)).shape
    torch.Size([3, 8])
    """

    requires = frozenset({"dialogue"})

    def __init__(
        self,
        dim: int,
        *,
        window_past: int | None = 10,
        window_future: int | None = 10,
        layers: int = 2,
        similarity_edges: bool = True,
        neighbours: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dim)
        check_window(window_past, window_future)
        self.out_dim = dim
        self.graph = DialogueGraph(
            dim,
            past=window_past,
            future=window_future,
            layers=layers,
            dropout=dropout,
            similarity=similarity_edges,
            neighbours=neighbours,
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, pooled: Tensor, batch: Batch) -> Tensor:
        """`pooled [B, D]`, rows ordered by dialogue and turn -> `[B, D]`."""
        if batch.dialogue is None:
            raise UserError("context graph got a batch without dialogues", expected="a corpus with dialogue ids")
        packed = layout(batch.dialogue)
        heard = torch.stack([sequence.present for sequence in batch.modalities.values()], dim=1).any(dim=1)
        graph = self.graph.complete(pooled, self.graph.window(packed, heard, wide(pooled).dtype))
        out: Tensor = self.norm(self.graph(pooled, graph))
        return out
