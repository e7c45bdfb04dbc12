"""k trials of one architecture in one step: parameters stacked, one batched forward and backward.

Every member is a `mer.training.Trainer` of its own, which holds what belongs to it: recipe, split, sampler, masks,
generator, schedule, history, best weights. What is done together is the arithmetic: the weights of all members are one
array `[k, P]`, the model runs once under `torch.func.vmap` on the members' batches padded to a common shape, the loss
is a sum over members (whose gradients do not meet), and one update moves them all.

Each member gets the numbers that it gets alone, up to rounding: the same initialisation, batches, missing masks and
dropout masks (`mer.bundle.dropout`), its own learning rate, weight decay, clipping and early stop. Products of
batched matrices may round differently from single ones, so the last bits may differ, and a bundle is a bundle again
when it is repeated: same members in the same order, same bits.

A member that has ended is left out of the next epoch: what a step costs falls with the number of members that go on,
and who goes on after an epoch is all that the next one depends on. Members with fewer batches than others sit the last
steps of an epoch out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from mer import batch as batches
from mer.batch import Batch
from mer.bundle.batches import Inputs, labels_of, once, together
from mer.bundle.declared import architecture, why_not
from mer.bundle.dropout import Sizes, Supply, Wish, draw, find_sites
from mer.bundle.modules import skeleton
from mer.bundle.weights import Weights
from mer.data.corpus import TrainValid
from mer.data.store import FeatureStore
from mer.errors import UserError
from mer.evaluation import Predictions
from mer.model import Model
from mer.precision import autocast, default_device, wide
from mer.recipe import Recipe
from mer.streams import Streams, derive
from mer.training import Diverged, EpochReport, SplitLoader, Trainer, split_loader


class BundleTrainer:
    """Trains k recipes that share an architecture, an epoch of all at a time.

    Args:
        recipes: one per member; they may differ in what `mer.bundle.declared.OWN` names.
        data: training and validation utterances; one for all, or one per member (resplits, folds).
        streams: the seeds, one per member.
        store, device, load: as for `Trainer`.

    ::

        bundle = BundleTrainer([recipe] * 8, data, [streams(0, "demo", study, 0, "confirm") for study in range(8)])
        for reports in bundle.run():
            print([report and report.valid["ua"] for report in reports])
        models = [bundle.best_model(i) for i in range(8)]
    """

    def __init__(
        self,
        recipes: Sequence[Recipe],
        data: TrainValid | Sequence[TrainValid],
        streams: Sequence[Streams],
        *,
        store: FeatureStore | None = None,
        device: torch.device | str | None = None,
        load: SplitLoader | None = None,
    ) -> None:
        parts = [data] * len(recipes) if isinstance(data, TrainValid) else list(data)
        _check(recipes, len(parts), len(streams))
        self.device = torch.device(device or default_device())
        load = once(load or split_loader(store or FeatureStore(), self.device))
        self.members = [
            Trainer(recipe, part, seeds, store=store, device=self.device, load=load)
            for recipe, part, seeds in zip(recipes, parts, streams, strict=True)
        ]
        self.recipe = recipes[0]
        self.diverged: list[Diverged | None] = [None] * len(recipes)
        self.stopped = [False] * len(recipes)
        self.weights: Weights
        self._going: list[int] = []
        self._compose(list(range(len(recipes))))

    # --- what a scheduler asks ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.members)

    @property
    def members_finished(self) -> list[bool]:
        """Which members have trained their last epoch, run out of patience, diverged, or been stopped?"""
        ended = [gone or failure is not None for gone, failure in zip(self.stopped, self.diverged, strict=True)]
        return [gone or member.finished for gone, member in zip(ended, self.members, strict=True)]

    @property
    def finished(self) -> bool:
        return all(self.members_finished)

    def stop(self, i: int) -> None:
        """Member i takes part in no further epoch; what it has learned stays."""
        self.stopped[i] = True

    def run(self) -> Iterator[list[EpochReport | None]]:
        """Train to the end, yielding each epoch's reports."""
        while not self.finished:
            yield self.epoch()

    def epoch(self) -> list[EpochReport | None]:
        """One epoch of every member that is not finished; None for the others.

        A member whose numbers are lost ends here, with what happened in `diverged`; the others are not touched by it.
        `seconds` of a report are the member's equal share.
        """
        started = time.perf_counter()
        torch.set_num_threads(self.recipe.training.threads)
        going = [i for i, done in enumerate(self.members_finished) if not done]
        if going != self._going:
            self._compose(going)
        losses, loading = self._train_epoch()
        self.weights.hand_out()
        for i, loss in zip(going, losses, strict=True):
            if not math.isfinite(loss):
                self.diverged[i] = Diverged(self.members[i].epochs_done + 1, "the training loss")
        scored = self._predict_valid()
        reports: list[EpochReport | None] = [None] * len(self)
        for i, loss, predictions in zip(going, losses, scored, strict=True):
            if self.diverged[i] is not None:
                continue
            seconds = (time.perf_counter() - started) / len(going)
            try:
                reports[i] = self.members[i].conclude(loss, predictions.scores(), seconds, loading / len(going))
            except Diverged as failure:
                self.diverged[i] = failure
        return reports

    def predict_valid(self) -> list[Predictions]:
        """Predictions of every member that goes on, as it is now, on its validation part, under its frozen masks."""
        return self._predict_valid()

    def double(self) -> BundleTrainer:
        """All arithmetic in float64, for comparing with trials alone: before the first epoch."""
        for member in self.members:
            member.model.double()
            member.loss.double()
        self._going = []
        self._compose(list(range(len(self))))
        return self

    def best_model(self, i: int) -> Model:
        """Member i with the weights of its best validation epoch."""
        return self.members[i].best_model()

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on: for each member what `Trainer.state_dict` of it alone would hold."""
        self.weights.hand_out()
        self.weights.hand_out_optimizer()
        lost = [None if failure is None else [failure.epoch, failure.what] for failure in self.diverged]
        members = [member.state_dict() for member in self.members]
        return {"members": members, "diverged": lost, "stopped": list(self.stopped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["members"]) != len(self):
            raise UserError(f"the state of a bundle of {len(state['members'])}", expected=f"one of {len(self)}")
        self.diverged = [None if lost is None else Diverged(*lost) for lost in state["diverged"]]
        self.stopped = list(state["stopped"])
        for member, held in zip(self.members, state["members"], strict=True):
            member.load_state_dict(held)
        self._going = []
        self._compose([i for i, done in enumerate(self.members_finished) if not done])

    # --- who goes on -------------------------------------------------------------------------------------------------

    def _compose(self, going: list[int]) -> None:
        """Put the weights of these members, and of no others, side by side."""
        if self._going:
            self.weights.hand_out()
            self.weights.hand_out_optimizer()
        self._going = going
        if not going:
            return
        members = self._members()
        self._supply = Supply()
        self._skeleton = skeleton([member.model for member in members], self._supply)
        self._sites = find_sites(self._probe, self.recipe.modalities)
        self.weights = Weights(members, self._empty_batch(self._odd_sizes()))
        self.weights.take_in()

    def _members(self) -> list[Trainer]:
        return [self.members[i] for i in self._going]

    # --- the arithmetic ----------------------------------------------------------------------------------------------

    def _logits(self, weights: Mapping[str, Tensor], inputs: Inputs, drawn: Sequence[Tensor]) -> list[Tensor]:
        """`[k, B, C]`, of the skeleton in its present mode, and of its second view where it has one."""

        def one(weights: Mapping[str, Tensor], inputs: Inputs, drawn: Sequence[Tensor]) -> list[Tensor]:
            self._supply.load(drawn)
            batch = Batch({name: batches.Sequence(*pair) for name, pair in inputs.items()})
            output = functional_call(self._skeleton, dict(weights), (batch, False))
            return [output.logits] if output.second is None else [output.logits, output.second]

        with autocast(self.device, self.recipe.training.precision):
            found: list[Tensor] = vmap(one)({**weights, **self.weights.constants}, inputs, list(drawn))
        return found

    def _losses(self, logits: Tensor, labels: Tensor, real: Tensor) -> Tensor:
        """`[k]`: the mean loss of each member over its real rows, as `ClassificationLoss` takes it; 0 without any."""
        loss = self.members[0].loss

        def one(weight: Tensor | None, logits: Tensor, labels: Tensor, real: Tensor) -> Tensor:
            given = {} if weight is None else {"weight": weight}
            terms: Tensor = functional_call(loss, given, (wide(logits), labels, "none"))
            counts = torch.ones_like(terms) if weight is None else weight[labels].to(terms.dtype)
            total = torch.where(real, counts, 0.0).sum().clamp(min=torch.finfo(terms.dtype).tiny)
            return torch.where(real, terms, 0.0).sum() / total

        weighted = None if self.weights.of_classes is None else 0
        found: Tensor = vmap(one, in_dims=(weighted, 0, 0, 0))(self.weights.of_classes, logits, labels, real)
        return found

    def _train_epoch(self) -> tuple[list[float], float]:
        """The mean loss of each member that goes on, and the seconds spent on making batches."""
        members, groups = self._members(), self.recipe.optimizer.accumulate
        plans: list[list[list[np.ndarray]]] = []  # member, step, rows of each micro-batch
        available = []
        for member in members:
            number = member.epochs_done
            member.generator.manual_seed(derive(member.streams.dropout, number))
            for encoder in member.model.encoder_table().values():
                encoder.on_epoch(number)
            order: list[np.ndarray] = list(member.sampler.batches(number))
            plans.append([order[first : first + groups] for first in range(0, len(order), groups)])
            available.append(member.train_available(number))
        rates = self._rates(plans)
        self._skeleton.train()
        losses: list[Tensor] = []
        took: list[list[bool]] = []
        loading = 0.0
        for step in range(max(map(len, plans))):
            now = [plan[step] if step < len(plan) else [] for plan in plans]
            leaves = self.weights.leaves()
            grads: list[Tensor] = []
            for micro in range(max(map(len, now))):
                before = time.perf_counter()
                rows = [group[micro] if micro < len(group) else None for group in now]
                inputs, sizes, common = together([m.train for m in members], rows, available)
                labels, real = labels_of([m.train for m in members], rows, common.rows)
                drawn = draw(self._sites, sizes, common, [m.generator for m in members], self.weights.flat.dtype)
                loading += time.perf_counter() - before
                views = self._logits(leaves, inputs, drawn)
                each = torch.stack([self._losses(logits, labels, real) for logits in views]).mean(0)
                # Accumulated batches weigh by their size, so that splitting a batch does not change the step.
                shares = [
                    0.0 if own is None else len(own) / sum(map(len, group))
                    for own, group in zip(rows, now, strict=True)
                ]
                weights = torch.tensor(shares, dtype=each.dtype).to(self.device, non_blocking=True)
                total = (each * weights).sum()
                found = torch.autograd.grad(total, list(leaves.values()))
                grads = [a + b for a, b in zip(grads, found, strict=True)] if grads else list(found)
                losses.append(each.detach())
                took.append([own is not None for own in rows])
            self.weights.optimizer.step(grads, rates[step], [bool(group) for group in now])
        values, there = torch.stack(losses).cpu(), torch.tensor(took)
        return [float(values[there[:, i], i].mean()) for i in range(len(members))], loading

    def _rates(self, plans: Sequence[Sequence[Sequence[np.ndarray]]]) -> Tensor:
        """`[steps, k, G]`: learning rates of an epoch, in float64; sent to a GPU at once."""
        members = self._members()
        found = np.zeros((max(map(len, plans)), len(members), len(self.weights.kinds)))
        for i, (member, plan) in enumerate(zip(members, plans, strict=True)):
            batches, first = sum(map(len, plan)), 0
            for step, group in enumerate(plan):
                member.set_learning_rate(member.epochs_done, first / batches)
                found[step, i] = [member.optimizer.param_groups[kind[i]]["lr"] for kind in self.weights.kinds]
                first += len(group)
        return torch.from_numpy(found).to(self.device)

    @torch.no_grad()
    def _predict_valid(self, batch_size: int = 128) -> list[Predictions]:
        self._skeleton.eval()
        members = self._members()
        splits, available = [m.valid for m in members], [m.valid_available for m in members]
        plans = [split.whole_batches(batch_size) for split in splits]
        found: list[list[Tensor]] = [[] for _ in members]
        leaves = self.weights.leaves()
        for step in range(max(map(len, plans))):
            rows = [plan[step] if step < len(plan) else None for plan in plans]
            inputs, _, _ = together(splits, rows, available)
            (logits,) = self._logits(leaves, inputs, ())
            for i, own in enumerate(rows):
                if own is not None:
                    found[i].append(logits[i, : len(own)].float())
        return [
            Predictions(
                ids=split.ids,
                labels=split.labels.cpu().numpy(),
                probabilities=torch.cat(pieces).softmax(dim=1).cpu().numpy().astype(np.float32),
            )
            for split, pieces in zip(splits, found, strict=True)
        ]

    # --- trying the model on nothing ---------------------------------------------------------------------------------

    def _odd_sizes(self) -> Sizes:
        return Sizes(3, {name: 4 + number for number, name in enumerate(self.recipe.modalities)})

    def _empty_batch(self, sizes: Sizes, absent: bool = False) -> Batch:
        """A batch of noise of the split's widths and types; row j lacks modality j where asked."""
        generator = torch.Generator().manual_seed(0)
        found = {}
        for number, (name, frames) in enumerate(sizes.frames.items()):
            example = self.members[0].train.arrays[name].gather(np.arange(1)).values
            shape = (sizes.rows, frames, *example.shape[2:])
            values = torch.zeros(shape, dtype=example.dtype)
            if example.is_floating_point():
                values = torch.rand(shape, generator=generator).to(self._dtype())
            mask = torch.ones(shape[:2], dtype=torch.bool)
            mask[number] = not absent
            found[name] = batches.Sequence(values, mask).to(self.device)
        return Batch(found)

    def _dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.members[0].model.parameters()), torch.float32)

    @torch.no_grad()
    def _probe(self, sizes: Sizes, absent: bool) -> list[tuple[Wish, Tensor]]:
        self._supply.seen = []
        try:
            self._skeleton.train()(self._empty_batch(sizes, absent), details=False)
            return self._supply.seen
        finally:
            self._supply.seen = None


def _check(recipes: Sequence[Recipe], parts: int, seeds: int) -> None:
    if not recipes or not len(recipes) == parts == seeds:
        raise UserError(
            f"a bundle of {len(recipes)} recipes, {parts} splits and {seeds} streams", expected="as many of each"
        )
    for number, recipe in enumerate(recipes):
        reason = why_not(recipe)
        if reason:
            raise UserError(f"a recipe that cannot be bundled: {reason}", hint="Train its trials one by one.")
        if architecture(recipe) != architecture(recipes[0]):
            raise UserError(
                f"recipe {number} of a bundle has another architecture than recipe 0",
                expected="recipes that differ in what mer.bundle.declared.OWN names, or in dropout, alone",
            )
