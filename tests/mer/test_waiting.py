"""What no step may do on a device, seen without one: meet tensors that were made on the CPU, or wait for a value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mer import context, encoders, fusion, losses, pooling
from mer.batch import Batch, Dialogues, Sequence
from mer.contracts.encoders import Subject, small_corpus
from mer.contracts.subjects import subjects
from mer.data.corpus import Corpus
from mer.data.store import FeatureStore
from mer.layers import set_generator
from mer.levels import load
from mer.losses import build_loss
from mer.recipe import EncoderConfig, Loss, Recipe
from mer.streams import streams
from mer.training import Trainer
from tests.mer.pretended import DEVICE, Watch, claim, held, pretending, send

EDGES = "how many edges there are: one transfer of who is heard, in which dialogue"
PRESENT = "a pretrained network, trained, runs on those who are there alone; transformers looks into its masks"
BY_ONE = "trained from sound, one utterance after the other: patches are cut by lengths on the host"
SOLVER = "torchdiffeq compares times, and chooses steps by errors"
ALLOWED: dict[str, tuple[int, str]] = {
    "fusion cadgl": (1, EDGES),
    "context graph": (1, EDGES),
    "cadgl curriculum": (2, EDGES + "; how many batches there were decides the rate"),
    "cadgl adjoint": (50, SOLVER),
    "cadgl dopri5": (200, SOLVER),
    **{f"encoder {name}": (7, PRESENT) for name in ("phobert", "videberta", "hf_text")},
    **{f"encoder {name}": (10, PRESENT) for name in ("xlsr", "wav2vec2", "wavlm", "hubert")},
    **{f"encoder {name}": (5, PRESENT) for name in ("whisper", "phowhisper")},
    "encoder vggish": (20, BY_ONE),
    "encoder dual": (24, BY_ONE),
}
"""How often a step of a level may wait, and for what. Whatever is not named here waits for nothing."""

OPTIONS: dict[str, dict[str, Any]] = {
    "cadgl curriculum": {"curriculum": 5},
    "cadgl adjoint": {"adjoint": True},
    "cadgl dopri5": {"solver": "dopri5"},
    "cadgl guide": {"guide": "visual", "time": "given", "pool": "attn", "window_past": None},
    "tacfn interp": {"align": "interp"},
    "tacfn concat": {"align": "concat", "gate": "scalar"},
    "tacfn truncate": {"align": "truncate"},
    "xattn residual": {"residual": True},
    "bilstm_attn gate": {"merge": "gate"},
    "none": {"modality": "text"},
}
FUSIONS = [*fusion.LEVELS, *(name for name in OPTIONS if name != "none")]


def check(watch: Watch, name: str) -> None:
    allowed, _ = ALLOWED.get(name, (0, ""))
    assert len(watch.waits) <= allowed, "\n".join(watch.waits)
    assert not [x for x in watch.waits if x.startswith("made on the CPU")], "\n".join(watch.waits)


def there(batch: Batch) -> Batch:
    found = {
        name: Sequence(claim(x.values).requires_grad_(x.values.is_floating_point()), claim(x.mask))
        for name, x in batch.modalities.items()
    }
    d = batch.dialogue
    assert d is not None
    extent = d.extent or (int(d.index[-1]) + 1, int(torch.bincount(d.index).max()))
    return Batch(found, batch.utterance_ids, Dialogues(claim(d.index), claim(d.speaker), claim(d.turn), extent))


@pytest.mark.parametrize("name", FUSIONS)
def test_fusion(name: str) -> None:
    subject = subjects(name.split()[0], "fusion", OPTIONS.get(name, {}))[-1]
    module, batch = subject.build().train(), subject.batch()
    known = name if name in ALLOWED or "cadgl" not in name else "fusion cadgl"
    with pretending() as watch:
        fused = send(module)(there(batch))
        torch.autograd.backward(sum(fused.losses.values(), fused.sequence.values.sum()))
    check(watch, known)
    with pretending() as watch:
        module.eval()(there(batch))
    check(watch, known)


@pytest.mark.parametrize("name", pooling.LEVELS)
def test_pooling(name: str) -> None:
    subject = subjects(name, "pooling", {})[0]
    with pretending() as watch:
        send(subject.build().train())(there(subject.batch()).modalities["text"]).sum().backward()
    check(watch, f"pooling {name}")


@pytest.mark.parametrize("name", context.LEVELS)
def test_context(name: str) -> None:
    subject = subjects(name, "context", {})[0]
    with pretending() as watch:
        batch = there(subject.batch())
        send(subject.build().train())(batch.modalities["text"].values[:, 0], batch).sum().backward()
    check(watch, f"context {name}")


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("name", losses.LEVELS)
def test_loss(name: str, weights: str) -> None:
    config = Loss.model_validate({"name": name, "class_weights": weights, "label_smoothing": 0.1})
    loss = build_loss(config, torch.tensor([3, 2, 1]), 3)
    with pretending() as watch:
        send(loss)(claim(torch.randn(6, 3)).requires_grad_(), claim(torch.arange(6) % 3)).backward()
    check(watch, f"loss {name}")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("name", [name for name in encoders.LEVELS if name != "llm_context"])
def test_encoder(name: str, corpus: Corpus) -> None:
    modality = "text" if name in ("phobert", "videberta", "hf_text", "words", "tfidf") else "audio"
    own = {} if name in encoders.WITHOUT_WEIGHTS else {"weights": "tiny", "train": "full"}
    if name == "features":
        modality, own = "visual", {"noise": 0.1, "swap": 0.3}
    config = EncoderConfig.model_validate({"name": name, **own})
    encoder, x = Subject("", modality, config, corpus, load(encoders.LEVELS[name])).ready()
    set_generator(encoder, None)
    with pretending() as watch:
        out = send(encoder.train())(Sequence(claim(x.values), claim(x.mask)))
        if out.values.requires_grad:
            out.values.sum().backward()
    check(watch, f"encoder {name}")


@pytest.mark.parametrize("level", fusion.LEVELS)
def test_a_whole_step(tiny_corpus: Corpus, tmp_path: Path, level: str) -> None:
    """Projections, fusion, pooling, context, classifier, loss, clipping and update; the values are those of a CPU."""
    recipe = Recipe.model_validate(
        {
            "encoders": {"text": "features", "audio": "features", "visual": "features"},
            "projection": {"dim": 8},
            "fusion": {"name": level, **OPTIONS.get(level, {})},
            "pooling": "attn",
            "context": "bilstm",
            "loss": {"name": "focal", "class_weights": "balanced"},
            "missing": {"train": {"protocol": "random", "rate": 0.3}},
        }
    )
    found = []
    for pretend in (False, True):
        trainer = Trainer(
            recipe, tiny_corpus.train_valid(), streams(0, "tiny", 0, 0, "confirm"), store=FeatureStore(tmp_path),
            device="cpu",
        )  # fmt: skip
        set_generator(trainer.model, torch.Generator().manual_seed(0))
        rows = np.arange(12)
        batch = trainer.train.batch(rows, trainer.train_available(0), dialogues=True)
        labels = trainer.train.labels[torch.from_numpy(rows)]
        if pretend:
            trainer.device = DEVICE
            with pretending() as watch:
                send(trainer.model), send(trainer.loss)
                found.append(_step(trainer, there(batch), claim(labels)))
            check(watch, f"fusion {level}")
        else:
            found.append(_step(trainer, batch, labels))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def _step(trainer: Trainer, batch: Batch, labels: Tensor) -> list[Tensor]:
    trainer.model.train()
    trainer.optimizer = torch.optim.AdamW(trainer.model.parameters(), foreach=False)  # a fused one asks for a device
    torch.autograd.backward(trainer._loss(batch, labels))
    trainer._step()
    return [held(p.data).clone() for p in trainer.model.parameters()]


FAULTS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "int": lambda x: int(x.sum()),
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "set by a mask": lambda x: x.clone().__setitem__(x > 0, x[:1]),
    "a list": lambda x: x[[0, 1]],
    "unique": lambda x: x.unique(),
    "to the host": lambda x: x.cpu(),
    "from a list": lambda x: torch.tensor([1.0], device=x.device),
    "blocking": lambda x: torch.zeros(3).to(x.device),
    "made on the CPU": lambda x: x + torch.zeros(3),
    "an index made on the CPU": lambda x: x[torch.arange(2)],
    "without a size": lambda x: torch.repeat_interleave(x, x.long()),
    "bincount": lambda x: torch.bincount(x.long()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen(fault: str) -> None:
    with pretending() as watch:
        FAULTS[fault](claim(torch.tensor([1.0, 2.0, 3.0])))
    assert watch.waits


def test_what_waits_for_nothing_is_not_accused() -> None:
    with pretending() as watch:
        x = claim(torch.tensor([1.0, 2.0, 3.0])).requires_grad_()
        y = x * 2 + torch.zeros((), device=x.device) + torch.tensor(1.0)  # a number may come from the CPU
        z = y[torch.arange(2, device=x.device)] + torch.zeros(2).to(x.device, non_blocking=True)
        torch.where(z > 0, z, 0.0).sum().backward()
        assert x.grad is not None
    assert not watch.waits
