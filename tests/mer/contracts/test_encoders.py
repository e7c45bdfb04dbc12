"""Every encoder keeps its contract with tiny weights; encoders that break a promise are caught by the check for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mer.contracts import check_encoder
from mer.contracts.encoders import CHECKS
from mer.encoders import LEVELS
from mer.errors import UserError

QUICK = ("features", "words", "tfidf", "logmel", "fourier2vec", "wav2vec2", "hf_text")


@pytest.mark.parametrize("name", QUICK)
def test_ours(name: str) -> None:
    report = check_encoder(name)
    assert report.passed, f"\n{report}"
    assert len(report.results) == len(CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LEVELS if name not in QUICK])
def test_the_larger_ones(name: str) -> None:
    report = check_encoder(name)
    assert report.passed, f"\n{report}"


SOURCE = """
import numpy as np
import torch
from torch import nn
from mer.batch import Sequence
from mer.encoders.base import Encoder
from mer.layers import zeroed


class Letters:
    dim, dtype, kind = 2, "float32", "text"

    def identity(self):
        return {"frontend": "letters"}

    def extract(self, items):
        return [self.one(item) for item in items]

    def one(self, text):
        return np.array([[ord(letter) / 100, 1.0] for letter in text])


class Good(Encoder):
    requires = frozenset({"text"})
    kind = "text"
    trained = True

    def __init__(self, modality, config, info, *, width: int = 3):
        super().__init__(modality, config, info)
        self.frontend, self.out_dim, self.linear = Letters(), width, nn.Linear(2, width)

    def forward(self, x):
        return Sequence(zeroed(self.linear(x.filled()), x.mask), x.mask)


class Undeclared(Good):
    def __init__(self, modality, config, info, *, width):
        super().__init__(modality, config, info, width=3)


class Unnamed(Good):
    def __init__(self, modality, config, info):
        super().__init__(modality, config, info)
        self.frontend.identity = lambda: {"object": str(object())}


class Mute(Good):
    def __init__(self, modality, config, info):
        super().__init__(modality, config, info)
        self.frontend.one = lambda text: np.zeros((0, 2)) if "!" in text else Letters.one(self.frontend, text)


class Sociable(Good):
    def __init__(self, modality, config, info):
        super().__init__(modality, config, info)
        self.frontend.extract = lambda items: [Letters().one(item) + len(items) for item in items]


class Wide(Good):
    def forward(self, x):
        found = super().forward(x)
        return Sequence(torch.cat([found.values, found.values], dim=2), found.mask)


class Leaky(Good):
    def forward(self, x):
        values = self.linear(x.values)
        return Sequence(values + values.mean(dim=1, keepdim=True), x.mask)


class Imagined(Good):
    def forward(self, x):
        found = super().forward(x)
        return Sequence(found.values, found.mask | (torch.arange(found.mask.shape[1]) == 0))


class Random(Good):
    def forward(self, x):
        found = super().forward(x)
        return Sequence(found.values + torch.rand(()), found.mask)


class Idle(Good):
    def __init__(self, modality, config, info):
        super().__init__(modality, config, info)
        self.unused = nn.Linear(2, 2)


class Silent(Good):
    trained = False


class Forgetful(Good):
    def fit(self, x, rows):
        self.shift = 1.0

    def forward(self, x):
        found = super().forward(x)
        return Sequence(found.values + getattr(self, "shift", 0.0), found.mask)
"""

BROKEN = {
    "Undeclared": "declared",
    "Unnamed": "identity",
    "Mute": "frames",
    "Sociable": "batch-mates",
    "Wide": "shape",
    "Leaky": "padding",
    "Imagined": "absent",
    "Random": "deterministic",
    "Idle": "learns",
    "Silent": "learns",
    "Forgetful": "saves",
}


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"mylab_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SOURCE, "utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return name


def test_a_good_one_from_outside(mylab: str) -> None:
    report = check_encoder(f"{mylab}:Good", width=4)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize(("name", "check"), BROKEN.items())
def test_a_broken_one_is_caught(name: str, check: str, mylab: str) -> None:
    options = {"width": 3} if name == "Undeclared" else {}
    assert check in check_encoder(f"{mylab}:{name}", **options).failed


def test_lengths_that_are_not_what_comes_out(mylab: str, tmp_path: Path) -> None:
    (tmp_path / f"{mylab}_audio.py").write_text(
        "import torch\nfrom mer.encoders.logmel import LogMel\n\n\nclass Off(LogMel):\n"
        "    def get_feat_lengths(self, samples):\n        return super().get_feat_lengths(samples) + 1\n",
        "utf-8",
    )
    assert check_encoder(f"{mylab}_audio:Off").failed == ("lengths",)


def test_options_that_make_no_encoder_are_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match="ngrams 2"):
        check_encoder("words", ngrams=2)
