"""Losses and samplers from outside: named by `module:Class`, announced, their options checked and tunable."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.space.load import make_plan
from experiments.space.plan import CorpusRef, Plan
from mer.errors import UserError

CORPUS = CorpusRef(
    name="toy", folder=Path(), fingerprint="0", modalities=("text",), has_dialogues=False, synthetic=True,
    sizes={"train": 9, "valid": 9, "test": 9}, offers=frozenset({"text"}),
)  # fmt: skip
BASE = "corpora: toy\nbase:\n  encoders: {text: words}\n"


@pytest.fixture(autouse=True)
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loss_of_a_lab.py").write_text(
        "from mer.losses import ClassificationLoss\n\n\nclass Poly(ClassificationLoss):\n"
        "    def __init__(self, *, epsilon: float = 1.0, label_smoothing=0.0, weight=None):\n        pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def plan(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "space.yaml"
    path.write_text(BASE + text, "utf-8")
    return make_plan(path, open_corpus=lambda name: CORPUS)


def test_an_outside_loss_is_announced_and_its_options_are_tuned(tmp_path: Path) -> None:
    found = plan(
        tmp_path,
        "factors:\n  loss.name: [cross_entropy, 'loss_of_a_lab:Poly']\n"
        "tune:\n  parameters: {}\n  overrides:\n    - when: {loss.name: 'loss_of_a_lab:Poly'}\n"
        "      parameters: {loss.options.epsilon: {uniform: [0.5, 2.0]}}\n",
    )
    assert any(notice.startswith("loss_of_a_lab:Poly comes from outside") for notice in found.notices)
    tuned = {cell.name: [hyper.path for hyper in found.hypers[cell.corpus, cell.name]] for cell in found.cells}
    assert sorted(tuned.values()) == [[], ["loss.options.epsilon"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  loss: {name: focall}\n", "unknown loss 'focall'.*did you mean 'focal'"),
        ("  loss: {name: 'loss_of_a_lab:Poly', options: {epsilo: 1.0}}\n", "did you mean 'epsilon'"),
        ("  loss: {name: 'loss_of_a_lab:Pol'}\n  sampler.name: weihted\n", "unknown sampler 'weihted'"),
        ("  loss: {name: 'loss_of_a_lib:Poly', options: {a: 1}}\n", "cannot find module 'loss_of_a_lib'"),
        ("  loss: {name: focal, options: {epsilon: 1.0}}\n", "loss 'focal' takes no options"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        plan(tmp_path, text)
