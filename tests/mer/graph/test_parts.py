"""The small parts, by literal values and by their definitions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mer.graph.alignment import Alignment, info_nce
from mer.graph.consistency import jensen_shannon
from mer.graph.drop import ModalityDrop
from mer.graph.network import DialogueNetwork
from mer.graph.reconstruction import reconstruction_loss
from mer.graph.settings import Settings
from mer.layers import set_generator


def test_info_nce_equals_its_definition() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    both = torch.tensor([True, False, True, True, False])
    similarity = F.cosine_similarity(a[both][:, None], b[both][None], dim=-1) / 0.2
    losses = []
    for matrix in (similarity, similarity.T):
        for i in range(3):
            losses.append(-(matrix[i, i] - torch.logsumexp(matrix[i], 0)))
    torch.testing.assert_close(info_nce(a, b, both, 0.2), torch.stack(losses).mean())


@pytest.mark.parametrize("valid", [0, 1])
def test_info_nce_without_pairs_is_zero_with_a_gradient(valid: int) -> None:
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    loss = info_nce(a, b, torch.arange(4) < valid, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert a.grad is not None
    assert a.grad.abs().sum() == 0


def test_a_single_modality_has_nothing_to_be_aligned_with() -> None:
    """Its parameters would never learn; a guide is no partner."""
    settings = Settings(hidden=4)
    assert DialogueNetwork({"text": 3}, settings).alignment is None
    assert DialogueNetwork({"text": 3, "llm": 3}, settings, guides=("llm",)).alignment is None
    assert isinstance(DialogueNetwork({"text": 3, "audio": 2}, settings).alignment, Alignment)


def test_jensen_shannon_bounds() -> None:
    far = jensen_shannon(torch.tensor([[100.0, -100.0]]), torch.tensor([[-100.0, 100.0]]))
    torch.testing.assert_close(far, torch.tensor(2.0).log())
    a, b = torch.randn(6, 3), torch.randn(6, 3)
    torch.testing.assert_close(jensen_shannon(a, b), jensen_shannon(b, a))
    p, q = a.softmax(-1), b.softmax(-1)
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)).mean() / 2
    torch.testing.assert_close(jensen_shannon(a, b), expected)


def test_reconstruction_learns_from_dropped_targets_alone() -> None:
    imagined = torch.zeros(3, 2, requires_grad=True)
    target = torch.tensor([[0.5, 0.5], [9.0, 9.0], [3.0, 0.0]], requires_grad=True)
    loss = reconstruction_loss(imagined, target, torch.tensor([True, False, True]))
    torch.testing.assert_close(loss, torch.tensor((0.125 + 0.125 + 2.5 + 0.0) / 4))
    loss.backward()
    assert target.grad is None
    assert imagined.grad is not None
    assert imagined.grad[1].abs().sum() == 0


def test_reconstruction_without_targets_is_zero_with_a_gradient() -> None:
    imagined = torch.randn(3, 2, requires_grad=True)
    loss = reconstruction_loss(imagined, torch.full((3, 2), float("nan")), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0


def test_drop_hides_at_its_rate_and_never_everything() -> None:
    drop = ModalityDrop(0.5)
    set_generator(drop, torch.Generator().manual_seed(0))
    available = torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    kept = drop(available)
    assert not (kept & ~available).any()
    assert torch.equal(kept.any(1), available.any(1))
    full = kept[available.all(1)]
    # One of three is kept for certain, each other with probability a half: a third of all is hidden.
    assert abs(float((~full).float().mean()) - 1 / 3) < 0.02
    assert (full.float().mean(0) - 2 / 3).abs().max() < 0.04
    assert torch.equal(drop.eval()(available), available)


def test_curriculum_grows_linearly() -> None:
    drop, rates = ModalityDrop(0.4, curriculum=4), []
    for _ in range(6):
        rates.append(drop.current())
        drop(torch.ones(2, 3, dtype=torch.bool))
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4])
