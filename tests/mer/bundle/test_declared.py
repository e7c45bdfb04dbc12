"""What a plan may ask without torch: does a recipe bundle, why not, and which recipes go together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mer.bundle.declared import OWN, architecture, is_own, why_not
from mer.recipe import Recipe


def make_recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({"encoders": {"text": "features"}, **changes})


def test_a_level_from_outside_declares_itself_and_its_heirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_lab.py").write_text(
        "from mer.fusion.simple import Concat\nraise_if_imported = 1 / 0\n"
        "class Odd(Concat):\n    unbundled = 'it counts its rows'\nclass Odder(Odd):\n    pass\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert why_not(make_recipe(fusion="odd_lab:Odder")) == "fusion odd_lab:Odder: it counts its rows"


def test_a_trained_encoder_goes_alone() -> None:
    encoder = {"name": "wav2vec2", "train": "last_k"}
    assert "is trained" in str(why_not(make_recipe(encoders={"audio": encoder})))
    assert why_not(make_recipe(encoders={"audio": {**encoder, "train": "frozen"}})) is None


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"optimizer": {"lr": 0.5, "weight_decay": 0.0, "grad_clip": 0.0}}, True),
        ({"training": {"epochs": 3, "patience": 1}, "schedule": {"name": "constant"}, "replica": 1}, True),
        ({"sampler": {"batch_size": 4}, "missing": {"train": {"protocol": "random", "rate": 0.1}}}, True),
        ({"optimizer": {"name": "sgd"}}, False),
        ({"optimizer": {"accumulate": 2}}, False),
        ({"training": {"precision": "bf16"}}, False),
        ({"projection": {"dropout": 0.2}, "fusion": {"name": "concat", "dropout": 0.3}}, True),
        ({"encoders": {"text": {"name": "features", "noise": 0.5}}}, True),
        ({"encoders": {"text": {"name": "features", "swap": 0.5}}}, False),
        ({"encoders": {"text": {"name": "features", "standardise": False}}}, False),
        ({"fusion": {"name": "mylab:Concat", "dropout": 0.3}}, False),
        ({"fusion": {"name": "concat", "layers": 1}}, False),
        ({"loss": {"name": "focal"}}, False),
    ],
    ids=str,
)
def test_what_members_have_in_common(changes: dict[str, Any], same: bool) -> None:
    assert (architecture(make_recipe(**changes)) == architecture(make_recipe())) is same


def test_paths_that_may_differ_leave_the_architecture_alone() -> None:
    recipe = make_recipe(pooling="attn", encoders={"text": "features", "audio": {"name": "mylab:Encoder"}})
    for path in ("optimizer.lr", "sampler.batch_size", "missing.train.rate", "pooling.dropout", "encoders.text.noise"):
        assert is_own(path, recipe)
    for path in ("projection.dim", "fusion.layers", "encoders.audio.dropout", "encoders.visual.noise", "loss.gamma"):
        assert not is_own(path, recipe)
    assert set(OWN) < set(Recipe.model_fields)


def test_a_plan_asks_without_torch() -> None:
    code = (
        "import sys\nfrom mer.bundle.declared import why_not\nfrom mer.recipe import Recipe\n"
        "r = {'encoders': {'text': 'features'}, 'pooling': 'attn', 'context': 'graph'}\n"
        "assert why_not(Recipe.model_validate(r))\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
