"""The door of space files: YAML, includes, `--set`, `--only`."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experiments.space.load import make_plan
from experiments.space.plan import CorpusRef, Plan
from experiments.space.text import plan_text
from experiments.space.yaml_text import load_recipe_file, parse
from mer.data.corpus import load_corpus
from mer.names import fault
from tests.doors import NASTY_TEXT, bounds, refused, through, values

FUZZ = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])

Open = Callable[[str], CorpusRef]


def sound_plan(plan: Plan) -> None:
    """What a run relies on: its size is known and small enough, its names can be shown, its numbers are numbers."""
    assert 0 < plan.n_slots <= 1_000_000
    names = [plan.space, *(cell.corpus for cell in plan.cells), *(condition.name for condition in plan.conditions)]
    names += [str(label) for labels in plan.factors.values() for label in labels]
    assert all(fault(name) is None for name in names)
    assert plan.resources.gpus is None or 0 <= plan.resources.gpus < math.inf
    assert 0 < plan.resources.cpus < math.inf
    if plan.n_slots < 50_000:
        assert len(set(plan.slots())) == plan.n_slots
        json.dumps(plan_text(plan)).encode()
    for cell in plan.cells[:3]:
        assert plan.rungs(cell) is not None


def planned(folder: Path, text: str, open_fake: Open, **options: Any) -> Plan:
    file = folder / "made.yaml"
    file.write_text(text, "utf-8", "surrogatepass")
    return make_plan(file, open_corpus=open_fake, **options)


SPACE: dict[str, Any] = {
    "corpora": "demo",
    "base": {"encoders": {"audio": "fourier2vec", "visual": "features"}, "training": {"epochs": 9}},
    "factors": {"fusion": ["concat", "gated"], "deep": {"no": {"optimizer.lr": 0.1}, "yes": {"optimizer.lr": 0.2}}},
    "baseline": {"fusion": "concat"},
    "design": {"kind": "full"},
    "exclude": [{"when": {"fusion": "gated", "deep": "yes"}, "reason": "r"}],
    "tune": {"parameters": {"optimizer.weight_decay": {"uniform": [0.1, 0.2]}}, "draws": 4,
             "pruner": {"asha": {"grace": 2, "eta": 3.0}}, "exempt": 0.25},
    "studies": {"count": 3, "resplit": True},
    "bundle": {"size": 2, "studies": 2},
    "conditions": [{"protocol": "random", "rate": [0.1, 0.3]}, {"available": ["audio"], "name": "deaf"}],
    "contrasts": {"compare": [{"each": "fusion", "equivalence": 0.01}], "alpha": 0.05, "sd": 0.1},
    "resources": {"cpus": 1.0, "gpus": 0.5, "memory": "4GB", "threads": 1},
    "limits": {"time": "2h", "trials": 5, "price_per_hour": 1.0},
    "metric": "ua",
}  # fmt: skip


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, item in inside for path in paths(item, (*here, key)))]


def replaced(path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    space = copy.deepcopy(SPACE)
    target: Any = space
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return space


@settings(FUZZ, max_examples=150)
@given(path=st.sampled_from(paths(SPACE)), value=values)
@example(("tune", "draws"), 10**9)
@example(("studies",), 100_000_000)
@example(("studies", "count"), 100_000_000)
@example(("studies",), 9_999)
@example(("folds",), {"by": "speaker", "count": 100_000})
@example(("resources", "gpus"), -1)
@example(("resources", "gpus"), -0.5)
@example(("resources", "memory"), "9" * 400 + "GB")
@example(("resources", "memory"), "1.1.1GB")
@example(("limits", "time"), "9" * 400 + "h")
@example(("tune", "pruner", "asha", "eta"), 1.000000001)
@example(("tune", "parameters", "optimizer.weight_decay"), {"uniform": [-1e308, 1e308]})
@example(("tune", "parameters", "optimizer.weight_decay"), {"int": [0, 10**400]})
@example(("base", "training", "epochs"), 10**400)
@example(("factors", "fusion"), [{"name": "concat", "label": ["a"]}, "gated"])
@example(("factors", "fusion"), [{"name": "concat", "label": {"a": 1}}, "gated"])
@example(("factors", "fusion"), [{"name": "concat", "label": "a\nb"}, "gated"])
@example(("factors", "fusion"), [{"name": "concat", "label": "x" * 300}, "gated"])
@example(("factors", "training.epochs"), [1, True, 1.0])
@example(("conditions",), [{"name": "\ud800", "available": ["audio"]}])
@example(("contrasts", "compare"), [{"each": "fusion", "name": "a\nb"}])
def test_any_value_of_a_space(tmp_path: Path, open_fake: Open, path: tuple[Any, ...], value: Any) -> None:
    text = json.dumps(replaced(path, value), default=str) if value != 10**5000 else ""
    plan = through(lambda: planned(tmp_path, text, open_fake), "made.yaml", "made", "demo")
    if plan is not None:
        with bounds():
            sound_plan(plan)


BROKEN = {
    "deep lists": "base: " + "[" * 100_000,
    "deep and whole": "base: " + "[" * 900 + "]" * 900,
    "deep mappings": "base: " + "{a: " * 2000,
    "deep blocks": "\n".join(" " * depth + "a:" for depth in range(990)),
    "400 digits": "studies: " + "9" * 400,
    "5000 digits": "studies: " + "9" * 5000,
    "hexadecimal": "studies: 0x" + "f" * 5000,
    "not finite": "studies: .nan",
    "too large": "studies: 1e999",
    "surrogate": 'base: {encoders: {"\\ud800": fourier2vec}}',
    "NUL": 'corpora: "a\\0b"\nbase: {}',
    "beyond Unicode": 'corpora: "\\UFFFFFFFF"',
    "an alias in itself": "base: &a [*a]",
    "aliases that multiply": "a0: &a0 [1,1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)),
    "not UTF-8": "base: \ud800",
    "a tag": "base: !!python/object/apply:os.system [ls]",
    "a key that is a list": "? [a]\n: 1",
    "a list": "[]",
    "nothing": "",
    "text": "x",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=list(BROKEN))
def test_broken_files(tmp_path: Path, open_fake: Open, text: str) -> None:
    refused(lambda: planned(tmp_path, text, open_fake), "made.yaml")
    refused(lambda: load_recipe_file(tmp_path / "made.yaml"), "made.yaml")


@FUZZ
@given(st.text(max_size=80) | st.lists(st.sampled_from("{}[]:,-&*!|>'\"\n \t#?%@a1.~"), max_size=40).map("".join))
@example("? ? ")
@example("- - - -")
@example('"\\x')
@example("!<tag:yaml.org,2002:int> x")
@example("!!timestamp 2001-01-01")
@example("!!map x")
def test_any_text(tmp_path: Path, open_fake: Open, text: str) -> None:
    through(lambda: parse(text, "text.yaml"), "text.yaml")
    through(lambda: planned(tmp_path, text, open_fake), "made.yaml")


@pytest.mark.parametrize(
    "name", [*(text for text in NASTY_TEXT if text), "n" * 300, "n/" * 3000, ".", "/dev", "/dev/zero"]
)
def test_any_name_of_a_space(tmp_path: Path, open_fake: Open, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(lambda: make_plan(name, open_corpus=open_fake), "space", "/dev")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file(tmp_path: Path, open_fake: Open, kind: str) -> None:
    for name in ("made.yaml", "under.yaml"):
        path = tmp_path / name
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
    refused(
        lambda: make_plan(tmp_path / "made.yaml", open_corpus=open_fake), "made.yaml", "there is no space", "/dev/zero"
    )
    refused(lambda: load_recipe_file(tmp_path / "made.yaml"), "made.yaml", "/dev/zero")
    (tmp_path / "over.yaml").write_text("include: under.yaml\n")
    refused(lambda: make_plan(tmp_path / "over.yaml", open_corpus=open_fake), "under.yaml")


def test_a_space_whose_name_cannot_be_shown(tmp_path: Path, open_fake: Open) -> None:
    for name in ("a\nb", os.fsdecode(b"\xff"), "s" * 240):
        file = tmp_path / f"{name}.yaml"
        file.write_text("base: {encoders: {audio: fourier2vec}}\n")
        refused(lambda file=file: make_plan(file, open_corpus=open_fake), "the space")


@FUZZ
@given(st.one_of(values, st.lists(values, max_size=2)))
@example(["made.yaml"])
@example("n" * 300)
@example("a\0b")
@example([["x"]])
def test_any_include(tmp_path: Path, open_fake: Open, value: Any) -> None:
    text = json.dumps({"include": value, "base": {"encoders": {"audio": "fourier2vec"}}}, default=str)
    through(lambda: planned(tmp_path, text, open_fake), "made.yaml")


def test_includes_that_multiply(tmp_path: Path, open_fake: Open) -> None:
    for number in range(30):
        again = f"include: [f{number + 1}.yaml, f{number + 1}.yaml]\n" if number < 29 else "studies: 2\n"
        (tmp_path / f"f{number}.yaml").write_text(again)
    refused(lambda: planned(tmp_path, "include: f0.yaml", open_fake), "made.yaml")


KEYS = st.sampled_from(
    ["studies", "tune.draws", "tune.pruner.asha.eta", "corpora", "corpora.0", "base", "base.fusion", "design.share",
     "factors.fusion", "lr", "fusion", "fusion.heads", "encoders.audio", "missing.train.rate", "conditions.0.rate", ".",
     "a..b", "tune..", "", "factors",
     "studies.count.x", "resources.gpus", "folds.count", "training", "optimizer.lr", "classifier.hidden"]
)  # fmt: skip


@settings(FUZZ, max_examples=120)
@given(key=KEYS, value=values.map(lambda value: json.dumps(value, default=str)) | st.text(max_size=8))
@example("tune.draws", "1000000000")
@example("studies", "100000000")
@example("folds", "{by: speaker, count: 100000}")
@example("resources.gpus", "-1")
@example("base", "[" * 5000)
@example("studies", "9" * 5000)
@example("corpora.0", "x")
@example("factors.fusion", "{a: {fusion: concat}, b: 1}")
def test_any_set(tmp_path: Path, open_fake: Open, key: str, value: str) -> None:
    text = json.dumps(SPACE)
    plan = through(lambda: planned(tmp_path, text, open_fake, sets=[f"{key}={value}"]), "--set", "made.yaml", "demo")
    if plan is not None:
        with bounds():
            sound_plan(plan)


@FUZZ
@given(
    st.lists(
        st.sampled_from(["fusion=concat", "deep=no", "fusion=", "=", "", "fusion", "deep=no,no", "x=1"]) | st.text()
    )
)
def test_any_only(tmp_path: Path, open_fake: Open, only: list[str]) -> None:
    through(lambda: planned(tmp_path, json.dumps(SPACE), open_fake, only=only), "--only")


def test_the_size_of_a_plan_is_told_by_its_product(tmp_path: Path, open_fake: Open) -> None:
    sets = ["studies=10000", "studies.resplit=false", "tune.draws=10000"]
    message = refused(lambda: planned(tmp_path, json.dumps(SPACE), open_fake, sets=sets), "made.yaml")
    assert "the plan has 300040000 trials: 40000 to confirm (4 cells x 10000 studies x 1 folds)" in message
    assert "300000000 to tune (10000 draws each)" in message
    assert "at most 1000000" in message


OPTIONS = {
    "fusion: {name: tacfn, heads: many}": "heads is 'many'; expected a whole number",
    "fusion: {name: tacfn, heads: 2.0}": "heads is 2.0; expected a whole number",
    "fusion: {name: tacfn, heads: true}": "heads is True; expected a whole number",
    "fusion: {name: tacfn, heads: 0}": "heads is 0; expected a whole number, 1 to 1024",
    "fusion: {name: tacfn, layers: -1}": "layers is -1; expected a whole number, 0 to 1024",
    "fusion: {name: tacfn, layers: [2]}": "layers is [2]; expected a whole number",
    "fusion: {name: tacfn, gate_hidden: 1000000000}": "gate_hidden is 1000000000; expected a whole number, 1 to 65536",
    "fusion: {name: tacfn, dropout: 7}": "dropout is 7; expected a number, 0 to below 1",
    "fusion: {name: tacfn, gate: vectr}": "expected vector, scalar or none; did you mean 'vector'",
    "fusion: {name: tacfn, self_attention: 1}": "self_attention is 1; expected true or false",
    "fusion: {name: bilstm_attn, hidden: wide}": "hidden is 'wide'; expected a whole number or null",
    "fusion: {name: none, modality: 3}": "modality is 3; expected text or null",
    "encoders: {audio: {name: xlsr, dtype: int8}}": "expected float16, bfloat16 or float32",
    "encoders: {audio: {name: logmel, hop_ms: 0}}": "hop_ms is 0; expected a number, above 0",
    "pooling: {name: attn, heads: '2'}": "heads is '2'; expected a whole number",
    "context: {name: bilstm, residual: yes please}": "residual is 'yes please'; expected true or false",
    "projection: {dim: 10000000}": "projection.dim: Input should be less than or equal to 65536",
    "classifier: {hidden: [1e9]}": "classifier.hidden.0: Input should be a valid integer",
    "classifier: {hidden: [1000000000]}": "classifier.hidden.0: Input should be less than or equal to 65536",
    "classifier: {hidden: [0]}": "classifier.hidden.0: Input should be greater than or equal to 1",
}


@pytest.mark.parametrize("text", OPTIONS)
def test_an_option_of_another_type_or_size(tmp_path: Path, open_fake: Open, text: str) -> None:
    """Wherever a recipe is read: with the line of the option, what was found, and what was expected."""
    field, _, value = text.partition(": ")
    option = value.strip("{}").split(", ")[-1] if field not in ("projection", "classifier") else None
    (tmp_path / "made.yaml").write_text("base: {encoders: {audio: fourier2vec}}\n")
    sets = [f"{field}={value}"]
    message = refused(lambda: make_plan(tmp_path / "made.yaml", open_corpus=open_fake, sets=sets), f"--set {field}")
    assert OPTIONS[text] in message
    body = text if option is None else text.replace(option, f"\n  {option}")
    encoders = "" if field == "encoders" else "encoders: {audio: fourier2vec}\n"
    (tmp_path / "one.yaml").write_text(f"{encoders}{body}\n")
    line = encoders.count("\n") + (1 if option is None else 2)
    assert OPTIONS[text] in refused(lambda: load_recipe_file(tmp_path / "one.yaml"), f"one.yaml:{line}:")


def test_an_option_that_a_factor_or_a_draw_sets(tmp_path: Path, open_fake: Open) -> None:
    base = "base: {encoders: {audio: fourier2vec, visual: features}, fusion: tacfn}\n"
    factor = "factors:\n  fusion:\n    - concat\n    - name: tacfn\n      heads: many\n"
    refused(lambda: planned(tmp_path, base + factor, open_fake), "made.yaml:6: fusion mer.fusion.tacfn:Tacfn: heads")
    for name, tuned in (
        ("heads", "{uniform: [1, 4]}"),
        ("heads", "{int: [0, 4]}"),
        ("heads", "{choice: [2, many]}"),
        ("dropout", "{uniform: [0.1, 1.5]}"),
        ("gate", "{choice: [scalar, vectr]}"),
    ):
        tune = f"tune: {{draws: 2, parameters: {{fusion.{name}:\n  {tuned}}}}}\n"
        refused(
            lambda tune=tune: planned(tmp_path, base + tune, open_fake),
            f"made.yaml:2: fusion mer.fusion.tacfn:Tacfn: {name}",
        )
    sound = "tune: {draws: 2, parameters: {fusion.heads: {choice: [1, 4]}, fusion.dropout: {choice: [0, 0.1]}}}\n"
    sound_plan(planned(tmp_path, base + sound, open_fake))


@pytest.mark.parametrize("where", ["conditions", "train", "valid"])
@pytest.mark.parametrize("broken", ["missing", "pipe", "half the ids", "another modality"])
def test_masks_are_looked_up_in_the_plan(tmp_path: Path, where: str, broken: str) -> None:
    import numpy as np

    from experiments.space.checks import corpus_ref
    from mer.data.mask_files import freeze
    from tests.mer.conftest import write_tiny_corpus

    folder = tmp_path / "tiny"
    folder.mkdir()
    write_tiny_corpus(folder)
    corpus = load_corpus(folder)
    missing = {"protocol": "file", "file": "m.json"}
    base: dict[str, Any] = {"encoders": {"audio": "features", "text": "features"}}
    space: dict[str, Any] = {"corpora": str(folder), "base": base}
    if where == "conditions":
        space["conditions"] = [missing]
    else:
        base["missing"] = {where: missing}

    def plan() -> Plan:
        return planned(tmp_path, json.dumps(space), lambda name: corpus_ref(Path(name)))

    ids, names = [utterance.id for utterance in corpus.utterances()], ["audio", "text"]
    freeze(folder / "m.json", ids, names, np.ones((len(ids), 2), bool))
    sound_plan(plan())
    (folder / "m.json").unlink()
    if broken == "pipe":
        os.mkfifo(folder / "m.json")
    elif broken != "missing":
        ids, names = (ids[::2], names) if broken == "half the ids" else (ids, ["audio", "visual"])
        freeze(folder / "m.json", ids, names, np.ones((len(ids), 2), bool))
    assert "Asked for by" in refused(plan, "m.json")


@FUZZ
@given(value=values, key=st.sampled_from(["corpus", "seed", "training", "encoders", "fusion", "include", "other"]))
def test_any_training_file(tmp_path: Path, key: str, value: Any) -> None:
    content = {"corpus": "demo", "encoders": {"audio": "fourier2vec"}, key: value}
    (tmp_path / "made.yaml").write_text(json.dumps(content, default=str))
    found = through(lambda: load_recipe_file(tmp_path / "made.yaml"), "made.yaml")
    if found is not None:
        with contextlib.suppress(TypeError):
            assert -(2**63) <= found[2] < 2**63
