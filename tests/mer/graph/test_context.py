"""The level `context: graph`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mer.batch import Batch, Dialogues, Sequence
from mer.errors import UserError
from mer.graph.context import GraphContext


def build(**options: Any) -> GraphContext:
    torch.manual_seed(0)
    return GraphContext(8, **options).eval()


@pytest.mark.parametrize("similarity", [True, False])
def test_a_dialogue_alone_gives_the_same(similarity: bool, dialogue_batch: Any) -> None:
    context, batch = build(similarity_edges=similarity), dialogue_batch((4, 1, 6))
    pooled = torch.randn(11, 8)
    whole = context(pooled, batch)
    rows = slice(5, 11)
    alone = Batch(
        {name: Sequence(x.values[rows], x.mask[rows]) for name, x in batch.modalities.items()},
        dialogue=Dialogues(batch.dialogue.index[rows], batch.dialogue.speaker[rows], batch.dialogue.turn[rows]),
    )
    torch.testing.assert_close(context(pooled[rows], alone), whole[rows], atol=2e-6, rtol=1e-5)


def test_neighbours_are_heard_within_the_window_alone(dialogue_batch: Any) -> None:
    context = build(window_past=1, window_future=0, layers=1, similarity_edges=False)
    batch, pooled = dialogue_batch((5,)), torch.randn(5, 8)
    plain = context(pooled, batch)
    changed = pooled.clone()
    changed[1] = torch.randn(8)
    differs = (context(changed, batch) - plain).abs().amax(1) > 1e-6
    assert differs.tolist() == [False, True, True, False, False]


def test_an_utterance_without_any_modality_is_not_heard(dialogue_batch: Any) -> None:
    context, batch, pooled = build(), dialogue_batch((5,)), torch.randn(5, 8)
    silent = {name: Sequence(x.values, x.mask.clone()) for name, x in batch.modalities.items()}
    for sequence in silent.values():
        sequence.mask[1] = False
    batch = Batch(silent, dialogue=batch.dialogue)
    changed = pooled.clone()
    changed[1] = torch.randn(8)
    others = [0, 2, 3, 4]
    torch.testing.assert_close(context(changed, batch)[others], context(pooled, batch)[others])


def test_a_batch_without_dialogues_is_refused(dialogue_batch: Any) -> None:
    with pytest.raises(UserError, match="without dialogues"):
        build()(torch.randn(8, 8), Batch(dialogue_batch().modalities))
    with pytest.raises(UserError, match="window_past is -2"):
        build(window_past=-2)
