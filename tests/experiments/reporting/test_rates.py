"""Rates as they really are, and only what is alike is ranked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.reporting.rates import alike, rate_of, taken
from experiments.reporting.run import Run, load_run
from experiments.reporting.tables.conditions import curves

MakeRun = Callable[..., Run]
USES = {"concat": ("audio", "text"), "text": ("text",), "tacfn": ("audio", "text")}


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    """A text-only cell that loses nothing under any random rate, beside two of audio and text."""
    return make_run(
        factors={"fusion": ("concat", "text", "tacfn")}, uses=USES, rates=(0.0, 0.3, 0.667),
        effects={"fusion=tacfn": 0.02}, slopes={"fusion=text": 0.15}, patterns=(("text",),), predictions=False,
    )  # fmt: skip


def test_what_a_random_rate_takes_from_one_two_and_three_modalities(run: Run) -> None:
    assert rate_of(run, "demo", "fusion=text", "missing 0.667") == 0
    assert rate_of(run, "demo", "fusion=concat", "missing 0.667") == 0.5
    shares = taken(run, "demo", "fusion=concat", "missing 0.3")
    assert shares is not None
    assert shares == pytest.approx({"audio": 0.3, "text": 0.3}, abs=0.01)
    assert not alike(run, "demo", "missing 0.3", "fusion=text", "fusion=concat")
    assert alike(run, "demo", "text", "fusion=text", "fusion=concat")  # both have the text and nothing else
    assert alike(run, "demo", "complete", "fusion=text", "fusion=concat")


def test_a_cell_that_loses_nothing_is_not_crowned(run: Run) -> None:
    assert run.by_study(condition="missing 0.667").mean(axis=1).idxmax() == "fusion=text"
    for name in ("conditions", "conditions_by_metric"):
        table = run.tables[name]
        rows = {table.value(i, "fusion").text: table.rows[i] for i in reversed(range(len(table.rows)))}
        heads = {column.key: column.header for column in table.columns}
        assert heads["missing 0.667"] == "missing 0.667 (really 0.5)"
        assert heads["missing 0.3"] == "missing 0.3"
        for key in ("missing 0.3", "missing 0.667"):
            assert not rows["text"][key].bold
            assert rows["text"][key].mark == "d"
            assert rows["tacfn"][key].bold
        assert rows["text"]["text"].mark == ""
        notes = " ".join(note.text for note in table.notes)
        assert "keeps at least one of the modalities that its cell uses: missing 0.667 (really 0.5)" in notes
        assert "takes 0 % of their modalities from text, and another share from the other rows" in notes
    table = run.tables["conditions"]
    [text] = [i for i in range(len(table.rows)) if table.value(i, "fusion").text == "text"]
    assert table.value(text, "auc_random").text == "–"
    assert "delta_auc_random" not in table.rows[text]


def test_curves_lie_at_the_rates_that_were(run: Run) -> None:
    [curve] = curves(run, "demo")
    at = dict(zip(curve.cells, curve.real.tolist(), strict=True))
    assert at == {"fusion=concat": [0, 0.3, 0.5], "fusion=text": [0, 0, 0], "fusion=tacfn": [0, 0.3, 0.5]}
    figure = run.figure("missing")
    assert figure is not None
    axes = figure.axes[0]
    assert sorted({float(x) for line in axes.lines for x in np.asarray(line.get_xdata())}) == [0, 0.3, 0.5]


def test_a_claim_between_unlike_losses_is_refused(run: Run, tmp_path: Path) -> None:
    import yaml

    shutil.copytree(run.folder, tmp_path / "run")
    file = tmp_path / "run" / "space.yaml"
    document = yaml.safe_load(file.read_text())
    for contrast in document["contrasts"]:
        contrast["condition"] = "missing 0.667"
    file.write_text(yaml.safe_dump(document))
    first, second = load_run(tmp_path / "run").claims
    assert first.verdict == "refused"
    assert "takes another share of its modalities" in first.text
    assert first.adjusted is None
    assert second.verdict != "refused"
    assert "under missing 0.667 (really 0.5)" in second.text


def test_a_cell_with_a_diverged_study_is_never_bold(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(effects={"fusion=tacfn": 0.2, "fusion=gated": 0.1}, patterns=(("a",), ("t",)))
    for number, cells in enumerate((["fusion=tacfn"], ["fusion=tacfn", "fusion=gated", "fusion=concat"])):
        shutil.copytree(made.folder, tmp_path / str(number))
        t = pd.read_parquet(made.folder / "trials.parquet")
        hit = (t["stage"] == "confirm") & (t["study"] == 2) & t["cell"].isin(cells)
        t.loc[hit, "status"] = "diverged"
        t.to_parquet(tmp_path / str(number) / "trials.parquet", index=False)
        run = load_run(tmp_path / str(number))
        assert run.by_study().mean(axis=1).idxmax() == "fusion=tacfn"
        bold = {
            table.value(i, "fusion").text
            for table in run.tables.values()
            for i, row in enumerate(table.rows)
            if any(value.bold or value.underline for value in row.values())
        }
        assert bold == ({"gated"} if number == 0 else set())
