"""Every level keeps its contract under every option that changes its structure; broken modules are caught."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mer import context, fusion, pooling
from mer.batch import Batch, Fused, Sequence
from mer.context import Context
from mer.contracts import check_context, check_fusion, check_loss, check_pooling
from mer.contracts.checks import CHECKS
from mer.contracts.losses import CHECKS as LOSS_CHECKS
from mer.fusion.base import Fusion, as_sequence, in_time, means, presence
from mer.pooling import Pooling

FUSIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in fusion.LEVELS if name not in ("none", "cadgl")),
    ("none", {"modality": "text"}),
    ("none", {"modality": "text", "layers": 1}),
    ("concat", {"axis": "time", "layers": 1}),
    ("concat", {"layers": 0}),
    ("gated", {"layers": 0, "positions": False}),
    ("weighted", {"layers": 1, "heads": 1}),
    ("cross_attention", {"axis": "time", "layers": 0}),
    ("xattn", {"residual": True}),
    ("bilstm_attn", {"merge": "gate", "blocks": 2, "lstm_layers": 2}),
    ("bilstm_attn", {"blocks": 0, "hidden": 3}),
    ("cnn_bilstm_attn", {"merge": "gate", "kernel": 5, "conv_layers": 1}),
    ("tacfn", {"gate": "scalar", "layers": 1}),
    ("tacfn", {"gate": "none", "layers": 1, "align": "concat"}),
    ("tacfn", {"align": "interp", "layers": 1, "self_attention": False}),
    ("tacfn", {"align": "truncate", "layers": 1, "cross_attention": False}),
    ("tacfn", {"align": "concat", "layers": 1, "anchor": "audio"}),
    ("tacfn", {"align": "text_query", "layers": 0, "anchor": "audio"}),
]


@pytest.mark.parametrize(("name", "options"), FUSIONS, ids=str)
def test_fusions(name: str, options: dict[str, Any]) -> None:
    report = check_fusion(name, **options)
    assert report.passed, f"\n{report}"
    assert len(report.results) == len(CHECKS)


@pytest.mark.slow  # an ODE, integrated some hundred times
def test_cadgl() -> None:
    report = check_fusion("cadgl")
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("name", pooling.LEVELS)
def test_poolings(name: str) -> None:
    report = check_pooling(name)
    assert report.passed, f"\n{report}"


def test_attention_pooling_with_options() -> None:
    report = check_pooling("attn", heads=3, dropout=0.2)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in context.LEVELS), ("bilstm", {"residual": False, "layers": 2})],
    ids=str,
)
def test_contexts(name: str, options: dict[str, Any]) -> None:
    report = check_context(name, **options)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize(
    "options",
    [{}, {"gamma": 2.0}, {"gamma": 0.5, "label_smoothing": 0.1}, {"weight": torch.tensor([0.5, 1.0, 2.0, 0.1])}],
    ids=str,
)
def test_losses(options: dict[str, Any]) -> None:
    report = check_loss("focal", **options)
    assert report.passed, f"\n{report}"


# --- one broken fusion per check: the check must name it ---------------------------------------------------------


class Good(Fusion):
    """The mean of the projected means: keeps every promise, so that each fault below is the only one."""

    def __init__(self, modalities: tuple[str, ...], dim: int) -> None:
        super().__init__(modalities, dim)
        self.linear = nn.Linear(dim, dim)

    def mix(self, batch: Batch) -> Tensor:
        found = self.sequences(batch)
        present = presence(found).unsqueeze(-1)
        total = torch.where(present, self.linear(means(found)), 0.0).sum(1)
        mixed: Tensor = total / present.sum(1).clamp(min=1)
        return mixed

    def forward(self, batch: Batch) -> Fused:
        return Fused(as_sequence(self.mix(batch), presence(self.sequences(batch)).any(1)))


class WrongWidth(Good):
    def __init__(self, modalities: tuple[str, ...], dim: int) -> None:
        super().__init__(modalities, dim)
        self.out_dim = dim + 1


class Unlearnable(Good):
    def __init__(self, modalities: tuple[str, ...], dim: int) -> None:
        super().__init__(modalities, dim)
        self.forgotten = nn.Linear(dim, dim)


class Detached(Good):
    def mix(self, batch: Batch) -> Tensor:
        return super().mix(batch) + self.linear.weight.detach().sum()

    def forward(self, batch: Batch) -> Fused:
        with torch.no_grad():
            x = self.mix(batch)
        present = presence(self.sequences(batch)).any(1)
        return Fused(as_sequence(x + 0 * sum(s.values.sum() for s in self.sequences(batch).values()), present))


class NanBackward(Good):
    """Division by a count that may be 0: hidden by `where` in the forward pass, NaN in the backward one."""

    def mix(self, batch: Batch) -> Tensor:
        found = self.sequences(batch)
        total = torch.stack([self.linear(s.values.sum(1)) for s in found.values()]).sum(0)
        count = presence(found).sum(1, keepdim=True)
        return torch.where(count > 0, total * (0 * total).exp() / count, 0.0) + 0 * (total * 0 / count)


class Padded(Good):
    """Averages over the padding."""

    def mix(self, batch: Batch) -> Tensor:
        found = self.sequences(batch)
        mixed: Tensor = sum(self.linear(s.values.mean(1)) for s in found.values())  # type: ignore[assignment]
        return mixed


class Peeking(Good):
    """Reads what is masked, without spilling NaN: cleaned by nan_to_num instead of by the mask."""

    def sequences(self, batch: Batch) -> dict[str, Sequence]:
        return {n: Sequence(s.values.nan_to_num(0, 0, 0), s.mask) for n, s in batch.modalities.items()}

    def mix(self, batch: Batch) -> Tensor:
        found = self.sequences(batch)
        weighed = [self.linear(s.values.sum(1) / s.lengths.clamp(min=1).unsqueeze(1)) for s in found.values()]
        return torch.stack(weighed).sum(0)


class Lossy(Good):
    """Forgets an utterance that lacks its first modality."""

    def forward(self, batch: Batch) -> Fused:
        first = next(iter(self.sequences(batch).values()))
        return Fused(as_sequence(self.mix(batch), first.present))


class Constant(Good):
    def mix(self, batch: Batch) -> Tensor:
        return self.linear.weight.sum(1) + 0 * super().mix(batch)


class Sociable(Good):
    """Centres on the batch, as a batch norm in training mode would."""

    def mix(self, batch: Batch) -> Tensor:
        x = super().mix(batch)
        return x - x.mean(0)


class GlobalDropout(Good):
    def mix(self, batch: Batch) -> Tensor:
        return F.dropout(super().mix(batch), 0.5, self.training)


class Unregistered(Good):
    """A list hides its layer from the state dict (and, built in forward, would never train)."""

    def __init__(self, modalities: tuple[str, ...], dim: int) -> None:
        super().__init__(modalities, dim)
        torch.manual_seed(torch.randint(10_000, (), generator=_ENTROPY).item())
        self.hidden = [torch.randn(dim)]

    def mix(self, batch: Batch) -> Tensor:
        return super().mix(batch) * self.hidden[0]


_ENTROPY = torch.Generator().manual_seed(0)


class NoHalf(Good):
    """Adds a large number and takes it off again around a matrix product: 8 bits cannot hold both."""

    def mix(self, batch: Batch) -> Tensor:
        x = super().mix(batch)
        return ((x + 500) @ torch.eye(self.dim, dtype=x.dtype)) - 500


class Coarse(Good):
    """Rounds in the middle: float32 and float64 land on different sides."""

    def mix(self, batch: Batch) -> Tensor:
        x = super().mix(batch)
        return x + 0.5 * torch.sin(1e7 * x)


BROKEN = [
    (WrongWidth, "shape"),
    (Unlearnable, "gradients"),
    (Detached, "gradients"),
    (NanBackward, "finite"),
    (Padded, "padding"),
    (Peeking, "absent"),
    (Lossy, "present"),
    (Constant, "content"),
    (Sociable, "batch-mates"),
    (GlobalDropout, "deterministic"),
    (Unregistered, "saves"),
    (NoHalf, "bf16"),
    (Coarse, "float64"),
]


def test_the_sound_fusion_passes() -> None:
    report = check_fusion(Good)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize(("broken", "check"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_each_fault_is_found_by_its_check(broken: type[Fusion], check: str) -> None:
    assert check in check_fusion(broken).failed


def test_every_check_has_a_broken_example() -> None:
    assert {check for _, check in BROKEN} == {check.name for check in CHECKS} - {"declared"}


def test_undeclared_options_are_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from mer.pooling import Mean\n"
        "class Needy(Mean):\n"
        "    def __init__(self, dim: int, *, width: int) -> None:\n"
        "        super().__init__(dim)\n"
    )
    (tmp_path / "mylab_needy.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    report = check_pooling("mylab_needy:Needy", width=3)
    assert report.failed == ("declared",)
    assert "option 'width' has no default" in str(report)


class ForwardBuilt(Pooling):
    """The defect of the source's attention pooling: fresh random weights at each call."""

    def forward(self, x: Sequence) -> Tensor:
        weights = torch.softmax(nn.Linear(self.dim, 1)(x.filled()), dim=1) * x.mask.unsqueeze(-1)
        return (weights * x.filled()).sum(1)


class NotEmpty(Pooling):
    """-inf, the identity of max, is what is left of an utterance without frames."""

    def forward(self, x: Sequence) -> Tensor:
        return torch.where(x.mask.unsqueeze(-1), x.values, -1e30).amax(1)


class AcrossDialogues(Context):
    """Looks at the utterance before, whichever dialogue that belongs to."""

    requires = frozenset({"dialogue"})

    def forward(self, pooled: Tensor, batch: Batch) -> Tensor:
        return pooled + pooled.roll(1, 0)


def test_broken_poolings_and_contexts_are_found() -> None:
    assert "deterministic" in check_pooling(ForwardBuilt).failed
    assert "present" in check_pooling(NotEmpty).failed
    assert check_context(AcrossDialogues).failed == ("batch-mates",)


class Base(nn.Module):
    def none(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        losses = self.none(logits, labels)
        return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[reduction]

    def denominator(self, labels: Tensor) -> Tensor:
        return torch.tensor(float(len(labels)))


class NoReduction(Base):
    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return super().forward(logits, labels, "mean")


class MeanForSum(Base):
    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return super().forward(logits, labels, "mean" if reduction == "sum" else reduction)


class HalfTheMean(Base):
    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return super().forward(logits, labels, reduction) * (0.5 if reduction == "mean" else 1.0)


class LooksAtItsNumbers(Base):
    def none(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().none(logits, labels) * (2.0 if float(logits.sum()) > 0 else 1.0)


class BatchScaled(Base):
    def none(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().none(logits / logits.abs().max().clamp(min=1e-6), labels)


class UpsideDown(Base):
    def none(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().none(-logits, labels)


class LogOfSoftmax(Base):
    def none(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -torch.softmax(logits.float(), 1).log().gather(1, labels.unsqueeze(1)).squeeze(1)


class HalfSoftmax(Base):
    def none(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")


BROKEN_LOSSES = [
    (NoReduction, "shape"),
    (MeanForSum, "sum"),
    (HalfTheMean, "mean"),
    (LooksAtItsNumbers, "bundle"),
    (BatchScaled, "batch-mates"),
    (UpsideDown, "right"),
    (LogOfSoftmax, "finite"),
    (HalfSoftmax, "bf16"),
]


@pytest.mark.parametrize(("broken", "check"), BROKEN_LOSSES)
def test_each_fault_of_a_loss_is_found(broken: type[nn.Module], check: str) -> None:
    assert check in check_loss(broken).failed


def test_every_loss_check_has_a_broken_example() -> None:
    assert check_loss(Base).passed
    assert [check for _, check in BROKEN_LOSSES] == [name for name, _, _ in LOSS_CHECKS]


def test_contracts_do_not_prescribe_a_length() -> None:

    class AllFrames(Fusion):
        def forward(self, batch: Batch) -> Fused:
            return Fused(in_time(self.sequences(batch)))

    assert check_fusion(AllFrames).passed
