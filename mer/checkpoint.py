"""Checkpoints: `config.json` and `model.safetensors`, nothing that executes, loadable years later."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import mer
from mer.data.conditions import COMPLETE, Condition
from mer.data.corpus import CorpusInfo, Utterance
from mer.data.loading import prepare_split
from mer.data.missing import availability
from mer.data.store import FeatureStore
from mer.data.store.shared import open_features
from mer.errors import UserError
from mer.evaluation import Predictions, predict
from mer.files import make_folder, share_tree
from mer.model import Model, build_model, needs_dialogues
from mer.recipe import Recipe

FORMAT = 1


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
        device: torch.device | str = "cpu",
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
            device: where it computes; the model stays there.
            precision: fp32, bf16 or fp16; None: the recipe's, in which the model was validated.
        """
        unknown = sorted({utterance.emotion for utterance in utterances} - set(self.info.labels))
        if unknown:
            raise UserError(f"the model does not know the labels {unknown}", expected=", ".join(self.info.labels))
        info = replace(info, labels=self.info.labels)
        encoders = self.model.to(device).encoder_table()
        data = prepare_split(info, utterances, encoders, store or open_features(), device, may_lack=may_lack)
        precision = precision or self.recipe.training.precision
        whole = needs_dialogues(self.recipe)
        found = {}
        for condition in conditions:
            mask = availability(condition.missing, data.ids, data.modalities, seed, present=data.present)
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
    staging = folder.with_name(f"_{folder.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    make_folder(folder.parent)
    staging.mkdir()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, staging / "model.safetensors")
    (staging / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False, sort_keys=True), "utf-8")
    share_tree(staging)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        staging.rename(folder)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not (folder / "config.json").exists():
            raise  # otherwise another process has written the same trial's at the same time
    return folder


def load_checkpoint(folder: Path | str) -> Checkpoint:
    """Load a checkpoint written by any version of this format; refuses what is not one, with the reason."""
    folder = Path(folder)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
        tensors = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise UserError(
            f"no checkpoint here: {Path(error.filename or path).name} is missing",
            where=str(folder),
            expected="a folder with config.json and model.safetensors",
        ) from None
    except (ValueError, OSError, SafetensorError) as error:
        raise UserError(f"damaged checkpoint: {error}", where=str(folder)) from None
    if config.get("format") != FORMAT:
        raise UserError(f"checkpoint format {config.get('format')!r}", where=str(path), expected=str(FORMAT))
    recipe = Recipe.model_validate(config["recipe"], strict=False)
    corpus = config["corpus"]
    info = CorpusInfo(
        folder=folder,
        name=corpus["name"],
        labels=tuple(corpus["labels"]),
        language=corpus["language"],
        note=corpus["note"],
        synthetic=corpus["synthetic"],
        features=corpus["features"],
    )
    model = build_model(recipe, info, seed=0)
    model.load_state_dict(tensors)
    known = ("format", "mer", "recipe", "corpus", "random_weights")
    return Checkpoint(model.eval(), recipe, info, {key: value for key, value in config.items() if key not in known})
