from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from experiments.reporting import load_run
from experiments.reporting.run import Run
from mer.errors import UserError

MakeRun = Callable[..., Run]
GRID = {"factors": {"fusion": ("concat", "tacfn"), "pooling": ("mean", "attn")}, "studies": 3}


def test_cells_are_found_by_name_label_levels_and_single_level(make_run: MakeRun) -> None:
    run = make_run(**GRID)
    assert run.cell("fusion=tacfn pooling=attn") == "fusion=tacfn pooling=attn"
    assert run.cell("tacfn · attn") == "fusion=tacfn pooling=attn"
    assert run.cell({"fusion": "tacfn"}) == "fusion=tacfn pooling=mean"  # the rest at the baseline
    assert run.cell("tacfn") == "fusion=tacfn pooling=mean"
    with pytest.raises(UserError, match="did you mean"):
        run.cell("tacfm · attn")
    with pytest.raises(UserError, match="unknown factor"):
        run.cell({"fussion": "tacfn"})
    with pytest.raises(UserError, match="unknown level of fusion"):
        run.cell({"fusion": "sum"})


def test_only_complete_confirm_trials_enter_a_mean(make_run: MakeRun) -> None:
    run = make_run(**GRID, lose=[("fusion=tacfn pooling=attn", 1)])
    scores = run.by_study()
    assert scores.shape == (4, 3)
    assert scores.isna().sum().sum() == 1
    t = run.trials
    expected = t[(t["stage"] == "confirm") & (t["status"] == "complete")].groupby("cell")["test_ua"].mean()
    assert run.pivot("cell")["value"].to_dict() == pytest.approx(expected.to_dict())
    assert run.pivot("fusion", "pooling").shape == (2, 2)
    assert list(run.pivot("fusion", "condition").columns) == run.conditions
    with pytest.raises(UserError, match="unknown column"):
        run.pivot("fussion")


def test_a_score_outside_the_confirm_stage_never_counts(make_run: MakeRun) -> None:
    run = make_run(**GRID)
    clean = run.by_study().copy()
    run.trials.loc[run.trials["stage"] == "tune", "test_ua"] = 0.99
    leaked = run.trials.loc[run.trials["stage"] == "tune", ["trial"]]
    leaked = leaked.assign(condition="complete", metric="ua", value=0.99, n=1)
    vars(run)["scores"] = pd.concat([run.scores, leaked])
    for name in ("confirm", "_by_slot", "_by_study"):
        vars(run).pop(name, None)
    assert run.by_study().equals(clean)


def test_a_study_that_lacks_a_fold_is_missing_as_a_whole(make_run: MakeRun) -> None:
    run = make_run(folds=3, studies=3)
    trials = run.trials.copy()
    gone = (
        (trials["cell"] == "fusion=tacfn")
        & (trials["study"] == 1)
        & (trials["fold"] == 2)
        & (trials["stage"] == "confirm")
    )
    run.trials.loc[gone, "status"] = "failed"
    for name in ("confirm", "_by_slot", "_by_study"):
        vars(run).pop(name, None)
    assert run.by_study().isna().sum().sum() == 1
    assert run.by_study().isna().at["fusion=tacfn", 1]


def test_compare_is_three_lines_in_a_notebook(make_run: MakeRun) -> None:
    run = make_run(effects={"fusion=tacfn": 0.05})
    c = run.compare("tacfn", "concat")
    assert c.n == 5
    assert c.mean == pytest.approx(
        float((run.by_study().loc["fusion=tacfn"] - run.by_study().loc["fusion=concat"]).mean())
    )
    figure = run.figure("forest")
    assert figure.axes
    with pytest.raises(UserError, match="unknown figure"):
        run.figure("florest")


def test_what_is_not_a_run_is_refused_in_words(tmp_path: Path, make_run: MakeRun) -> None:
    with pytest.raises(UserError, match="no folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no space\.yaml"):
        load_run(tmp_path)
    (tmp_path / "space.yaml").write_text("space: x\n")
    with pytest.raises(UserError, match=r"no trials\.parquet"):
        load_run(tmp_path)
    (tmp_path / "trials.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        load_run(tmp_path)
    (tmp_path / "space.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="not YAML"):
        load_run(tmp_path)
