"""CADGL as a level of the factor `fusion`: for corpora with dialogues and any set of modalities."""

from __future__ import annotations

import torch
from torch import nn

from mer.batch import Batch, Fused, Sequence
from mer.errors import UserError, unknown
from mer.fusion.base import Fusion, presence
from mer.graph.edges import layout
from mer.graph.network import DialogueNetwork
from mer.graph.settings import Settings
from mer.layers import masked_mean
from mer.pooling import Attn


class CadglFusion(Fusion):
    """Dialogue graph, reconstruction, alignment, graph ODE and consistency over pooled modalities.

    Each modality is pooled to one vector per utterance; utterances are the nodes of their dialogue's graph; missing
    modalities are imagined from the available ones and the context; the states evolve along the graph by an ODE. The
    fused sequence has length 1. In training some modalities are hidden at random (`drop_rate`), and that is what the
    classifier learns from; in evaluation nothing is hidden.

    After "Context-Aware Dynamic Graph Learning for Multimodal Emotion Recognition with Missing Modalities". Choose it
    for conversations, above all where modalities go missing. Cost per utterance: about (R + 2) layers D² for the
    graph and 3 D² for each of the ODE's 16 evaluations, twice in training with consistency; memory linear in edges.

    Switches: `graph`, `similarity_edges`, `reconstruction`, `alignment`, `ode`, `consistency`. With `consistency` a
    second pass sees all that there is, learns the labels too, and is what the predictions of the first should be like.

    >>> from mer.batch import Dialogues
    >>> x = Sequence(torch.randn(4, 3, 8), torch.ones(4, 3, dtype=torch.bool))
    >>> dialogue = Dialogues(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 0, 2]), torch.tensor([0.0, 1.0, 2.0, 0.0]))
    >>> fusion = CadglFusion(("text", "audio"), 8).eval()
    >>> fusion(Batch({"text": x, "audio": x}, dialogue=dialogue)).sequence.values.shape
    torch.Size([4, 1, 8])
    """

    requires = frozenset({"dialogue"})

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        pool: str = "mean",
        graph: bool = True,
        similarity_edges: bool = True,
        reconstruction: bool = True,
        alignment: bool = True,
        ode: bool = True,
        consistency: bool = True,
        window_past: int | None = 10,
        window_future: int | None = 10,
        layers: int = 2,
        neighbours: int = 4,
        dropout: float = 0.3,
        solver: str = "rk4",
        step: float = 0.25,
        adjoint: bool = False,
        time: str = "turn",
        drop_rate: float = 0.3,
        curriculum: int = 0,
        temperature: float = 1.0,
        lambda_reconstruction: float = 0.5,
        lambda_alignment: float = 0.1,
        lambda_consistency: float = 0.5,
        guide: str | None = None,
    ) -> None:
        """Build.

        Args:
            pool: `mean` or `attn`, how a modality's sequence becomes one vector.
            window_past, window_future: utterances heard before and after; null: the whole dialogue. With
                `window_future: 0` nothing is read that is yet to be said.
            neighbours: learned edges per utterance.
            solver, step, adjoint: see `mer.graph.ode.GraphODE`.
            time: what the ODE takes for time: `turn`, the position in the dialogue, or `given`, the corpus's turns
                (which may be seconds).
            drop_rate, curriculum: how often a modality is hidden in training, and over how many batches this grows.
            temperature: of alignment; what the cosine similarities are divided by.
            guide: a modality that describes the context (a language model's): never hidden, imagined or aligned.
        """
        super().__init__(modalities, dim)
        if pool not in ("mean", "attn"):
            raise unknown("pool", pool, ("mean", "attn"))
        if guide is not None and guide not in modalities:
            raise unknown("guide", guide, modalities)
        settings = Settings(
            hidden=dim,
            graph=graph,
            similarity_edges=similarity_edges,
            reconstruction=reconstruction,
            alignment=alignment,
            ode=ode,
            consistency=consistency,
            window_past=window_past,
            window_future=window_future,
            layers=layers,
            neighbours=neighbours,
            dropout=dropout,
            solver=solver,
            step=step,
            adjoint=adjoint,
            time=time,
            drop_rate=drop_rate,
            curriculum=curriculum,
            temperature=temperature,
            lambda_reconstruction=lambda_reconstruction,
            lambda_alignment=lambda_alignment,
            lambda_consistency=lambda_consistency,
        )
        self.pools = nn.ModuleDict({name: Attn(dim) for name in modalities} if pool == "attn" else {})
        self.network = DialogueNetwork(
            dict.fromkeys(modalities, dim), settings, guides=() if guide is None else (guide,)
        )

    @property
    def nfe(self) -> int:
        """Evaluations of the ODE's right-hand side in the last pass."""
        return self.network.nfe

    def forward(self, batch: Batch) -> Fused:
        if batch.dialogue is None:
            raise UserError("fusion cadgl got a batch without dialogues", expected="a corpus with dialogue ids")
        sequences = self.sequences(batch)
        pooled = {
            name: self.pools[name](x) if name in self.pools else masked_mean(x.values, x.mask)
            for name, x in sequences.items()
        }
        passes = self.network(pooled, presence(sequences), layout(batch.dialogue))
        state = passes.main.state
        aux = {f"imagined/{name}": value.detach() for name, value in passes.main.reconstructed.items()}
        aux["kept"] = passes.kept
        aux["nfe"] = torch.full((state.shape[0],), float(self.nfe), device=state.device)
        # An utterance of which nothing is available still has a state: its context speaks for it.
        real = torch.ones(state.shape[0], 1, dtype=torch.bool, device=state.device)
        second = None if passes.full is None else Sequence(passes.full.state.unsqueeze(1), real)
        fused = Sequence(state.unsqueeze(1), real)
        return Fused(fused, aux, passes.losses, second, agreement=self.network.settings.lambda_consistency)
