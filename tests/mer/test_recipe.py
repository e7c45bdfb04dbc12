"""The order of modalities is part of a recipe, and a recipe from stored data names nothing from outside."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mer import levels
from mer.data.corpus import Corpus, CorpusInfo
from mer.data.loading import SplitData, prepare_split
from mer.data.store import FeatureStore
from mer.errors import UserError
from mer.model import build_model, needs_dialogues
from mer.recipe import Recipe, read_recipe

ORDER = ("visual", "text", "audio")  # neither alphabetical nor its reverse
SMALL = {"projection": {"dim": 8}, "classifier": {"hidden": [4]}}


def make_recipe(order: tuple[str, ...] = ORDER, **changes: Any) -> Recipe:
    return Recipe.model_validate({"encoders": dict.fromkeys(order, "features"), **SMALL, **changes})


def shuffled(value: Any, seed: int) -> Any:
    """The same data with every mapping in another order."""
    if isinstance(value, dict):
        keys = list(value)
        random.Random(seed).shuffle(keys)
        return {key: shuffled(value[key], seed + 1) for key in keys}
    return [shuffled(item, seed) for item in value] if isinstance(value, list) else value


def combinations() -> list[tuple[str, str, str]]:
    """Every fusion and pooling; contexts in turn, and each of them with each fusion once more."""
    fusions = [name for name in levels.table("mer.fusion") if name != "none"]
    poolings, contexts = list(levels.table("mer.pooling")), list(levels.table("mer.context"))
    found = [(f, p, contexts[i % len(contexts)]) for i, (f, p) in enumerate(itertools.product(fusions, poolings))]
    return sorted({*found, *itertools.product(fusions, ["cls"], contexts)})


@pytest.fixture(scope="module")
def data(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> SplitData:
    model = build_model(make_recipe(), tiny_corpus.info, 0)
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    return prepare_split(tiny_corpus.info, tiny_corpus.valid[:8], model.encoder_table(), store)


def logits(recipe: Recipe, info: CorpusInfo, data: SplitData) -> torch.Tensor:
    model = build_model(recipe, info, seed=1).eval()
    everything = np.ones((len(data), len(data.modalities)), dtype=bool)
    with torch.no_grad():
        return model(
            data.batch(np.arange(len(data)), everything, dialogues=needs_dialogues(recipe)), details=False
        ).logits


@pytest.mark.parametrize(("fusion", "pooling", "context"), combinations())
def test_every_serialisation_gives_the_same_model(
    fusion: str, pooling: str, context: str, tiny_corpus: Corpus, data: SplitData
) -> None:
    recipe = make_recipe(fusion=fusion, pooling=pooling, context=context)
    expected = logits(recipe, tiny_corpus.info, data)
    text = json.dumps(recipe.canonical(), sort_keys=True)
    whole = recipe.model_dump(mode="json")
    forms: list[object] = [
        text, json.loads(text), whole, json.dumps(whole, sort_keys=True),
        yaml.safe_load(yaml.safe_dump(whole, sort_keys=True)), shuffled(whole, 1), shuffled(json.loads(text), 2),
    ]  # fmt: skip
    found = [read_recipe(form, "here") for form in forms]
    assert all(other == recipe and list(other.encoders) == list(ORDER) for other in found)
    assert {other.digest() for other in found} == {recipe.digest()}
    torch.testing.assert_close(logits(found[0], tiny_corpus.info, data), expected, rtol=0, atol=0)


@given(st.permutations(["audio", "text", "visual"]), st.integers(0, 99))
def test_no_order_of_a_mapping_counts_once_stored(order: list[str], seed: int) -> None:
    recipe = make_recipe(
        tuple(order), missing={"train": {"protocol": "per_modality", "rates": dict.fromkeys(order, 0.1)}}
    )
    assert recipe.modalities == tuple(order)
    for stored in (recipe.canonical(), recipe.model_dump(mode="json")):
        assert read_recipe(shuffled(stored, seed), "here") == recipe
        assert read_recipe(shuffled(stored, seed), "here").digest() == recipe.digest()


def test_each_order_has_its_digest_and_the_alphabetical_keeps_the_one_on_record() -> None:
    digests = {make_recipe(order).digest() for order in itertools.permutations(ORDER)}
    assert len(digests) == 6
    alphabetical = make_recipe(("audio", "text", "visual"))
    assert "modalities" not in alphabetical.canonical()
    assert alphabetical.digest() == "c4e93dae3c01161be0d0c3c686b77e65"


def test_an_order_may_be_given_and_must_name_every_modality() -> None:
    encoders = dict.fromkeys(ORDER, "words")
    given_order = Recipe.model_validate({"encoders": encoders, "modalities": ["text", "audio", "visual"]})
    assert list(given_order.encoders) == ["text", "audio", "visual"]
    for wrong in ("text", "text audio vision", "text text audio", "text audio visual text"):
        with pytest.raises(ValidationError, match="must name each of audio, text, visual once"):
            Recipe.model_validate({"encoders": encoders, "modalities": wrong.split()})


# ---- what is stored is not trusted ----------------------------------------------------------------------------

HOSTILE = (
    "subprocess:call",
    "subprocess:Popen",
    "evil_mod:Gate",
    "evil_pkg.sub:Gate",
    "os:system",
    "mer.fit:fit",
    ":",
    "a:",
)


def test_code_from_outside_must_be_typed_by_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_of_order.py").write_text(
        "from mer.fusion import base\nfrom subprocess import Popen\n"
        "class Gate(base.Fusion): ...\nclass Odd: ...\nclass Sub(Popen): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    stored = {"encoders": {"text": "words"}, "fusion": {"name": "lab_of_order:Gate"}}
    with pytest.raises(UserError, match=r"(?s)config: fusion names code.*--allow-outside 'lab_of_order:Gate'"):
        read_recipe(stored, "config")
    with pytest.raises(UserError, match="names code from outside"):
        read_recipe(stored, "config", ["lab_of_order:Gat", "lab_of_order"])
    assert read_recipe(stored, "config", ["lab_of_order:Gate"]).fusion.name == "lab_of_order:Gate"
    for odd in ("lab_of_order:Odd", "lab_of_order:Sub", "lab_of_order:Popen", "subprocess:Popen", "subprocess:call"):
        with pytest.raises(UserError, match=r"is not a fusion|unknown class"):
            read_recipe({**stored, "fusion": odd}, "config", [odd])
    with pytest.raises(UserError, match="is not a pooling"):  # of another kind
        read_recipe({"encoders": {"text": "words"}, "pooling": "lab_of_order:Gate"}, "config", ["lab_of_order:Gate"])
    assert "lab_of_order" not in sys.modules


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all leaves."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in paths(item, (*at, key))]
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in paths(item, (*at, i))]
    return [at]


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[at[0]] = put(copied[at[0]], at[1:], new)
    return copied


WHOLE = make_recipe(missing={"valid": {"protocol": "pattern", "available": ["text"]}}).model_dump(mode="json")
NUMBERS = st.one_of(st.just(10**400), st.just(float("nan")), st.just(-(10**400)), st.just([[[]]]), st.none())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(paths(WHOLE)), st.sampled_from(HOSTILE) | NUMBERS)
def test_whatever_a_field_holds_is_refused_or_harmless(at: tuple[Any, ...], found: Any) -> None:
    try:
        recipe = read_recipe(put(WHOLE, at, found), "config.json")
    except UserError:
        return
    for _, kind, name in recipe.named_levels():
        assert name in levels.table(levels.KINDS[kind][0])


def test_nothing_named_by_data_is_imported_or_run(tmp_path: Path) -> None:
    """In a process of its own: an audit hook sees every import, process and file that is opened for writing."""
    (tmp_path / "evil_pkg").mkdir()
    (tmp_path / "evil_pkg" / "__init__.py").write_text("open('ran', 'w')\n")
    (tmp_path / "evil_pkg" / "sub.py").write_text("from mer.fusion.base import Fusion\nclass Gate(Fusion): ...\n")
    (tmp_path / "evil_mod.py").write_text(
        "open('ran', 'w')\nfrom mer.fusion.base import Fusion\nclass Gate(Fusion): ...\n"
    )
    script = f"""
import json, sys
import torch, mer.checkpoint
from mer.errors import UserError
from mer.recipe import read_recipe
sys.path.insert(0, {str(tmp_path)!r})
from tests.mer.test_recipe import WHOLE, HOSTILE, paths, put
seen = []
def watch(event, args):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        seen.append(event)
    if event == "import" and str(args[0]).startswith("evil"):
        seen.append(args[0])
sys.addaudithook(watch)
tried = 0
for at in paths(WHOLE):
    for name in HOSTILE:
        tried += 1
        try:
            read_recipe(put(WHOLE, at, name), "config.json")
        except UserError:
            pass
try:
    read_recipe({{**WHOLE, "fusion": "evil_pkg.sub:Gate"}}, "x", ["evil_pkg.sub:Gate"])
except UserError:
    raise
assert tried > 300 and not seen, seen
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("[" * 100_000, "not a recipe"),
        ('{"encoders": ' + '{"a":' * 50_000, "not a recipe"),
        ("7", "a recipe of type int"),
        ('{"encoders": {"text": "words"}, "optimizer": {"lr": 1' + "0" * 400 + "}}", "optimizer.lr"),
        ('{"encoders": {"text": "wrods"}}', "unknown encoder 'wrods'.*did you mean 'words'"),
        ('{"encoders": {"text": "words"}, "modalities": ["audio"]}', "modalities: .*must name each of text once"),
        ('{"encoders": {"text": "words"}, "modalities": 7}', "recipe: modalities"),
        ('{"encoders": [], "modalities": {}}', "recipe: encoders"),
    ],
)  # fmt: skip
def test_data_that_are_no_recipe_are_refused_in_words(stored: str, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        read_recipe(stored, "config.json")
