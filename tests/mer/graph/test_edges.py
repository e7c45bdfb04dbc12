"""Edge sets against their definition, written as loops."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.batch import Dialogues
from mer.graph.edges import RELATIONS, layout, pairs, window_edges

LENGTHS = st.lists(st.integers(1, 110), min_size=1, max_size=4)
WINDOW = st.one_of(st.none(), st.integers(0, 120))


def dialogues(lengths: list[int], seed: int = 0) -> Dialogues:
    generator = torch.Generator().manual_seed(seed)
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    size = index.numel()
    speaker = index * 3 + torch.randint(0, 3, (size,), generator=generator)
    return Dialogues(index, speaker, torch.cat([torch.arange(float(n)) for n in lengths]))


def brute_force(d: Dialogues, past: int | None, future: int | None, heard: list[bool]) -> set[tuple[int, int, str]]:
    """Every pair of utterances is asked whether it is an edge."""
    size = len(d.index)
    target, source = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = target - source
    joined = (d.index[target] == d.index[source]) & (distance != 0) & torch.tensor(heard)[source]
    if past is not None:
        joined &= distance <= past
    if future is not None:
        joined &= distance >= -future
    found = set()
    speaker = d.speaker.tolist()
    for t, s in joined.nonzero().tolist():
        found.add((s, t, f"{'past' if s < t else 'future'} {'same' if speaker[s] == speaker[t] else 'other'}"))
    return found


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, past=WINDOW, future=WINDOW, seed=st.integers(0, 9), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_edges_are_those_of_the_definition(
    lengths: list[int], past: int | None, future: int | None, seed: int, share: float
) -> None:
    d = dialogues(lengths, seed)
    heard = torch.rand(d.index.numel(), generator=torch.Generator().manual_seed(seed)) < share
    edges = window_edges(layout(d), past, future, heard)
    rows = zip(edges.index[0].tolist(), edges.index[1].tolist(), edges.relation.tolist(), strict=True)
    found = [(source, target, RELATIONS[relation]) for source, target, relation in rows]
    assert len(found) == len(set(found)) == edges.count
    assert set(found) == brute_force(d, past, future, heard.tolist())


@settings(max_examples=20, deadline=None)
@given(lengths=LENGTHS, past=WINDOW, future=WINDOW)
def test_bounds_delimit_relation_and_target(lengths: list[int], past: int | None, future: int | None) -> None:
    edges = window_edges(layout(dialogues(lengths)), past, future)
    size = sum(lengths)
    assert edges.bounds[0] == 0
    assert edges.bounds[-1] == edges.count
    slot = torch.repeat_interleave(torch.arange(len(RELATIONS) * size), edges.bounds.diff())
    assert torch.equal(slot, edges.relation * size + edges.index[1])


def test_a_window_of_nothing_has_no_edges() -> None:
    assert window_edges(layout(dialogues([5, 3])), 0, 0).count == 0


def test_literal_edges_of_a_small_dialogue() -> None:
    d = Dialogues(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 0, 0]), torch.arange(4.0))
    edges = window_edges(layout(d), 2, 1)
    assert edges.index.tolist() == [[0, 0, 1, 1, 2], [2, 1, 2, 0, 1]]
    assert [RELATIONS[r] for r in edges.relation.tolist()] == [
        "past same",
        "past other",
        "past other",
        "future other",
        "future other",
    ]


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4), causal=st.booleans(), seed=st.integers(0, 9))
def test_pairs_are_all_pairs_of_a_dialogue(lengths: list[int], causal: bool, seed: int) -> None:
    d = dialogues(lengths, seed)
    heard = torch.rand(d.index.numel(), generator=torch.Generator().manual_seed(seed)) < 0.7
    source, target = pairs(layout(d), heard, causal=causal)
    expected = [(s, t) for s, t, _ in brute_force(d, None, 0 if causal else None, heard.tolist())]
    assert sorted(zip(source.tolist(), target.tolist(), strict=True)) == sorted(expected)
    assert target.tolist() == sorted(target.tolist())
