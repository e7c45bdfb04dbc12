"""Spaces to plans: what is accepted means what it says, what is refused says where and why."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from experiments.slots import Slot, Stage
from experiments.space.load import make_plan
from experiments.space.order import balanced, imbalance
from mer.errors import UserError

FACTORS = """
factors:
  fusion: [concat, gated, weighted]
  pooling: [mean, min]
  lr: [1.0e-3, 1.0e-2]
"""


def test_full_design_is_the_product(plan_of):
    plan = plan_of(FACTORS + "design: full")
    assert len(plan.cells) == 12
    assert {tuple(c.levels.values()) for c in plan.cells} == set(
        itertools.product(("concat", "gated", "weighted"), ("mean", "min"), (1e-3, 1e-2))
    )
    assert plan.cells[0].levels == {"fusion": "concat", "pooling": "mean", "lr": 1e-3}
    cell = plan.cell("demo", "fusion=gated pooling=min lr=0.01")
    assert cell.recipe["fusion"]["name"] == "gated"
    assert cell.recipe["optimizer"]["lr"] == 1e-2


def test_one_factor_and_interactions(plan_of):
    plan = plan_of(FACTORS + "design: one_factor")
    assert {c.name for c in plan.cells} == {"baseline", "fusion=gated", "fusion=weighted", "pooling=min", "lr=0.01"}
    plan = plan_of(FACTORS + "design: {interactions: [{fusion: [gated], pooling: null}]}")
    assert {c.name for c in plan.cells} == {
        "baseline", "fusion=gated", "fusion=weighted", "pooling=min", "lr=0.01", "fusion=gated pooling=min",
    }  # fmt: skip


def test_fraction_and_list(plan_of):
    plan = plan_of(FACTORS + "design: {fraction: 0.5}")
    assert len(plan.cells) == 6
    assert plan.cells[0].levels["fusion"] == "concat"
    assert imbalance([c.levels for c in plan.cells]) == {"fusion": (2, 2), "pooling": (3, 3), "lr": (3, 3)}
    plan = plan_of(FACTORS + "design:\n  - {fusion: gated}\n  - {pooling: min, lr: 1.0e-2}")
    assert [c.name for c in plan.cells] == ["fusion=gated", "pooling=min lr=0.01"]


def test_every_prefix_is_balanced():
    grid = [dict(zip("abc", levels, strict=True)) for levels in itertools.product(range(4), range(3), range(2))]
    order = balanced(grid)
    assert sorted(order) == list(range(24))
    assert order[0] == 0
    for end in range(1, 25):
        for low, high in imbalance([grid[i] for i in order[:end]]).values():
            assert high - low <= 2


def test_one_factor_goes_round_the_factors(plan_of):
    plan = plan_of("factors: {fusion: [concat, gated, weighted], pooling: [mean, min, max]}\ndesign: one_factor")
    different = [next(iter(set(c.levels.items()) - set(plan.baseline.items())))[0] for c in plan.cells[1:]]
    assert set(different[:2]) == set(different[2:]) == {"fusion", "pooling"}


def test_bundles_and_level_parameters(plan_of):
    plan = plan_of("""
    factors:
      system:
        speech: {encoders: {audio: fourier2vec}, fusion: none}
        both: {fusion: {name: concat}, encoders.audio: {name: fourier2vec, heads: 2}}
    """)
    speech, both = (plan.cell("demo", f"system={name}") for name in ("speech", "both"))
    assert list(speech.recipe["encoders"]) == ["audio"]
    assert set(both.recipe["encoders"]) == {"audio", "visual"}
    assert both.recipe["encoders"]["audio"]["heads"] == 2
    assert both.sources["encoders.audio"].endswith("made.yaml:10")
    assert speech.sources["training.epochs"].endswith("made.yaml:5")


def test_parameters_at_their_default_are_dropped(plan_of):
    with pytest.raises(UserError, match="are the same recipe"):
        plan_of("factors: {encoders.audio: [fourier2vec, {name: fourier2vec, heads: 4}]}")


def test_layers_and_set(plan_of):
    text = "factors: {pooling: [mean, min]}\ntune: {parameters: {lr: {loguniform: [1e-4, 1e-2]}}}\n"
    plan = plan_of(text, sets=["tune.draws=16", "epochs=3", "design=one_factor", "studies=2"])
    assert plan.tuning.draws == 16
    assert plan.studies == 2
    assert {plan.epochs(cell) for cell in plan.cells} == {3}
    assert plan.cells[0].sources["training.epochs"] == "--set training.epochs"
    fixed = plan_of(text, sets=["lr=1e-3"])
    slot = next(fixed.slots())
    assert fixed.params(slot) == {}
    assert fixed.recipe(slot, {}).optimizer.lr == 1e-3
    assert plan_of(text, only=["pooling=min"]).cells[0].levels == {"pooling": "min"}


def test_points_are_the_same_for_every_cell_and_space(plan_of):
    lr = "lr: {loguniform: [1e-4, 1e-2]}"
    one = plan_of("factors: {pooling: [mean, min]}\ntune: {parameters: {" + lr + "}}")
    more = "weight_decay: {uniform: [0, 1]}, "
    two = plan_of("factors: {fusion: [concat, gated]}\ntune: {parameters: {" + more + lr + "}}")
    for study, draw in itertools.product(range(3), range(8)):
        values = {
            plan.params(Slot("demo", cell.name, study, 0, Stage.TUNE, draw))["optimizer.lr"]
            for plan in (one, two)
            for cell in plan.cells
        }
        assert len(values) == 1
    assert one.params(Slot("demo", "pooling=mean", 0, 0, Stage.TUNE, 0)) != one.params(
        Slot("demo", "pooling=mean", 1, 0, Stage.TUNE, 0)
    )


def test_overrides_per_level(plan_of):
    plan = plan_of(
        """
    factors: {pooling: [mean, min]}
    tune:
      draws: 4
      parameters: {lr: {loguniform: [1e-4, 1e-2]}, projection.dropout: {uniform: [0, 0.5]}}
      overrides:
        - when: {pooling: min}
          parameters: {lr: {loguniform: [1e-3, 1e-2]}, projection.dropout: null, focal.gamma: {uniform: [0, 3]}}
    """.replace("focal.gamma", "gamma")
    )
    low = {h.path: h for h in plan.hypers["demo", "pooling=min"]}
    assert low["optimizer.lr"].low == 1e-3
    assert set(low) == {"optimizer.lr", "loss.gamma"}
    assert {h.path for h in plan.hypers["demo", "pooling=mean"]} == {"optimizer.lr", "projection.dropout"}


def test_shared_tuning_and_once(plan_of):
    tune = "{parameters: {lr: {loguniform: [1e-4, 1e-2]}}, draws: 4, "
    factors = "factors: {fusion: [concat, gated], pooling: [mean, min]}\nstudies: 3\ntune: "
    plan = plan_of(factors + tune + "per: [fusion]}")
    assert plan.counts() == {Stage.TUNE: 2 * 4 * 3, Stage.CONFIRM: 4 * 3}
    assert len(list(plan.slots())) == plan.n_slots == len(set(plan.slots()))
    groups = {plan.group(s) for s in plan.slots() if s.stage is Stage.CONFIRM}
    assert len(groups) == 2 * 3
    for group in groups:
        assert len(plan.draws(group)) == 4
    plan = plan_of(factors + tune + "once: true}")
    assert plan.counts() == {Stage.TUNE: 4 * 4, Stage.CONFIRM: 4 * 3}
    assert {plan.group(s).study for s in plan.slots()} == {0}
    assert len(list(plan.slots())) == plan.n_slots


def test_rules_skip_cells_by_name(plan_of):
    plan = plan_of("""
    corpora: [demo, plain]
    base: {encoders: {audio: features, text: features}}
    factors: {context: [none, bilstm]}
    """, data=["plain"])  # fmt: skip
    reasons = {c.name: c.skip for c in plan.cells}
    assert reasons["context=none"] is None
    assert reasons["context=bilstm"] == "context bilstm needs dialogues, which corpus plain has not"
    plan = plan_of("""
    factors: {fusion: [concat, gated], pooling: [mean, min]}
    exclude:
      - {when: {fusion: gated, pooling: min}, reason: too slow}
    """)
    assert plan.cell("demo", "fusion=gated pooling=min").skip == "excluded: too slow"
    assert sum(c.skip is None for c in plan.cells) == 3
    with pytest.raises(UserError, match=r"no cell .* can be run on corpus 'plain'"):
        plan_of("factors: {pooling: [mean, min]}", data=["plain"])


def test_random_weights_are_announced(plan_of):
    text = "base: {encoders: {text: phobert, audio: fourier2vec}}\n"
    plan = plan_of("corpora: demo\n" + text)
    assert plan.cells[0].recipe["encoders"]["text"]["weights"] == "tiny"
    assert any("RANDOM WEIGHTS: phobert" in notice for notice in plan.notices)
    plan = plan_of("corpora: demo\nweights: pretrained\n" + text)
    assert plan.cells[0].recipe["encoders"]["text"]["weights"] is None
    assert not any("RANDOM" in notice for notice in plan.notices)


def test_contrasts_become_weights(plan_of):
    plan = plan_of("""
    factors: {fusion: [concat, gated], pooling: [mean, min], lr: [1e-3, 1e-2]}
    contrasts:
      compare:
        - fusion
        - {name: q, a: {fusion: gated, lr: 1e-2}, b: {pooling: mean}, equivalence: 0.01}
        - {interaction: {fusion: [concat, gated], pooling: [mean, min]}}
    """)
    main, q, interaction = plan.contrasts
    assert main.name == "fusion: gated vs concat"
    assert sorted(main.weights.values()) == [-0.25] * 4 + [0.25] * 4
    assert all(weight > 0 for name, weight in main.weights.items() if "gated" in name)
    assert q.weights == {"fusion=gated pooling=mean lr=0.01": 1.0, "fusion=concat pooling=mean lr=0.001": -1.0}
    assert q.margin == 0.01
    assert sum(interaction.weights.values()) == 0
    assert interaction.weights["fusion=gated pooling=min lr=0.01"] == 0.5
    assert interaction.weights["fusion=gated pooling=mean lr=0.01"] == -0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("factor: {}", r"made.yaml:6: unknown key of a space 'factor'.*did you mean 'factors'"),
        ("tune: {draw: 3}", r"made.yaml:6: unknown key of tune 'draw'.*did you mean 'draws'"),
        ("tune: {draws: many}", r"made.yaml:6: tune.draws: .*integer.*'many'"),
        ("tune: {draws: 1.5}", r"tune.draws"),
        ("tune:\n  parameters:\n    lr: {loguniform: [1e-2, 1e-4]}", r"made.yaml:8: .*low < high"),
        ("tune: {parameters: {lr: {loguniform: [0, 1]}}}", r"low end above 0"),
        ("tune: {parameters: {lr: {log: [1, 2]}}}", r"unknown key of tune.parameters.lr 'log'"),
        ("tune: {parameters: {lr: {uniform: [-1, 1]}}}", r"made.yaml:6: optimizer.lr: .*greater than 0"),
        ("tune: {parameters: {epochs: {int: [1, 9]}}}", r"training.epochs is the budget"),
        ("tune: {parameters: {fusion.gatee: {uniform: [0, 1]}}}", r"unknown parameter of fusion"),
        ("tune: {parameters: {pooling: {choice: [mean, mix]}}}", r"unknown pooling 'mix'"),
        ("factors: {fusoin: [concat]}", r"made.yaml:6: the recipe has no field 'fusoin'; .*did you mean 'fusion'"),
        ("factors: {fusion: [concat, tacfm]}", r"made.yaml:6: unknown fusion 'tacfm'.*did you mean 'tacfn'"),
        ("factors: {fusion: []}", r"factor 'fusion' has no levels"),
        ("factors: {fusion: concat}", r"factor 'fusion' needs levels"),
        ("factors: {dropout: [0, 0.1]}", r"could be several fields.*classifier.dropout"),
        ("factors: {fusion: [concat, concat]}", r"stands twice"),
        ("factors: {optimizer: [adam]}", r"is a section"),
        (
            "factors:\n  a: {x: {lr: 1e-3}, y: {lr: 1e-2}}\n  lr: [1e-3]",
            r"made.yaml:8: factors 'a' and 'lr' both write",
        ),
        ("factors: {lr: [1e-3, 1e-2]}\ntune: {parameters: {lr: {uniform: [0.1, 1]}}}", r"tuned and also written by"),
        ("factors: {lr: [1e-3, fast]}", r"made.yaml:6: optimizer.lr: .*found 'fast'"),
        ("factors: {pooling: [mean, min]}\nbaseline: {pooling: meen}", r"unknown level of factor pooling 'meen'"),
        ("contrasts: [poling]", r"unknown factor 'poling'"),
        ("factors: {pooling: [mean, min]}\ncontrasts: [{a: {pooling: min}}]", r"needs both a and b"),
        ("conditions: [{available: [smell]}]", r"unknown modality 'smell'"),
        ("conditions: [{protocol: random, rate: 2}]", r"less than or equal to 1"),
        ("corpora: nowhere\nbase: {encoders: {audio: fourier2vec}}", r"made.yaml:1: there is no corpus 'nowhere'"),
        ("base: {encoders: {audio: fourier3vec}}", r"unknown encoder 'fourier3vec'.*did you mean 'fourier2vec'"),
        ("base: {encoders: {}}", r"no encoders"),
        (
            "base: {encoders: {audio: {name: fourier2vec, head: 2}}}",
            r"unknown parameter .*'head'.*did you mean 'heads'",
        ),
        ("base: {encoders: {audio: fourier2vec}, optimizer: {lrr: 1}}", r"unknown key of optimizer 'lrr'.*'lr'"),
        ("base: {optimizer.lr: 1e-3, lr: 1e-2, encoders: {audio: fourier2vec}}", r"optimizer.lr is set twice"),
        ("studies: 0", r"studies.*greater than or equal to 1"),
        ("metric: accuracy", r"metric"),
        ("exclude: [{when: {fusion: concat}, reason: x}]", r"unknown factor 'fusion'"),
        ("resources: {gpus: lots}", r"resources.gpus"),
    ],
)
def test_mistakes_say_where(plan_of, text, message):
    with pytest.raises(UserError, match=message):
        plan_of(text)


def test_all_mistakes_of_the_schema_at_once(plan_of):
    with pytest.raises(UserError) as caught:
        plan_of("studies: none\ntune: {draws: -1}\nmetric: x")
    assert len(str(caught.value).splitlines()) == 3


def test_bad_set(plan_of):
    with pytest.raises(UserError, match=r"--set tune.drows=3: unknown key of tune 'drows'"):
        plan_of("", sets=["tune.drows=3"])
    with pytest.raises(UserError, match=r"--set fusoin=x: .*did you mean 'fusion'"):
        plan_of("", sets=["fusoin=x"])
    with pytest.raises(UserError, match="key=value"):
        plan_of("", sets=["x"])


def test_contrasts_of_one_factor_stand_at_the_baseline(plan_of):
    plan = plan_of("""
    factors: {fusion: [concat, gated], pooling: [mean, min]}
    design: {interactions: [[fusion, pooling]]}
    contrasts: [fusion]
    """)
    assert plan.contrasts[0].weights == {"baseline": -1.0, "fusion=gated": 1.0}


def test_samplers_are_checked(plan_of):
    with pytest.raises(UserError, match=r"unknown sampler 'weigthed'.*did you mean 'weighted'"):
        plan_of("factors: {sampler.name: [plain, weigthed]}")


@pytest.mark.parametrize("name", ["quickstart", "fusion_vn", "fusion_pipeline", "tacfn", "missing_rate", "aa"])
def test_shipped_spaces_make_plans(name, open_fake):
    plan = make_plan(name, open_corpus=open_fake)
    assert plan.n_slots == len(set(plan.slots()))
    assert plan.contrasts
    assert plan.cells[0].levels == plan.baseline
    for cell in plan.cells:
        slot = Slot(cell.corpus, cell.name, 0, 0, Stage.TUNE, 0)
        assert plan.recipe(slot, plan.params(slot)).training.metric == plan.metric


def test_several_corpora_alternate_and_have_their_own_contrasts(plan_of, open_fake, tmp_path):
    import dataclasses

    from mer.data.demo import demo_corpus

    file = tmp_path / "two.yaml"
    file.write_text(
        "corpora: [demo, second]\nbase: {encoders: {audio: fourier2vec}}\nfactors: {pooling: [mean, min]}\n"
        "folds: {by: speaker, count: 3}\ntune: {parameters: {lr: {uniform: [0.1, 0.2]}}, draws: 2}\nstudies: 2\n"
        "contrasts: [pooling]\n"
    )

    def opened(name):
        return dataclasses.replace(open_fake("demo"), name=name, folder=demo_corpus())

    plan = make_plan(file, open_corpus=opened)
    assert [(cell.corpus, cell.name) for cell in plan.cells] == [
        ("demo", "pooling=mean"), ("second", "pooling=mean"), ("demo", "pooling=min"), ("second", "pooling=min"),
    ]  # fmt: skip
    assert [contrast.corpus for contrast in plan.contrasts] == ["demo", "second"]
    assert plan.counts() == {Stage.TUNE: 4 * 2 * 2 * 3, Stage.CONFIRM: 4 * 2 * 3}
    slots = list(plan.slots())
    assert len(slots) == len(set(slots)) == plan.n_slots
    assert {slot.fold for slot in slots} == {0, 1, 2}
    one, other = (Slot(corpus, "pooling=mean", 0, 0, Stage.TUNE, 1) for corpus in ("demo", "second"))
    assert plan.params(one) == plan.params(other)
    assert plan.streams(one).split != plan.streams(other).split


def test_replicas_share_everything_but_their_noise(plan_of):
    plan = plan_of("factors: {replica: [0, 1]}\ntune: {parameters: {lr: {uniform: [0.1, 0.2]}}}")
    one, other = (Slot("demo", f"replica={i}", 0, 0, Stage.TUNE, 0) for i in range(2))
    assert plan.params(one) == plan.params(other)
    a, b = plan.streams(one), plan.streams(other)
    assert (a.split, a.masks, a.draws) == (b.split, b.masks, b.draws)
    assert a.init != b.init
    assert a.order != b.order


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("base:\n  encoders: {text: words, audio: logmel}\n", ("text", "audio")),
        ("base:\n  encoders: {audio: logmel, text: words}\n", ("audio", "text")),
        ("base:\n  encoders: {audio: logmel, text: words}\n  modalities: [text, audio]\n", ("text", "audio")),
        ("base:\n  encoders: {text: words}\n  encoders.audio: logmel\n", ("text", "audio")),
        ("base:\n  encoders: {text: words, audio: logmel}\n  modalities: [text, audio]\n", ("text", "audio")),
    ],
)
def test_the_order_of_modalities_is_the_one_written(tmp_path: Path, text: str, order: tuple[str, ...]) -> None:
    (tmp_path / "s.yaml").write_text(f"corpora: demo\n{text}", "utf-8")
    plan = make_plan(tmp_path / "s.yaml")
    (slot,) = (slot for slot in plan.slots() if slot.study == 0)
    assert plan.recipe(slot, {}).modalities == order


def test_levels_that_add_or_take_away_an_encoder_leave_the_others_in_order(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "corpora: demo\nbase:\n  encoders: {text: words, audio: logmel}\n  modalities: [text, audio]\nfactors:\n"
        "  with:\n    two: {}\n    three: {encoders.visual: features}\n    one: {encoders.text: null}\n"
        "    other: {encoders.text: null, encoders.visual: features}\n    again: {encoders.text: tfidf}\n"
        "    turned: {modalities: [audio, text]}\n",
        "utf-8",
    )
    found = {str(cell.levels["with"]): cell.recipe["modalities"] for cell in make_plan(tmp_path / "s.yaml").cells}
    assert found == {
        "two": ["text", "audio"],
        "three": ["text", "audio", "visual"],
        "one": ["audio"],
        "other": ["audio", "visual"],
        "again": ["text", "audio"],
        "turned": ["audio", "text"],
    }


def test_an_order_that_names_no_modality_is_refused_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "corpora: demo\nbase:\n  encoders: {text: words, audio: logmel}\n  modalities: [txt, audio]\n", "utf-8"
    )
    with pytest.raises(UserError, match=r"s\.yaml:4: modalities: .*must name each of audio, text once"):
        make_plan(tmp_path / "s.yaml")


def test_a_space_that_says_a_direction_is_told_that_the_metric_does(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("corpora: demo\nbase:\n  encoders: {text: words}\nmetric: ua\ndirection: min\n")
    with pytest.raises(UserError, match=r"s\.yaml:5: .*no direction any more(?s:.*)remove this line"):
        make_plan(tmp_path / "s.yaml")
