"""The small parts, by literal values and by their definitions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mer.batch import Dialogues
from mer.graph.alignment import alignment_loss, info_nce
from mer.graph.drop import ModalityDrop
from mer.graph.edges import layout
from mer.graph.network import DialogueNetwork
from mer.graph.reconstruction import Reconstruction, reconstruction_loss
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


def test_alignment_is_the_mean_over_pairs_of_modalities_without_those_that_lack_a_member() -> None:
    torch.manual_seed(0)
    views = [torch.randn(6, 4) for _ in range(3)]
    available = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1], [0, 0, 0]]).bool()
    expected = [
        info_nce(views[0], views[1], torch.tensor([1, 1, 0, 0, 1, 0]).bool(), 0.5),
        info_nce(views[0], views[2], torch.tensor([1, 0, 0, 1, 1, 0]).bool(), 0.5),
        info_nce(views[1], views[2], torch.tensor([1, 0, 1, 0, 1, 0]).bool(), 0.5),
    ]
    torch.testing.assert_close(alignment_loss(views, available, 0.5), torch.stack(expected).mean())


def test_alignment_reaches_what_the_classifier_reads() -> None:
    """A step on it alone brings the content of modalities nearer, and adds no parameter of its own."""
    torch.manual_seed(0)
    network = DialogueNetwork(
        {"text": 3, "audio": 2}, Settings(hidden=8, dropout=0.0, drop_rate=0.0, ode=False, lambda_alignment=1.0)
    )
    without = DialogueNetwork({"text": 3, "audio": 2}, Settings(hidden=8, alignment=False, ode=False))
    assert network.state_dict().keys() == without.state_dict().keys()
    features, available = {"text": torch.randn(9, 3), "audio": torch.randn(9, 2)}, torch.ones(9, 2, dtype=torch.bool)
    packed = layout(Dialogues(torch.zeros(9, dtype=torch.long), torch.zeros(9, dtype=torch.long), torch.arange(9.0)))
    optimizer = torch.optim.SGD(network.encoders.parameters(), 0.5)
    found = []
    for _ in range(5):
        loss = network(features, available, packed).losses["alignment"]
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0] - 0.01


def test_a_single_modality_has_nothing_to_be_aligned_with_or_imagined_from() -> None:
    """Those parameters would never learn; a guide is no partner."""
    settings = Settings(hidden=4)
    for network in (
        DialogueNetwork({"text": 3}, settings),
        DialogueNetwork({"text": 3, "llm": 3}, settings, guides=("llm",)),
    ):
        assert network.aligned == ()
        assert network.reconstruction is None
    assert DialogueNetwork({"text": 3, "llm": 3, "audio": 2}, settings, guides=("llm",)).aligned == ("text", "audio")


def test_what_is_imagined_fills_what_is_absent_and_nothing_else() -> None:
    torch.manual_seed(0)
    layer = Reconstruction({"text": 3, "audio": 2}, 4, dropout=0.0)
    encoders = torch.nn.ModuleDict({"text": torch.nn.Linear(3, 4), "audio": torch.nn.Linear(2, 4)})
    imagined = layer(torch.randn(4, 4))
    kept = torch.tensor([[True, True], [False, True], [True, False], [False, False]])
    filling = layer.filling(imagined, encoders, kept)
    assert filling[0].abs().sum() == 0
    assert (filling[1:].abs().sum(1) > 0).all()
    changed = layer.filling({"text": imagined["text"], "audio": imagined["audio"] + 1}, encoders, kept)
    assert torch.equal(changed[:2], filling[:2])
    assert not torch.equal(changed[2:], filling[2:])


def test_decoders_learn_from_reconstruction_alone() -> None:
    torch.manual_seed(0)
    layer = Reconstruction({"text": 3}, 4, dropout=0.0)
    encoder = torch.nn.ModuleDict({"text": torch.nn.Linear(3, 4)})
    state = torch.randn(5, 4, requires_grad=True)
    layer.filling(layer(state), encoder, torch.zeros(5, 1, dtype=torch.bool)).sum().backward()
    assert state.grad is None
    assert all(parameter.grad is None for parameter in layer.decoders.parameters())
    assert layer.entry.weight.grad is not None


def test_a_decoder_that_is_unsure_adds_little() -> None:
    """What is near the mean stays near it: nothing blows it up to the size of an observation."""
    torch.manual_seed(0)
    layer = Reconstruction({"text": 6}, 4, dropout=0.0)
    encoder = torch.nn.ModuleDict({"text": torch.nn.Linear(6, 4, bias=False)})
    kept, x = torch.zeros(5, 1, dtype=torch.bool), torch.randn(5, 6)
    whole, faint = (layer.filling({"text": scale * x}, encoder, kept) for scale in (1.0, 0.01))
    torch.testing.assert_close(faint, 0.01 * whole)


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


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_drop_hides_at_its_rate_and_never_everything(rate: float) -> None:
    drop = ModalityDrop(rate)
    set_generator(drop, torch.Generator().manual_seed(0))
    available = torch.rand(6000, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    kept = drop.keep(available, torch.arange(6000))  # dialogues of one utterance
    assert not (kept & ~available).any()
    assert torch.equal(kept.any(1), available.any(1))
    full = kept[available.all(1)]
    # One of three is kept for certain, each other is hidden at the rate.
    assert (full.float().mean(0) - (1 - rate * 2 / 3)).abs().max() < 0.03
    assert torch.equal(drop.eval().keep(available, torch.arange(6000)), available)


def test_rates_differ_by_dialogue_and_modality() -> None:
    """Complete dialogues, dialogues that lack a modality throughout, and gaps here and there."""
    drop = ModalityDrop(0.5)
    set_generator(drop, torch.Generator().manual_seed(0))
    dialogues, length = 300, 40
    first = torch.arange(dialogues).repeat_interleave(length) * length
    kept = drop.keep(torch.ones(dialogues * length, 3, dtype=torch.bool), first)
    share = 1 - kept.view(dialogues, length, 3).float().mean(1)  # hidden, by dialogue and modality
    assert (share.amax(1) < 0.2).float().mean() > 0.02
    assert (share > 0.6).float().mean() > 0.05
    assert share.std() > 0.15  # one rate for all would give 0.07
    assert abs(float(torch.corrcoef(share.T)[0, 1])) < 0.3


def test_curriculum_grows_linearly() -> None:
    drop, rates = ModalityDrop(0.4, curriculum=4), []
    for _ in range(6):
        rates.append(drop.current())
        drop.keep(torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.long))
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4])
