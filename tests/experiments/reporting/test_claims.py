from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments.reporting.build import contents
from experiments.reporting.prose import protocol, warnings
from experiments.reporting.run import Run
from experiments.reporting.spec import spec_of
from experiments.reporting.statistics.paired import equivalence

MakeRun = Callable[..., Run]
A_A = {"factors": {"replica": (0, 1, 2, 3, 4, 5)}, "studies": 6, "draws": 2, "epochs": 4, "predictions": False}
GRID = {
    "factors": {"fusion": ("concat", "gated", "tacfn"), "pooling": ("mean", "attn")},
    "effects": {"fusion=tacfn": 0.06},
    "studies": 6,
}


def verdicts(run: Run) -> dict[str, str]:
    return {claim.contrast.name: claim.verdict for claim in run.claims}


def test_a_true_effect_is_claimed_in_words_with_its_evidence(make_run: MakeRun) -> None:
    run = make_run(effects={"fusion=tacfn": 0.06}, studies=8)
    claim = next(c for c in run.claims if c.contrast.name == "tacfn vs concat")
    assert claim.verdict == "better"
    assert re.fullmatch(r"tacfn beats concat by [56]\.\d points", claim.text)
    assert re.search(r"^\+\d\.\d points, 95 % interval \d\.\d to \d\.\d, Holm p < \.001, n = 8$", claim.evidence)
    assert (
        next(c for c in run.claims if c.contrast.name == "gated vs concat").text
        == "gated and concat cannot be told apart"
    )


def test_a_worse_cell_is_called_worse(make_run: MakeRun) -> None:
    run = make_run(effects={"fusion=gated": -0.06}, studies=8)
    claim = next(c for c in run.claims if c.contrast.name == "gated vs concat")
    assert claim.verdict == "worse"
    assert claim.text.startswith("gated is worse than concat by")


def test_grids_of_equal_cells_claim_nothing(make_run: MakeRun) -> None:
    wrong = 0
    for seed in range(8):
        run = make_run(**A_A, seed=seed)
        assert {c.verdict for c in run.claims} <= {"undecided", "better", "worse"}
        wrong += any(c.verdict in ("better", "worse") for c in run.claims)
    assert wrong <= 2  # 8 grids at 5 %: more than two has probability .006
    run = make_run(**A_A, seed=0)
    assert set(verdicts(run).values()) == {"undecided"}
    assert run.claims[0].text == "replica 1 and replica 0 cannot be told apart"


def test_numbers_are_those_of_the_scores(make_run: MakeRun) -> None:
    run = make_run(**GRID)
    claim = next(c for c in run.claims if c.contrast.name == "tacfn vs concat")
    t = run.trials[(run.trials["stage"] == "confirm")].set_index(["cell", "study"])["test_ua"]
    d = (t["fusion=tacfn pooling=mean"] - t["fusion=concat pooling=mean"]).sort_index().to_numpy()
    assert claim.differences == pytest.approx(tuple(d))
    assert claim.comparison is not None
    assert claim.comparison.mean == pytest.approx(d.mean())
    assert claim.family == len(run.claims) == 3
    assert "(with pooling mean)" in claim.text


def test_what_sign_flips_cannot_decide_is_said_so(make_run: MakeRun) -> None:
    run = make_run(effects={"fusion=tacfn": 0.1}, studies=5, test="sign_flip")
    assert set(verdicts(run).values()) == {"undecidable"}
    assert "not decidable with n = 5 in a family of 2" in run.claims[1].text
    assert "no data of 5 studies give a corrected p below 0.12" in run.claims[1].evidence
    assert "80 % power" not in run.claims[1].evidence


def test_what_power_is_conditional_on_is_said(make_run: MakeRun) -> None:
    [claim, _] = make_run(studies=2).claims
    assert "standard deviations has 80 % power" in claim.evidence
    assert "no data" not in claim.evidence  # a t test has no smallest p
    [claim, _] = make_run(noise=0.05).claims
    assert claim.verdict == "undecided"
    assert "are found with 80 % power where studies vary as they did here" in claim.evidence
    assert "would have been" not in claim.evidence


def test_one_study_decides_nothing(make_run: MakeRun) -> None:
    run = make_run(effects={"fusion=tacfn": 0.1}, studies=1)
    assert set(verdicts(run).values()) == {"undecidable"}
    assert run.tables["main"].value(1, "score").half == ""


def test_a_lost_cell_is_untested_and_keeps_its_place_in_the_family(make_run: MakeRun) -> None:
    lose = [("fusion=gated", s) for s in range(6)]
    run = make_run(effects={"fusion=tacfn": 0.03}, studies=6, lose=lose)
    by_name = {c.contrast.name: c for c in run.claims}
    assert by_name["gated vs concat"].verdict == "untested"
    tested = by_name["tacfn vs concat"]
    assert tested.p is not None
    assert tested.adjusted == pytest.approx(min(1.0, 2 * tested.p))


def test_a_lost_study_is_left_out_of_the_pair_and_remarked(make_run: MakeRun) -> None:
    run = make_run(studies=6, lose=[("fusion=gated", 2)])
    claim = next(c for c in run.claims if c.contrast.name == "gated vs concat")
    assert claim.comparison is not None
    assert claim.comparison.n == 5
    assert "5 of 6 planned studies have all cells" in claim.remarks


def test_post_hoc_contrasts_change_nothing_for_the_declared(make_run: MakeRun) -> None:
    options: dict[str, Any] = {"effects": {"fusion=tacfn": 0.012}, "studies": 6}
    declared = make_run(**options)
    late = make_run(**options, post_hoc=("gated",))
    p = {c.contrast.name: c for c in late.claims}
    assert p["tacfn vs concat"].adjusted == p["tacfn vs concat"].p  # alone in its family now
    assert p["gated vs concat"].family == 2
    assert any("post hoc" in remark for remark in p["gated vs concat"].remarks)
    assert next(c for c in declared.claims if c.contrast.name == "tacfn vs concat").family == 2


def test_equivalence_is_claimed_by_two_one_sided_tests_only(make_run: MakeRun) -> None:
    run = make_run(studies=8, margin=0.05, noise=0.004)
    claim = next(c for c in run.claims if c.contrast.name == "gated vs concat")
    assert claim.verdict == "equivalent"
    assert claim.text == "gated and concat are equal within ± 5.0 points"
    wide = make_run(studies=3, margin=0.001)
    assert set(verdicts(wide).values()) == {"undecided"}
    p = equivalence(claim.differences, 0.05)
    assert p is not None
    assert claim.adjusted is not None
    assert p <= claim.adjusted <= 2 * p


def test_each_p_is_named_by_the_test_that_it_is_of(make_run: MakeRun) -> None:
    """One family, three kinds of test: equivalence and wider scopes do not have the p of the space's exact test."""
    run = make_run(test="sign_flip", studies=7, factors={"fusion": ("a", "b", "c", "d", "e")})
    alone = {claim.verdict for claim in run.claims}
    assert alone == {"undecidable"}  # 4 x 2 / 2^7 = .0625
    assert run.tables["claims"].notes[0].text == (
        "p: exact sign-flip test, two-sided; Holm-adjusted over the 4 declared contrasts."
    )
    first, second, *others = run.spec.contrasts
    mixed = (replace(first, margin=0.05), replace(second, scope="new speakers"), *others)
    again = make_run(test="sign_flip", studies=7, factors={"fusion": ("a", "b", "c", "d", "e")})
    again.spec = replace(run.spec, contrasts=mixed)
    equal, wider, *exact = again.claims
    assert equal.p == equivalence(equal.differences, 0.05)
    assert again.tables["claims"].rows[0]["p"].raw == equal.p
    assert wider.interval is not None
    assert wider.p == wider.interval.p
    assert {claim.verdict for claim in exact} == {"undecided"}  # two of the four may be far smaller: 2 x 2 / 2^7 = .03
    words = (
        "exact sign-flip test, two-sided; two one-sided t tests where a margin is given; that of the interval for new "
        "speakers, two-sided"
    )
    assert words in again.tables["claims"].notes[0].text
    assert f"Decisive test: {words}; α = 0.05, Holm-adjusted over 4 contrasts" in protocol(again)
    both = make_run(studies=7)
    both.spec = replace(both.spec, contrasts=(replace(both.spec.contrasts[0], margin=0.05, scope="new speakers"),))
    [claim] = both.claims
    assert (claim.verdict, claim.text.rpartition(": ")[2]) == (
        "refused",
        "equivalence is tested on this test set alone",
    )


def test_a_scope_that_the_data_cannot_carry_is_refused(make_run: MakeRun) -> None:
    run = make_run(studies=5, speakers=2, scope="new speakers", effects={"fusion=tacfn": 0.3})
    assert set(verdicts(run).values()) == {"refused"}
    assert "the test set has 2 speakers, at least 5 are needed" in run.claims[0].text


def test_a_scope_beyond_the_test_set_has_the_wider_interval(make_run: MakeRun) -> None:
    run = make_run(studies=6, effects={"fusion=tacfn": 0.05}, scope="new dialogues", utterances=600, dialogues=30)
    claim = next(c for c in run.claims if c.contrast.name == "tacfn vs concat")
    inside = next(s for s in claim.scopes if s.name == "this test set")
    beyond = claim.interval
    assert beyond is not None
    assert beyond.basis == "6 studies × 30 dialogues"
    assert beyond.high - beyond.low > inside.high - inside.low  # type: ignore[operator]


def test_two_corpora_cannot_speak_for_new_ones(make_run: MakeRun) -> None:
    run = make_run(corpora=("a", "b"), scope="new corpora", studies=4, predictions=False)
    assert set(verdicts(run).values()) == {"refused"}


def test_new_corpora_are_one_claim_by_random_effects(make_run: MakeRun) -> None:
    run = make_run(
        corpora=("a", "b", "c", "d"), scope="new corpora", studies=6, effects={"fusion=tacfn": 0.06}, predictions=False
    )
    assert len(run.claims) == 2
    claim = next(c for c in run.claims if c.contrast.name == "tacfn vs concat")
    assert claim.verdict == "better"
    assert [s.name for s in claim.scopes] == ["new corpora", "a", "b", "c", "d"]
    assert claim.family == 2


def test_folds_are_averaged_within_studies_and_corrected_over_folds(make_run: MakeRun) -> None:
    run = make_run(folds=5, studies=3, effects={"fusion=tacfn": 0.06})
    claim = next(c for c in run.claims if c.contrast.name == "tacfn vs concat")
    assert claim.comparison is not None
    assert claim.comparison.n == 3  # never 15
    over = next(s for s in claim.scopes if s.name.startswith("new folds"))
    wide = run.by_fold()
    d = wide.loc["fusion=tacfn"] - wide.loc["fusion=concat"]
    folds = d.groupby(level="fold").mean().to_numpy()
    error = np.sqrt(folds.var(ddof=1) * (1 / 5 + 1 / 4))
    assert over.high - over.mean == pytest.approx(2.7764451 * error)  # type: ignore[operator]


def test_one_study_of_folds_is_decided_over_the_folds(make_run: MakeRun) -> None:
    run = make_run(folds=6, studies=1, effects={"fusion=tacfn": 0.15}, noise=0.005)
    claim = next(c for c in run.claims if c.contrast.name == "tacfn vs concat")
    assert claim.verdict == "better"
    assert claim.interval is not None
    assert claim.interval.basis == "Nadeau-Bengio over 6 folds"


def test_second_look_is_remarked(make_run: MakeRun) -> None:
    run = make_run(second_look=True)
    assert all(any("second look" in r for r in c.remarks) for c in run.claims)


def not_run(run: Run, cell: str, studies: tuple[int, ...], corpus: str | None = None) -> Run:
    """The run as a budget or Ctrl-C leaves it: some planned studies of a cell are missing."""
    t = run.trials
    here = (t["cell"] == cell) & t["study"].isin(studies) & (t["stage"] == "confirm")
    t.loc[here & (t["corpus"] == corpus) if corpus else here, "status"] = "missing"
    return run


def test_nothing_is_claimed_before_all_planned_studies_are_there(make_run: MakeRun) -> None:
    """An interim look is no test: no verdict, no p, no interval, in no table and for no machine."""
    options: dict[str, Any] = {"effects": {"fusion=tacfn": 0.06, "fusion=gated": 0.06}, "studies": 8}
    run = not_run(make_run(**options), "fusion=tacfn", (5, 6, 7))
    by_name = {c.contrast.name: c for c in run.claims}
    claim, whole = by_name["tacfn vs concat"], by_name["gated vs concat"]
    assert claim.text == "tacfn against concat: withheld, 5 of 8 planned studies are there"
    assert (claim.verdict, claim.p, claim.adjusted, claim.comparison, claim.scopes) == (
        "withheld",
        None,
        None,
        None,
        (),
    )
    assert whole.verdict == "better"
    assert whole.adjusted == pytest.approx(2 * whole.p)  # it keeps its place
    row = next(r for r in run.tables["claims"].rows if r["verdict"].text == "withheld")
    assert set(row) & {"p", "holm", "interval", "delta", "n"} == set()
    main = {row["fusion"].text: row for row in run.tables["main"].rows}
    assert set(main["tacfn"]) & {"p", "interval", "delta", "g"} == set()
    assert {"p", "interval", "delta"} <= set(main["gated"])
    every = not_run(make_run(**options), "fusion=tacfn", (6, 7))
    for cell in ("fusion=concat", "fusion=gated"):
        not_run(every, cell, (7,))
    assert not any(row["score"].bold for row in every.tables["main"].rows)  # no row has every study
    assert any("withheld until all planned studies" in note.text for note in run.tables["main"].notes)
    two = not_run(
        make_run(factors={"fusion": ("a", "b"), "pooling": ("c", "d")}, studies=8), "fusion=b pooling=c", (6, 7)
    )
    by_factor = {row["change"].text: set(row) for row in two.tables["factor_by_factor"].rows}
    assert "delta" not in by_factor["fusion: b"]
    assert {"delta", "interval"} <= by_factor["pooling: d"]
    assert {row["effect"].text for row in two.tables["effects"].rows} == {"pooling"}
    lost = make_run(**options, lose=[("fusion=tacfn", 5)])  # ended for good: that is what was planned, and it is there
    assert verdicts(lost)["tacfn vs concat"] == "better"


def test_the_baseline_is_waited_for_too_and_so_is_every_fold(make_run: MakeRun) -> None:
    run = not_run(make_run(effects={"fusion=tacfn": 0.06}, studies=8), "fusion=concat", (7,))
    assert set(verdicts(run).values()) == {"withheld"}
    folds = make_run(folds=5, studies=3, effects={"fusion=tacfn": 0.06})
    t = folds.trials
    last = (t["cell"] == "fusion=tacfn") & (t["study"] == 2) & (t["fold"] == 4) & (t["stage"] == "confirm")
    t.loc[last, "status"] = "missing"
    assert verdicts(folds)["tacfn vs concat"] == "withheld"


def test_a_joint_claim_waits_for_every_corpus(make_run: MakeRun) -> None:
    corpora = ("a", "b", "c", "d")
    options: dict[str, Any] = {
        "corpora": corpora, "studies": 6, "effects": {"fusion=tacfn": 0.06}, "predictions": False,
    }  # fmt: skip
    run = not_run(make_run(**options, scope="new corpora"), "fusion=tacfn", (5,), "c")
    claim = next(c for c in run.claims if c.contrast.name == "tacfn vs concat")
    assert (claim.verdict, claim.corpora, claim.p) == ("withheld", corpora, None)
    alone = not_run(make_run(**options), "fusion=tacfn", (5,), "c")
    found = [c for c in alone.claims if c.contrast.name == "tacfn vs concat"]
    assert [c.verdict for c in found] == ["better", "better", "withheld", "better"]
    assert not any(scope.name == "new corpora" for c in found for scope in c.scopes)


def test_the_family_is_what_was_ever_declared_and_changes_are_said(make_run: MakeRun) -> None:
    options: dict[str, Any] = {"effects": {"fusion=tacfn": 0.012}, "studies": 6, "post_hoc": ("gated",)}
    run = make_run(**options)
    document = dict(run.spec.document)
    document["declared"] = {
        **document["declared"],
        "family": {"declared": 7, "ever": 11},
        "marks": ["alpha: 0.1 (declared: 0.05)"],
        "history": ["1. 7 contrasts; before the first result", "2. 2 contrasts; after 18 confirm results"],
        "others": {"spaces": 1, "contrasts": 4},
    }
    run.spec = spec_of(document, "space.yaml")
    by_name = {c.contrast.name: c for c in run.claims}
    timely, late = by_name["tacfn vs concat"], by_name["gated vs concat"]
    assert (timely.family, late.family) == (7, 11)
    assert timely.p is not None
    assert timely.adjusted == pytest.approx(min(1.0, 7 * timely.p))
    assert late.adjusted is not None
    assert late.adjusted >= timely.adjusted
    assert all("changed after the first results: alpha: 0.1 (declared: 0.05)" in c.remarks for c in run.claims)
    said = " ".join(warnings(run))
    assert "Declared 2 times: 1. 7 contrasts; before the first result. 2. 2 contrasts;" in said
    assert "Changed after the first results: alpha: 0.1 (declared: 0.05)." in said
    assert "families of their own: 4 contrasts of 1 space." in said
    assert "Holm-adjusted over 7 contrasts declared" in protocol(run)
    assert "families of their own: 4 contrasts of 1 space." in protocol(run)


def test_what_was_changed_after_a_look_is_said_in_every_export(make_run: MakeRun) -> None:
    """A table goes into a paper without its page: `alpha: 0.3` afterwards read "better" there, and nothing else."""
    run = make_run(studies=6, post_hoc=("gated",), patterns=(("a",), ("t",)))
    document = dict(run.spec.document)
    document["declared"] = {
        **document["declared"],
        "metric": {"declared": "", "post_hoc": True},
        "family": {"declared": 7, "ever": 11},
        "marks": ["alpha: 0.3 (declared: 0.05)"],
    }
    run.spec = spec_of(document, "space.yaml")
    files = contents(run)
    exports = [name for name in files if name.startswith(("tables/", "protocol.", "index."))]
    assert len(exports) > 20
    for words in ("Changed after the first results: alpha: 0.3 (declared: 0.05)", "Post hoc: the metric was"):
        assert [name for name in exports if words not in files[name].decode()] == []
    for name in ("tables/claims.md", "tables/main.md", "protocol.txt"):
        assert "Holm-adjusted over all 11 that were ever declared" in files[name].decode()
    late = make_run(studies=6, post_hoc=("gated", "tacfn"))
    assert "No contrast here was declared before the first test score." in [n.text for n in late.tables["main"].notes]
    assert all(note.text for table in late.tables.values() for note in table.notes)


def test_rows_without_a_declared_contrast_are_corrected_for_all_that_were_ever_declared(make_run: MakeRun) -> None:
    """Else leaving all contrasts out of the YAML, and all rows but one, would leave its p as it is."""
    run = make_run(studies=6, contrasts="none")
    document = dict(run.spec.document)
    document["contrasts"] = []
    document["declared"] = {**document["declared"], "family": {"declared": 9, "ever": 11}}
    alone = [row["p"].raw for row in run.tables["main"].rows if "p" in row]
    again = make_run(studies=6)
    again.spec = spec_of(document, "space.yaml")
    corrected = [row["p"].raw for row in again.tables["main"].rows if "p" in row]
    assert min(corrected) == pytest.approx(min(1.0, min(alone) * 11 / len(alone)))
    assert "all 11 contrasts that were ever declared" in " ".join(n.text for n in again.tables["main"].notes)


def test_where_less_is_better_a_larger_score_is_worse(make_run: MakeRun, lower_is_better: object) -> None:
    run = make_run(effects={"fusion=tacfn": 0.06, "fusion=gated": -0.06}, studies=8)
    assert verdicts(run)["tacfn vs concat"] == "worse"
    assert verdicts(run)["gated vs concat"] == "better"
    assert run.compare("gated", "concat").better == 1.0
    table = run.tables["main"]
    rows = {table.value(i, "fusion").text: table.value(i, "score") for i in range(len(table.rows))}
    assert rows["gated"].bold
    assert not rows["tacfn"].bold
    assert rows["gated"].mark == "†"
    assert "error" in table.title
