"""Dialogue context: each dialogue on its own, in order, whatever the batch looks like."""

from __future__ import annotations

import pytest
import torch

from mer.batch import Batch, Dialogues, Sequence
from mer.context import BiLstmContext, NoContext, padded_places
from mer.errors import UserError


def batch(index: list[int]) -> Batch:
    n = len(index)
    structure = Dialogues(torch.tensor(index), torch.zeros(n, dtype=torch.long), torch.arange(n).float())
    return Batch({"text": Sequence(torch.ones(n, 1, 1), torch.ones(n, 1, dtype=torch.bool))}, (), structure)


def test_bilstm_equals_running_each_dialogue_alone() -> None:
    context, pooled = BiLstmContext(6, hidden=4, residual=False).eval(), torch.randn(7, 6)
    found = context(pooled, batch([0, 0, 0, 1, 2, 2, 2]))
    for rows in (slice(0, 3), slice(3, 4), slice(4, 7)):
        z = pooled[rows].unsqueeze(0)
        ahead, back = context.lstm.ahead[0], context.lstm.back[0]
        expected = torch.cat([ahead(z)[0], back(z.flip(1))[0].flip(1)], dim=-1)[0]
        torch.testing.assert_close(found[rows], expected)


def test_other_dialogues_do_not_matter_and_neighbours_do() -> None:
    context, pooled = BiLstmContext(6).eval(), torch.randn(4, 6)
    first = context(pooled, batch([0, 0, 1, 1]))
    changed = pooled.clone()
    changed[3] += 1
    second = context(changed, batch([0, 0, 1, 1]))
    assert torch.equal(first[:2], second[:2])
    assert not torch.equal(first[2], second[2])


def test_without_dialogues_it_says_what_is_missing() -> None:
    plain = Batch({"text": Sequence(torch.ones(2, 1, 1), torch.ones(2, 1, dtype=torch.bool))})
    with pytest.raises(UserError, match="without dialogue structure; expected a corpus with dialogue_id"):
        BiLstmContext(3)(torch.ones(2, 3), plain)
    assert torch.equal(NoContext(3)(torch.ones(2, 3), plain), torch.ones(2, 3))


def test_places_equal_a_loop() -> None:
    index, seen, rows = [4, 4, 7, 9, 9, 9], {}, []
    for number in index:
        rows.append((len(seen) if number not in seen else list(seen).index(number), seen.get(number, 0)))
        seen[number] = seen.get(number, 0) + 1
    row, place = padded_places(torch.tensor(index))
    assert list(zip(row.tolist(), place.tolist(), strict=True)) == rows
