"""The checks for losses: modules called with `(logits [B, C], labels [B], reduction)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mer.contracts.report import Report, Result, Violation
from mer.contracts.subjects import Subject

CLASSES = 4


def run(subjects: list[Subject]) -> Report:
    """Every check on a loss."""
    (subject,) = subjects
    results = []
    for name, meaning, test in CHECKS:
        seen = None
        try:
            test(subject.build())
        except Violation as violation:
            seen = str(violation)
        except Exception as error:  # a loss that raises has broken the promise, whatever it raised
            seen = f"{type(error).__name__}: {error}"
        results.append(Result(name, meaning, seen))
    return Report(subject.name, subject.kind, tuple(results))


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, CLASSES, generator=generator), torch.arange(9) % CLASSES


def _shape(loss: nn.Module) -> None:
    logits, labels = _data()
    for reduction, expected in (("none", (9,)), ("sum", ()), ("mean", ())):
        found = tuple(loss(logits, labels, reduction).shape)
        if found != expected:
            raise Violation(f"reduction {reduction!r} has shape {found}, expected {expected}")


def _sum(loss: nn.Module) -> None:
    logits, labels = _data()
    if not torch.allclose(loss(logits, labels, "none").sum(), loss(logits, labels, "sum"), rtol=1e-5):
        raise Violation("the sum is not the sum of the parts")


def _rows(loss: nn.Module) -> None:
    logits, labels = _data()
    together = loss(logits, labels, "none")
    for i in range(len(labels)):
        alone = loss(logits[i : i + 1], labels[i : i + 1], "none")
        if not torch.allclose(alone, together[i : i + 1], atol=1e-6, rtol=1e-5):
            raise Violation(
                f"row {i} has another loss alone ({alone.item():.4g}) than in the batch ({together[i]:.4g})"
            )


def _mean(loss: nn.Module) -> None:
    logits, labels = _data()
    expected = loss(logits, labels, "sum") / loss.denominator(labels)  # type: ignore[operator]
    if not torch.allclose(loss(logits, labels, "mean"), expected, rtol=1e-5):
        raise Violation("the mean is not the sum over `denominator(labels)`: accumulated batches would not add up")


def _bundle(loss: nn.Module) -> None:
    if getattr(loss, "unbundled", ""):
        return
    logits, labels = _data()
    many = torch.stack([logits, 2 * logits, -logits])

    def one(z: Tensor) -> Tensor:
        found: Tensor = functional_call(loss, {}, (z, labels, "none"))
        return found

    try:
        found = vmap(one)(many)
    except Exception as error:
        raise Violation(f'vmap refuses it ({type(error).__name__}): give it `unbundled = "why"`') from None
    if not torch.allclose(found, torch.stack([one(z) for z in many]), atol=1e-6):
        raise Violation('under vmap it computes something else: give it `unbundled = "why"`')


def _right(loss: nn.Module) -> None:
    labels = torch.tensor([1])
    right, wrong = torch.tensor([[0.0, 4.0, 0.0, 0.0]]), torch.tensor([[4.0, 0.0, 0.0, 0.0]])
    if not float(loss(right, labels, "sum")) < float(loss(wrong, labels, "sum")):
        raise Violation("a right prediction costs no less than a wrong one")


def _extreme(loss: nn.Module) -> None:
    for scale in (0.0, 1e4):
        logits = (torch.eye(CLASSES) * scale).requires_grad_()
        for labels in (torch.arange(CLASSES), torch.arange(CLASSES).roll(1)):
            value = loss(logits, labels, "mean")
            (gradient,) = torch.autograd.grad(value, logits)
            if not (torch.isfinite(value) and torch.isfinite(gradient).all()):
                raise Violation(f"loss or gradient is not finite at logits of {scale:g}")


def _half(loss: nn.Module) -> None:
    logits, labels = _data()
    wide = loss(logits.bfloat16().float(), labels, "none")
    difference = float((loss(logits.bfloat16(), labels, "none").float() - wide).abs().max())
    if not difference <= 1e-4 * max(1.0, float(wide.max())):
        raise Violation(f"bf16 logits and the same numbers in float32 differ by {difference:.2g}: compute in float32")


CHECKS: tuple[tuple[str, str, Callable[[nn.Module], None]], ...] = (
    ("shape", "reductions none, sum and mean have the shapes they should", _shape),
    ("sum", "`sum` is the sum of `none`", _sum),
    ("mean", "`mean` is the sum over what `denominator` says", _mean),
    ("bundle", "works under vmap, as trials that are trained together call it, or says that it does not", _bundle),
    ("batch-mates", "the loss of an utterance does not depend on its batch-mates", _rows),
    ("right", "a right prediction costs less than a wrong one", _right),
    ("finite", "no NaN or infinity, forward or backward, at certain and at indifferent logits", _extreme),
    ("bf16", "half-precision logits are widened before the softmax", _half),
)
