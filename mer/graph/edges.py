"""The dialogue graph: which utterance hears which, by vectorised indexing over packed dialogues.

Nodes are the utterances of a batch, packed: no padding node exists. Edges join an utterance (the target) to those of
its own dialogue within a window before and after it (the sources), typed by direction and by speaker. They come
sorted by target and relation, which is what sparse products want, without anything ever being sorted: counts and
cumulative sums say where each edge belongs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mer.batch import Dialogues
from mer.context import padded_places

RELATIONS = ("past same", "past other", "future same", "future other")
"""Relation types, seen from the target: `past other` is something that another speaker said before."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Packed dialogues: node i belongs to dialogue `dialogue[i]`; rows of a dialogue are contiguous.

    first, last  `[N]`, the first and last node of each node's dialogue
    speaker      `[N]`
    time         `[N]` float, turn numbers or seconds
    """

    dialogue: Tensor
    first: Tensor
    last: Tensor
    speaker: Tensor
    time: Tensor

    @property
    def size(self) -> int:
        return self.dialogue.shape[0]

    @property
    def rank(self) -> Tensor:
        """`[N]`: position of each utterance within its dialogue, from 0."""
        return torch.arange(self.size, device=self.dialogue.device) - self.first


@dataclass(frozen=True, slots=True)
class Edges:
    """Typed edges, sorted by (relation, target, source).

    index     `[2, E]`, source then target, as torch-geometric has it
    relation  `[E]`, a position in `RELATIONS`
    bounds    `[R * N + 1]`: edges `bounds[r * N + i] : bounds[r * N + i + 1]` are those of relation r into node i
    """

    index: Tensor
    relation: Tensor
    bounds: Tensor

    @property
    def count(self) -> int:
        return self.relation.shape[0]

    def to(self, device: torch.device) -> Edges:
        return Edges(*(x.to(device, non_blocking=True) for x in (self.index, self.relation, self.bounds)))


def layout(dialogues: Dialogues) -> Layout:
    """The layout of a batch whose rows are ordered by dialogue.

    >>> from mer.batch import Dialogues
    >>> packed = layout(Dialogues(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), torch.tensor([0.0, 1.0, 0.0])))
    >>> packed.first.tolist(), packed.last.tolist()
    ([0, 0, 2], [1, 1, 2])
    """
    dialogue, place = padded_places(dialogues.index)
    nodes = torch.arange(len(dialogue), device=dialogue.device)
    ends = torch.ones_like(dialogue, dtype=torch.bool)
    ends[:-1] = dialogue[1:] != dialogue[:-1]
    last = torch.where(ends, nodes, len(dialogue)).flip(0).cummin(0).values.flip(0)
    return Layout(dialogue, nodes - place, last, dialogues.speaker, dialogues.turn)


def on_host(packed: Layout, flags: Tensor) -> tuple[Layout, Tensor]:
    """A layout and flags `[N, K]` where Python can look at them: one transfer, for which a step waits once.

    How many edges there are decides the sizes of what follows, and who is heard decides how many there are. What is
    found here goes to the device without waiting. Its `time` stays where it was.
    """
    if flags.device.type == "cpu":
        return packed, flags
    places = torch.stack([packed.dialogue, packed.first, packed.last, packed.speaker], dim=1)
    found = torch.cat([places, flags.long()], dim=1).cpu()
    dialogue, first, last, speaker = found[:, :4].unbind(1)
    return Layout(dialogue, first, last, speaker, packed.time), found[:, 4:].bool()


def window_edges(packed: Layout, past: int | None = 10, future: int | None = 10, heard: Tensor | None = None) -> Edges:
    """All edges within a window. Cost: O(edges), a few tensor operations, no sort, no loop.

    Args:
        packed: the layout of the batch.
        past, future: how many utterances before and after the target it hears; None: the whole dialogue.
        heard: `[N]` bool; an utterance that is not heard has no outgoing edge (nothing of it is available).

    >>> from mer.batch import Dialogues
    >>> packed = layout(Dialogues(torch.tensor([0, 0, 0]), torch.tensor([7, 8, 7]), torch.arange(3.0)))
    >>> edges = window_edges(packed, past=1, future=0)
    >>> edges.index.tolist(), [RELATIONS[r] for r in edges.relation.tolist()]
    ([[0, 1], [1, 2]], ['past other', 'past other'])
    """
    # int32 halves the memory traffic, which is all that this costs.
    nodes = torch.arange(packed.size, device=packed.dialogue.device, dtype=torch.int32)
    first, last = packed.first.int(), packed.last.int()
    low = first if past is None else torch.maximum(first, nodes - past)
    high = last if future is None else torch.minimum(last, nodes + future)
    speaker = packed.speaker.int()
    sources: list[Tensor] = []
    targets: list[Tensor] = []
    for source, target in (_ranges(nodes, low, nodes - 1), _ranges(nodes, nodes + 1, high)):
        if heard is not None:
            keep = heard[source].nonzero().squeeze(1)
            source, target = source[keep], target[keep]
        other = speaker[source] != speaker[target]
        for members in (other.logical_not().nonzero().squeeze(1), other.nonzero().squeeze(1)):
            sources.append(source[members])
            targets.append(target[members])
    return _edges(sources, targets, packed.size)


def _ranges(nodes: Tensor, low: Tensor, high: Tensor, begin: int = 0) -> tuple[Tensor, Tensor]:
    """Every (source, target) with `low <= source <= high` for each of `nodes`, which count up from `begin`."""
    counts = high - low + 1
    end = counts.cumsum(0, dtype=torch.int32)
    total = int(end[-1]) if nodes.numel() else 0
    target = torch.repeat_interleave(nodes, counts, output_size=total)
    shift = (low - (end - counts))[target - begin if begin else target]
    return torch.arange(total, device=nodes.device, dtype=torch.int32) + shift, target


def _edges(sources: list[Tensor], targets: list[Tensor], size: int) -> Edges:
    index = torch.stack([torch.cat(sources), torch.cat(targets)]).long()
    counts = torch.cat([torch.bincount(target, minlength=size) for target in targets])
    bounds = torch.zeros(len(targets) * size + 1, dtype=torch.long, device=index.device)
    torch.cumsum(counts, 0, out=bounds[1:])
    lengths = torch.tensor([target.numel() for target in targets], device=index.device)
    kinds = torch.arange(len(targets), device=index.device)
    relation = torch.repeat_interleave(kinds, lengths, output_size=index.shape[1])
    return Edges(index, relation, bounds)


def pairs(
    packed: Layout, heard: Tensor, *, causal: bool = False, targets: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Every ordered pair (source, target) within a dialogue, without self-pairs, sources heard; by target.

    `targets` restricts them to a range of nodes.
    """
    nodes = torch.arange(packed.size, device=packed.dialogue.device, dtype=torch.int32)[targets]
    high = nodes - 1 if causal else packed.last[targets].int()
    source, target = _ranges(nodes, packed.first[targets].int(), high, begin=targets.start or 0)
    keep = ((source != target) & heard[source]).nonzero().squeeze(1)
    return source[keep].long(), target[keep].long()


def blocks(packed: Layout, size: int) -> list[slice]:
    """Ranges of nodes with about `size` pairs each, at least one node.

    >>> from mer.batch import Dialogues
    >>> packed = layout(Dialogues(torch.zeros(5).long(), torch.zeros(5).long(), torch.arange(5.0)))
    >>> blocks(packed, 10)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    total = (packed.last - packed.first + 1).cumsum(0)
    _, counts = torch.unique_consecutive((total - 1) // size, return_counts=True)
    ends = counts.cumsum(0).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
