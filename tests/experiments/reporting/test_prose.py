"""What the report says of a run is what was run, and of an honest run it warns of nothing."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments.reporting.build import contents
from experiments.reporting.prose import protocol, warnings
from experiments.reporting.run import Run, load_run
from experiments.reporting.spec import spec_of

MakeRun = Callable[..., Run]
HONEST: dict[str, Any] = {"synthetic": False, "random_weights": False}


def changed(run: Run, folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Run:
    shutil.copytree(run.folder, folder)
    change(pd.read_parquet(folder / "trials.parquet")).to_parquet(folder / "trials.parquet", index=False)
    return load_run(folder)


@pytest.mark.parametrize("seed", range(12))
def test_the_numbers_in_the_paragraph_are_those_of_the_tables(seed: int, make_run: MakeRun, tmp_path: Path) -> None:
    """The oracle counts rows of trials.parquet, and knows nothing of how the sentences are made."""
    rng = np.random.default_rng(seed)
    studies, draws, epochs = (int(rng.integers(low, high)) for low, high in ((2, 7), (1, 6), (4, 12)))
    lost = [("fusion=tacfn", int(s)) for s in rng.permutation(studies)[: int(rng.integers(0, 2))]]
    made = make_run(
        studies=studies, draws=draws, epochs=epochs, lose=lost, seed=seed, predictions=False, prune=bool(seed % 2),
        once=bool(seed % 3 == 0), ranges={"gated": (1e-5, 1e-2)} if seed % 4 == 0 else {},
    )  # fmt: skip

    def fewer(t: pd.DataFrame) -> pd.DataFrame:
        """Some draws of one cell are not there, and one of its trials stopped early."""
        gone = (t["stage"] == "tune") & (t["cell"] == "fusion=gated") & (t["draw"] >= max(1, draws - 1))
        early = (t["stage"] == "confirm") & (t["cell"] == "fusion=gated") & (t["study"] == 0)
        t.loc[early, "epochs"] = epochs - 1
        return t[~gone] if seed % 2 else t

    run = changed(made, tmp_path / "run", fewer)
    text, t = protocol(run), run.trials
    confirm, tune = t[t["stage"] == "confirm"], t[t["stage"] == "tune"]
    done = confirm[confirm["status"] == "complete"]

    def ends(values: pd.Series) -> str:
        return f"{values.min()}" if values.min() == values.max() else f"{values.min()} to {values.max()}"

    [cells] = re.findall(r"We compare (\d+) cells", text)
    assert int(cells) == confirm["cell"].nunique()
    [found] = re.findall(r"repeated in (\d+) independent", text)
    assert int(found) == done["study"].nunique()
    [found] = re.findall(r"among ([\d to]+) scrambled", text)
    assert found == ends(tune.groupby(["cell", "study"]).size())
    for cell, part in done.groupby("cell"):
        name = str(cell).removeprefix("fusion=")
        sentence = text.split("Epochs of the confirmed trials: ")[1].split(".")[0]
        mine = [group for group in sentence.split("; ") if ":" not in group or name in group.split(":")[0]]
        assert [group.rpartition(": ")[2] for group in mine] == [ends(part["epochs"])]
    pruned = re.findall(r"(\d+) of (\d+) draws ended early", text)
    many = int((tune["status"] == "pruned").sum())
    assert [tuple(map(int, pair)) for pair in pruned] == ([(many, len(tune))] if many else [])
    lost_now = re.findall(r"Of (\d+) planned confirm trials, (\d+)", text)
    bad = len(confirm) - len(done)
    assert [tuple(map(int, pair)) for pair in lost_now] == ([(len(confirm), bad)] if bad else [])
    assert ("loguniform 1e-05 to 0.01" in text) == (seed % 4 == 0)
    said = "\n".join(warnings(run))
    assert ("differ in draws" in said) == bool(seed % 2 and draws > 1)
    assert ("the range of optimizer.lr" in said) == (seed % 4 == 0)


@pytest.mark.parametrize(
    "design",
    [
        {},
        {"draws": 0},
        {"studies": 2, "corpora": ("one", "two")},
        {"folds": 4},
        {"factors": {"fusion": ("concat", "tacfn"), "pooling": ("mean", "attn")}, "prune": False},
        {"patterns": (("a",), ("t",)), "rates": (0.0, 0.2, 0.4)},
        {"scope": "new speakers"},
        {"test": "sign_flip", "studies": 7},
        {"margin": 0.02},
        {"excluded": {"gated": "fusion gated needs two modalities"}},
    ],
)
def test_an_honest_run_is_warned_of_nothing(design: dict[str, Any], make_run: MakeRun, tmp_path: Path) -> None:
    out = design.get("excluded", {})

    def skipped(t: pd.DataFrame) -> pd.DataFrame:
        rule = t["cell"].str.removeprefix("fusion=").map(out)
        t = t[~(rule.notna() & (t["stage"] == "tune"))]
        t.loc[rule.notna(), ["status", "reason"]] = ["skipped", "fusion gated needs two modalities"]
        return t

    run = changed(make_run(**HONEST, **design), tmp_path / "run", skipped)
    assert warnings(run) == []
    assert all(not claim.remarks for claim in run.claims if claim.verdict != "untested")
    if out:
        assert "1 cell left out by declaration: fusion gated needs two modalities" in protocol(run)
        table = run.tables["main"]
        [row] = [i for i in range(len(table.rows)) if table.value(i, "fusion").text == "gated"]
        assert table.value(row, "score").text == "–"
        assert any(note.mark == "x" for note in table.notes)
        assert not any(note.mark == "a" for note in table.notes)


def test_cells_that_are_one_model_are_told(make_run: MakeRun) -> None:
    """A pooling after a fusion that ends in one frame, for one."""
    run = make_run(factors={"fusion": ("concat", "gated"), "pooling": ("mean", "min")}, studies=3)
    assert not any("the same model" in line for line in warnings(run))
    done = run.confirm.set_index(["cell", "study"])["trial"]
    other, same = done["fusion=gated pooling=min"], done["fusion=gated pooling=mean"]
    epochs = run.epochs
    values = {trial: epochs.loc[epochs["trial"] == trial, "value"].to_numpy() for trial in same}
    for study, trial in same.items():
        epochs.loc[epochs["trial"] == other[study], "value"] = values[trial]
    [line] = [line for line in warnings(run) if "the same model" in line]
    assert line.startswith("gated · mean and gated · min are the same model")


def test_what_is_still_to_be_drawn_makes_no_difference_between_sides(make_run: MakeRun) -> None:
    """Ctrl-C in the middle of tuning: every winner on record was chosen among all its draws."""
    run = make_run(studies=4, draws=3)
    t = run.trials
    open_ = (t["cell"] == "fusion=gated") & (t["study"] == 3)
    t.loc[open_ & ((t["draw"] == 2) | (t["stage"] == "confirm")), "status"] = "missing"
    text = protocol(run)
    assert "among 3 scrambled Sobol draws" in text
    assert "differ in draws" not in text + " ".join(warnings(run))


def test_a_skipped_confirm_whose_draws_all_failed_is_missed(make_run: MakeRun, tmp_path: Path) -> None:
    def skipped(t: pd.DataFrame) -> pd.DataFrame:
        t.loc[(t["stage"] == "confirm") & (t["study"] == 1) & (t["cell"] == "fusion=gated"), "status"] = "skipped"
        return t

    assert any("Incomplete: 1 of 15" in line for line in warnings(changed(make_run(**HONEST), tmp_path / "r", skipped)))


def test_code_is_compared_where_the_same_source_is_run(make_run: MakeRun, tmp_path: Path) -> None:
    def bundled(t: pd.DataFrame) -> pd.DataFrame:
        """Five studies in bundles of four: the fifth is trained alone, and its digest leaves out the bundle's code."""
        t["bundle"] = np.where(t["study"] < 4, "layout", None)
        t["code"] = np.where(t["study"] < 4, "with bundle", "without")
        return t

    def edited(t: pd.DataFrame) -> pd.DataFrame:
        t = bundled(t)
        t.loc[(t["study"] == 3) & (t["cell"] == "fusion=gated"), "code"] = "another"
        return t

    run = make_run(**HONEST)
    assert warnings(changed(run, tmp_path / "bundled", bundled)) == []
    assert any("Different code digests" in line for line in warnings(changed(run, tmp_path / "edited", edited)))


def test_tuned_once_is_said_in_every_export(make_run: MakeRun) -> None:
    run = make_run(once=True, patterns=(("a",), ("t",)), factors={"fusion": ("a", "b"), "pooling": ("c", "d")})
    words = "Given these hyperparameters"
    files = contents(run)
    tables = [name for name in files if name.startswith("tables/")]
    assert len(tables) > 20
    assert [name for name in tables if words not in files[name].decode()] == []
    report = json.loads(files["report.json"])
    for table in report["tables"].values():
        assert any(words in note["text"] for note in table["notes"])
    page = files["index.html"].decode()
    assert page.count(words) >= len(report["tables"])
    csv = pd.read_csv(io.BytesIO(files["tables/main.csv"]))
    assert csv["cautions"].str.contains(words).all()


def test_epochs_that_differ_inside_a_contrast_are_warned_of(make_run: MakeRun) -> None:
    run = make_run(**HONEST, budgets={"concat": 10, "tacfn": 20, "gated": 10})
    assert warnings(run) == ["tacfn vs concat: its sides differ in epochs (fusion=tacfn: 20, fusion=concat: 10)."]


def test_sides_that_have_as_much_of_the_same_do_not_differ(make_run: MakeRun) -> None:
    run = make_run(factors={"fusion": ("a", "b"), "pooling": ("mean", "long")}, budgets={"a": 10, "b": 10})
    document = dict(run.spec.document)
    for cell in document["cells"]:
        cell["recipe"]["training"] = {"epochs": 20 if cell["levels"]["pooling"] == "long" else 10}
    names = {(c["levels"]["fusion"], c["levels"]["pooling"]): c["name"] for c in document["cells"]}
    one = dict(document["contrasts"][0])
    averaged = {names[a, p]: 0.5 if a == "a" else -0.5 for a in "ab" for p in ("mean", "long")}
    document["contrasts"] = [{**one, "name": "averaged", "weights": averaged}]
    run.spec = spec_of(document, "space.yaml")
    assert not any("its sides differ" in line for line in warnings(run))
    longer = {names["a", "long"]: 1.0, names["a", "mean"]: -1.0}
    document["contrasts"] = [{**one, "name": "longer", "weights": longer}]
    run.spec = spec_of(document, "space.yaml")
    assert any("longer: its sides differ in epochs" in line for line in warnings(run))
    for cell in document["cells"]:
        if cell["levels"]["pooling"] == "long":
            cell["hypers"] = []  # the optimiser's rate is tuned on one side and given on the other
    run.spec = spec_of(document, "space.yaml")
    assert any("the range of optimizer.lr" in line and "fixed" in line for line in warnings(run))


def test_a_run_that_has_only_begun_says_nothing_of_what_it_did(make_run: MakeRun) -> None:
    run = make_run()
    run.trials["status"] = "missing"
    assert "No model has been scored on test yet." in protocol(run)
    assert "Hyperparameters were" not in protocol(run)


@pytest.mark.parametrize(
    ("shared", "refusal"),
    [
        ({"speakers": 3, "dialogues": 0}, "3 speakers of the test split are in train or valid too"),
        (None, "it was not recorded whether train and test share speakers"),
        ({"speakers": 0, "dialogues": 0}, ""),
    ],
)
def test_new_speakers_are_claimed_only_where_they_are_new(
    shared: dict[str, int] | None, refusal: str, make_run: MakeRun
) -> None:
    run = make_run(scope="new speakers", shared_units=shared, effects={"fusion=tacfn": 0.1})
    for claim in run.claims:
        assert (claim.verdict == "refused") == bool(refusal)
        assert refusal in claim.text
        assert (claim.adjusted is None) == bool(refusal)


def test_what_the_check_of_a_corpus_says_the_report_says(make_run: MakeRun) -> None:
    line = (
        "test split: 3 of 60 transcripts are word for word in train or valid too: a model may have learnt them by heart"
    )
    assert warnings(make_run(**HONEST, caveats=(line,))) == [f"demo, {line}."]
    assert warnings(make_run(**HONEST, caveats=(line,), folds=3)) == []  # folds have their own splits


def test_a_row_on_the_other_side_of_a_declared_contrast_has_its_p(make_run: MakeRun, tmp_path: Path) -> None:
    shutil.copytree(make_run().folder, tmp_path / "run")
    file = tmp_path / "run" / "space.yaml"
    document = yaml.safe_load(file.read_text())
    [first, _] = document["contrasts"]
    first["weights"] = {cell: -weight for cell, weight in first["weights"].items()}
    file.write_text(yaml.safe_dump(document))
    table = load_run(tmp_path / "run").tables["main"]
    assert sum(table.value(i, "p").raw is not None for i in range(len(table.rows))) == 2
    assert not any("Rows without p" in note.text for note in table.notes)
    document["contrasts"] = [first]
    file.write_text(yaml.safe_dump(document))
    assert any("Rows without p" in note.text for note in load_run(tmp_path / "run").tables["main"].notes)


def test_honest_spaces_of_one_folder_that_share_their_baseline_are_warned_of_nothing(
    small_plan: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end, one after the other: the second is declared with the first one's baseline on record."""
    from experiments.results.declared import declare
    from experiments.results.ledger import Ledger
    from experiments.schedule.fake import MakeFake
    from experiments.schedule.inline import run_inline
    from experiments.schedule.publish import publish
    from experiments.schedule.session import Session
    from experiments.space.plan import Contrast

    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")
    whole = small_plan(cells=3, draws=2, studies=3)
    models = enumerate(whole.cells)  # different ones: the cells of `small_plan` differ by their replica alone
    whole = dataclasses.replace(
        whole,
        cells=tuple(
            dataclasses.replace(cell, recipe={**cell.recipe, "replica": 0, "projection": {"dim": 16 + number}})
            for number, cell in models
        ),
    )
    for other in ("f1", "f2"):
        cells = tuple(cell for cell in whole.cells if cell.name in ("fusion=f0", f"fusion={other}"))
        contrast = Contrast(other, "demo", {f"fusion={other}": 1.0, "fusion=f0": -1.0}, "ua")
        plan = dataclasses.replace(whole, space=other, cells=cells, contrasts=(contrast,))
        ledger = Ledger(str(tmp_path))
        plan = declare(plan, ledger)
        run_inline(Session(plan, ledger), MakeFake(utterances=2), str(tmp_path))
        publish(plan, ledger, str(tmp_path / other))
        run = load_run(tmp_path / other)
        assert not run.second_look()
        assert [claim.remarks for claim in run.claims] == [()]
        of_this_test = ("Synthetic", "Encoders with", "Other questions", "Some trials ran from a working tree")
        said = [line for line in warnings(run) if not line.startswith(of_this_test)]
        assert said == []


def test_a_single_draw_from_a_range_was_not_fixed_beforehand(make_run: MakeRun) -> None:
    run, fixed = make_run(draws=1), make_run(draws=1)
    for one in (run, fixed):
        one.trials = one.trials[one.trials["stage"] == "confirm"]
    fixed.spec = dataclasses.replace(fixed.spec, tuned={})
    assert "Hyperparameters were drawn once in each study, without selection" in protocol(run)
    assert "Hyperparameters were fixed beforehand" in protocol(fixed)


def test_folds_are_named_where_scores_are_of_folds(make_run: MakeRun) -> None:
    table = make_run(folds=5, studies=3).tables["main"]
    assert table.title.endswith("test folds by session")
    said = " ".join(note.text for note in table.notes)
    assert "Mean over n studies, each averaged over 5 test folds by session, ±" in said
    assert "draws in every cell, study and fold" in said
    two = make_run(studies=2).tables["main"]
    assert not any("Hedges" in note.text for note in two.notes)  # there is none of two studies
