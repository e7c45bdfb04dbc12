"""Which trials are trained together: a partition of the plan that a longer space does not disturb."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.slots import Cell, Slot, Stage
from experiments.space.hyper import Hyper
from experiments.space.plan import Bundling, CorpusRef, Folds, Plan, Tuning
from experiments.space.units import slots, units
from mer.errors import UserError

LR = Hyper("optimizer.lr", "loguniform", 1e-4, 1e-2)
DIM = Hyper("projection.dim", "choice", choices=(8, 16))


def make(
    cells: int = 2,
    studies: int = 3,
    folds: int = 1,
    size: int = 4,
    block: int = 2,
    bundled: int | None = None,
    hypers: tuple[Hyper, ...] = (LR,),
    **tuning: object,
) -> Plan:
    made = tuple(
        Cell("demo", f"c{n}", {"f": n}, {"encoders": {"text": {"name": "features"}}, "training": {"epochs": 4}})
        for n in range(cells)
    )
    names = [("demo", cell.name) for cell in made]
    return Plan(
        "made_up",
        made,
        {"demo": CorpusRef("demo", Path(), "0", ("text",), False, True)},
        studies,
        folds=Folds("speaker", folds) if folds > 1 else Folds(),
        tuning=Tuning(**{"draws": 3, **tuning}),  # type: ignore[arg-type]
        hypers=dict.fromkeys(names, hypers),
        bundling=Bundling(size, block),
        bundled=frozenset(names[: cells if bundled is None else bundled]),
    )


plans = st.builds(
    make,
    cells=st.integers(1, 3),
    studies=st.integers(1, 7),
    folds=st.integers(1, 3),
    size=st.integers(2, 9),
    block=st.integers(1, 4),
    bundled=st.one_of(st.none(), st.just(1)),
    hypers=st.sampled_from([(), (LR,), (LR, DIM)]),
    draws=st.integers(1, 9),
    once=st.booleans(),
    sampler=st.sampled_from(["sobol", "tpe"]),
)


@settings(max_examples=150, deadline=None)
@given(plan=plans)
def test_units_are_a_partition_in_planned_order(plan: Plan) -> None:
    found, order = list(units(plan)), list(slots(plan))
    assert sorted(slot for unit in found for slot in unit) == sorted(order)
    place = {slot: number for number, slot in enumerate(order)}
    for unit in found:
        assert [place[slot] for slot in unit] == sorted(place[slot] for slot in unit)
        assert len(unit) <= plan.bundling.size
        assert len({(slot.cell, slot.stage) for slot in unit}) == 1
        if len(unit) > 1:
            assert ("demo", unit[0].cell) in plan.bundled
    for slot in order:  # a confirm trial comes after the draws that it is chosen from
        if slot.stage is Stage.CONFIRM:
            assert all(place[draw] < place[slot] for draw in plan.draws(plan.group(slot)))


@settings(max_examples=80, deadline=None)
@given(plan=plans, more=st.integers(1, 4))
def test_more_studies_and_cells_leave_whole_blocks_as_they_are(plan: Plan, more: int) -> None:
    longer = dataclasses.replace(plan, studies=plan.studies + more)
    kept = plan.studies - plan.studies % plan.bundling.studies
    before = {unit for unit in units(plan) if all(slot.study < kept for slot in unit)}
    assert before <= set(units(longer))
    larger = make(cells=len(plan.cells) + 1, studies=plan.studies, bundled=None)
    assert set(units(make(cells=len(plan.cells), studies=plan.studies))) <= set(units(larger))


def slot(study: int, draw: int = -1) -> Slot:
    return Slot("demo", "c0", study, 0, Stage.CONFIRM if draw < 0 else Stage.TUNE, draw)


def test_literal_bundles() -> None:
    plan = make(cells=1, studies=3)
    assert list(units(plan)) == [
        (slot(0, 0), slot(0, 1), slot(0, 2), slot(1, 0)),
        (slot(1, 1), slot(1, 2)),
        (slot(0), slot(1)),
        (slot(2, 0), slot(2, 1), slot(2, 2)),
        (slot(2),),
    ]
    assert list(plan.slots())[:8] == [*(slot(s, d) for s in (0, 1) for d in range(3)), slot(0), slot(1)]


def test_a_hyperparameter_that_shapes_the_model_parts_its_draws_and_the_confirm_trials() -> None:
    plan = make(cells=1, studies=1, hypers=(LR, DIM), draws=8, size=8)
    widths = [{plan.params(slot)["projection.dim"] for slot in unit} for unit in units(plan) if len(unit) > 1]
    assert sorted(widths, key=str) == [{16}, {8}]
    assert (slot(0),) in list(units(plan))


def test_an_adaptive_sampler_bundles_what_it_proposes_together() -> None:
    plan = make(cells=1, studies=1, sampler="tpe", draws=7, startup=2, batch=3, size=8)
    assert [len(unit) for unit in units(plan)] == [2, 3, 2, 1]


def test_what_a_space_may_say(plan_of: object) -> None:
    assert callable(plan_of)
    space = "base:\n  encoders: {audio: features}\n  fusion: none\ncorpora: plain\nbundle: {value}\n"
    for value, size, studies in (("6", 6, 4), ("{size: 3, studies: 2}", 3, 2), ("off", 1, 1), ("1", 1, 1)):
        plan = plan_of(space.replace("{value}", value))
        assert (plan.bundling.size, plan.bundling.studies) == (size, studies)
    with pytest.raises(UserError, match=r"made.yaml:5: bundle: give auto, off, a number of trials, or"):
        plan_of(space.replace("{value}", "many"))
    with pytest.raises(UserError, match=r"size"):
        plan_of(space.replace("{value}", "{sise: 3}"))
    with pytest.raises(UserError, match="no field 'bundle'"):
        plan_of(space.replace("{value}", "off").replace("fusion: none", "bundle: {layout: a, size: 2, index: 0}"))


def test_auto_bundles_vectors_and_says_why_not_others(plan_of: object) -> None:
    assert callable(plan_of)
    sequences = plan_of("base:\n  encoders: {audio: features}\n  fusion: none\ncorpora: plain\n")
    assert not sequences.bundled
    assert "sequences" in next(iter(sequences.alone))
    vectors = plan_of("base:\n  encoders: {text: tfidf}\n  fusion: none\ncorpora: demo\n")
    assert len(vectors.bundled) == 1
    assert vectors.bundling == Bundling(8, 4)
    context = plan_of("base:\n  encoders: {text: tfidf}\n  fusion: none\n  context: bilstm\ncorpora: demo\n")
    assert "whole dialogues" in next(iter(context.alone))
