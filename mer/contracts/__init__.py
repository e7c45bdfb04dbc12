"""Contracts: what every level must keep, whoever wrote it. They ship with the package.

`run_contract(target, kind)` runs them on a level of the tables or on a class outside the repository
(`mylab.gate:DeepGate`); `mer contract TARGET` does the same from a shell. The tests run them on every level.

Importing this module loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mer.contracts.report import Report

KINDS = ("fusion", "pooling", "context", "loss", "encoder", "sampler")


def check_fusion(target: str | type, **options: Any) -> Report:
    """The contract of a fusion, on one, two and three modalities."""
    return run_contract(target, "fusion", options)


def check_pooling(target: str | type, **options: Any) -> Report:
    """The contract of a pooling."""
    return run_contract(target, "pooling", options)


def check_context(target: str | type, **options: Any) -> Report:
    """The contract of a context."""
    return run_contract(target, "context", options)


def check_loss(target: str | type, **options: Any) -> Report:
    """The contract of a loss: a module called with `(logits, labels, reduction)`."""
    return run_contract(target, "loss", options)


def check_encoder(target: str, **options: Any) -> Report:
    """The contract of an encoder, on the files of a small corpus that it makes for itself."""
    return run_contract(target, "encoder", options)


def check_sampler(target: str | type, **options: Any) -> Report:
    """The contract of a sampler; options are fields of the recipe's `sampler`."""
    return run_contract(target, "sampler", options)


def run_contract(target: str | type, kind: str, options: dict[str, Any] | None = None) -> Report:
    """Run the contract of a kind on a level by name, on `module:Class`, or on a class itself."""
    from mer.contracts import checks, encoders, losses, samplers, subjects

    if kind == "encoder":
        return encoders.run(str(target), dict(options or {}))
    if kind == "sampler":
        return samplers.run(target, dict(options or {}))
    built = subjects.subjects(target, kind, dict(options or {}))
    return losses.run(built) if kind == "loss" else checks.run(built)
