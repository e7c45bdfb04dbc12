"""The checks for modules that take a batch: fusions, poolings, contexts. Each raises `Violation` where it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from mer import levels
from mer.batch import Batch, Fused, Sequence
from mer.contracts.report import Report, Result, Violation
from mer.contracts.subjects import DIM, Outcome, Subject, select
from mer.layers import set_generator

FLOAT_NOISE = 2e-5
BF16_NOISE = 0.15
"""bf16 keeps 8 bits; several layers on values near 1 add up to a few per cent, far below what a fault does."""


@dataclass(frozen=True)
class Check:
    """A named promise and the function that tests it."""

    name: str
    meaning: str
    test: Callable[[Subject], None]
    applies: Callable[[Subject], bool] = lambda subject: True


def run(subjects: list[Subject]) -> Report:
    """Every check on every subject (set of modalities); a check holds if it holds on all."""
    results = []
    for check in CHECKS:
        seen = []
        for subject in filter(check.applies, subjects):
            problem = _problem(check, subject)
            if problem:
                seen.append(f"[{' + '.join(subject.modalities)}] {problem}" if len(subjects) > 1 else problem)
        if any(check.applies(subject) for subject in subjects):
            results.append(Result(check.name, check.meaning, "\n".join(seen) or None))
    return Report(subjects[0].name, subjects[0].kind, tuple(results))


def _problem(check: Check, subject: Subject) -> str | None:
    try:
        check.test(subject)
    except Violation as violation:
        return str(violation)
    except Exception as error:  # a level that raises has broken the promise, whatever it raised
        return f"{type(error).__name__}: {error}"
    return None


# --- helpers -----------------------------------------------------------------------------------------------------


def ready(subject: Subject, training: bool = False) -> nn.Module:
    module = subject.build().train(training)
    set_generator(module, torch.Generator().manual_seed(0))
    return module


def with_padding(batch: Batch, fill: float, extra: int = 0, leaf: bool = False) -> Batch:
    """The same utterances; the masked positions hold `fill`, and there are `extra` more of them."""
    found = {}
    for name, sequence in batch.modalities.items():
        mask = torch.nn.functional.pad(sequence.mask, (0, extra))
        values = torch.nn.functional.pad(sequence.values, (0, 0, 0, extra))
        values = torch.where(mask.unsqueeze(-1), values, fill).detach().requires_grad_(leaf)
        found[name] = Sequence(values, mask)
    return replace(batch, modalities=found)


def compare(found: list[Tensor], expected: list[Tensor], tolerance: float, what: str) -> None:
    """Row by row, relative to the largest expected value (at least 1)."""
    for row, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape:
            raise Violation(f"{what}: row {row} has shape {tuple(a.shape)}, expected {tuple(b.shape)}")
        if not a.numel():
            continue
        scale = max(1.0, float(b.detach().abs().max()))
        difference = float((a.detach().double() - b.detach().double()).abs().max()) / scale
        if not difference <= tolerance:
            raise Violation(f"{what}: row {row} differs by {difference:.2g} (allowed {tolerance:g})")


def objective(outcome: Outcome) -> Tensor:
    """A scalar that depends on every output: a fixed random projection of all rows, plus auxiliary losses."""
    flat = torch.cat([row.float().mean(0, keepdim=True) for row in outcome.rows if len(row)])
    weights = torch.randn(flat.shape, generator=torch.Generator().manual_seed(7))
    return (torch.tanh(flat) * weights).sum() + outcome.losses


def finite(tensors: list[Tensor], what: str) -> None:
    for row, tensor in enumerate(tensors):
        if not bool(torch.isfinite(tensor).all()):
            raise Violation(f"{what} {row} is not finite")


# --- checks ------------------------------------------------------------------------------------------------------


def _declared(subject: Subject) -> None:
    declaration = levels.declaration(str(subject.target))
    for parameter in declaration.parameters.values():
        if parameter.default is levels.REQUIRED:
            raise Violation(f"option {parameter.name!r} has no default")
    if ("dialogue" in declaration.requires) != subject.dialogue:
        raise Violation(
            f"`requires` read from the source is {set(declaration.requires) or '{}'}: write it as a literal"
        )


def _shape(subject: Subject) -> None:
    batch, module = subject.batch(), ready(subject)
    outcome = subject.call(module, batch)
    out_dim = getattr(module, "out_dim", DIM)
    if not isinstance(outcome.returned, Fused):
        if not isinstance(outcome.returned, Tensor) or outcome.returned.shape != (batch.size, out_dim):
            shape = tuple(getattr(outcome.returned, "shape", ())) or type(outcome.returned).__name__
            raise Violation(f"returned {shape}, expected ({batch.size}, {out_dim})")
        return
    values, mask = outcome.returned.sequence.values, outcome.returned.sequence.mask
    if values.dim() != 3 or values.shape[0] != batch.size or values.shape[2] != out_dim:
        raise Violation(f"values {tuple(values.shape)}, expected ({batch.size}, any, {out_dim}): out_dim is {out_dim}")
    if mask.dtype != torch.bool or mask.shape != values.shape[:2]:
        raise Violation(f"mask {tuple(mask.shape)} {mask.dtype}, expected {tuple(values.shape[:2])} torch.bool")
    wrong = {name: tuple(x.shape) for name, x in outcome.returned.aux.items() if x.shape[:1] != (batch.size,)}
    if wrong:
        raise Violation(f"aux must have the batch ({batch.size}) first: {wrong}")
    if any(x.requires_grad for x in outcome.returned.aux.values()):
        raise Violation("aux is for analysis: detach it, or it keeps the graph alive")


def _gradients(subject: Subject) -> None:
    module = ready(subject, training=True)
    dead = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    for seed in range(3):
        if not dead and seed:
            break
        module.zero_grad(set_to_none=True)
        batch = with_padding(subject.batch(seed), 0.0, leaf=True)
        torch.autograd.backward(objective(subject.call(module, batch)))
        dead = [name for name in dead if not _touched(module.get_parameter(name))]
    if dead:
        raise Violation(f"no gradient in {', '.join(dead)}")


def _touched(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool((parameter.grad != 0).any())


def _finite(subject: Subject) -> None:
    batch, module = with_padding(subject.batch(), float("nan"), 2, leaf=True), ready(subject, training=True)
    outcome = subject.call(module, batch)
    finite(outcome.rows, "with NaN in the padding, the output of row")
    torch.autograd.backward(objective(outcome))
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            raise Violation(f"with NaN in the padding, the gradient of {name} is not finite")
    for name, sequence in batch.modalities.items():
        if sequence.values.grad is not None and not bool(torch.isfinite(sequence.values.grad).all()):
            raise Violation(f"with NaN in the padding, the gradient of the input {name} is not finite")


def _padding(subject: Subject) -> None:
    module, batch = ready(subject), subject.batch()
    expected = subject.call(module, with_padding(batch, 0.0)).rows
    compare(subject.call(module, with_padding(batch, 0.0, 4)).rows, expected, FLOAT_NOISE, "4 more padded frames")
    compare(subject.call(module, with_padding(batch, 1e3)).rows, expected, FLOAT_NOISE, "1000 in the padding")


def _absent(subject: Subject) -> None:
    module, batch = ready(subject), subject.batch()
    expected = subject.call(module, with_padding(batch, 0.0)).rows
    for fill in (float("nan"), float("inf"), -7.0):
        found = subject.call(module, with_padding(batch, fill)).rows
        for row, (a, b) in enumerate(zip(found, expected, strict=True)):
            if a.shape != b.shape or not torch.equal(a, b):
                raise Violation(f"row {row} changes when what is masked holds {fill}")


def _batch_mates(subject: Subject) -> None:
    module, batch = ready(subject), subject.batch()
    together = subject.call(module, batch).rows
    for unit in subject.units():
        alone = subject.call(module, select(batch, unit)).rows
        compare(alone, together[unit.start : unit.stop], FLOAT_NOISE, f"rows {unit.start} to {unit.stop - 1} alone")


def _content(subject: Subject) -> None:
    module = ready(subject)
    first, second = subject.call(module, subject.batch(0)).rows, subject.call(module, subject.batch(1)).rows
    present = torch.stack([s.present for s in subject.batch().modalities.values()]).any(0)
    same = [i for i in range(len(first)) if present[i] and len(first[i]) and torch.equal(first[i], second[i])]
    if same:
        raise Violation(f"rows {same} do not change when all their features do")


def _presence(subject: Subject) -> None:
    module, batch = ready(subject), subject.batch()
    rows = subject.call(module, batch).rows
    if subject.kind == "pooling":
        if bool((rows[3] != 0).any()):
            raise Violation("an utterance without any frame must pool to zeros")
        return
    selected = getattr(module, "modality", None)
    names = [selected] if selected in subject.modalities else list(subject.modalities)
    there = torch.stack([batch.modalities[name].present for name in names]).any(0)
    wrong = [i for i, row in enumerate(rows) if bool(len(row)) < bool(there[i])]
    if wrong:
        raise Violation(f"rows {wrong} have a modality but no frame in the fused sequence: what they hold is lost")


def _deterministic(subject: Subject) -> None:
    for training in (False, True):
        found = []
        for seed in (1, 2):
            module = ready(subject, training)
            torch.manual_seed(seed)
            found.append(subject.call(module, subject.batch()).rows)
        if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
            mode = "training" if training else "evaluation"
            raise Violation(f"in {mode} the result depends on torch's global generator: use mer.layers.Dropout")


def _saves(subject: Subject) -> None:
    module, batch = ready(subject), subject.batch()
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    expected = subject.call(module, batch).rows
    stored = save({name: tensor.contiguous() for name, tensor in module.state_dict().items()})
    fresh = ready(subject)
    fresh.load_state_dict(load(stored), strict=True)
    found = subject.call(fresh, batch).rows
    if not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)):
        raise Violation("after saving and loading the result is another: something is not in the state dict")


def _bf16(subject: Subject) -> None:
    module, batch = ready(subject), with_padding(subject.batch(), 0.0, leaf=True)
    expected = subject.call(module, batch).rows
    with torch.autocast("cpu", torch.bfloat16):
        outcome = subject.call(module, batch)
    finite(outcome.rows, "under bf16 autocast, the output of row")
    compare(outcome.rows, expected, BF16_NOISE, "bf16 autocast against float32")
    torch.autograd.backward(objective(outcome))
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            raise Violation(f"under bf16 autocast, the gradient of {name} is not finite")


def _float64(subject: Subject) -> None:
    module, batch = ready(subject), subject.batch()
    expected = subject.call(module, batch).rows
    wide = {name: Sequence(s.values.double(), s.mask) for name, s in batch.modalities.items()}
    assert batch.dialogue is not None
    dialogue = replace(batch.dialogue, turn=batch.dialogue.turn.double())
    found = subject.call(module.double(), replace(batch, modalities=wide, dialogue=dialogue)).rows
    compare(expected, found, 1e-4, "float32 against float64")


def _has_padding(subject: Subject) -> bool:
    return subject.masked


CHECKS = (
    Check("declared", "options have literal defaults, readable without importing", _declared, lambda s: bool(s.target)),
    Check("shape", "the output has the width it declares, a mask, and the batch first in everything", _shape),
    Check("gradients", "every parameter learns", _gradients),
    Check(
        "finite", "no NaN forward or backward, whatever the padding holds and whoever is absent", _finite, _has_padding
    ),
    Check("padding", "more padding, or anything in it, changes nothing", _padding, _has_padding),
    Check("absent", "the content of an absent modality cannot matter: NaN in it changes no bit", _absent, _has_padding),
    Check(
        "present",
        "what is there is not lost: some frame stands for every utterance that has any",
        _presence,
        _has_padding,
    ),
    Check("content", "the content of what is present does matter", _content),
    Check("batch-mates", "alone (or by dialogue) and in a batch the result is the same", _batch_mates),
    Check("deterministic", "randomness comes from the trial's generator alone", _deterministic),
    Check("saves", "saved and loaded, it computes the same", _saves),
    Check("bf16", "works under bf16 autocast, close to float32", _bf16),
    Check("float64", "float32 agrees with float64", _float64),
)
