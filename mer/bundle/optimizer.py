"""AdamW, Adam and SGD for k trials at once: the updates of `torch.optim`, with everything scalar per member.

The trained weights of all members lie in one array `[k, P]`, ordered so that parameters with the same settings (a kind)
are neighbours. There are two ways to the same numbers. A few operations move all members together: what counts is how
many are launched, on a GPU always. On a processor, where weights are many, what counts is to go over the memory once:
torch's fused update, member by member.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

BETAS, EPS, MOMENTUM = (0.9, 0.999), 1e-8, 0.9

MANY = 2**20
"""Weights of all members from which a processor updates member by member: they and their moments leave its cache."""


class BundleOptimizer:
    """Updates `flat [k, P]` in place. Equal to `torch.optim.AdamW`, `Adam`, or `SGD(momentum=0.9)` for each row.

    kinds     for each kind the slices of P that its parameters are
    decay     `[k][G]` weight decay of each member in each of G kinds
    clip      `[k]` largest norm of a member's gradient; 0: no clipping
    fused     member by member, or all together; None: whichever is faster
    """

    def __init__(
        self,
        name: str,
        flat: Tensor,
        kinds: Sequence[Sequence[slice]],
        decay: Sequence[Sequence[float]],
        clip: Sequence[float],
        *,
        fused: bool | None = None,
    ) -> None:
        self.name, self.flat, self.kinds = name, flat, [list(columns) for columns in kinds]
        self.decay = torch.tensor(decay, dtype=torch.float64)
        self.decay_there = self.decay.to(flat)
        limits = [limit if limit > 0 else float("inf") for limit in clip]
        self.clip = torch.tensor(limits, dtype=flat.dtype, device=flat.device)
        self.clips = any(limit > 0 for limit in clip)
        self.fused = flat.device.type == "cpu" and flat.numel() >= MANY if fused is None else fused
        self.steps = [0] * len(flat)
        self.first = torch.zeros_like(flat)  # momentum for SGD
        self.second = torch.zeros_like(flat) if name != "sgd" else flat.new_zeros(len(flat), 0)

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], rates: Tensor, active: Sequence[bool]) -> None:
        """One update of the active members; the others are left alone.

        grads  `[k, ...]` of each parameter, in the order of the slices in `kinds`; overwritten
        rates  `[k, G]`
        """
        chosen = [member for member, is_active in enumerate(active) if is_active]
        for member in chosen:
            self.steps[member] += 1
        if not chosen:
            return
        grads = [grad.flatten(1) for grad in grads]
        if self.fused:
            norms = torch.stack([torch.linalg.vector_norm(grad, dim=1) for grad in grads]).norm(dim=0)
            shrink = (self.clip / (norms + 1e-6)).clamp(max=1.0).tolist()
            for member in chosen:
                own = [grad[member] for grad in grads]
                if shrink[member] < 1.0:
                    torch._foreach_mul_(own, shrink[member])
                self._update_one(member, own, rates[member].tolist())
            return
        grad = torch.cat(grads, dim=1)
        if len(chosen) == len(active):
            self._update(self.flat, self.first, self.second, grad, rates, self.decay_there, self.clip, self.steps)
        else:
            at = torch.tensor(chosen).to(self.flat.device, non_blocking=True)
            flat, first, second = self.flat[at], self.first[at], self.second[at]
            steps = [self.steps[member] for member in chosen]
            self._update(flat, first, second, grad[at], rates[at], self.decay_there[at], self.clip[at], steps)
            self.flat[at], self.first[at], self.second[at] = flat, first, second

    def _update_one(self, member: int, grads: Sequence[Tensor], rates: Sequence[float]) -> None:
        first = 0
        for number, columns in enumerate(self.kinds):
            own, first = list(grads[first : first + len(columns)]), first + len(columns)
            weights = [self.flat[member, place] for place in columns]
            momentum = [self.first[member, place] for place in columns]
            lr, decay = rates[number], float(self.decay[member, number])
            if self.name == "sgd":
                buffers: list[Tensor | None] = [*momentum]
                sgd(
                    weights, own, buffers, fused=True, lr=lr, weight_decay=decay, momentum=MOMENTUM,
                    dampening=0.0, nesterov=False, maximize=False,
                )  # fmt: skip
                continue
            before = [torch.tensor(float(self.steps[member] - 1), device=self.flat.device) for _ in columns]
            adam(
                weights, own, momentum, [self.second[member, place] for place in columns], [], before, fused=True,
                lr=lr, weight_decay=decay, beta1=BETAS[0], beta2=BETAS[1], eps=EPS, amsgrad=False, maximize=False,
                decoupled_weight_decay=self.name == "adamw",
            )  # fmt: skip

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
        rates = rates.to(flat.dtype)
        shrink = [[1 - beta**step for step in steps] for beta in BETAS]
        correct = torch.tensor(shrink, dtype=torch.float64).to(flat.device, flat.dtype, non_blocking=True)
        for number, places in enumerate(self.kinds):
            columns = slice(places[0].start, places[-1].stop)
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
