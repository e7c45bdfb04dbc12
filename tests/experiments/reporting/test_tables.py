from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from experiments.reporting.build import contents
from experiments.reporting.factorials import slices
from experiments.reporting.numbers import decimals_for, number, p_text
from experiments.reporting.run import Run
from experiments.reporting.searching import boundaries, pruning_effect
from experiments.reporting.statistics.paired import mean_interval
from experiments.reporting.tables.conditions import curves
from experiments.reporting.tables.latex import escape, to_latex
from experiments.reporting.tables.model import (
    Column,
    Note,
    Table,
    Value,
    decimals_that_separate,
    emphasise,
    score,
    text,
)
from experiments.reporting.tables.plain import to_csv, to_html, to_markdown

MakeRun = Callable[..., Run]
NASTY = "=cmd|'/C calc'!A0 <script>alert(1)</script> 50% a_b & $x$ #1 {y} \\input{z} ~^ Việt ơn"
TABLE = Table(
    "nasty",
    NASTY,
    (Column("name", NASTY, "text"), Column("score", "UA (%)", "spread"), Column("p", "p", group="test")),
    (
        {
            "name": text(NASTY),
            "score": Value("77.3", 0.773, half="1.2", bold=True, mark="a"),
            "p": Value("< .001", 0.0001),
        },
        {"name": text("plain"), "score": Value("70.0", 0.7, underline=True)},
    ),
    (Note(NASTY), Note("note", "a")),
    (1,),
)
GRID = {
    "factors": {"fusion": ("concat", "gated", "tacfn"), "pooling": ("mean", "attn")},
    "effects": {"fusion=tacfn": 0.05, "pooling=attn": 0.02},
    "studies": 5,
}


def latex_compiles(folder: Path, name: str) -> str:
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name], cwd=folder, capture_output=True, timeout=120
    )
    log = done.stdout.decode("latin-1")
    assert done.returncode == 0, log[-2000:]
    return log


needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def test_latex_escapes_everything() -> None:
    shown = escape(NASTY)
    for raw in ("<script>", " a_b", " & ", "$x$", " #1", "\\input"):
        assert raw not in shown
    assert escape("− ± 5 % ω²") == r"\ensuremath{-} \ensuremath{\pm} 5 \% \ensuremath{\omega}\ensuremath{^2}"
    assert escape("日") == "?"


def test_latex_is_what_it_should_be() -> None:
    lines = to_latex(TABLE).splitlines()
    assert r"\toprule" in lines
    assert any(
        line.endswith(r"\textbf{77.3} & 1.2\rlap{\textsuperscript{a}} & \ensuremath{<} .001 \\") for line in lines
    )
    assert any(line == r"plain & \underline{70.0} & & -- \\" for line in lines)
    assert to_latex(TABLE) == to_latex(TABLE)


@needs_latex
def test_a_nasty_table_compiles_alone_and_inside_a_paper(tmp_path: Path) -> None:
    (tmp_path / "nasty.tex").write_text(to_latex(TABLE))
    latex_compiles(tmp_path, "nasty.tex")


@needs_latex
def test_every_table_compiles_in_a_two_column_article(tmp_path: Path, make_run: MakeRun) -> None:
    runs = {
        "grid": make_run(**GRID, lose=[("fusion=gated pooling=attn", 1)]),
        "many": make_run(
            factors={"fusion": [f"a_rather_long_fusion_name_{i}" for i in range(40)]}, studies=3, predictions=False
        ),
        "corpora": make_run(corpora=("demo", "iemocap", "meld_x"), studies=4),
    }
    body = []
    for key, run in runs.items():
        for name, table in run.tables.items():
            (tmp_path / f"{key}_{name}.tex").write_text(to_latex(table))
            body.append(f"\\input{{{key}_{name}.tex}}\\clearpage")
        (tmp_path / f"{key}_protocol.tex").write_bytes(contents_of_protocol(run))
        body.append(f"\\input{{{key}_protocol.tex}}")
    paper = (
        "\\documentclass[twocolumn]{article}\\usepackage[T1]{fontenc}\\IfFileExists{lmodern.sty}{\\usepackage{lmodern}}{}\\usepackage{booktabs,graphicx}"
        "\\usepackage[margin=0.75in]{geometry}\\begin{document}\n" + "\n".join(body) + "\n\\end{document}\n"
    )
    (tmp_path / "paper.tex").write_text(paper)
    log = latex_compiles(tmp_path, "paper.tex")
    assert "Overfull \\hbox" not in log


def contents_of_protocol(run: Run) -> bytes:
    from experiments.reporting.prose import as_latex

    return as_latex(run).encode()


def test_csv_guards_against_formulas_and_keeps_full_precision() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert rows[1][0].startswith("'=cmd")
    assert rows[1][1:] == ["0.773", "0.0001"]
    assert rows[2][2] == ""


def test_markdown_has_one_line_a_row_and_no_live_markup() -> None:
    lines = [line for line in to_markdown(TABLE).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert "**77.3** ± 1.2<sup>a</sup>" in lines[2]
    assert "<script>" not in to_markdown(TABLE)
    assert lines[2].replace("\\|", "").count("|") == 4


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "link", "input", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_html_is_escaped_and_balanced() -> None:
    parser = Balanced()
    parser.feed(to_html(TABLE))
    assert not parser.stack
    assert "script" not in parser.seen
    assert parser.seen.count("tr") == 4


def test_numbers_are_written_as_authors_do() -> None:
    assert [decimals_for([h]) for h in (0.05, 0.02, 0.004, 0.0004)] == [1, 1, 1, 2]
    assert decimals_for([0.001]) == 2
    assert number(-0.00001, 1, 100) == "0.0"
    assert p_text(0.05) == ".050"
    assert p_text(0.9999) == "1"
    assert decimals_that_separate([0.7312, 0.7308], [0.02, 0.02], 100) == 2  # no tie made by rounding


def test_emphasis_is_shared_by_equals_and_absent_where_all_are_equal() -> None:
    values = [score(v, 1, 100) for v in (0.5, 0.7, 0.7, 0.6)]
    assert [(v.bold, v.underline) for v in emphasise(values)] == [
        (False, False),
        (True, False),
        (True, False),
        (False, True),
    ]
    assert not any(v.bold or v.underline for v in emphasise([score(0.5, 1, 100)] * 3))
    assert emphasise(values, higher_is_better=False)[0].bold


def test_main_table_shows_the_known_best_and_counts_studies(make_run: MakeRun) -> None:
    run = make_run(**GRID, lose=[("fusion=gated pooling=attn", 1)])
    table = run.tables["main"]
    names = [(table.value(i, "fusion").text, table.value(i, "pooling").text) for i in range(len(table.rows))]
    best = names.index(("tacfn", "attn"))
    assert table.value(best, "score").bold
    assert table.value(best, "score").mark == "†"
    lost = names.index(("gated", "attn"))
    assert table.value(lost, "n").raw == 4
    assert table.value(lost, "score").mark == "a"
    assert table.value(names.index(("concat", "mean")), "delta").text == "baseline"
    raw = table.value(best, "delta").raw
    assert raw == pytest.approx(
        float(
            (run.by_study().loc["fusion=tacfn pooling=attn"] - run.by_study().loc["fusion=concat pooling=mean"]).mean()
        )
    )
    notes = " ".join(note.text for note in table.notes)
    for part in (
        "95 % Student's t interval",
        "A study varies",
        "chosen by validation UA among 4",
        "paired t tests against every other row",
        "Synthetic data",
        "random weights",
    ):
        assert part in notes


def test_ablations_go_from_the_cell_that_validation_chose(make_run: MakeRun) -> None:
    run = make_run(**GRID)
    out, in_ = run.tables["leave_one_out"], run.tables["add_one_in"]
    assert out.value(0, "change").text == "full: tacfn · attn"
    assert [out.value(i, "change").text for i in (1, 2)] == ["− fusion (tacfn → concat)", "− pooling (attn → mean)"]
    assert out.value(1, "delta").raw == pytest.approx(-0.05, abs=0.02)
    assert in_.value(1, "delta").raw == pytest.approx(0.05, abs=0.02)
    assert len(run.tables["factor_by_factor"].rows) == 4


def test_incomplete_grids_are_refused_for_effects(make_run: MakeRun) -> None:
    whole, refused = slices(make_run(**GRID), "demo")
    assert [part.factors for part in whole] == [("fusion", "pooling")]
    assert not refused
    star = make_run(**GRID, cells=_star)
    parts, refused = slices(star, "demo")
    assert [part.factors for part in parts] == [("fusion",), ("pooling",)]
    assert refused[0].why == "2 of 6 combinations are not in the plan"
    assert any("Refused for fusion and pooling" in note.text for note in star.tables["effects"].notes)
    whole, refused = slices(make_run(**GRID, excluded={"gated": "too dear"}), "demo")  # what a rule leaves out
    assert [part.levels[0] for part in whole] == [("concat", "tacfn")]
    assert not refused


def _star(levels: dict[str, str]) -> bool:
    return levels["fusion"] == "concat" or levels["pooling"] == "mean"


def test_areas_under_the_curves(make_run: MakeRun) -> None:
    run = make_run(slopes={"fusion=tacfn": 0.12}, rates=(0.0, 0.2, 0.4, 0.8))
    [curve] = curves(run, "demo")
    assert curve.rates == (0.0, 0.2, 0.4, 0.8)
    one = curve.scores[0, :, 0]
    assert curve.areas[0, 0] == pytest.approx(np.trapezoid(one, curve.rates) / 0.8)
    table = run.tables["conditions"]
    assert table.value(1, "delta_auc_random").raw == pytest.approx(0.12 * 0.4, abs=0.02)


def test_a_rate_of_zero_is_no_second_start_of_the_curve(make_run: MakeRun) -> None:
    run = make_run(rates=(0.3, 0.6), zero=True)
    assert "random 0.0" in run.conditions
    [curve] = curves(run, "demo")
    assert curve.rates == (0.0, 0.3, 0.6)
    assert curve.conditions[0] == "complete"


SIX = (("a",), ("v",), ("t",), ("a", "v"), ("a", "t"), ("v", "t"))


def test_averages_over_patterns_are_named_and_taken_within_studies(make_run: MakeRun) -> None:
    run = make_run(patterns=SIX)
    table = run.tables["conditions"]
    headers = {column.key: column.header for column in table.columns}
    assert headers["average_incomplete"] == "average over 6 incomplete"
    assert headers["average_all"] == "average over 7 with complete"
    assert any("a, t, v, a+t, a+v, v+t" in note.text and "Random rates are not" in note.text for note in table.notes)
    names = ["+".join(kept) for kept in SIX]
    for key, conditions in (("average_incomplete", names), ("average_all", [*names, "complete"])):
        for metric in run.metrics:
            stacked = np.stack([run.by_study("demo", metric, name).to_numpy() for name in conditions])
            expected, shown = stacked.mean((0, 2)), run.tables["conditions_by_metric"]
            rows = [i for i in range(len(shown.rows)) if shown.value(i, "metric").text == run.metric_name(metric)]
            assert [shown.value(i, key).raw for i in rows] == pytest.approx(expected.tolist())
        per_study = np.stack([run.by_study("demo", None, name).to_numpy() for name in conditions]).mean(0)
        half = mean_interval(per_study[0], run.spec.level)[2] - per_study[0].mean()
        assert table.value(0, key).raw == pytest.approx(per_study[0].mean())
        assert table.value(0, key).more["half"] == pytest.approx(half)


def test_no_average_where_a_pattern_was_not_scored(make_run: MakeRun) -> None:
    for patterns in ((), SIX[:5], SIX[3:]):
        table = make_run(patterns=patterns).tables["conditions"]
        assert not any(column.key.startswith("average") for column in table.columns)


def test_search_tables_count_what_happened(make_run: MakeRun) -> None:
    run = make_run(draws=8, studies=4)
    effect = pruning_effect(run)
    assert effect is not None
    t = run.trials
    exempt = t[(t["stage"] == "tune") & t["exempt"].fillna(False).astype(bool)]
    assert effect.exempt == len(exempt)
    merged = run.decisions.merge(exempt, on=["corpus", "cell", "study", "fold", "draw"])
    assert effect.condemned == int((merged["value"] < merged["cutoff_x"]).sum())
    assert effect.saved is not None
    assert 0 < effect.saved < 1
    [edge] = boundaries(run)
    chosen = t[(t["stage"] == "tune") & t["selected"].fillna(False).astype(bool)]["optimizer.lr"]
    place = (np.log10(chosen) + 4) / 2
    assert (edge.low, edge.high, edge.winners) == ((place < 0.05).sum(), (place > 0.95).sum(), len(chosen))


def test_per_class_scores_come_from_the_predictions(make_run: MakeRun) -> None:
    from sklearn.metrics import f1_score

    run = make_run(**GRID)
    frame = run.predictions("demo", "fusion=tacfn pooling=attn")
    expected = [
        f1_score(part["label"], part["prediction"], labels=["happy"], average="macro")
        for _, part in frame.groupby("study")
    ]
    table = run.tables["classes"]
    row = next(
        i for i in range(6) if table.value(i, "fusion").text == "tacfn" and table.value(i, "pooling").text == "attn"
    )
    assert table.value(row, "class_happy").raw == pytest.approx(np.mean(expected))


def test_same_tables_same_bytes(make_run: MakeRun) -> None:
    run = make_run(**GRID)
    again = make_run(**GRID)
    assert contents(run) == contents(again)


def test_undeclared_differences_are_adjusted_over_the_rows_that_the_note_names(make_run: MakeRun) -> None:
    """The baseline's row is no test."""
    run = make_run(factors={"fusion": ("concat", "gated", "tacfn", "xattn")}, studies=6, contrasts="none")
    main, scores = run.tables["main"], run.by_study("demo")
    own = sorted(
        ttest_rel(row, scores.loc["fusion=concat"]).pvalue for cell, row in scores.iterrows() if cell[-6:] != "concat"
    )
    expected = np.maximum.accumulate(np.minimum(1, own * np.array([3, 2, 1])))
    shown = sorted(row["p"].raw for row in main.rows if "p" in row and row["p"].raw is not None)
    np.testing.assert_allclose(shown, expected)
    assert any("Holm-adjusted over 3 rows" in note.text for note in main.notes)
