"""A checkpoint comes back as the model that it was, or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mer import checkpoint as checkpoints
from mer import levels
from mer.checkpoint import CONFIG, FILES, WEIGHTS, load_checkpoint, save_checkpoint
from mer.data.corpus import Corpus
from mer.errors import UserError
from mer.files import SUMS, sums_digest, write_sums
from mer.model import build_model
from mer.recipe import Recipe
from tests.doors import refused

RECIPE = Recipe.model_validate(
    {
        "encoders": {"text": "features", "audio": "features"},
        "fusion": "gated",
        "pooling": "cls",
        "projection": {"dim": 4},
        "classifier": {"hidden": []},
    }
)


def save(folder: Path, corpus: Corpus, seed: int = 0, **details: Any) -> Path:
    return save_checkpoint(folder, build_model(RECIPE, corpus.info, seed), RECIPE, corpus.info, **details)


@pytest.fixture(scope="module")
def saved(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "model", tiny_corpus, best_epoch=3)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the configuration as somebody would who knows what he does: with the digests made anew."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))
    write_sums(folder, FILES)


def test_it_comes_back(saved: Path, tiny_corpus: Corpus) -> None:
    found = load_checkpoint(saved)
    assert found.recipe == RECIPE
    assert found.recipe.modalities == ("text", "audio")
    assert found.details == {"best_epoch": 3}
    for name, tensor in build_model(RECIPE, tiny_corpus.info, 0).state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from((*FILES, SUMS)), st.integers(0, 10**9), st.integers(0, 7))
def test_any_flipped_bit_is_an_error_that_names_the_file(saved: Path, name: str, at: int, bit: int) -> None:
    path = saved / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[at % len(whole)] ^= 1 << bit
    try:
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=r"config|model|SHA256SUMS") as error:
            load_checkpoint(saved)
        assert name in str(error.value)
    finally:
        path.write_bytes(whole)


def test_it_is_the_one_that_the_record_names(folder: Path, tiny_corpus: Corpus) -> None:
    digest = sums_digest(folder)
    assert digest is not None
    load_checkpoint(folder, digests=[digest])
    save(folder, tiny_corpus, seed=1)
    load_checkpoint(folder)
    with pytest.raises(UserError, match="not the model that its trial's record names"):
        load_checkpoint(folder, digests=[digest])


def corpus_of(config: dict[str, Any], **changes: Any) -> None:
    config["corpus"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("recipe"), "a recipe of type NoneType"),
        (lambda c: c.update(recipe=[]), "a recipe of type list"),
        (lambda c: c["recipe"].pop("encoders"), "encoders: Field required"),
        (lambda c: c["recipe"]["projection"].update(dim=10**400), "config.json"),
        (lambda c: c["recipe"]["optimizer"].update(lr=10**400), "optimizer.lr"),
        (lambda c: c["recipe"]["fusion"].update(name="subprocess:call"), "names code from outside"),
        (lambda c: c["recipe"]["fusion"].update(dropuot=1), "no model can be built|dropuot"),
        (lambda c: c["recipe"]["fusion"].update(name="conact"), "unknown fusion 'conact'"),
        (lambda c: c.pop("corpus"), "corpus is missing"),
        (lambda c: corpus_of(c, labels=7), "corpus.labels"),
        (lambda c: corpus_of(c, labels=[]), "corpus.labels"),
        (lambda c: corpus_of(c, features={"text": -1}), "corpus.features"),
        (lambda c: corpus_of(c, features={"text": 10**400}), "corpus.features"),
        (lambda c: corpus_of(c, features={}), "features"),
        (lambda c: corpus_of(c, labels=["a", "b", "c", "d"]), "classifier.*of shape .3"),
        (lambda c: c.update(format=9), "checkpoint format '9'; expected 2"),
        (lambda c: c.update(format=[]), "checkpoint format"),
    ],
)
def test_a_config_that_is_none_is_refused_in_words(folder: Path, change: Any, message: str) -> None:
    edit(folder, change)
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["projection"].update(dim=10_000_000), "projection.dim"),
        (
            lambda r: r["projection"].update(dim=65_536),
            r"model.safetensors: .*expected torch.float32 of shape \(3, 65536\)",
        ),
        (lambda r: r["classifier"].update(hidden=[65_536, 65_536]), "model.safetensors: .*'classifier"),
        (lambda r: r["fusion"].update(expansion=9999.0), "model.safetensors: the tensor .*expected"),
        (lambda r: r["fusion"].update(heads="many"), "config.json: .*heads is 'many'; expected a whole number"),
        (lambda r: r["fusion"].update(layers=True), "config.json: .*layers is True; expected a whole number"),
        (
            lambda r: r["encoders"].update(text={"name": "words", "dim": 65_536, "buckets": 1 << 24}),
            "model.safetensors",
        ),
    ],
)
def test_what_a_config_claims_takes_no_memory(folder: Path, change: Any, message: str) -> None:
    edit(folder, lambda config: change(config["recipe"]))
    assert re.search(message, refused(lambda: load_checkpoint(folder), "config.json", WEIGHTS))


EVERY = [(kind, name) for kind in ("fusion", "pooling", "context") for name in levels.table(levels.KINDS[kind][0])]
EVERY += [("text", name) for name in ("words", "tfidf")] + [("audio", name) for name in ("logmel", "fourier2vec")]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_the_shapes_of_every_level_are_known_without_memory(kind: str, name: str, tiny_corpus: Corpus) -> None:
    encoders = {"text": "features"} if name == "none" else {"text": "features", "audio": "features"}
    recipe = {"encoders": {**encoders, kind: name}} if kind in encoders else {"encoders": encoders, kind: name}
    with torch.device("meta"):
        sketch = build_model(Recipe.model_validate(recipe), tiny_corpus.info, 0).state_dict()
    assert all(tensor.is_meta for tensor in sketch.values())
    model = build_model(Recipe.model_validate(recipe), tiny_corpus.info, 0).state_dict()
    assert {key: (x.shape, x.dtype) for key, x in sketch.items()} == {k: (x.shape, x.dtype) for k, x in model.items()}


@pytest.mark.parametrize("text", ["[" * 100_000, "7", "[]", "", "\x00", '{"format": 2, "x": ' + "9" * 5000 + "}", "{"])
def test_a_config_that_is_not_json_of_ours_is_refused_in_words(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)
    write_sums(folder, FILES)
    with pytest.raises(UserError, match=r"config\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("classifier.out.weight"), "tensor 'classifier.out.weight' is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "tensor 'more' is of no part of the model"),
        (lambda t: t.update({"classifier.out.weight": torch.zeros(7)}), r"shape \(7,\); expected .*shape \(3, 4\)"),
        (lambda t: t.update({"classifier.out.weight": torch.zeros(3, 4).double()}), "float64.*expected torch.float32"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder: Path, change: Any, message: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    key = next(name for name in tensors if name.startswith("classifier") and name.endswith("weight"))
    renamed = {name.replace(key, "classifier.out.weight"): tensor for name, tensor in tensors.items()}
    change(renamed)
    save_file({name.replace("classifier.out.weight", key): t for name, t in renamed.items()}, folder / WEIGHTS)
    write_sums(folder, FILES)
    with pytest.raises(UserError, match=message.replace("classifier.out.weight", key)) as error:
        load_checkpoint(folder)
    assert WEIGHTS in str(error.value)


@pytest.mark.parametrize("length", [0, 3, 8, 100, -1])
def test_cut_off_weights_are_refused_in_words(folder: Path, length: int) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:length])
    write_sums(folder, FILES)
    with pytest.raises(UserError, match=f"damaged checkpoint: {WEIGHTS}"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"no checkpoint here: {name} is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, SUMS])
@pytest.mark.parametrize("version", [1, 2])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder: Path, name: str, version: int) -> None:
    if version == 1:
        as_first_version(folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=f"{name}: is a pipe"):
        load_checkpoint(folder)


# ---- saved by earlier versions --------------------------------------------------------------------------------


def as_first_version(folder: Path, **details: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    del config["recipe"]["modalities"]
    config.update(format=1, **details)
    (folder / CONFIG).write_text(json.dumps(config, sort_keys=True))
    (folder / SUMS).unlink()


def test_a_run_of_an_earlier_version_trained_in_alphabetical_order(folder: Path) -> None:
    as_first_version(folder, trial="4caba1c05006c953")
    assert load_checkpoint(folder).recipe.modalities == ("audio", "text")


def test_what_order_an_earlier_training_had_is_not_guessed(folder: Path) -> None:
    as_first_version(folder)
    with pytest.raises(UserError, match=r"(?s)without the order of its modalities.*--modalities audio,text"):
        load_checkpoint(folder)
    assert load_checkpoint(folder, modalities=["text", "audio"]).recipe.modalities == ("text", "audio")
    with pytest.raises(UserError, match="expected audio, text in order"):
        load_checkpoint(folder, modalities=["text", "visual"])


# ---- written ----------------------------------------------------------------------------------------------------


def test_files_and_folder_are_synced_before_the_rename_and_the_parent_after(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        seen.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        rename(source, target)
        seen.append(("rename", target.name))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    save(tmp_path / "models" / "model", tiny_corpus)
    at = seen.index(("rename", "model"))
    before, after = {name for what, name in seen[:at] if what == "sync"}, seen[at + 1 :]
    assert {CONFIG, WEIGHTS, SUMS} < before
    assert any(name.startswith("_model.") for name in before)
    assert ("sync", "models") in after


def test_a_reader_sees_the_old_model_or_the_new_one_and_nothing_else(tiny_corpus: Corpus, tmp_path: Path) -> None:
    folder, stop = tmp_path / "model", threading.Event()
    save(folder, tiny_corpus, seed=0, which=0)
    models = [build_model(RECIPE, tiny_corpus.info, seed) for seed in (0, 1)]

    def replace() -> None:
        for number in range(60):
            which = number % 2
            save_checkpoint(folder, models[which], RECIPE, tiny_corpus.info, which=which)
        stop.set()

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        while not stop.is_set():
            config, tensors = checkpoints._read(folder, ())
            for name, tensor in models[config["which"]].state_dict().items():
                assert torch.equal(tensors[name], tensor)
    finally:
        writer.join()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("at", ["write", "rename"])
def test_a_failed_write_leaves_the_old_model(
    at: str, folder: Path, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = sums_digest(folder), os.rename

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    def full_for_the_new_one(source: Path, target: Path) -> None:
        if target == folder and load_file(source / WEIGHTS).keys() and sums_digest(source) != before:
            full()
        rename(source, target)

    if at == "write":
        monkeypatch.setattr(checkpoints, "save_file", full)
    else:
        monkeypatch.setattr(os, "rename", full_for_the_new_one)
    with pytest.raises(OSError, match="No space"):
        save(folder, tiny_corpus, seed=1)
    assert sums_digest(folder) == before
    load_checkpoint(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
