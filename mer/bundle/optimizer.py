"""AdamW, Adam and SGD for k trials at once: the updates of `torch.optim`, with everything scalar per member.

The trained weights of all members lie in one array `[k, P]`, ordered so that parameters with the same settings are
neighbours. An update is then a few passes over it, however many parameters the model has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BETAS, EPS, MOMENTUM = (0.9, 0.999), 1e-8, 0.9


class BundleOptimizer:
    """Updates `flat [k, P]` in place. Equal to `torch.optim.AdamW`, `Adam`, or `SGD(momentum=0.9)` for each row.

    columns   slices of P, one per group of parameters
    decay     `[k][G]` weight decay of each member in each group
    clip      `[k]` largest norm of a member's gradient; 0: no clipping
    """

    def __init__(
        self, name: str, flat: Tensor, columns: Sequence[slice], decay: Sequence[Sequence[float]], clip: Sequence[float]
    ) -> None:
        self.name, self.flat, self.columns = name, flat, tuple(columns)
        self.decay = torch.tensor(decay, dtype=flat.dtype, device=flat.device)
        limits = [limit if limit > 0 else float("inf") for limit in clip]
        self.clip = torch.tensor(limits, dtype=flat.dtype, device=flat.device)
        self.clips = any(limit > 0 for limit in clip)
        self.steps = [0] * len(flat)
        self.first = torch.zeros_like(flat)  # momentum for SGD
        self.second = torch.zeros_like(flat) if name != "sgd" else flat.new_zeros(len(flat), 0)

    @torch.no_grad()
    def step(self, grad: Tensor, rates: Tensor, active: Sequence[bool]) -> None:
        """One update of the active members. grad `[k, P]` (overwritten), rates `[k, G]`; the others are left alone."""
        for member, is_active in enumerate(active):
            self.steps[member] += is_active
        if all(active):
            self._update(self.flat, self.first, self.second, grad, rates, self.decay, self.clip, self.steps)
            return
        chosen = [member for member, is_active in enumerate(active) if is_active]
        if not chosen:
            return
        rows = torch.tensor(chosen, device=self.flat.device)
        flat, first, second = self.flat[rows], self.first[rows], self.second[rows]
        steps = [self.steps[member] for member in chosen]
        self._update(flat, first, second, grad[rows], rates[rows], self.decay[rows], self.clip[rows], steps)
        self.flat[rows], self.first[rows], self.second[rows] = flat, first, second

    def _update(
        self,
        flat: Tensor,
        first: Tensor,
        second: Tensor,
        grad: Tensor,
        rates: Tensor,
        decay: Tensor,
        clip: Tensor,
        steps: Sequence[int],
    ) -> None:
        if self.clips:
            grad *= (clip / (grad.norm(dim=1) + 1e-6)).clamp(max=1.0).unsqueeze(1)
        shrink = [[1 - beta**step for step in steps] for beta in BETAS]
        correct = torch.tensor(shrink, dtype=torch.float64).to(flat)
        for number, columns in enumerate(self.columns):
            p, m, g = flat[:, columns], first[:, columns], grad[:, columns]
            rate, weight = rates[:, number, None], decay[:, number, None]
            if self.name == "adamw":
                p *= 1 - rate * weight
            else:
                g = g + weight * p
            if self.name == "sgd":
                m.mul_(MOMENTUM).add_(g)
                p -= rate * m
                continue
            v = second[:, columns]
            m.lerp_(g, 1 - BETAS[0])
            v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
            denominator = v.sqrt().div_(correct[1].sqrt().unsqueeze(1)).add_(EPS)
            p.sub_(denominator.reciprocal_().mul_(m).mul_(rate / correct[0].unsqueeze(1)))
