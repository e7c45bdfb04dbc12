"""What CADGL promises, for every part and all of them together."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor

from mer.errors import UserError
from mer.graph import CADGL
from mer.layers import set_generator

PARTS = ("graph", "similarity_edges", "reconstruction", "alignment", "ode", "consistency")
VARIANTS = {
    "none": dict.fromkeys(PARTS, False),
    **{name: dict.fromkeys(PARTS, False) | {name: True} for name in PARTS},
    "similarity_edges": dict.fromkeys(PARTS, False) | {"graph": True, "similarity_edges": True},
    "all": dict.fromkeys(PARTS, True) | {"noise": 0.5},
}
NAMES = ("audio", "visual", "text")


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, config: dict[str, object]) -> dict[str, object]:
    return config | VARIANTS[request.param] | {"window_past": 3, "window_future": 2}


def build(config: Any, seed: int = 0) -> CADGL:
    torch.manual_seed(seed)
    return CADGL(config).eval()


def rows(batch: dict[str, Any], index: list[int]) -> dict[str, Any]:
    return {
        name: value[index] if isinstance(value, Tensor) else [value[i] for i in index] for name, value in batch.items()
    }


GARBAGE = (float("nan"), float("inf"), float("-inf"), 1e6, 1e30, torch.finfo(torch.float32).max)


def poisoned(batch: dict[str, Any], value: float) -> dict[str, Any]:
    """Garbage wherever a modality is absent: finite magnitudes with mixed signs, so that no norm evens them out."""
    changed = dict(batch)
    for column, name in enumerate(NAMES):
        garbage = value * torch.randn(batch[name].shape, generator=torch.Generator().manual_seed(1)).sign()
        changed[name] = torch.where(batch["modality_masks"][:, column, None], batch[name], garbage)
    return changed


def test_absent_content_cannot_leak(variant: Any, conversation: Any) -> None:
    model, batch = build(variant), conversation()
    plain = model(**batch)
    for value in GARBAGE:
        changed = model(**poisoned(batch, value))
        assert torch.equal(changed.logits, plain.logits)
        for name, imagined in plain.reconstructed.items():
            assert torch.equal(changed.reconstructed[name], imagined)


@pytest.mark.parametrize("value", GARBAGE)
def test_absent_content_cannot_leak_in_training(variant: Any, value: float, conversation: Any) -> None:
    def step(batch: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
        model = build(variant).train()
        set_generator(model, torch.Generator().manual_seed(3))
        output = model(**batch, labels=torch.zeros(9, dtype=torch.long))
        total = torch.stack(list(output.losses.values())).sum()
        total.backward()
        return total.detach(), [p.grad for p in model.parameters() if p.grad is not None]

    batch = conversation()
    (loss, gradients), (same_loss, same_gradients) = step(batch), step(poisoned(batch, value))
    assert torch.equal(loss, same_loss)
    assert loss.isfinite()
    for ours, theirs in zip(gradients, same_gradients, strict=True):
        assert torch.equal(ours, theirs)


def test_the_company_of_a_dialogue_does_not_matter(variant: Any, conversation: Any) -> None:
    model, batch = build(variant), conversation((7, 1, 4, 12))
    together = model(**batch).logits
    start = 0
    for length in (7, 1, 4, 12):
        alone = model(**rows(batch, list(range(start, start + length)))).logits
        torch.testing.assert_close(together[start : start + length], alone, atol=2e-6, rtol=1e-5)
        start += length


def test_a_duplicated_utterance_does_not_break_batch_invariance(config: Any, conversation: Any) -> None:
    """Ties among similarities must not be decided by rounding."""
    model, batch = build(config), conversation((12, 9))
    repeated = rows(batch, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, *range(12, 21)])
    together = model(**repeated).logits[:12]
    torch.testing.assert_close(model(**rows(repeated, list(range(12)))).logits, together, atol=2e-6, rtol=1e-5)


def test_rows_may_come_in_any_order(variant: Any, conversation: Any) -> None:
    model, batch = build(variant), conversation()
    batch["timestamps"] = torch.arange(9.0)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist()
    torch.testing.assert_close(model(**rows(batch, order)).logits, model(**batch).logits[order], atol=2e-6, rtol=1e-5)


def test_names_of_speakers_do_not_matter_but_who_spoke_does(config: Any, conversation: Any) -> None:
    model, batch = build(config), conversation((6, 3))
    plain = model(**batch).logits
    renamed = model(**batch | {"speaker_ids": ["B" if s else "Z" for s in batch["speaker_ids"].tolist()]}).logits
    assert torch.equal(renamed, plain)
    swapped = batch["speaker_ids"].clone()
    swapped[0] = 1 - swapped[0]
    changed = model(**batch | {"speaker_ids": swapped}).logits
    assert not torch.allclose(changed[1:6], plain[1:6], atol=1e-6)
    torch.testing.assert_close(changed[6:], plain[6:])


def test_the_order_of_turns_matters_within_a_dialogue_alone(config: Any, conversation: Any) -> None:
    model, batch = build(config), conversation((6, 3))
    plain = model(**batch).logits
    times = torch.tensor([1.0, 0.0, 2.0, 3.0, 4.0, 5.0, 0.0, 1.0, 2.0])
    changed = model(**batch, timestamps=times).logits
    assert not torch.allclose(changed[:6], plain[:6], atol=1e-6)
    torch.testing.assert_close(changed[6:], plain[6:])


def test_without_a_graph_utterances_are_judged_alone(config: Any, conversation: Any) -> None:
    model, batch = build(config | {"graph": False, "time": "given"}), conversation((5,))
    batch["timestamps"] = torch.zeros(5)
    together = model(**batch).logits
    for i in range(5):
        torch.testing.assert_close(model(**rows(batch, [i])).logits[0], together[i], atol=2e-6, rtol=1e-5)


def test_a_causal_window_reads_nothing_of_the_future(config: Any, conversation: Any) -> None:
    model, batch = build(config | {"window_future": 0}), conversation((8,))
    whole = model(**batch).logits
    for end in range(1, 9):
        prefix = model(**rows(batch, list(range(end)))).logits
        torch.testing.assert_close(prefix, whole[:end], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("only", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_one_modality_is_enough(only: str, training: bool, config: Any, conversation: Any) -> None:
    batch = conversation()
    masks = torch.zeros(9, 3)
    masks[:, NAMES.index(only)] = 1
    model = build(config).train(training)
    set_generator(model, torch.Generator().manual_seed(0))
    masked = model(**batch | {"modality_masks": masks}, labels=torch.zeros(9, dtype=torch.long))
    set_generator(model, torch.Generator().manual_seed(0))
    absent = model(
        **{k: v for k, v in batch.items() if k not in NAMES and k != "modality_masks"}, **{only: batch[only]}
    )
    assert torch.equal(masked.logits, absent.logits)
    total = torch.stack(list(masked.losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_nothing_available_at_all_still_gives_finite_logits(variant: Any, conversation: Any) -> None:
    output = build(variant)(**conversation() | {"modality_masks": torch.zeros(9, 3)})
    assert output.logits.isfinite().all()


def test_an_utterance_without_content_tells_others_nothing(config: Any, conversation: Any) -> None:
    batch = conversation((6,))
    batch["modality_masks"] = torch.ones(6, 3, dtype=torch.bool)
    batch["modality_masks"][2] = False
    output = build(config)(**batch)
    assert output.graph.edges is not None
    assert output.graph.similarity is not None
    assert 2 not in output.graph.edges.index[0]
    assert 2 in output.graph.edges.index[1]
    assert 2 not in output.graph.similarity.index[0]


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1)])
def test_dialogues_of_one_utterance(variant: Any, conversation: Any, lengths: tuple[int, ...]) -> None:
    model = build(variant).train()
    output = model(**conversation(lengths), labels=torch.zeros(sum(lengths), dtype=torch.long))
    torch.stack(list(output.losses.values())).sum().backward()
    assert output.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_without_dialogue_ids_the_batch_is_one_dialogue(config: Any, conversation: Any) -> None:
    model, batch = build(config), conversation((6,))
    named = model(**batch).logits
    assert torch.equal(model(**{k: v for k, v in batch.items() if k != "dialogue_ids"}).logits, named)


def test_every_part_learns(config: Any, conversation: Any) -> None:
    model = build(config | {"drop_rate": 0.6}).train()
    set_generator(model, torch.Generator().manual_seed(0))
    output = model(**conversation((9, 8, 7, 6)), labels=torch.arange(30) % 3)
    assert set(output.losses) == {"reconstruction", "alignment", "consistency", "classification"}
    assert all(float(loss.detach()) > 0 for loss in output.losses.values())
    torch.stack(list(output.losses.values())).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_reconstruction_learns_from_what_was_there_and_hidden_alone(
    rate: float, config: Any, conversation: Any
) -> None:
    """Nothing hidden: nothing to learn from. What is left, and what never was, stays out."""
    batch, kept = conversation((9, 8, 7, 6)), []
    model = build(config | {"drop_rate": rate, "lambda_reconstruction": 1.0, "dropout": 0.0}).train()
    set_generator(model, torch.Generator().manual_seed(0))
    keep = model.network.drop.keep
    model.network.drop.keep = lambda *given: kept.append(keep(*given)) or kept[-1]
    output, expected = model(**batch), []
    for column, name in enumerate(NAMES):
        hidden = batch["modality_masks"][:, column] & ~kept[0][:, column]
        target = torch.nn.functional.layer_norm(batch[name], batch[name].shape[-1:])[hidden]
        error = torch.nn.functional.smooth_l1_loss(output.reconstructed[name][hidden], target)
        expected.append(error if hidden.any() else torch.zeros(()))
    loss = output.losses["reconstruction"]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert (loss > 0) == (rate > 0)


def test_weights_scale_their_losses(config: Any, conversation: Any) -> None:
    names = ("reconstruction", "alignment", "consistency", "classification")
    found = []
    for weight in (1.0, 3.0):
        model = build(config | {f"lambda_{name}": weight for name in names}).train()
        set_generator(model, torch.Generator().manual_seed(0))
        found.append(model(**conversation(), labels=torch.arange(9) % 3).losses)
    for name in names:
        torch.testing.assert_close(found[1][name], 3 * found[0][name])


def test_config_may_be_an_object_in_the_published_spelling() -> None:
    config = types.SimpleNamespace(
        audio_dim=3, visual_dim=4, text_dim=5, hidden_dim=8, num_classes=2, num_layers=3, lambda_recon=None, epochs=50
    )
    model = CADGL(config)
    assert model.settings.layers == 3
    assert model.settings.lambda_reconstruction == 0.5
    assert CADGL(vars(config) | {"window_past": None}).settings.window_past is None


def test_context_vectors_of_a_language_model_are_used_and_never_imagined(config: Any, conversation: Any) -> None:
    model, batch = build(config | {"context_dim": 6}), conversation()
    with_context = model(**batch, context=torch.randn(9, 6))
    assert not torch.equal(with_context.logits, model(**batch).logits)
    assert set(with_context.reconstructed) == set(NAMES)
    for training in (True, False):
        assert model.train(training)(**batch, context=torch.randn(9, 6)).logits.isfinite().all()


def test_half_precision_agrees_with_single(config: Any, conversation: Any) -> None:
    model, batch = build(config), conversation()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(**batch).logits
    torch.testing.assert_close(half.float(), model(**batch).logits, atol=0.05, rtol=0.05)


def test_training_is_a_function_of_the_generator(config: Any, conversation: Any) -> None:
    model, found = build(config).train(), []
    for noise in (1, 2):
        torch.manual_seed(noise)
        set_generator(model, torch.Generator().manual_seed(7))
        found.append(model(**conversation()).logits)
    assert torch.equal(*found)


def test_noise_disturbs_training_and_nothing_else(config: Any, conversation: Any) -> None:
    batch, quiet, noisy = conversation(), build(config), build(config | {"noise": 2.0})
    assert torch.equal(quiet(**batch).logits, noisy(**batch).logits)
    found = []
    for model in (quiet, noisy):
        set_generator(model.train(), torch.Generator().manual_seed(0))
        found.append(model(**batch).logits)
    assert not torch.allclose(*found, atol=0.05)


def test_solver_evaluations_are_reported(config: Any, conversation: Any) -> None:
    assert build(config)(**conversation()).graph.nfe == 16
    assert build(config | {"ode": False})(**conversation()).graph.nfe == 0
    assert build(config | {"solver": "dopri5"})(**conversation()).graph.nfe > 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "rk5"}, "unknown solver 'rk5'"),
        ({"window_past": -1}, "window_past is -1"),
        ({"drop_rate": 1.5}, "drop_rate is 1.5"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"step": 2.0}, "step is 2.0; expected at most 1"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str, config: Any) -> None:
    with pytest.raises(UserError, match=message):
        CADGL(config | change)


def test_bad_input_is_refused(config: Any, conversation: Any) -> None:
    model, batch = build(config), conversation()
    with pytest.raises(UserError, match="no modality was given"):
        model(modality_masks=torch.ones(3, 3))
    with pytest.raises(UserError, match=r"text has shape \(9, 7\)"):
        model(**batch | {"text": torch.randn(9, 7)})
    with pytest.raises(UserError, match="different numbers of utterances"):
        model(**batch | {"text": torch.randn(8, 5)})
    with pytest.raises(UserError, match="dialogue_ids has 2 entries"):
        model(**batch | {"dialogue_ids": [1, 2]})
    with pytest.raises(UserError, match="the configuration lacks num_classes"):
        CADGL({name: value for name, value in config.items() if name != "num_classes"})
