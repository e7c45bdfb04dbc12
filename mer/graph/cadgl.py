"""CADGL as a model of its own: features of a batch of dialogues in, logits out.

    "Context-Aware Dynamic Graph Learning for Multimodal Emotion Recognition with Missing Modalities" (under review)

Its published code is a skeleton; this follows its description and states every choice that the description leaves
open (docs/cadgl.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mer.batch import Dialogues
from mer.errors import UserError
from mer.graph.edges import Edges, layout
from mer.graph.network import DialogueNetwork
from mer.graph.settings import from_config, has, read
from mer.graph.similarity import WeightedEdges
from mer.losses import disagreement
from mer.precision import wide

MODALITIES = ("audio", "visual", "text")
"""The order of the columns of `modality_masks`."""


@dataclass(frozen=True, slots=True)
class GraphReport:
    """The graph that was used; nodes are numbered in packed order.

    order       `[N]`: packed node i is row `order[i]` of the input
    edges       window edges with their relation types; None without a graph
    similarity  learned edges and their weights; None without them
    nfe         evaluations of the ODE's right-hand side
    """

    order: Tensor
    edges: Edges | None
    similarity: WeightedEdges | None
    nfe: int


@dataclass(frozen=True, slots=True)
class CadglOutput:
    """What CADGL returns; rows are in the order of the input.

    logits         `[N, C]`
    reconstructed  modality to `[N, dim]`: what the model imagines of every modality, the available ones included
    graph          see `GraphReport`
    losses         weighted scalars, to be summed: in training the auxiliary ones, `classification` where labels
                   were given
    state          `[N, hidden]`, what the logits were read from
    """

    logits: Tensor
    reconstructed: Mapping[str, Tensor]
    graph: GraphReport
    losses: Mapping[str, Tensor]
    state: Tensor


class CADGL(nn.Module):
    """Dialogue graph, reconstruction, alignment, graph ODE and consistency over audio, visual and text.

    Args:
        config: any object or mapping with `audio_dim, visual_dim, text_dim, hidden_dim, num_classes`; further names
            are those of `mer.graph.settings.Settings`, and `context_dim` for the vectors of a language model.

    >>> model = CADGL(dict(audio_dim=3, visual_dim=4, text_dim=5, hidden_dim=8, num_classes=2)).eval()
    >>> model(text=torch.randn(6, 5), audio=torch.randn(6, 3)).logits.shape
    torch.Size([6, 2])
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        needed = (*(f"{name}_dim" for name in MODALITIES), "hidden_dim", "num_classes")
        absent = [name for name in needed if not has(config, name)]
        if absent:
            raise UserError(f"the configuration lacks {', '.join(absent)}", expected=", ".join(needed))
        dims = {name: int(read(config, f"{name}_dim")) for name in MODALITIES}
        context = int(read(config, "context_dim", 0) or 0)
        guides = ("context",) if context else ()
        renamed = {"hidden_dim": "hidden", "num_layers": "layers", "missing_rate": "drop_rate"}
        renamed |= {"lambda_cls": "lambda_classification", "lambda_recon": "lambda_reconstruction"}
        renamed |= {"lambda_align": "lambda_alignment", "lambda_consist": "lambda_consistency"}
        self.settings = from_config(config, renamed)
        self.dims = dims | ({"context": context} if context else {})
        self.network = DialogueNetwork(self.dims, self.settings, guides)
        self.classifier = nn.Linear(self.settings.hidden, int(read(config, "num_classes")))

    def forward(
        self,
        audio: Tensor | None = None,
        visual: Tensor | None = None,
        text: Tensor | None = None,
        modality_masks: Tensor | None = None,
        dialogue_ids: Tensor | Sequence[Any] | None = None,
        speaker_ids: Tensor | Sequence[Any] | None = None,
        timestamps: Tensor | Sequence[float] | None = None,
        context: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> CadglOutput:
        """One batch of N utterances.

        Args:
            audio, visual, text: `[N, d]`; None: absent for all. Rows that are masked may hold anything.
            modality_masks: `[N, 3]` audio, visual, text; 1 = available. None: what was given is available.
            dialogue_ids: `[N]` of anything; rows of a dialogue need not be adjacent. None: one dialogue, in order.
            speaker_ids: `[N]` of anything; compared within a dialogue alone. None: one speaker.
            timestamps: `[N]`; the order within a dialogue (and the ODE's time with `time="given"`).
                None: the order of the rows.
            context: `[N, context_dim]`, a language model's vectors (`mer.encoders.llm_context`).
            labels: `[N]` long; negative ones are not scored.
        """
        given = {"audio": audio, "visual": visual, "text": text, "context": context}
        features = {name: value for name, value in given.items() if value is not None}
        size = self._check(features, modality_masks)
        device = next(iter(features.values())).device
        available = self._available(features, modality_masks, size, device)
        dialogue = _numbers(dialogue_ids, size, device, "dialogue_ids")
        speaker = _numbers(speaker_ids, size, device, "speaker_ids")
        time = _times(timestamps, size, device)
        order = torch.argsort(time, stable=True)
        order = order[torch.argsort(dialogue[order], stable=True)]
        packed = layout(Dialogues(dialogue[order], speaker[order], time[order]))
        passes = self.network({name: value[order] for name, value in features.items()}, available[order], packed)
        back = torch.empty_like(order)
        back[order] = torch.arange(size, device=device)
        state = passes.main.state[back]
        logits = self.classifier(state)
        losses = dict(passes.losses)
        full = None if passes.full is None else self.classifier(passes.full.state[back])
        if full is not None:
            losses["consistency"] = self.settings.lambda_consistency * disagreement(logits, full)
        if labels is not None:
            views = [logits] if full is None else [logits, full]
            losses["classification"] = self.settings.lambda_classification * _classification(views, labels)
        graph = passes.main.graph
        report = GraphReport(
            order,
            None if graph is None else graph.edges,
            None if graph is None else graph.similarity,
            self.network.nfe,
        )
        reconstructed = {name: value[back] for name, value in passes.main.reconstructed.items()}
        return CadglOutput(logits, reconstructed, report, losses, state)

    def _check(self, features: Mapping[str, Tensor], masks: Tensor | None) -> int:
        if not features:
            raise UserError("no modality was given", expected="at least one of audio, visual, text")
        sizes = {name: value.shape[0] for name, value in features.items()}
        if masks is not None:
            sizes["modality_masks"] = masks.shape[0]
        if len(set(sizes.values())) > 1:
            raise UserError(f"different numbers of utterances: {sizes}", expected="the same for all")
        for name, value in features.items():
            if name not in self.dims:
                raise UserError(f"{name} was given", expected=f"a configuration with {name}_dim")
            if value.dim() != 2 or value.shape[1] != self.dims[name]:
                raise UserError(f"{name} has shape {tuple(value.shape)}", expected=f"[N, {self.dims[name]}]")
        if masks is not None and (masks.dim() != 2 or masks.shape[1] != len(MODALITIES)):
            raise UserError(f"modality_masks has shape {tuple(masks.shape)}", expected="[N, 3]: audio, visual, text")
        return next(iter(sizes.values()))

    def _available(
        self, features: Mapping[str, Tensor], masks: Tensor | None, size: int, device: torch.device
    ) -> Tensor:
        given = torch.tensor([name in features for name in self.dims], device=device).expand(size, -1)
        if masks is None:
            return given
        columns = masks.to(device).bool()
        if "context" in self.dims:
            columns = torch.cat([columns, columns.new_ones(size, 1)], dim=1)
        return given & columns


def _classification(views: list[Tensor], labels: Tensor) -> Tensor:
    scored = labels >= 0
    losses = [nn.functional.cross_entropy(wide(view)[scored], labels[scored], reduction="sum") for view in views]
    return torch.stack(losses).mean() / scored.sum().clamp(min=1)


def _numbers(ids: Tensor | Sequence[Any] | None, size: int, device: torch.device, name: str) -> Tensor:
    """Identities of any kind as numbers, in the order of their first appearance."""
    if ids is None:
        return torch.zeros(size, dtype=torch.long, device=device)
    values = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    if len(values) != size:
        raise UserError(f"{name} has {len(values)} entries", expected=f"{size}, one per utterance")
    seen: dict[Any, int] = {}
    return torch.tensor([seen.setdefault(value, len(seen)) for value in values], device=device)


def _times(timestamps: Tensor | Sequence[float] | None, size: int, device: torch.device) -> Tensor:
    if timestamps is None:
        return torch.arange(size, device=device, dtype=torch.float32)
    times = torch.as_tensor(timestamps, device=device)
    if times.shape != (size,):
        raise UserError(f"timestamps has shape {tuple(times.shape)}", expected=f"[{size}], one per utterance")
    return times if times.is_floating_point() else times.float()
