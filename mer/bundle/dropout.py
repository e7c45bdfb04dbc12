"""Each member's own dropout masks and noise, at the members' common shape.

Alone, a trial draws the random numbers of every dropout at the shape of its own batch. In a bundle batches are padded
to a common shape, and numbers drawn at that shape would be others. So they are drawn as the trial alone would draw
them, from the member's own generator, in the same order and shapes and at its own strength (members may differ in
dropout), and laid where the member's real rows and frames are.

That needs the shape of every dropout's input as a function of the batch's. It is found once, by running the model on
batches of nothing: each axis is a fixed number, or the rows, or the frames of one modality, or the frames of several
one after the other. A model with any other axis cannot be bundled, and is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mer.errors import UserError
from mer.layers import Dropout, Noise


@dataclass(frozen=True)
class Sizes:
    """Rows of a batch, and frames of each modality."""

    rows: int
    frames: Mapping[str, int]


@dataclass(frozen=True)
class Axis:
    """One axis of a dropout's input: `fixed`, or the rows, or the frames of modalities in this order."""

    fixed: int = 0
    rows: bool = False
    frames: tuple[str, ...] = ()

    def parts(self, sizes: Sizes) -> list[int]:
        """The lengths of the pieces that it consists of."""
        if self.frames:
            return [sizes.frames[name] for name in self.frames]
        return [sizes.rows if self.rows else self.fixed]


@dataclass(frozen=True)
class Wish:
    """What one dropout wants in a step. `strengths`: each member's probability, or deviation; 0: it draws nothing.

    kind   "dropout": factors, 0 or 1 / (1 - p); "noise": what is added, Gaussian
    """

    kind: str
    strengths: tuple[float, ...]

    @property
    def neutral(self) -> float:
        """What leaves an input as it is."""
        return 1.0 if self.kind == "dropout" else 0.0

    def draw(self, member: int, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """As `mer.layers.Dropout` or `Noise` of the member alone, number for number."""
        strength, device = self.strengths[member], generator.device
        if self.kind == "noise":
            return torch.randn(shape, generator=generator, device=device).to(dtype).mul_(strength)
        noise = torch.rand(shape, generator=generator, device=device)
        return noise.ge_(strength).to(dtype).mul_(1 / (1 - strength))


@dataclass(frozen=True)
class Site:
    """One call of a dropout during a step."""

    wish: Wish
    axes: tuple[Axis, ...]

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple(sum(axis.parts(sizes)) for axis in self.axes)

    def lay(self, into: Tensor, own: Tensor, common: Sizes, sizes: Sizes) -> None:
        """Copy numbers at a member's own shape to their places among those at the common shape."""
        if own.shape == into.shape:
            into.copy_(own)
            return
        pieces = [_slices(axis.parts(common), axis.parts(sizes)) for axis in self.axes]
        for chosen in itertools.product(*pieces):
            into[tuple(wide for wide, _ in chosen)] = own[tuple(narrow for _, narrow in chosen)]


def _slices(common: Sequence[int], own: Sequence[int]) -> list[tuple[slice, slice]]:
    """Where each piece of an own axis lies in the common one.

    >>> _slices([5, 4], [3, 4])
    [(slice(0, 3, None), slice(0, 3, None)), (slice(5, 9, None), slice(3, 7, None))]
    """
    wide, narrow = [0, *itertools.accumulate(common)], [0, *itertools.accumulate(own)]
    return [(slice(w, w + n), slice(o, o + n)) for w, o, n in zip(wide, narrow, own, strict=False)]


class Supply:
    """Hands the random numbers of a step to the dropouts in the order of their calls; or notes who asks (`seen`)."""

    def __init__(self) -> None:
        self.drawn: Sequence[Tensor] = ()
        self.at = 0
        self.seen: list[tuple[Wish, Tensor]] | None = None

    def load(self, drawn: Sequence[Tensor]) -> None:
        self.drawn, self.at = drawn, 0

    def take(self, wish: Wish, x: Tensor) -> Tensor | None:
        if self.seen is not None:
            self.seen.append((wish, x.detach()))
            return None
        self.at += 1
        return self.drawn[self.at - 1].to(x.dtype)


class GivenDropout(Dropout):
    """Dropout whose factors are given."""

    def __init__(self, strengths: Sequence[float], supply: Supply) -> None:
        super().__init__(max(strengths))
        self.wish, self.supply = Wish("dropout", tuple(strengths)), supply

    def forward(self, x: Tensor) -> Tensor:
        factors = self.supply.take(self.wish, x) if self.active else None
        return x if factors is None else x * factors


class GivenNoise(Noise):
    """Noise that is given."""

    def __init__(self, strengths: Sequence[float], supply: Supply) -> None:
        super().__init__(max(strengths))
        self.wish, self.supply = Wish("noise", tuple(strengths)), supply

    def forward(self, x: Tensor) -> Tensor:
        added = self.supply.take(self.wish, x) if self.active else None
        return x if added is None else x + added


Probe = Callable[[Sizes, bool], list[tuple[Wish, Tensor]]]
"""Run the model on a batch of these sizes, row j lacking modality j where asked: the dropouts' inputs, in order."""


def find_sites(probe: Probe, modalities: Sequence[str]) -> tuple[Site, ...]:
    """The dropouts of a model by trying: sizes are raised one by one, then checked against odd ones."""
    rows = max(2, len(modalities))
    base = Sizes(rows, dict.fromkeys(modalities, 2))
    start = probe(base, False)
    shapes = {"": [tuple(x.shape) for _, x in start]}
    shapes["rows"] = [tuple(x.shape) for _, x in probe(Sizes(rows + 1, base.frames), False)]
    for name in modalities:
        shapes[name] = [tuple(x.shape) for _, x in probe(Sizes(rows, {**base.frames, name: 3}), False)]
    odd = Sizes(rows, {name: 3 + 2 * n for n, name in enumerate(modalities)})
    pattern = probe(odd, True)
    if any(len(found) != len(start) or any(map(_differ, found, shapes[""])) for found in shapes.values()):
        raise _refusal("the number of its dropouts depends on the batch")
    sites = []
    for number, (wish, x) in enumerate(start):
        axes = []
        for d in range(x.dim()):
            grows = {key: found[number][d] - x.shape[d] for key, found in shapes.items() if key}
            axes.append(_axis(grows, x.shape[d], base, odd, pattern[number][1], d))
        sites.append(Site(wish, tuple(axes)))
    for site, (_, x) in zip(sites, pattern, strict=True):
        if site.shape(odd) != tuple(x.shape):
            raise _refusal(f"a dropout of shape {tuple(x.shape)} on a batch of {odd}")
    return tuple(sites)


def _differ(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) != len(other)


def _axis(grows: Mapping[str, int], size: int, base: Sizes, odd: Sizes, x: Tensor, d: int) -> Axis:
    growing = {key: by for key, by in grows.items() if by}
    if not growing:
        return Axis(fixed=size)
    if growing == {"rows": 1} and size == base.rows and d == 0:
        return Axis(rows=True)
    if set(growing.values()) == {1} and "rows" not in growing and size == sum(base.frames[m] for m in growing):
        return Axis(frames=tuple(growing) if len(growing) == 1 else _order(tuple(growing), odd, x, d))
    raise _refusal(f"axis {d} of a dropout grows by {growing} with rows and frames")


def _order(names: tuple[str, ...], odd: Sizes, x: Tensor, d: int) -> tuple[str, ...]:
    """In which order modalities lie along an axis: that of an absent one is zero where its frames would be."""
    modalities = list(odd.frames)
    for order in itertools.permutations(names):
        ends = [0, *itertools.accumulate(odd.frames[name] for name in order)]
        if ends[-1] != x.shape[d]:
            break
        where = {name: slice(a, b) for name, (a, b) in zip(order, itertools.pairwise(ends), strict=True)}
        if all(_only_zeros(x[modalities.index(name)].movedim(d - 1, 0), where[name]) for name in names):
            return order
    raise _refusal(f"the order of {', '.join(names)} along axis {d} of a dropout cannot be told")


def _only_zeros(x: Tensor, where: slice) -> bool:
    """Are these positions, and no others, all zero?"""
    zero = (x == 0).reshape(len(x), -1).all(1)
    expected = torch.zeros_like(zero)
    expected[where] = True
    return bool((zero == expected).all())


def _refusal(found: str) -> UserError:
    return UserError(
        f"this model cannot be bundled: {found}",
        expected="axes of rows, of a modality's frames, of modalities one after the other, or fixed",
        hint="Train its trials one by one, and declare the level `unbundled`.",
    )


def draw(
    sites: Sequence[Site],
    sizes: Sequence[Sizes | None],
    common: Sizes,
    generators: Sequence[torch.Generator],
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """What each dropout of a step is given, `[k, ...]` at the common shape.

    Beyond a member's own rows and frames stand zeros. A member without sizes takes no part in this step: nothing is
    drawn for it.
    """
    if generators[0].device.type == "cpu" and all(site.wish.kind == "dropout" for site in sites):
        return _draw_in_one_go(sites, sizes, common, generators, dtype)
    found = []
    for site in sites:
        drawn = torch.zeros((len(sizes), *site.shape(common)), dtype=dtype, device=generators[0].device)
        for member, own in enumerate(sizes):
            if own is None:
                continue
            if site.wish.strengths[member]:
                site.lay(drawn[member], site.wish.draw(member, site.shape(own), generators[member], dtype), common, own)
            else:
                drawn[member] = site.wish.neutral
        found.append(drawn)
    return found


def _draw_in_one_go(
    sites: Sequence[Site],
    sizes: Sequence[Sizes | None],
    common: Sizes,
    generators: Sequence[torch.Generator],
    dtype: torch.dtype,
) -> list[Tensor]:
    """As `draw`: torch's generator on a CPU gives the same numbers one by one as many together."""
    if all(own == common for own in sizes) and all(all(site.wish.strengths) for site in sites):
        return _draw_alike(sites, common, generators, dtype)
    found = [torch.zeros((len(sizes), *site.shape(common)), dtype=dtype) for site in sites]
    for member, own in enumerate(sizes):
        if own is None:
            continue
        shapes = [site.shape(own) if site.wish.strengths[member] else None for site in sites]
        counts = [0 if shape is None else math.prod(shape) for shape in shapes]
        numbers = torch.split(torch.rand(sum(counts), generator=generators[member]), counts)
        for site, drawn, shape, noise in zip(sites, found, shapes, numbers, strict=True):
            if shape is None:
                drawn[member] = site.wish.neutral
                continue
            p = site.wish.strengths[member]
            if shape == drawn.shape[1:]:
                torch.ge(noise.view(shape), p, out=drawn[member]).mul_(1 / (1 - p))
            else:
                site.lay(drawn[member], noise.view(shape).ge_(p).to(dtype).mul_(1 / (1 - p)), common, own)
    return found


def _draw_alike(
    sites: Sequence[Site], common: Sizes, generators: Sequence[torch.Generator], dtype: torch.dtype
) -> list[Tensor]:
    """Where all members' batches have one shape: a few operations a dropout instead of a few for each member."""
    shapes = [site.shape(common) for site in sites]
    counts = [math.prod(shape) for shape in shapes]
    numbers = torch.empty(len(generators), sum(counts))
    for row, generator in zip(numbers, generators, strict=True):
        torch.rand(len(row), generator=generator, out=row)
    found = []
    for site, shape, noise in zip(sites, shapes, torch.split(numbers, counts, dim=1), strict=True):
        kept = noise.reshape(len(numbers), *shape)
        p = torch.tensor(site.wish.strengths, dtype=torch.float64).view(-1, *[1] * len(shape))
        found.append((kept >= p.float()).to(dtype).mul_((1 / (1 - p)).to(dtype)))
    return found
