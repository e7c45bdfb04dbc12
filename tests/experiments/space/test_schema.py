"""The schema that editors complete from: in step with the code, and of the loader's opinion on what is a space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from experiments.cli import main
from experiments.space.fields import all_levels
from experiments.space.yaml_text import parse

ROOT = Path(__file__).parents[3]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "search_spaces" / "space.schema.json").read_text("utf-8"))
    Draft7Validator.check_schema(found)
    return found


def test_it_is_in_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    shipped = (ROOT / "search_spaces" / "space.schema.json").read_text("utf-8")
    assert capsys.readouterr().out == shipped, "write it anew: make pages"


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_it_admits_every_space_and_they_name_it(path: Path, schema: dict[str, Any]) -> None:
    text = path.read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=space.schema.json\n")
    assert [error.message for error in Draft7Validator(schema).iter_errors(parse(text).data)] == []


GOOD = [
    "base: {fusion: 'mylab.gate:DeepGate'}",
    "base: {fusion: {heads: 8}}",
    "base: {fusion.heads: 8, lr: 0.1, encoders.audio.layer: 12}",
    "factors: {fusion: [concat, {name: tacfn, gate: scalar, label: scalar gate}]}",
    "factors: {rate: {low: {missing.train.rate: 0.1}, high: {missing.train.rate: 0.5}}}",
    "studies: 3\nfolds: speaker\ndesign: {fraction: 0.5}\ncorpora: demo\ntune: {pruner: none}",
    "conditions: [complete, {available: [text]}, {protocol: random, rate: [0.1, 0.3]}]",
    "contrasts: [fusion]",
    "limits: {time: 2h}\nresources: {memory: 4GB, gpus: auto}",
    "include: base.yaml",
]
BAD = [
    "bases: {}",
    "base: {fusion: tacfm}",
    "base: {fusio: tacfn}",
    "base: {fusion: {name: tacfn, gat: scalar}}",
    "base: {fusion: {name: tacfn, gate: scalr}}",
    "base: {loss: {name: focall}}",
    "base: {sampler.name: bth}",
    "factors: {fusion: [concat, tacfm]}",
    "factors: {rate: {low: {missing.train.rat: 0.1}}}",
    "metric: accuracy",
    "studies: many",
    "conditions: [{protocol: randm}]",
    "tune: {parameters: {lr: {loguniforn: [1, 2]}}}",
    "tune: {draws: 0}",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_the_loader_reads_is_admitted(text: str, schema: dict[str, Any]) -> None:
    assert [error.message for error in Draft7Validator(schema).iter_errors(parse(text).data)] == []


@pytest.mark.parametrize("text", BAD)
def test_mistakes_are_underlined(text: str, schema: dict[str, Any]) -> None:
    assert list(Draft7Validator(schema).iter_errors(parse(text).data))


@pytest.mark.parametrize("kind", all_levels())
def test_every_level_is_offered_and_explained(kind: str, schema: dict[str, Any]) -> None:
    offered = {choice["const"]: choice["description"] for choice in schema["$defs"][f"{kind} name"]["anyOf"][:-1]}
    assert set(offered) == set(all_levels()[kind])
    assert all(offered.values())


def test_everything_is_explained(schema: dict[str, Any]) -> None:
    silent = [name for name, value in schema["properties"].items() if "description" not in value]
    for model in ("Tune", "Contrasts", "Comparison", "Design", "Studies", "Optimizer", "Training", "Sampler", "Loss"):
        properties = schema["$defs"][model]["properties"]
        silent += [f"{model}.{key}" for key, value in properties.items() if not {"description", "$ref"} & set(value)]
    assert silent == []
