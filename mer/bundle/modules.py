"""The modules that vmap cannot take as they are: what stands for them in a bundle, with the same numbers.

A bundle runs one model, `skeleton(model, ...)`, whose weights are given from outside, a member's slice to each
member. Parameters keep their names. What is replaced:

    Dropout, Noise   draw nothing: the numbers are given (`mer.bundle.dropout`)
    nn.LSTM          has no rule for batches of weights: one call per member, the rest of the model stays batched
    Attention        always on its explicit path: torch's fused kernel has no such rule either
    nn.Linear        product, then bias: under vmap the fused form multiplies by 1 twice
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mer.bundle.dropout import GivenDropout, GivenNoise, Supply
from mer.errors import UserError
from mer.layers import Attention, Dropout, Noise, Swap

# cuDNN copies a member's weights together at each call and says so; their place is the bundle's stack.
warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")


class MemberLSTM(torch.autograd.Function):
    """A unidirectional, batch-first LSTM `[B, T, D] -> [B, T, H]`, member by member where vmap meets it.

    No gradient is defined here: the rule below calls torch's LSTM beneath vmap, where autograd records it.
    """

    @staticmethod
    def forward(x: Tensor, *weights: Tensor) -> Tensor:
        return _lstm(x, weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *operands: Tensor) -> tuple[Tensor, int]:
        members = [
            [operand] * info.batch_size if dim is None else operand.unbind(dim)
            for operand, dim in zip(operands, in_dims, strict=True)
        ]
        return torch.stack([_lstm(x, weights) for x, *weights in zip(*members, strict=True)]), 0


def _lstm(x: Tensor, weights: Any) -> Tensor:
    start = x.new_zeros(1, x.shape[0], weights[1].shape[-1])
    out: Tensor = torch._VF.lstm(x, (start, start), list(weights), True, 1, 0.0, True, False, True)[0]
    return out


class BundledLSTM(nn.Module):
    """`nn.LSTM(batch_first=True)` of one layer and direction as `MemberLSTM`; the same names of parameters."""

    def __init__(self, source: nn.LSTM) -> None:
        super().__init__()
        if source.num_layers != 1 or source.bidirectional or not source.batch_first or source.proj_size:
            raise UserError(
                f"{source} cannot be bundled", expected="layers of mer.layers.MaskedBiLSTM: batch first, one direction"
            )
        for name, parameter in source.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        weights = [self._parameters[name] for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
        return MemberLSTM.apply(x, *weights), None  # type: ignore[no-untyped-call]


class BundledLinear(nn.Linear):
    """`x W' + b` in two operations."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.weight)
        return y if self.bias is None else y + self.bias


class BundledLayerNorm(nn.LayerNorm):
    """Normalise, then scale and shift in one operation; vmap's rule takes two."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.layer_norm(x, self.normalized_shape, eps=self.eps)
        return y if self.weight is None or self.bias is None else torch.addcmul(self.bias, y, self.weight)


def skeleton(models: Sequence[nn.Module], supply: Supply) -> nn.Module:
    """A copy of the models' architecture that vmap can run, its random numbers taken from `supply`."""
    found = copy.deepcopy(models[0])
    for path, parent in list(found.named_modules()):
        for name, child in list(parent.named_children()):
            place = f"{path}.{name}" if path else name
            if type(child) is Dropout:
                strengths = [cast("Dropout", model.get_submodule(place)).p for model in models]
                setattr(parent, name, GivenDropout(strengths, supply))
            elif type(child) is Noise:
                strengths = [cast("Noise", model.get_submodule(place)).deviation for model in models]
                setattr(parent, name, GivenNoise(strengths, supply))
            elif isinstance(child, Swap) and not child.share:
                continue
            elif isinstance(child, nn.LSTM):
                setattr(parent, name, BundledLSTM(child))
            elif type(child) is nn.Linear:
                child.__class__ = BundledLinear
            elif type(child) is nn.LayerNorm and (child.weight is None) == (child.bias is None):
                child.__class__ = BundledLayerNorm
            elif isinstance(child, Attention):
                child.fused = False
            elif isinstance(child, (Dropout, nn.Dropout, nn.modules.batchnorm._BatchNorm, nn.RNNBase)):
                raise UserError(
                    f"{type(child).__name__} cannot be bundled: what it draws or counts depends on padding",
                    hint="Declare the level `unbundled`, or use mer.layers.Dropout, Noise and LayerNorm.",
                )
    return found
