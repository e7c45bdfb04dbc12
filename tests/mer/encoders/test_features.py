"""Ready-made features: noise in training and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mer.batch import Sequence
from mer.data.corpus import CorpusInfo
from mer.encoders import build_encoder
from mer.encoders.base import Encoder
from mer.errors import UserError
from mer.layers import set_generator
from mer.recipe import EncoderConfig

INFO = CorpusInfo(Path("."), "toy", ("a", "b"), features={"audio": 4})


def build(**options: float) -> Encoder:
    return build_encoder("audio", EncoderConfig.model_validate({"name": "features", **options}), INFO)


def test_noise_is_drawn_in_training_alone_from_the_trials_generator() -> None:
    encoder, x = build(noise=2.0), Sequence(torch.randn(3, 1, 4), torch.ones(3, 1, dtype=torch.bool))
    assert torch.equal(encoder.eval()(x).values, build()(x).values)
    found = []
    for ambient in (1, 2):
        torch.manual_seed(ambient)
        set_generator(encoder.train(), torch.Generator().manual_seed(0))
        found.append(encoder(x).values)
    assert torch.equal(*found)
    assert float((found[0] - x.values).std()) > 1.0


def test_noise_below_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="noise is -1"):
        build(noise=-1.0)


def test_swap_gives_a_share_of_utterances_anothers_features_in_training() -> None:
    encoder, size = build(swap=0.4, standardise=False), 4000
    lengths = 1 + torch.arange(size) % 3
    mask = torch.arange(3) < lengths[:, None]
    mask[::5] = False  # a fifth lacks the modality
    x = Sequence(torch.arange(float(size))[:, None, None].expand(size, 3, 4).clone(), mask)
    assert torch.equal(encoder.eval()(x).values, x.values)
    found = []
    for ambient in (1, 2):
        torch.manual_seed(ambient)
        set_generator(encoder.train(), torch.Generator().manual_seed(0))
        found.append(encoder(x))
    assert torch.equal(found[0].values, found[1].values)
    donors = found[0].values[:, 0, 0].long()
    assert torch.equal(found[0].mask, mask[donors])
    there = mask.any(1)
    assert torch.equal(donors[~there], torch.arange(size)[~there])
    assert there[donors[there]].all()
    swapped = (donors != torch.arange(size))[there].float().mean()
    assert abs(float(swapped) - 0.4) < 0.03
    counts = torch.bincount(donors[there & (donors != torch.arange(size))], minlength=size)[there]
    assert counts.max() <= 6  # spread over all that are there: Poisson with a mean of 0.4


def test_swapping_more_than_everything_is_refused() -> None:
    with pytest.raises(UserError, match=r"swap is 1\.5"):
        build(swap=1.5)


def test_swap_where_nobody_has_the_modality() -> None:
    encoder, x = build(swap=0.9).train(), Sequence(torch.full((3, 1, 4), float("nan")), torch.zeros(3, 1).bool())
    assert not encoder(x).mask.any()
