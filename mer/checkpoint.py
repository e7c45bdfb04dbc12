"""Checkpoints: `config.json`, `model.safetensors` and their digests; nothing that executes, loadable years later."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import mer
from mer.data.conditions import COMPLETE, Condition
from mer.data.corpus import CorpusInfo, Utterance
from mer.data.loading import prepare_split
from mer.data.missing import availability
from mer.data.store import FeatureStore
from mer.data.store.shared import open_features
from mer.encoders import WITHOUT_WEIGHTS, build_encoder
from mer.errors import UserError
from mer.evaluation import Predictions, predict
from mer.files import SUMS, check_sums, commit_folder, make_folder, plain, sums_digest, write_sums
from mer.model import Model, build_model, needs_dialogues
from mer.precision import default_device
from mer.recipe import Recipe, read_recipe

FORMAT = 2
"""2: the order of modalities, and `SHA256SUMS`, which proves that the other two are as they were written."""

CONFIG, WEIGHTS = FILES = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with what is needed to use it."""

    model: Model
    recipe: Recipe
    info: CorpusInfo
    details: dict[str, Any]

    def predict(
        self,
        info: CorpusInfo,
        utterances: Sequence[Utterance],
        conditions: Sequence[Condition] = (COMPLETE,),
        *,
        seed: int = 0,
        store: FeatureStore | None = None,
        may_lack: bool = False,
        device: torch.device | str | None = None,
        precision: str | None = None,
    ) -> dict[str, Predictions]:
        """What the model says of some utterances, under each condition by name.

        Args:
            info: the corpus that the utterances are of: where its files are.
            utterances: any, of any corpus whose labels the model knows.
            conditions: what is taken away; by default nothing.
            seed: of the missing masks.
            store: where frozen features are kept; the default store if None.
            may_lack: a modality that none of them has is absent, instead of a mistake.
            device: where it computes, frozen encoders too; None: a GPU if there is one. The model stays there.
            precision: fp32, bf16 or fp16; None: the recipe's, in which the model was validated.
        """
        unknown = sorted({utterance.emotion for utterance in utterances} - set(self.info.labels))
        if unknown:
            raise UserError(f"the model does not know the labels {unknown}", expected=", ".join(self.info.labels))
        info = replace(info, labels=self.info.labels)
        device = device or default_device()
        encoders = self.model.to(device).encoder_table()
        data = prepare_split(info, utterances, encoders, store or open_features(), device, may_lack=may_lack)
        precision = precision or self.recipe.training.precision
        whole = needs_dialogues(self.recipe)
        found = {}
        for condition in conditions:
            missing = condition.missing
            mask = availability(missing, data.ids, data.modalities, seed, present=data.present, root=info.folder)
            found[condition.name] = predict(self.model, data, mask, dialogues=whole, precision=precision)
        return found


def save_checkpoint(folder: Path, model: Model, recipe: Recipe, info: CorpusInfo, **details: Any) -> Path:
    """Write a checkpoint so that it is either whole or not there. `details` (scores, epoch) must be plain JSON."""
    config = {
        "format": FORMAT,
        "mer": mer.__version__,
        "recipe": recipe.model_dump(mode="json"),
        "corpus": {
            "name": info.name,
            "labels": list(info.labels),
            "language": info.language,
            "note": info.note,
            "synthetic": info.synthetic,
            "features": dict(info.features),
        },
        "random_weights": any(encoder.random_weights for encoder in model.encoder_table().values()),
        **details,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    make_folder(folder.parent)
    staging = folder.with_name(f"_{folder.name}.{uuid.uuid4().hex[:12]}")
    try:
        staging.mkdir()
        (staging / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False, sort_keys=True), "utf-8")
        _save_weights(tensors, staging / WEIGHTS)
        (staging / WEIGHTS).chmod((staging / CONFIG).stat().st_mode)  # whoever may read one may read the other
        write_sums(staging, FILES)
        commit_folder(staging, folder, replace=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def load_checkpoint(
    folder: Path | str,
    *,
    digests: Collection[str] = (),
    modalities: Sequence[str] | None = None,
    allow_outside: Iterable[str] = (),
) -> Checkpoint:
    """Load a checkpoint written by any version of this format; refuses what is not one, with the reason.

    Args:
        folder: of `config.json`, `model.safetensors` and `SHA256SUMS`.
        digests: what its trial's record says of it (`mer.files.sums_digest`), where there is one.
        modalities: their order, for models that were saved before it was (`_stored_recipe`).
        allow_outside: `module:attr` of levels from outside that it may name (`mer.recipe.read_recipe`).
    """
    folder = Path(folder)
    config, tensors = _read(folder, digests)
    where = str(folder / CONFIG)
    recipe = read_recipe(_stored_recipe(config, modalities, where), where, allow_outside)
    info = _stored_corpus(config, folder, where)
    try:
        released = {
            name: build_encoder(name, encoder, info)
            for name, encoder in recipe.encoders.items()
            if encoder.name not in WITHOUT_WEIGHTS
        }
        with torch.device("meta"):  # shapes alone: what the configuration claims takes memory only once it fits
            _compare(build_model(recipe, info, 0, released), tensors, str(folder / WEIGHTS))
        model = build_model(recipe, info, 0, released)
    except UserError:
        raise
    except Exception as error:  # what a level makes of options that nobody checked: whatever it is, they are wrong
        raise UserError(f"no model can be built from it: {type(error).__name__}: {error}", where=where) from error
    model.load_state_dict(tensors)
    known = ("format", "mer", "recipe", "corpus", "random_weights")
    return Checkpoint(model.eval(), recipe, info, {key: value for key, value in config.items() if key not in known})


def _save_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """safetensors says what the operating system refused in words alone."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _read(folder: Path, digests: Collection[str], patience: int = 20) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the files say, once they are proven to be those that were written, and written together."""
    here = _identity(folder)
    try:
        if digests and sums_digest(folder) not in digests:
            raise UserError(
                "this is not the model that its trial's record names",
                where=str(folder),
                hint="It was replaced or damaged after the trial ended: take it from a backup.",
            )
        if (folder / SUMS).exists():
            check_sums(folder, FILES)
        config = json.loads(plain(folder / CONFIG).read_text("utf-8"))
        if not isinstance(config, dict) or config.get("format") not in (1, FORMAT):
            found = config.get("format") if isinstance(config, dict) else config
            raise UserError(f"checkpoint format {str(found)[:40]!r}", where=str(folder / CONFIG), expected=str(FORMAT))
        if config["format"] != 1:
            check_sums(folder, FILES)  # which must be there: the first version alone wrote none
        tensors = load_file(plain(folder / WEIGHTS))
        if _identity(folder) != here:
            raise UserError("the model is being replaced again and again", where=str(folder))
        return config, tensors
    except (UserError, OSError, ValueError, RecursionError, SafetensorError) as error:
        if patience and (_identity(folder) != here or (here is None and any(folder.parent.glob(f"_{folder.name}.*")))):
            time.sleep(0.05)  # it was being replaced: what was read is half one model, half the other
            return _read(folder, digests, patience - 1)
        if isinstance(error, FileNotFoundError):
            raise UserError(
                f"no checkpoint here: {Path(error.filename or folder).name} is missing",
                where=str(folder),
                expected=f"a folder with {CONFIG} and {WEIGHTS}",
            ) from None
        if isinstance(error, UserError):
            raise
        if isinstance(error, PermissionError):
            raise UserError(
                "may not be read", where=str(error.filename or folder), expected="a file to read"
            ) from error
        name = WEIGHTS if isinstance(error, SafetensorError) else CONFIG
        raise UserError(f"damaged checkpoint: {name}: {error}", where=str(folder)) from None


def _identity(folder: Path) -> tuple[int, int, int] | None:
    """Which folder has the name now: another one after it was replaced."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _stored_recipe(config: dict[str, Any], modalities: Sequence[str] | None, where: str) -> object:
    """The recipe of a configuration, with the order of its modalities.

    Before the order was stored, `mer run` trained in alphabetical order, and says so by naming its trial; what order
    `mer train` used is lost, for its recipe was written with sorted keys.
    """
    recipe = config.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("encoders"), dict) or "modalities" in recipe:
        return recipe
    names = sorted(map(str, recipe["encoders"]))
    if modalities is not None:
        if sorted(modalities) != names:
            raise UserError(f"modalities {','.join(modalities)}", where=where, expected=f"{', '.join(names)} in order")
        return {**recipe, "modalities": list(modalities)}
    if len(names) > 1 and "trial" not in config:
        raise UserError(
            f"this model was saved without the order of its modalities ({', '.join(names)}), which may matter",
            where=where,
            hint=f"Name them as `encoders:` of its training file has them: --modalities {','.join(names)}, or another "
            "order. The right one gives the validation scores that config.json holds under `valid`.",
        )
    return {**recipe, "modalities": names}


def _stored_corpus(config: dict[str, Any], folder: Path, where: str) -> CorpusInfo:
    found = config.get("corpus")
    kinds: dict[str, type | tuple[type, ...]] = {
        "name": str, "labels": list, "language": (str, type(None)), "note": str, "synthetic": bool, "features": dict,
    }  # fmt: skip
    if not isinstance(found, dict):
        raise UserError("corpus is missing", where=where)
    for name, kind in kinds.items():
        if name not in found or not isinstance(found[name], kind):
            raise UserError(f"corpus.{name}: {str(found.get(name))[:40]!r} is not what was written", where=where)
    if not found["labels"] or not all(isinstance(label, str) for label in found["labels"]):
        raise UserError("corpus.labels must be names", where=where)
    if not all(type(width) is int and 0 < width < 1 << 20 for width in found["features"].values()):
        raise UserError("corpus.features must be widths", where=where)
    return CorpusInfo(folder=folder, **{**{name: found[name] for name in kinds}, "labels": tuple(found["labels"])})


def _compare(model: Model, tensors: dict[str, Tensor], where: str) -> None:
    """Refuse weights that are not a model's: every tensor must be there, and like the one that it replaces."""
    wanted = model.state_dict()
    for name in sorted({*wanted, *tensors}):
        if name not in tensors:
            raise UserError(f"the tensor {name!r} is missing", where=where)
        if name not in wanted:
            raise UserError(f"the tensor {name!r} is of no part of the model", where=where)
        found, expected = tensors[name], wanted[name]
        if found.shape != expected.shape or found.dtype != expected.dtype:
            raise UserError(
                f"the tensor {name!r} is {found.dtype} of shape {tuple(found.shape)}",
                where=where,
                expected=f"{expected.dtype} of shape {tuple(expected.shape)}",
            )
