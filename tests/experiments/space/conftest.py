"""Space files written by a test, on corpora that need not exist."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.space.load import make_plan
from experiments.space.plan import CorpusRef, Plan
from mer.errors import UserError

CORPORA = {
    "demo": CorpusRef(
        "demo", Path("demo"), "d0", ("text", "audio", "visual"), True, True,
        offers=frozenset({"text", "audio", "features/visual"}),
    ),
    "plain": CorpusRef(
        "plain", Path("plain"), "p0", ("text", "audio"), False, False,
        offers=frozenset({"features/text", "features/audio"}),
    ),
}  # fmt: skip


def _open(name: str) -> CorpusRef:
    if name not in CORPORA:
        raise UserError(f"there is no corpus {name!r}", expected="demo, plain")
    return CORPORA[name]


@pytest.fixture(scope="session")
def open_fake() -> Callable[[str], CorpusRef]:
    return _open


BASE = """
corpora: demo
base:
  encoders: {audio: fourier2vec, visual: features}
  training.epochs: 9
"""


@pytest.fixture(scope="session")
def plan_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Plan]:
    """The plan of a space given as text; `BASE` stands before it unless it has a base of its own."""

    def make(text: str, **options: object) -> Plan:
        text = textwrap.dedent(text)
        folder = tmp_path_factory.mktemp("space")
        file = folder / "made.yaml"
        file.write_text(text if "base:" in text else BASE + text)
        return make_plan(file, open_corpus=_open, **options)  # type: ignore[arg-type]

    return make
