"""Declarations: a chain that nobody shortens unseen, and what it makes of a plan's claims."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.reporting.prose import protocol
from experiments.reporting.run import load_run
from experiments.results import accepted
from experiments.results.declared import FOLDER, declare, read_chain, standing_of
from experiments.results.ledger import Ledger
from experiments.results.standing import Standing, cell_keys, contrast_key
from experiments.results.status import status
from experiments.schedule.fake import MakeFake
from experiments.schedule.inline import run_inline
from experiments.schedule.publish import publish
from experiments.schedule.run import execute
from experiments.schedule.session import Session
from experiments.slots import Cell
from experiments.space.load import make_plan
from experiments.space.plan import Condition, Contrast, CorpusRef, Plan, Tuning
from mer.errors import UserError

MakePlan = Callable[..., Plan]
HALF = Condition("half", {"protocol": "random", "rate": 0.5})


@pytest.fixture(autouse=True)
def one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "the code of this test")


def against(other: str, name: str = "", **changes: Any) -> Contrast:
    return Contrast(name or other, "demo", {f"fusion={other}": 1.0, "fusion=f0": -1.0}, "ua", **changes)


def several(plan: MakePlan, count: int = 4, **changes: Any) -> Plan:
    """A plan of f0 and `count` others, each against f0."""
    contrasts = changes.pop("contrasts", tuple(against(f"f{number}") for number in range(1, count + 1)))
    found = plan(cells=count + 1, draws=1, epochs=2, contrasts=contrasts, **changes)
    return dataclasses.replace(found, cells=distinct(found))


def distinct(plan: Plan) -> tuple[Cell, ...]:
    """The cells of a plan as different models: those of `small_plan` differ by their replica alone."""
    return tuple(
        dataclasses.replace(cell, recipe={**cell.recipe, "replica": 0, "projection": {"dim": 16 + number}})
        for number, cell in enumerate(plan.cells)
    )


def only(plan: Plan, *names: str) -> Plan:
    """A plan of some of its cells and their contrasts, as `--only` makes it."""
    cells = tuple(cell for cell in plan.cells if cell.name in {f"fusion={name}" for name in names})
    kept = {cell.name for cell in cells}
    contrasts = tuple(contrast for contrast in plan.contrasts if set(contrast.weights) <= kept)
    return dataclasses.replace(plan, cells=cells, contrasts=contrasts, options=("--only fusion=" + ",".join(names),))


def run(plan: Plan, root: Path) -> Plan:
    ledger = Ledger(str(root))
    plan = declare(plan, ledger)
    run_inline(Session(plan, ledger), MakeFake(utterances=2), str(root))
    publish(plan, ledger, str(root / plan.folder))
    return plan


def stands(plan: Plan, root: Path) -> Standing:
    ledger = Ledger(str(root))
    plan = declare(plan, ledger)
    snapshot = ledger.refresh()
    return standing_of(plan, read_chain(ledger.store, snapshot), snapshot, None)


def files(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob("*.json"), key=lambda file: file.stat().st_mtime_ns)


# ---- the family ----------------------------------------------------------------------------------------------


def test_no_way_of_writing_a_plan_again_makes_its_family_smaller(small_plan: MakePlan, tmp_path: Path) -> None:
    whole = several(small_plan)
    run(whole, tmp_path)
    less = dataclasses.replace(whole, contrasts=(against("f2"),))
    renamed = dataclasses.replace(whole, space="fresh", contrasts=(against("f2", "another name", family="mine"),))
    turned = dataclasses.replace(whole, contrasts=(Contrast("b", "demo", {"fusion=f0": 3.0, "fusion=f2": -3.0}, "ua"),))
    for plan in (
        less,
        renamed,
        turned,
        only(whole, "f0", "f2"),
        dataclasses.replace(only(whole, "f0", "f2"), space="x"),
    ):
        found = stands(plan, tmp_path)
        assert (found.post_hoc, found.declared, found.ever) == ((False,), 4, 4)
        assert found.marks == ()


def test_metrics_and_conditions_that_are_dropped_keep_their_places(small_plan: MakePlan, tmp_path: Path) -> None:
    many = tuple(
        dataclasses.replace(against("f1"), metric=metric, condition=condition)
        for metric in ("ua", "wa")
        for condition in ("complete", "half")
    )
    run(several(small_plan, 1, contrasts=many), tmp_path)
    found = stands(several(small_plan, 1, contrasts=many[:1], conditions=(Condition("complete"),)), tmp_path)
    assert (found.post_hoc, found.declared) == ((False,), 4)
    assert found.marks == ("conditions: complete (declared: complete, protocol random rate 0.5)",)


def test_a_claim_of_what_was_looked_at_is_post_hoc_and_enlarges_nothing_of_the_declared(
    small_plan: MakePlan, tmp_path: Path
) -> None:
    run(several(small_plan, 4, contrasts=(against("f1"),)), tmp_path)
    found = stands(several(small_plan), tmp_path)
    assert found.post_hoc == (False, True, True, True)
    assert (found.declared, found.ever) == (1, 4)
    assert stands(several(small_plan, 4, contrasts=(against("f1"),)), tmp_path).declared == 1


@pytest.mark.parametrize(
    ("change", "mark"),
    [
        ({"studies": 1}, "fewer studies: 1 (declared: 2)"),
        ({"studies": 3}, "more studies: 3 (declared: 2)"),
        ({"tuning": Tuning(draws=5, grace=1)}, "more draws: 5 (declared: 1)"),
        ({"tuning": Tuning(draws=1, grace=1, once=True)}, "tuning: "),
        ({"alpha": 0.1}, "alpha: 0.1 (declared: 0.05)"),
        ({"root_seed": 7}, "root seed: 7 (declared: 0)"),
        ({"conditions": (Condition("complete"),)}, "conditions: complete "),
        ({"epochs": 4}, "epochs: 4 (declared: 2)"),
        ({"fingerprint": "beef"}, "corpora: demo beef (declared: demo f00d)"),
    ],
)
@pytest.mark.parametrize("space", ["small", "renamed"])
def test_what_is_changed_after_a_look_is_marked(
    change: dict[str, Any], mark: str, space: str, small_plan: MakePlan, tmp_path: Path
) -> None:
    run(several(small_plan, 2), tmp_path)
    plan = _changed(several(small_plan, 2), dict(change))
    found = stands(dataclasses.replace(plan, space=space), tmp_path)
    assert any(line.startswith(mark) for line in found.marks), found.marks
    assert len(found.history) == 2
    assert "after 6 confirm results" in found.history[1]
    again = {"root_seed", "epochs", "fingerprint"} & set(change)  # other numbers: claims of their own
    assert found.post_hoc == ((True, True) if again else (False, False))
    assert found.ever == (4 if again else 2)


def _changed(plan: Plan, change: dict[str, Any]) -> Plan:
    if "fingerprint" in change:  # a label means something else: the same utterances under another content
        ref = dataclasses.replace(plan.corpora["demo"], fingerprint=change.pop("fingerprint"))
        return dataclasses.replace(plan, corpora={"demo": ref})
    if "epochs" in change:
        epochs = change.pop("epochs")
        cells = tuple(
            dataclasses.replace(cell, recipe={**cell.recipe, "training": {"epochs": epochs}}) for cell in plan.cells
        )
        return dataclasses.replace(plan, cells=cells)
    return dataclasses.replace(plan, **change)


def test_another_name_for_the_corpus_hides_nothing(small_plan: MakePlan, tmp_path: Path) -> None:
    ref = CorpusRef("demo", Path("demo"), "f00d", ("audio",), False, True, {"train": 10}, utterances="the same")
    whole = several(small_plan, 2, corpora={"demo": ref})
    run(whole, tmp_path)
    other = dataclasses.replace(ref, name="mine", fingerprint="beef")
    cells = tuple(dataclasses.replace(cell, corpus="mine") for cell in whole.cells)
    contrasts = (dataclasses.replace(whole.contrasts[0], corpus="mine"),)
    hypers = {("mine", name): found for (_, name), found in whole.hypers.items()}
    found = stands(
        dataclasses.replace(
            whole, space="fresh", cells=cells, corpora={"mine": other}, contrasts=contrasts, hypers=hypers
        ),
        tmp_path,
    )
    assert found.post_hoc == (True,)
    assert found.ever == 3


def test_twenty_seeds_at_once_are_one_family(small_plan: MakePlan, tmp_path: Path) -> None:
    """All declared before any result: none is late, and each is a look."""
    for seed in range(20):
        found = stands(several(small_plan, 1, root_seed=seed), tmp_path)
    assert (found.post_hoc, found.declared) == ((False,), 20)
    assert found.marks == ()


def test_spaces_that_share_a_baseline_ask_other_questions(small_plan: MakePlan, tmp_path: Path) -> None:
    whole = several(small_plan)
    run(only(whole, "f0", "f1"), tmp_path)
    other = dataclasses.replace(only(whole, "f0", "f2"), space="other", studies=3, options=())
    run(other, tmp_path)
    found = stands(other, tmp_path)
    assert (found.post_hoc, found.declared, found.ever, found.marks) == ((False,), 1, 1, ())
    assert (found.others, found.other_units) == (1, 1)
    document = yaml.safe_load((tmp_path / "other" / "space.yaml").read_text())
    assert document["declared"]["second_look"] is None


def test_the_last_word_before_the_first_result_counts(small_plan: MakePlan, tmp_path: Path) -> None:
    stands(several(small_plan, 2, studies=5), tmp_path)
    stands(several(small_plan, 2, studies=3), tmp_path)
    run(several(small_plan, 2, studies=2), tmp_path)
    assert stands(several(small_plan, 2, studies=2), tmp_path).marks == ()
    assert stands(several(small_plan, 2, studies=5), tmp_path).marks == ("more studies: 5 (declared: 2)",)
    assert len(stands(several(small_plan, 2, studies=2), tmp_path).history) == 5


def test_a_cell_that_is_left_out_after_its_results_were_seen_is_counted(small_plan: MakePlan, tmp_path: Path) -> None:
    """By `--only`, by dropping a level or by `exclude`: bold and † are of the rows that are left."""
    whole = several(small_plan, 3)
    run(whole, tmp_path)
    assert stands(whole, tmp_path).hidden == 0
    assert stands(only(whole, "f0", "f2"), tmp_path).hidden == 2
    cells = tuple(
        dataclasses.replace(cell, skip="excluded: dull") if "f3" in cell.name else cell for cell in whole.cells
    )
    without = dataclasses.replace(whole, cells=cells, contrasts=whole.contrasts[:2])
    plan = run(without, tmp_path)
    document = yaml.safe_load((tmp_path / plan.folder / "space.yaml").read_text())
    assert document["declared"]["hidden"] == 1
    found = load_run(tmp_path / plan.folder)
    words = "Results of 1 other cell of this question had been seen and are not shown here."
    assert words in protocol(found)
    assert words in [note.text for note in found.tables["main"].notes]
    assert stands(whole, tmp_path).hidden == 0


def seeded(plan: Plan, replica: int) -> Plan:
    """The plan with another `replica` in every cell: the same models with other random streams."""
    cells = tuple(dataclasses.replace(cell, recipe={**cell.recipe, "replica": replica}) for cell in plan.cells)
    return dataclasses.replace(plan, cells=cells)


def test_another_replica_is_no_other_question(small_plan: MakePlan, tmp_path: Path) -> None:
    """Else twenty replicas under twenty names would be twenty seeds without a mark."""
    run(seeded(several(small_plan, 1), 1), tmp_path)
    again = dataclasses.replace(seeded(several(small_plan, 1), 2), space="fresh")
    found = stands(again, tmp_path)
    assert (found.post_hoc, found.ever) == ((True,), 2)


@pytest.mark.parametrize("space", ["small", "fresh"])
@pytest.mark.parametrize("how", ["seed", "replica"])
def test_a_seed_in_which_the_baseline_is_unlucky_is_not_chosen_unseen(
    how: str, space: str, small_plan: MakePlan, tmp_path: Path
) -> None:
    """Results of one cell show no difference, but they show with which streams it does badly."""

    def other(plan: Plan, number: int) -> Plan:
        return dataclasses.replace(plan, root_seed=number) if how == "seed" else seeded(plan, number)

    whole = several(small_plan, 1, root_seed=1) if how == "seed" else seeded(several(small_plan, 1), 1)
    baseline = dataclasses.replace(only(whole, "f0"), options=())
    for number in (1, 2, 3):
        run(other(baseline, number), tmp_path)
    found = stands(dataclasses.replace(other(whole, 2), space=space), tmp_path)
    assert found.post_hoc == (how == "replica" and space == "small",)  # twins of the baseline are cells to compare
    if how == "seed" and space == "small":
        assert found.marks == ("root seed: 2 (declared: 1)",)
    elif space == "fresh":
        assert found.marks == ("root seed or replica: results of some of these cells with another one had been seen",)


def test_a_number_of_studies_in_which_the_baseline_is_unlucky_is_not_chosen_unseen(
    small_plan: MakePlan, tmp_path: Path
) -> None:
    run(only(several(small_plan, 1, studies=4), "f0"), tmp_path)
    assert stands(several(small_plan, 1, studies=3), tmp_path).marks == ("fewer studies: 3 (declared: 4)",)
    assert stands(several(small_plan, 1, studies=5), tmp_path).marks == ()  # a small trial of one cell beforehand


@pytest.mark.parametrize("outside", [False, True])
def test_a_level_that_is_rewritten_after_a_look_is_marked(
    outside: bool, small_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is edited, the same command is run again: everything is declared as it was, and all numbers are new."""
    plan = several(small_plan, 1)
    if outside:
        (tmp_path / "a2lab.py").write_text("from mer.pooling import Pooling\n\n\nclass Best(Pooling):\n    pass\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        cells = tuple(
            dataclasses.replace(cell, recipe={**cell.recipe, "pooling": {"name": "a2lab:Best"}}) for cell in plan.cells
        )
        plan = dataclasses.replace(plan, cells=cells)
    run(plan, tmp_path)
    assert stands(plan, tmp_path).marks == ()
    monkeypatch.setattr("experiments.results.identity.recipe_code", lambda recipe: "rewritten")
    mark = "source code: 4 confirm results of these cells made by other code had been seen"
    assert stands(plan, tmp_path).marks == (mark,)
    assert stands(dataclasses.replace(plan, space="fresh"), tmp_path).marks == (mark,)
    again = run(plan, tmp_path)
    assert stands(plan, tmp_path).marks == (mark,)
    document = yaml.safe_load((tmp_path / again.folder / "space.yaml").read_text())
    assert document["declared"]["marks"] == [mark]
    accepted.write(Ledger(str(tmp_path)).store, "the code of this test", "rewritten", {"a trial": "proves it"})
    publish(again, Ledger(str(tmp_path)), str(tmp_path / again.folder))
    document = yaml.safe_load((tmp_path / again.folder / "space.yaml").read_text())
    assert document["declared"]["marks"] == []


def test_draws_of_a_space_that_tunes_nothing_are_none(small_plan: MakePlan, tmp_path: Path) -> None:
    plan = dataclasses.replace(several(small_plan, 1), hypers={})
    run(plan, tmp_path)
    again = dataclasses.replace(plan, tuning=Tuning(draws=5, grace=1, eta=3.0))
    found = stands(again, tmp_path)
    assert found.marks == ()
    assert [line for line in found.history if "0 draws" not in line] == []


def test_a_part_first_and_then_the_whole(small_plan: MakePlan, tmp_path: Path) -> None:
    """The whole was declared after a look; what the part had claimed stands as it was."""
    whole = several(small_plan)
    run(only(whole, "f0", "f2"), tmp_path)
    found = stands(whole, tmp_path)
    assert found.post_hoc == (True, False, True, True)
    assert (found.declared, found.ever, found.marks) == (1, 4, ())


def test_a_part_replaces_nothing_of_the_whole(small_plan: MakePlan, tmp_path: Path) -> None:
    whole = several(small_plan)

    def execute_it(plan: Plan) -> dict[str, bytes]:
        execute(plan, Ledger(str(tmp_path)), executor="inline", make_work=MakeFake(utterances=2), progress=False)
        return {str(file): file.read_bytes() for file in sorted((tmp_path / plan.folder).rglob("*.parquet"))}

    before = execute_it(whole)
    part = only(whole, "f0", "f2")
    there = execute_it(part)
    assert part.folder == "small@fusion-f0,f2"
    assert {str(file): file.read_bytes() for file in sorted((tmp_path / "small").rglob("*.parquet"))} == before
    assert execute_it(part) == there
    assert set(status(str(tmp_path))["runs"]) == {"small", "small@fusion-f0,f2"}


def test_the_folder_of_a_part_has_a_name_that_file_systems_take(small_plan: MakePlan, tmp_path: Path) -> None:
    options = tuple(f"--set {'n' * length}=1" for length in range(20, 40))
    plan = dataclasses.replace(only(several(small_plan), "f0", "f2"), space="ü" * 100, options=options)
    (tmp_path / plan.folder).mkdir()
    assert dataclasses.replace(plan, options=options[1:]).folder != plan.folder


def test_the_order_of_keys_declares_nothing_new(tmp_path: Path) -> None:
    ref = CorpusRef("demo", Path("demo"), "f00d", ("text",), False, True, {"train": 10}, frozenset({"text"}))
    parts = [
        "corpora: [demo]\n",
        "base: {encoders: {text: words}, training: {epochs: 2}}\n",
        "factors: {pooling: [mean, attn], classifier.dropout: [0.1, 0.2]}\n",
        "design: full\n",
        "studies: 2\n",
        "contrasts: {compare: [pooling, classifier.dropout], metrics: [ua, wa]}\n",
    ]
    ids = set()
    turned = [
        *reversed(parts[:2]),
        "factors: {classifier.dropout: [0.1, 0.2], pooling: [mean, attn]}\n",
        *parts[3:5],
        "contrasts: {metrics: [wa, ua], compare: [classifier.dropout, pooling]}\n",
    ]
    for text in (parts, turned):
        (tmp_path / "mine.yaml").write_text("".join(text))
        plan = make_plan(tmp_path / "mine.yaml", open_corpus=lambda name: ref)
        ids.add(declare(plan, Ledger(str(tmp_path / "results"))).declaration)
    assert len(ids) == 1
    assert len(files(tmp_path / "results")) == 1


# ---- the chain -----------------------------------------------------------------------------------------------


def test_what_was_declared_is_written_once_whatever_it_is_called(small_plan: MakePlan, tmp_path: Path) -> None:
    plan = several(small_plan, 3)
    first = declare(plan, Ledger(str(tmp_path)))
    turned = dataclasses.replace(
        plan,
        contrasts=tuple(dataclasses.replace(one, name=f"x {one.name}") for one in reversed(plan.contrasts)),
        cells=tuple(reversed(plan.cells)),
        conditions=tuple(reversed(plan.conditions)),
    )
    assert declare(turned, Ledger(str(tmp_path))).declaration == first.declaration
    assert len(files(tmp_path)) == 1


def test_clocks_decide_nothing(small_plan: MakePlan, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    early = several(small_plan, 2, contrasts=(against("f1"),))
    plan = declare(early, ledger, datetime(2030, 1, 1, tzinfo=UTC))
    run_inline(Session(plan, ledger), MakeFake(utterances=2), str(tmp_path))
    late = declare(several(small_plan, 2), ledger, datetime(1999, 1, 1, tzinfo=UTC))
    found = standing_of(late, read_chain(ledger.store), ledger.refresh(), None)
    assert found.post_hoc == (False, True)


def test_two_drivers_may_declare_at_once(small_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = several(small_plan, 2), several(small_plan, 2, root_seed=1)
    between = iter([True])

    def meanwhile(point: str) -> None:
        if point == "declared.before" and next(between, False):
            declare(two, Ledger(str(tmp_path)))

    monkeypatch.setattr("experiments.results.declared.visit", meanwhile)
    declare(one, Ledger(str(tmp_path)))
    chain = read_chain(Ledger(str(tmp_path)).store)
    assert len(chain.heads) == 2
    declare(several(small_plan, 2, root_seed=2), Ledger(str(tmp_path)))
    chain = read_chain(Ledger(str(tmp_path)).store)
    assert len(chain.heads) == 1
    assert len(chain.declarations[-1].previous) == 2
    assert stands(two, tmp_path).declared == 6


def test_a_listing_that_is_behind_loses_none(
    small_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(several(small_plan, 2), tmp_path)
    run(several(small_plan, 2, root_seed=1), tmp_path)
    whole = read_chain(Ledger(str(tmp_path)).store)
    monkeypatch.setattr("experiments.results.declared._listed", lambda store, folder: [])
    ledger = Ledger(str(tmp_path))
    assert read_chain(ledger.store, ledger.refresh()) == whole


@pytest.mark.parametrize("which", [0, 1])
def test_a_declaration_that_is_removed_is_missed(which: int, small_plan: MakePlan, tmp_path: Path) -> None:
    """Also the last one, which no other names: the trials do that were run under it."""
    run(several(small_plan, 2), tmp_path)
    run(several(small_plan, 2, root_seed=1), tmp_path)
    gone = files(tmp_path)[which]
    gone.unlink()
    with pytest.raises(UserError, match=f"{gone.name}: this declaration is gone"):
        declare(several(small_plan, 2), Ledger(str(tmp_path)))
    with pytest.raises(UserError, match="put an empty file"):
        publish(several(small_plan, 2), Ledger(str(tmp_path)), str(tmp_path / "small"))
    gone.with_suffix(".lost").touch()
    assert f"a declaration was lost: {gone.stem}" in stands(several(small_plan, 2), tmp_path).marks


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes().replace(b'"studies": 2', b'"studies": 3')),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-20]),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.with_name("notes.txt").write_text("mine"),
        lambda file: file.with_name("0" * 32 + ".json").write_text("{}"),
        lambda file: (file.parent / "small").mkdir() or (file.parent / "small" / "1.json").write_text("[" * 100_000),
        lambda file: (file.parent / "small").mkdir() or (file.parent / "small" / "1.json").write_text('{"time": 3}'),
        lambda file: (file.parent / "small").mkdir() or (file.parent / "small" / "1.json").write_text("null"),
        lambda file: (file.parent / "small" / "below").mkdir(parents=True),
        lambda file: shutil.rmtree(file.parent) or file.parent.write_text("no folder"),
    ],
)
def test_what_cannot_be_trusted_is_named(
    damage: Callable[[Path], object], small_plan: MakePlan, tmp_path: Path
) -> None:
    plan = run(several(small_plan, 2), tmp_path)
    damage(files(tmp_path)[0])
    for act in (
        lambda: declare(plan, Ledger(str(tmp_path))),
        lambda: publish(plan, Ledger(str(tmp_path)), str(tmp_path / "small")),
    ):
        with pytest.raises(UserError) as found:
            act()
        assert found.value.where is not None
        assert found.value.where.startswith(str(tmp_path / FOLDER))
        assert found.value.hint is not None


def test_a_copied_folder_keeps_its_history(small_plan: MakePlan, tmp_path: Path) -> None:
    run(several(small_plan), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert stands(several(small_plan, 4, contrasts=(against("f1"),)), tmp_path / "b").declared == 4


def test_a_result_that_was_removed_was_still_seen(small_plan: MakePlan, tmp_path: Path) -> None:
    """Declared after a look; what was looked at is deleted, and the like is declared again."""
    run(several(small_plan, 2), tmp_path)
    stands(several(small_plan, 2, studies=3), tmp_path)
    for part in (tmp_path / "ledger").glob("*.parquet"):
        part.unlink()
    assert stands(several(small_plan, 2, studies=4), tmp_path).marks == ("more studies: 4 (declared: 2)",)


def test_the_first_version_is_read_with_its_times(small_plan: MakePlan, tmp_path: Path) -> None:
    plan = several(small_plan, 4, contrasts=(against("f1"), against("f2")))
    known = [against("f1"), against("f3"), against("f4")]
    content = {
        "time": "2026-01-01T00:00:00.000000+00:00",
        "contrasts": sorted(contrast_key(dataclasses.asdict(one)) for one in known),
        "metric": "ua max",
        "studies": 2,
        "draws": 1,
        "corpora": '{"demo":["f00d",{"train":10}]}',
    }
    old = tmp_path / FOLDER / "small" / "2026-01-01T000000.000000Z0000-abcdef.json"
    old.parent.mkdir(parents=True)
    old.write_text(json.dumps(content))
    ledger = Ledger(str(tmp_path))
    run_inline(Session(plan, ledger), MakeFake(utterances=2), str(tmp_path))
    publish(declare(plan, ledger), ledger, str(tmp_path / "small"))
    document = yaml.safe_load((tmp_path / "small" / "space.yaml").read_text())
    assert [one["post_hoc"] for one in document["contrasts"]] == [False, True]
    assert document["contrasts"][0]["declared"] == content["time"]
    assert document["declared"]["family"] == {"declared": 3, "ever": 4}
    assert "by time alone (declared by an earlier version of mer)" in document["declared"]["history"][0]
    assert document["declared"]["metric"]["post_hoc"] is False
    old.unlink()
    with pytest.raises(UserError, match="this declaration is gone"):
        declare(plan, ledger)
    assert stands(several(small_plan, 2), tmp_path / "fresh").history == (
        "1. 2 contrasts, 2 studies, 1 draw, space small, alpha 0.05, root seed 0, epochs 2; before the first result",
    )


def test_going_back_to_the_whole_plan_is_said_as_what_it_is(small_plan: MakePlan, tmp_path: Path) -> None:
    whole = several(small_plan, 2)
    run(whole, tmp_path)
    run(only(whole, "f0", "f1"), tmp_path)
    found = stands(whole, tmp_path)
    assert found.marks == ()
    assert found.post_hoc == (False, False)
    assert found.history[1].startswith("2. 1 contrast, 2 studies, 1 draw, options --only fusion=f0,f1; after")
    assert found.history[2] == "3. as 1; after 6 confirm results"


# ---- where what is written and what was declared meet --------------------------------------------------------


def test_the_order_of_contrasts_moves_no_mark(small_plan: MakePlan, tmp_path: Path) -> None:
    """A plan that says the same in another order is not declared again; its marks are those of its own order."""
    run(several(small_plan, 3, contrasts=(against("f1"), against("f2"))), tmp_path)
    assert stands(several(small_plan, 3), tmp_path).post_hoc == (False, False, True)
    turned = (against("f3"), against("f1"), against("f2"))
    assert stands(several(small_plan, 3, contrasts=turned), tmp_path).post_hoc == (True, False, False)
    twice = (*turned, Contrast("back", "demo", {"fusion=f0": 1.0, "fusion=f3": -1.0}, "ua"))
    found = stands(several(small_plan, 3, contrasts=twice), tmp_path)
    assert (found.post_hoc, found.declared, found.ever) == ((True, False, False, True), 2, 3)


@pytest.mark.parametrize("after", [True, False])
def test_a_name_that_means_another_cell_is_marked_after_a_look_alone(
    after: bool, small_plan: MakePlan, tmp_path: Path
) -> None:
    plan = several(small_plan, 3)
    (run if after else stands)(plan, tmp_path)
    swapped = {"f1": "f2", "f2": "f1"}
    turned = dataclasses.replace(
        plan,
        cells=tuple(
            dataclasses.replace(cell, levels={name: swapped.get(level, level) for name, level in cell.levels.items()})
            for cell in plan.cells
        ),
    )
    marked = stands(turned, tmp_path).marks
    assert [mark.partition(":")[0] for mark in marked] == ["what is called fusion=f1, fusion=f2"] * after
    assert stands(plan, tmp_path).marks == ()
    cells = [dataclasses.replace(cell, levels={"new name": cell.name}) for cell in plan.cells]
    assert stands(dataclasses.replace(plan, cells=tuple(cells)), tmp_path).marks == ()


def test_a_declaration_that_was_made_elsewhere_is_not_in_time(small_plan: MakePlan, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    run(several(small_plan, 3, contrasts=(against("f1"),)), here)
    forged = several(small_plan, 3, contrasts=(against("f2"),))
    stands(forged, elsewhere)
    for file in files(elsewhere):
        shutil.copy(file, here / FOLDER)
    found = stands(forged, here)
    assert (found.post_hoc, found.declared, found.ever) == ((True,), 1, 2)
    assert any("does not count as made in time" in mark for mark in found.marks)


def test_two_folders_that_both_ran_are_joined_without_a_mark(small_plan: MakePlan, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    run(only(several(small_plan, 3), "f0", "f1"), here)
    other = only(several(small_plan, 3), "f0", "f2")
    run(other, elsewhere)
    shutil.copytree(elsewhere / "ledger", here / "ledger", dirs_exist_ok=True)
    found = stands(other, here)
    assert (found.post_hoc, found.declared, found.marks) == ((False,), 2, ())


def test_a_field_that_changes_nothing_makes_no_other_cell() -> None:
    """Else a space under a new name with `--set sampler.alpha=0.1` would stand as if nothing had been seen."""
    recipe: dict[str, Any] = {"encoders": {"text": {"name": "words"}}, "fusion": {"name": "concat"}}
    plain = cell_keys(recipe, [])["like"]
    for more in ({"sampler": {"alpha": 0.1}}, {"loss": {"gamma": 3.0}}, {"training": {"epochs": 3}}):
        assert cell_keys({**recipe, **more}, [])["like"] == plain, more
    for more in (
        {"sampler": {"name": "mixed_length", "alpha": 0.1}}, {"loss": {"name": "focal"}},
        {"loss": {"label_smoothing": 0.1}}, {"fusion": {"name": "gated"}},
    ):  # fmt: skip
        assert cell_keys({**recipe, **more}, [])["like"] != plain, more
