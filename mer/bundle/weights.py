"""The weights of all members: those that are trained in one array, everything else stacked as it is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mer.batch import Batch
from mer.bundle.optimizer import BundleOptimizer
from mer.errors import UserError
from mer.model import Model
from mer.training import Trainer


class Weights:
    """`flat [k, P]` with its optimizer, and the way to and from the members' own models and optimizers.

    Parameters with the same settings for every member are neighbours in `flat`; `kinds` holds, for each such run, the
    number of the optimizer's group in each member. `constants` are buffers and parameters that no step moves.
    """

    def __init__(self, members: Sequence[Trainer], example: Batch) -> None:
        self.members = members
        used = receives_gradient(members[0].model, example)
        named = [dict(member.model.named_parameters()) for member in members]
        groups = [
            {id(p): number for number, group in enumerate(member.optimizer.param_groups) for p in group["params"]}
            for member in members
        ]
        kind_of = {
            name: tuple(group[id(own[name])] for own, group in zip(named, groups, strict=True)) for name in sorted(used)
        }
        order = sorted(used, key=lambda name: (kind_of[name], name))
        ends = [0, *itertools.accumulate(named[0][name].numel() for name in order)]
        self.kinds = sorted(set(kind_of.values()))
        self.columns = {name: slice(a, b) for name, (a, b) in zip(order, itertools.pairwise(ends), strict=True)}
        self.trained = [{name: own[name] for name in order} for own in named]
        self.flat = torch.stack([torch.cat([p.detach().flatten() for p in own.values()]) for own in self.trained])
        rest = [
            {name: x for name, x in itertools.chain(own.items(), member.model.named_buffers()) if name not in used}
            for own, member in zip(named, members, strict=True)
        ]
        self.constants = {name: torch.stack([own[name].detach() for own in rest]) for name in rest[0]}
        of_classes = [member.loss.weight for member in members if member.loss.weight is not None]
        self.of_classes = torch.stack(of_classes) if of_classes else None
        self.optimizer = BundleOptimizer(
            members[0].recipe.optimizer.name,
            self.flat,
            [[self.columns[name] for name in order if kind_of[name] == kind] for kind in self.kinds],
            [
                [member.optimizer.param_groups[kind[i]]["weight_decay"] for kind in self.kinds]
                for i, member in enumerate(members)
            ],
            [member.recipe.optimizer.grad_clip for member in members],
        )

    def leaves(self) -> dict[str, Tensor]:
        """The trained parameters `[k, ...]` as they are now, each to be differentiated by."""
        return {
            name: self.flat[:, columns].view(-1, *self.trained[0][name].shape).detach().requires_grad_()
            for name, columns in self.columns.items()
        }

    @torch.no_grad()
    def hand_out(self) -> None:
        """Each member's model gets its weights."""
        for own, trained in zip(self.flat, self.trained, strict=True):
            for name, parameter in trained.items():
                parameter.copy_(own[self.columns[name]].view(parameter.shape))

    def hand_out_optimizer(self) -> None:
        """Each member's optimizer gets the state that it would have alone."""
        for i, (member, trained) in enumerate(zip(self.members, self.trained, strict=True)):
            if not self.optimizer.steps[i]:
                continue
            for name, parameter in trained.items():
                columns = self.columns[name]
                state = {key: x[i, columns].view(parameter.shape).clone() for x, key in self._moments()}
                if self.optimizer.name != "sgd":
                    state["step"] = torch.tensor(float(self.optimizer.steps[i]), device=parameter.device)
                member.optimizer.state[parameter] = state

    @torch.no_grad()
    def take_in(self) -> None:
        """The members' weights and optimizers as they are now."""
        for i, (member, trained) in enumerate(zip(self.members, self.trained, strict=True)):
            for name, parameter in trained.items():
                columns, state = self.columns[name], member.optimizer.state.get(parameter, {})
                self.flat[i, columns] = parameter.flatten()
                self.optimizer.steps[i] = int(state.get("step", 0))
                for x, key in self._moments():
                    x[i, columns] = state[key].flatten() if key in state else 0.0

    def _moments(self) -> list[tuple[Tensor, str]]:
        """The optimizer's arrays, and what `torch.optim` calls them."""
        if self.optimizer.name == "sgd":
            return [(self.optimizer.first, "momentum_buffer")]
        return [(self.optimizer.first, "exp_avg"), (self.optimizer.second, "exp_avg_sq")]


def receives_gradient(model: Model, batch: Batch) -> set[str]:
    """Names of the parameters that a step moves. Others (of a modality that a fusion leaves out) stay as they are."""
    model.train()
    output = model(batch)
    if output.losses:
        raise UserError(
            f"this model cannot be bundled: it has losses of its own ({', '.join(output.losses)})",
            hint="They average over rows, and would see those that pad a member's batch. Train its trials one by one.",
        )
    torch.autograd.backward([view.sum() for view in (output.logits, output.second) if view is not None])
    found = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
