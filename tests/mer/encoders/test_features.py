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
    with pytest.raises(UserError, match="noise -1"):
        build(noise=-1.0)
