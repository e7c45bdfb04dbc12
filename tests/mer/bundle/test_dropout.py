"""Where dropouts are found, and that each member's noise is its own, wherever its rows and frames lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mer.bundle.dropout import Axis, Site, Sizes, Wish, draw, find_sites
from mer.errors import UserError

NAMES = ("text", "audio")


def wish(*strengths: float, kind: str = "dropout") -> Wish:
    return Wish(kind, strengths)


def sequence(sizes: Sizes, name: str, absent: bool) -> Tensor:
    x = torch.rand(sizes.rows, sizes.frames[name], 3) + 0.1
    if absent:
        x[NAMES.index(name)] = 0
    return x


@pytest.mark.parametrize("order", [("text", "audio"), ("audio", "text")])
def test_axes_are_found_in_their_order(order: tuple[str, ...]) -> None:
    def probe(sizes: Sizes, absent: bool) -> list[tuple[Wish, Tensor]]:
        text, audio = (sequence(sizes, name, absent) for name in NAMES)
        both = torch.cat([{"text": text, "audio": audio}[name] for name in order], dim=1)
        crossed = text @ audio.transpose(1, 2)
        return [(wish(0.1), text), (wish(0.2), both), (wish(0.3), crossed), (wish(0.4), both.sum(1))]

    rows, wide = Axis(rows=True), Axis(fixed=3)
    assert find_sites(probe, NAMES) == (
        Site(wish(0.1), (rows, Axis(frames=("text",)), wide)),
        Site(wish(0.2), (rows, Axis(frames=order), wide)),
        Site(wish(0.3), (rows, Axis(frames=("text",)), Axis(frames=("audio",)))),
        Site(wish(0.4), (rows, wide)),
    )


def test_other_axes_are_refused() -> None:
    def flattened(sizes: Sizes, absent: bool) -> list[tuple[Wish, Tensor]]:
        return [(wish(0.1), sequence(sizes, "text", absent).flatten(0, 1))]

    def longest(sizes: Sizes, absent: bool) -> list[tuple[Wish, Tensor]]:
        return [(wish(0.1), torch.ones(sizes.rows, max(sizes.frames.values())))]

    def indistinct(sizes: Sizes, absent: bool) -> list[tuple[Wish, Tensor]]:
        return [(wish(0.1), torch.ones(sizes.rows, sum(sizes.frames.values())))]

    for probe in (flattened, longest, indistinct):
        with pytest.raises(UserError, match="cannot be bundled"):
            find_sites(probe, NAMES)


def test_noise_is_what_the_member_draws_alone() -> None:
    site = Site(wish(0.5, 0.5, 0.5), (Axis(rows=True), Axis(frames=NAMES)))
    common = Sizes(3, {"text": 4, "audio": 5})
    sizes = [Sizes(2, {"text": 3, "audio": 5}), None, common]
    found = draw([site, site], sizes, common, [torch.Generator().manual_seed(n) for n in range(3)])
    alone = torch.Generator().manual_seed(0)
    for factors in found:
        expected = torch.where(torch.rand(2, 8, generator=alone) >= 0.5, 2.0, 0.0)
        assert torch.equal(factors[0, :2, :3], expected[:, :3])
        assert torch.equal(factors[0, :2, 4:], expected[:, 3:])
        assert not factors[0, 2].any()
        assert not factors[0, :, 3].any()
        assert not factors[1].any()
    alone = torch.Generator().manual_seed(2)
    assert torch.equal(found[0][2], torch.where(torch.rand(3, 9, generator=alone) >= 0.5, 2.0, 0.0))


def test_each_member_draws_at_its_own_strength_and_none_at_zero() -> None:
    axes = (Axis(rows=True), Axis(fixed=4))
    sizes = Sizes(5, {"text": 1, "audio": 1})
    sites = [Site(wish(0.25, 0.0, 0.75), axes), Site(wish(0.0, 2.0, 0.5, kind="noise"), axes)]
    generators = [torch.Generator().manual_seed(n) for n in range(3)]
    factors, added = draw(sites, [sizes] * 3, sizes, generators)
    alone = [torch.Generator().manual_seed(n) for n in range(3)]
    assert torch.equal(factors[0], torch.where(torch.rand(5, 4, generator=alone[0]) >= 0.25, 1 / 0.75, 0.0))
    assert torch.equal(factors[1], torch.ones(5, 4))
    assert torch.equal(factors[2], torch.where(torch.rand(5, 4, generator=alone[2]) >= 0.75, 4.0, 0.0))
    assert not added[0].any()
    assert torch.equal(added[1], 2.0 * torch.randn(5, 4, generator=alone[1]))
    assert torch.equal(added[2], 0.5 * torch.randn(5, 4, generator=alone[2]))
