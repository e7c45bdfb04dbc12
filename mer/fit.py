"""Train one model into a folder: resumable, with scalars for TensorBoard and a checkpoint of the best epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mer.checkpoint import save_checkpoint
from mer.data.corpus import TrainValid
from mer.data.store import FeatureStore
from mer.errors import UserError
from mer.files import make_folder, replacing
from mer.recipe import Recipe
from mer.streams import Streams
from mer.training import EpochReport, Trainer

STATE = "_state.pt"


def fit(
    recipe: Recipe,
    data: TrainValid,
    streams: Streams,
    output: Path,
    *,
    store: FeatureStore | None = None,
    device: str | None = None,
    save_every: int = 1,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> Trainer:
    """Train `recipe` into `output`; called again after an interruption it goes on where it was.

    Leaves `config.json` and `model.safetensors` of the best validation epoch and `tensorboard/`. The state that
    resuming needs is written every `save_every` epochs and removed at the end; until then it and what TensorBoard reads
    lie beside `output`, as `_<name>...`.
    """
    from torch.utils.tensorboard import SummaryWriter

    trainer = Trainer(recipe, data, streams, store=store, device=device)
    identity = f"{recipe.digest()} {data.info.name} {streams}"
    state_path = output.with_name(f"_{output.name}{STATE}")
    boards = make_folder(output.with_name(f"_{output.name}.tensorboard"))  # the model takes the place of its folder
    if state_path.exists():
        saved = torch.load(state_path, map_location="cpu", weights_only=True)
        if saved["identity"] != identity:
            raise UserError(
                "the interrupted run here has another recipe, corpus or seed",
                where=str(state_path),
                hint="Remove that file to start anew, or choose another --output.",
            )
        trainer.load_state_dict(saved["trainer"])
    with SummaryWriter(boards, purge_step=trainer.epochs_done + 1) as writer:
        while not trainer.finished:
            report = trainer.epoch()
            writer.add_scalar("train/loss", report.train_loss, report.epoch)
            for name, value in report.valid.items():
                writer.add_scalar(f"valid/{name}", value, report.epoch)
            on_epoch(report)
            if report.epoch % save_every == 0:
                _save({"identity": identity, "trainer": trainer.state_dict()}, state_path)
    save_checkpoint(
        output,
        trainer.best_model(),
        recipe,
        data.info,
        best_epoch=trainer.best_epoch,
        valid=trainer.history[trainer.best_epoch - 1].valid,
    )
    boards.replace(output / "tensorboard")
    state_path.unlink(missing_ok=True)
    return trainer


def _save(state: dict[str, object], path: Path) -> None:
    with replacing(path) as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:  # torch complains of the half file, whatever broke it off
            if error.__context__ is None:
                raise
            raise error.__context__ from None
