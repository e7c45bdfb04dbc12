"""CADGL's network: everything between per-modality vectors and the state of an utterance, each part a switch.

    content (what is available) -> node -> dialogue graph -> imagined modalities -> graph ODE -> state

In training modalities are hidden at random: what was hidden is what reconstruction learns from. With consistency a
second pass sees all that there is; both learn the labels, and the first is drawn towards the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.graph.alignment import alignment_loss
from mer.graph.drop import ModalityDrop
from mer.graph.edges import Layout, on_host
from mer.graph.messages import DialogueGraph, Graph
from mer.graph.ode import GraphODE
from mer.graph.reconstruction import Reconstruction, reconstruction_loss
from mer.graph.settings import Settings
from mer.layers import Dropout, Noise
from mer.precision import wide


@dataclass(frozen=True, slots=True)
class View:
    """One pass over a batch under one pattern of available modalities.

    state          `[N, hidden]`
    reconstructed  `[N, dims[name]]` per modality, each row normalised; empty without reconstruction
    graph          the graph of the pass; None without one
    """

    state: Tensor
    reconstructed: Mapping[str, Tensor]
    graph: Graph | None


@dataclass(frozen=True, slots=True)
class Passes:
    """What a batch gave.

    main    the view to classify: in training the one from which modalities were hidden
    full    training with consistency: the view of all that the batch has, to be classified too; otherwise None
    kept    `[N, M]`, what the main view saw
    losses  reconstruction, alignment: weighted scalars, in training only
    """

    main: View
    full: View | None
    kept: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class ContentEncoder(nn.Module):
    """`[N, dim] -> [N, hidden]`: linear, GELU. It reads normalised rows, and imagined ones."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, hidden)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(F.gelu(self.linear(x)))
        return out


def normalised(x: Tensor) -> Tensor:
    """Each row with mean 0 and deviation 1, so that features of any scale are comparable."""
    return F.layer_norm(x, x.shape[-1:])


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
        several = len(own) > 1  # a single modality is never hidden, so nothing would learn to imagine it
        self.reconstruction = Reconstruction(own, hidden, dropout=s.dropout) if s.reconstruction and several else None
        self.aligned = tuple(own) if s.alignment and several else ()
        self.ode = (
            GraphODE(hidden, solver=s.solver, step=s.step, adjoint=s.adjoint, tolerance=s.tolerance) if s.ode else None
        )
        self.out = nn.LayerNorm(hidden)

    @property
    def nfe(self) -> int:
        """Evaluations of the ODE's right-hand side in the last pass."""
        return 0 if self.ode is None else self.ode.nfe

    def forward(self, features: Mapping[str, Tensor], available: Tensor, packed: Layout) -> Passes:
        """One batch.

        Args:
            features: `[N, dims[name]]`; rows that are not available may hold anything. A name may be missing.
            available: `[N, M]` bool.
            packed: which dialogue each row belongs to, rows ordered by dialogue and time.
        """
        filled = self._filled(features, available)
        content = {name: self.encoders[name](normalised(self.noise(value))) for name, value in filled.items()}
        kept = self._kept(available, packed)
        host, flags = on_host(packed, torch.cat([available, kept], dim=1))
        there, seen = flags.chunk(2, dim=1)
        # Hiding never hides all of an utterance, so both views have the same window edges.
        heard = available.any(dim=1)
        window = (
            None
            if self.graph is None
            else self.graph.window(packed, heard, wide(self.absent).dtype, (host, there.any(dim=1)))
        )
        main = self._view(content, kept, packed, window)
        if not self.training:
            return Passes(main, None, kept)
        losses: dict[str, Tensor] = {}
        if self.reconstruction is not None:
            losses["reconstruction"] = self.settings.lambda_reconstruction * self._reconstruction_loss(
                main, filled, there & ~seen
            )
        if self.aligned:
            views = [normalised(content[name]) for name in self.aligned]
            loss = alignment_loss(views, self._own(there), self.settings.temperature)
            losses["alignment"] = self.settings.lambda_alignment * loss
        full = self._view(content, available, packed, window) if self.settings.consistency else None
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

    def _own(self, flags: Tensor) -> Tensor:
        """`[N, M]` -> the columns of the modalities that are not guides."""
        return torch.stack([x for x, guide in zip(flags.unbind(1), self.guided, strict=True) if not guide], dim=1)

    def _kept(self, available: Tensor, packed: Layout) -> Tensor:
        guides = torch.stack(
            [x if guide else torch.zeros_like(x) for x, guide in zip(available.unbind(1), self.guided, strict=True)],
            dim=1,
        )
        kept: Tensor = self.drop.keep(available & ~guides, packed.first)
        return kept | guides

    def _slots(self, content: Mapping[str, Tensor], kept: Tensor) -> Tensor:
        """Per modality its content where kept, a learned token elsewhere, side by side."""
        slots = [
            torch.where(kept[:, column, None], content[name], self.absent[column].to(content[name].dtype))
            for column, name in enumerate(self.modalities)
        ]
        return torch.cat(slots, dim=-1)

    def _view(self, content: Mapping[str, Tensor], kept: Tensor, packed: Layout, window: Graph | None) -> View:
        state = self.node(self._slots(content, kept))
        graph = None
        if self.graph is not None and window is not None:
            graph = self.graph.complete(state, window)
            state = self.graph(state, graph)
        reconstructed: dict[str, Tensor] = {}
        if self.reconstruction is not None:
            reconstructed = self.reconstruction(state)
            state = state + self.reconstruction.filling(reconstructed, self.encoders, self._own(kept))
        if self.ode is not None:
            since = packed.time - packed.time[packed.first] if self.settings.time == "given" else packed.rank
            state = self.ode(state, graph, since)
        return View(self.out(state), reconstructed, graph)

    def _reconstruction_loss(self, view: View, filled: Mapping[str, Tensor], dropped: Tensor) -> Tensor:
        losses = [
            reconstruction_loss(view.reconstructed[name], normalised(filled[name]), dropped[:, column])
            for column, name in enumerate(self.modalities)
            if name in view.reconstructed
        ]
        return torch.stack(losses).mean()
