"""CADGL's network: everything between per-modality vectors and the state of an utterance, each part a switch.

    content (what is available) -> node -> dialogue graph -> imagined modalities -> graph ODE -> state

In training a second pass sees a batch from which modalities were hidden at random: what was hidden is what
reconstruction learns from, and both passes should agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mer.graph.alignment import Alignment
from mer.graph.consistency import jensen_shannon
from mer.graph.drop import ModalityDrop
from mer.graph.edges import Layout, window_edges
from mer.graph.messages import DialogueGraph, Graph, adjacency
from mer.graph.ode import GraphODE
from mer.graph.precision import wide
from mer.graph.reconstruction import Reconstruction, reconstruction_loss
from mer.graph.settings import Settings
from mer.layers import Dropout, Noise


@dataclass(frozen=True, slots=True)
class View:
    """One pass over a batch under one pattern of available modalities.

    state          `[N, hidden]`
    reconstructed  `[N, dims[name]]` per modality; empty without reconstruction
    graph          the graph of the pass; None without one
    """

    state: Tensor
    reconstructed: Mapping[str, Tensor]
    graph: Graph | None


@dataclass(frozen=True, slots=True)
class Passes:
    """What a batch gave.

    main    the view to classify: in training the one from which modalities were hidden
    full    training with consistency: the view of all that the batch has; otherwise None
    kept    `[N, M]`, what the main view saw
    losses  reconstruction, alignment, consistency: weighted scalars, in training only
    """

    main: View
    full: View | None
    kept: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class ContentEncoder(nn.Module):
    """`[N, dim] -> [N, hidden]`: LN, linear, GELU. The input norm makes features of any scale comparable."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, hidden)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(nn.functional.gelu(self.linear(self.norm(x))))
        return out


class DialogueNetwork(nn.Module):
    """The network shared by `CADGL` and the level `fusion: cadgl`.

    Args:
        dims: width of each modality, in the order of the columns of `available`.
        settings: parts, sizes and weights; see `mer.graph.settings.Settings`.
        guides: names among `dims` that describe the context rather than the utterance (a language model's): never
            hidden, imagined or aligned.
    """

    def __init__(self, dims: Mapping[str, int], settings: Settings, guides: tuple[str, ...] = ()) -> None:
        super().__init__()
        s, hidden = settings, settings.hidden
        self.settings, self.modalities, self.dims = s, tuple(dims), dict(dims)
        self.guided = tuple(name in guides for name in dims)
        own = {name: dim for name, dim in dims.items() if name not in guides}
        self.encoders = nn.ModuleDict({name: ContentEncoder(dim, hidden, s.dropout) for name, dim in dims.items()})
        self.absent = nn.Parameter(torch.randn(len(dims), hidden) * 0.02)
        self.node = nn.Sequential(nn.Linear(len(dims) * hidden, hidden), nn.LayerNorm(hidden))
        self.drop = ModalityDrop(s.drop_rate, curriculum=s.curriculum)
        self.noise = Noise(s.noise)
        self.graph = (
            DialogueGraph(
                hidden,
                past=s.window_past,
                future=s.window_future,
                layers=s.layers,
                dropout=s.dropout,
                similarity=s.similarity_edges,
                neighbours=s.neighbours,
            )
            if s.graph
            else None
        )
        self.reconstruction = Reconstruction(own, hidden, dropout=s.dropout) if s.reconstruction else None
        self.imagined = nn.Linear(len(dims) * hidden, hidden) if s.reconstruction else None
        pairs_exist = len(own) > 1
        self.alignment = (
            Alignment(tuple(own), hidden, temperature=s.temperature) if s.alignment and pairs_exist else None
        )
        self.ode = (
            GraphODE(hidden, solver=s.solver, step=s.step, adjoint=s.adjoint, tolerance=s.tolerance) if s.ode else None
        )
        self.out = nn.LayerNorm(hidden)

    @property
    def nfe(self) -> int:
        """Evaluations of the ODE's right-hand side in the last pass."""
        return 0 if self.ode is None else self.ode.nfe

    def forward(
        self,
        features: Mapping[str, Tensor],
        available: Tensor,
        packed: Layout,
        predict: Callable[[Tensor], Tensor] | None = None,
    ) -> Passes:
        """One batch.

        Args:
            features: `[N, dims[name]]`; rows that are not available may hold anything. A name may be missing.
            available: `[N, M]` bool.
            packed: which dialogue each row belongs to, rows ordered by dialogue and time.
            predict: from states to logits, for consistency between predictions; without it the agreement is
                between the states themselves, read as distributions over their channels.
        """
        filled = self._filled(features, available)
        content = {name: self.encoders[name](self.noise(value)) for name, value in filled.items()}
        kept = self._kept(available)
        main = self._view(content, kept, packed)
        if not self.training:
            return Passes(main, None, kept)
        losses: dict[str, Tensor] = {}
        if self.reconstruction is not None:
            losses["reconstruction"] = self.settings.lambda_reconstruction * self._reconstruction_loss(
                main, filled, available & ~kept
            )
        if self.alignment is not None:
            own = [column for column, guide in enumerate(self.guided) if not guide]
            losses["alignment"] = self.settings.lambda_alignment * self.alignment(content, available[:, own])
        full = None
        if self.settings.consistency:
            full = self._view(content, available, packed)
            pair = (main.state, full.state) if predict is None else (predict(main.state), predict(full.state))
            losses["consistency"] = self.settings.lambda_consistency * jensen_shannon(*pair)
        return Passes(main, full, kept, losses)

    def _filled(self, features: Mapping[str, Tensor], available: Tensor) -> dict[str, Tensor]:
        """Zeros wherever nothing is available: from here on no absent value exists."""
        filled = {}
        for column, name in enumerate(self.modalities):
            value = features.get(name)
            if value is None:
                filled[name] = self.absent.new_zeros(available.shape[0], self.dims[name])
            else:
                filled[name] = torch.where(available[:, column, None], value, value.new_zeros(()))
        return filled

    def _kept(self, available: Tensor) -> Tensor:
        guided = torch.tensor(self.guided, device=available.device)
        kept: Tensor = self.drop(available & ~guided)
        return kept | (available & guided)

    def _slots(self, content: Mapping[str, Tensor], kept: Tensor) -> list[Tensor]:
        """Per modality its content where kept, a learned token elsewhere."""
        return [
            torch.where(kept[:, column, None], content[name], self.absent[column].to(content[name].dtype))
            for column, name in enumerate(self.modalities)
        ]

    def _view(self, content: Mapping[str, Tensor], kept: Tensor, packed: Layout) -> View:
        slots = self._slots(content, kept)
        state = self.node(torch.cat(slots, dim=-1))
        graph = None
        if self.graph is not None:
            heard = kept.any(dim=1)  # an utterance of which nothing is available has nothing to say
            edges = window_edges(packed, self.graph.past, self.graph.future, heard)
            matrix = adjacency(edges, packed.size, wide(state).dtype)
            graph = self.graph.build(state, packed, edges, matrix, heard)
            state = self.graph(state, graph)
        reconstructed: dict[str, Tensor] = {}
        if self.reconstruction is not None and self.imagined is not None:
            reconstructed = self.reconstruction(state)
            for column, name in enumerate(self.modalities):
                if name in reconstructed:
                    imagined = self.encoders[name](reconstructed[name])
                    slots[column] = torch.where(kept[:, column, None], content[name], imagined)
            state = state + self.imagined(torch.cat(slots, dim=-1))
        if self.ode is not None:
            since = packed.time - packed.time[packed.first] if self.settings.time == "given" else packed.rank
            state = self.ode(state, graph, since)
        return View(self.out(state), reconstructed, graph)

    def _reconstruction_loss(self, view: View, filled: Mapping[str, Tensor], dropped: Tensor) -> Tensor:
        losses = [
            reconstruction_loss(view.reconstructed[name], filled[name], dropped[:, column])
            for column, name in enumerate(self.modalities)
            if name in view.reconstructed
        ]
        return torch.stack(losses).mean()
