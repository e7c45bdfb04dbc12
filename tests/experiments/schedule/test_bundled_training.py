"""The real trainer under `bundle:`: what a space says, from YAML to tables, alone and bundled, killed and resumed."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.results.declared import declare
from experiments.results.ledger import Ledger
from experiments.schedule.inline import run_inline
from experiments.schedule.publish import publish
from experiments.schedule.run import execute
from experiments.schedule.session import Session
from experiments.schedule.training_work import make_training_work
from experiments.space.load import make_plan
from experiments.space.plan import Plan
from mer.checkpoint import load_checkpoint
from tests.experiments.schedule.test_session import values
from tests.mer.conftest import write_tiny_corpus

SPACE = """
    corpora: {corpus}
    base:
      encoders: {{text: features, audio: features}}
      projection.dim: 8
      classifier.hidden: [8]
      sampler.batch_size: 9
      training.epochs: 6
    factors:
      fusion: [concat, xattn]
    tune:
      parameters:
        lr: {{loguniform: [1.0e-3, 3.0e-2]}}
        projection.dropout: {{uniform: [0.0, 0.5]}}
      draws: 4
      pruner: {{asha: {{grace: 1, eta: 2}}}}
    studies: {{count: 2, resplit: true}}
    conditions: [complete, {{protocol: random, rate: 0.3}}]
"""


@pytest.fixture
def plan_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    monkeypatch.setenv("MER_FEATURES", str(tmp_path / "store"))
    (tmp_path / "corpus").mkdir()
    write_tiny_corpus(tmp_path / "corpus")
    (tmp_path / "made.yaml").write_text(textwrap.dedent(SPACE.format(corpus=tmp_path / "corpus")))
    return lambda *sets: make_plan(tmp_path / "made.yaml", sets=sets)


def whole(plan: Plan, root: Path) -> Path:
    result = execute(
        plan, Ledger(str(root)), executor="inline", progress=False, make_work=make_training_work, say=lambda text: None
    )
    assert result.exit_code == 0
    return root / plan.folder


def rows(folder: Path, name: str, *columns: str) -> list[tuple[Any, ...]]:
    table = pq.read_table(folder / f"{name}.parquet").to_pylist()
    return [tuple(row[column] for column in columns) for row in table]


def test_bundled_is_as_alone_up_to_rounding(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    """The same prunings, winners and test scores; probabilities that differ in float32's last digits."""
    alone, bundled = plan_of("bundle=off"), plan_of("bundle=4")
    assert not alone.bundled
    assert len(bundled.bundled) == 2
    one, two = whole(alone, tmp_path / "alone"), whole(bundled, tmp_path / "bundled")
    same = ("cell", "study", "stage", "draw", "status", "selected", "rung", "epochs", "test_ua", "optimizer.lr")
    assert sorted(rows(one, "trials", *same), key=str) == sorted(rows(two, "trials", *same), key=str)
    assert {row[0] for row in rows(two, "trials", "status")} == {"complete", "pruned"}
    trials = [dict(rows(folder, "trials", "trial", "study")) for folder in (one, two)]
    for file in sorted((one / "predictions").glob("*.parquet")):
        found = []
        for folder, studies in zip((one, two), trials, strict=True):
            table = pq.read_table(folder / "predictions" / file.name).to_pylist()
            found.append({(studies[r["trial"]], r["condition"], r["utterance"]): r["probabilities"] for r in table})
        assert found[0].keys() == found[1].keys()
        for key, probabilities in found[0].items():
            np.testing.assert_allclose(found[1][key], probabilities, atol=1e-4)
    ids = [row[0] for row in rows(two, "trials", "trial")]
    assert not set(ids) & {row[0] for row in rows(one, "trials", "trial")}  # no trial is taken for the other
    confirmed = [row[0] for row in rows(two, "trials", "trial", "stage") if row[1] == "confirm"]
    for trial in confirmed:
        assert load_checkpoint(tmp_path / "bundled" / "checkpoints" / str(trial)).details["trial"] == trial


def test_a_bundled_run_killed_and_resumed_gives_the_same_bits(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of("bundle=8")
    whole(plan, tmp_path / "whole")
    now, root = [0.0], tmp_path / "parts"

    def pass_time(*seen: Any) -> None:
        now[0] += 1.0

    plan = declare(plan, Ledger(str(root)))
    for limit in (2.5, 3.5, 5.5, 7.5):
        session = Session(plan, Ledger(str(root)), seconds=limit, clock=lambda: now[0])
        run_inline(session, make_training_work, str(root), watch=pass_time)
        assert session.ending == "budget"
        publish(plan, Ledger(str(root)), str(root / plan.folder))
    whole(plan, root)
    assert values(plan, root) == values(plan, tmp_path / "whole")


def test_a_bundle_counts_its_cost_once(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    folder = whole(plan_of("bundle=8", "tune.draws=1"), tmp_path)
    found = rows(folder, "trials", "wall_s", "bundle", "bundle_size", "cell")
    assert {size for _, _, size, _ in found} == {2}
    assert len({layout for _, layout, _, _ in found}) == 2
    for cell in {cell for *_, cell in found}:
        shares = [seconds for seconds, _, _, name in found if name == cell]
        assert max(shares) < 1.5 * min(shares)  # of one step an equal share each; scoring is each one's own
