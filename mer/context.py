"""Context: a pass over a dialogue's utterances after pooling, `[B, D] -> [B, out_dim]`; it applies to any fusion."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mer.batch import Batch, Dialogues
from mer.errors import UserError
from mer.layers import Dropout, MaskedBiLSTM, ranks

LEVELS: dict[str, str] = {
    "none": "mer.context:NoContext",
    "bilstm": "mer.context:BiLstmContext",
    "graph": "mer.graph.context:GraphContext",
}


class Context(nn.Module):
    """What a context is. One that looks at other utterances declares `requires = frozenset({"dialogue"})`."""

    requires: frozenset[str] = frozenset()
    unbundled: str = ""
    out_dim: int

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.out_dim = dim, dim

    def forward(self, pooled: Tensor, batch: Batch) -> Tensor:
        raise NotImplementedError


def dialogues(batch: Batch) -> Dialogues:
    """The dialogue structure of a batch, or an error that says what is missing."""
    if batch.dialogue is None:
        raise UserError(
            "a context over dialogues was given a batch without dialogue structure",
            expected="a corpus with dialogue_id and turn, batched by whole dialogues",
        )
    return batch.dialogue


class NoContext(Context):
    """Every utterance by itself; the identity.

    Equation:
        out_i = z_i

    Shapes: `[B, D] -> [B, D]`.
    When to choose: single utterances; the baseline of every context.
    Cost: none.
    Source: none is needed.

    >>> from mer.batch import Sequence
    >>> batch = Batch({"text": Sequence(torch.ones(2, 1, 3), torch.ones(2, 1, dtype=torch.bool))})
    >>> NoContext(3)(torch.ones(2, 3), batch)
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """

    def forward(self, pooled: Tensor, batch: Batch) -> Tensor:
        return pooled


class BiLstmContext(Context):
    """A bidirectional LSTM over the utterances of each dialogue.

    Equation:
        h = BiLSTM(z_1, ..., z_N)
        residual: true     out_i = LN(z_i + W drop(h_i))
        residual: false    out_i = drop(h_i)

    Dialogues do not see each other. It reads the future of the dialogue: it is for recorded conversations.

    Shapes: `[B, D] -> [B, D]` with the residual, `[B, 2 hidden]` without, as published.
    When to choose: before any graph; a few parameters, and the strongest simple baseline on conversations.
    Cost: sequential in the longest dialogue of the batch.
    Source: bc-LSTM, Poria et al. 2017 (ACL P17-1081).

    Args:
        hidden: width of the LSTM per direction.
        layers: layers of the LSTM.
        dropout: on its states.
        residual: context adds to what the utterance says itself.

    >>> from mer.batch import Sequence
    >>> index = torch.tensor([0, 0, 1])
    >>> structure = Dialogues(index, torch.zeros(3, dtype=torch.long), torch.tensor([0.0, 1.0, 0.0]))
    >>> batch = Batch({"text": Sequence(torch.ones(3, 1, 4), torch.ones(3, 1, dtype=torch.bool))}, (), structure)
    >>> tuple(BiLstmContext(4, residual=False, hidden=5)(torch.randn(3, 4), batch).shape)
    (3, 10)
    """

    requires: frozenset[str] = frozenset({"dialogue"})

    def __init__(
        self, dim: int, *, hidden: int = 64, layers: int = 1, dropout: float = 0.3, residual: bool = True
    ) -> None:
        super().__init__(dim)
        self.lstm, self.dropout = MaskedBiLSTM(dim, hidden, layers, dropout), Dropout(dropout)
        self.out = nn.Linear(2 * hidden, dim) if residual else None
        self.norm = nn.LayerNorm(dim) if residual else None
        self.out_dim = dim if residual else 2 * hidden

    def forward(self, pooled: Tensor, batch: Batch) -> Tensor:
        found = dialogues(batch)
        dialogue, place = padded_places(found.index)
        rows, length = found.extent or (int(dialogue[-1]) + 1, int(place.max()) + 1)
        values = pooled.new_zeros(rows, length, pooled.shape[1]).index_put((dialogue, place), pooled)
        mask = torch.zeros(rows, length, dtype=torch.bool, device=pooled.device)
        mask = mask.index_put((dialogue, place), torch.ones((), dtype=torch.bool, device=pooled.device))
        h: Tensor = self.dropout(self.lstm(values, mask)[dialogue, place])
        if self.out is None or self.norm is None:
            return h
        residual: Tensor = self.norm(pooled + self.out(h))
        return residual


def padded_places(index: Tensor) -> tuple[Tensor, Tensor]:
    """Where each utterance goes in a `[dialogues, longest]` grid: its row, counted from 0 without gaps, and its place.

    >>> row, place = padded_places(torch.tensor([2, 2, 5, 5, 5]))
    >>> row.tolist(), place.tolist()
    ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])
    """
    starts = torch.ones_like(index, dtype=torch.bool)
    starts[1:] = index[1:] != index[:-1]
    steps = torch.arange(len(index), device=index.device)
    first = torch.where(starts, steps, 0).cummax(0).values
    return ranks(starts.unsqueeze(0)).squeeze(0), steps - first
