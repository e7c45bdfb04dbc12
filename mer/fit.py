"""Train one model into a folder: resumable, with scalars for TensorBoard and a checkpoint of the best epoch."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mer.checkpoint import FILES, save_checkpoint
from mer.data.corpus import TrainValid
from mer.data.store import FeatureStore
from mer.errors import UserError
from mer.files import SUMS, claim, lock, make_folder, read_data, replacing, temporary
from mer.recipe import Recipe
from mer.streams import Streams
from mer.training import EpochReport, Trainer

STATE = "_state.pt"
BOARDS = "tensorboard"
CHECKSUM_BYTES = 16

_log = logging.getLogger(__name__)


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
    lie beside `output`, as `_<name>...`. The model takes the place of `output`, which may hold an earlier model and
    nothing else.
    """
    output = output.resolve()
    with _alone(output):
        trainer = Trainer(recipe, data, streams, store=store, device=device)
        identity = f"{recipe.digest()} {data.info.name} {streams}"
        state_path = output.with_name(f"_{output.name}{STATE}")
        if state_path.exists():
            saved = _load(state_path)
            if saved["identity"] != identity:
                raise UserError(
                    "the interrupted run here has another recipe, corpus or seed",
                    where=str(state_path),
                    hint="Remove that file to start anew, or choose another --output.",
                )
            trainer.load_state_dict(saved["trainer"])
        curves = _Curves(output.with_name(f"_{output.name}.{BOARDS}"), trainer.epochs_done + 1)
        with contextlib.closing(curves):
            while not trainer.finished:
                report = trainer.epoch()
                valid = {f"valid/{name}": value for name, value in report.valid.items()}
                curves.add({"train/loss": report.train_loss, **valid}, report.epoch)
                on_epoch(report)
                if report.epoch % save_every == 0 or trainer.finished:
                    _save({"identity": identity, "trainer": trainer.state_dict()}, state_path)
        _check_content(output)  # again: it may have been written into meanwhile; what was trained is saved
        save_checkpoint(
            output,
            trainer.best_model(),
            recipe,
            data.info,
            best_epoch=trainer.best_epoch,
            valid=trainer.history[trainer.best_epoch - 1].valid,
        )
        curves.move(output / BOARDS)
        state_path.unlink(missing_ok=True)
    return trainer


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Before anything is trained: a place that a model may take, where one can be written, and nobody else is at
    work on (where the file system has locks)."""
    _check_content(output)
    try:
        with temporary(make_folder(output.parent)) as (stream, _):
            locks = lock(stream.fileno(), wait=False)
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror}", where=str(output.parent)) from None
    with claim(output.parent, output.name, wait=False) as held:
        if locks and not held:
            raise UserError(
                "another `mer train` is at work on this folder",
                where=str(output),
                hint="Wait for its end, or choose another --output.",
            )
        yield


def _check_content(output: Path) -> None:
    """Refuse a place that holds anything but a model, all of which would be gone when the model takes its place."""
    expected = "a new or empty folder, or that of an earlier model"
    if output.exists() and not output.is_dir():
        raise UserError("is not a folder", where=str(output), expected=expected)
    own = {*FILES, SUMS, BOARDS}
    other = sorted(path.name for path in output.iterdir() if path.name not in own) if output.exists() else []
    if other:
        raise UserError(f"holds {other[0]!r}, which the model would replace", where=str(output), expected=expected)


class _Curves:
    """What TensorBoard reads. Where it cannot be written training goes on without, and says so, once."""

    def __init__(self, folder: Path, first: int) -> None:
        self.folder = folder
        self._failed = False
        self._writer: Any = None
        with self._aside():
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(make_folder(folder), purge_step=first)

    def add(self, values: dict[str, float], epoch: int) -> None:
        for name, value in values.items():
            with self._aside():
                self._writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        with self._aside():
            self._writer.close()

    def move(self, target: Path) -> None:
        with self._aside():
            self.folder.replace(target)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._failed:
                self._failed = True
                why = f"{type(error).__name__}: {error}"
                _log.warning("no curves for TensorBoard, and training goes on without: %s", why)


def _save(state: dict[str, object], path: Path) -> None:
    """The state and, behind it, its checksum: torch itself does not notice bits that have flipped."""
    memory = io.BytesIO()
    torch.save(state, memory)
    data = memory.getbuffer()
    with replacing(path) as stream:
        stream.write(data)
        stream.write(_checksum(data))


def _load(path: Path) -> dict[str, Any]:
    """The state that was saved last; an error for one that is not as it was written."""
    data = memoryview(read_data(path))
    try:
        if bytes(data[-CHECKSUM_BYTES:]) != _checksum(data[:-CHECKSUM_BYTES]):
            raise ValueError
        found: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError):
        raise UserError(
            "the state of the interrupted run is damaged, or an earlier version of mer saved it",
            where=str(path),
            hint="Remove that file to start anew, or choose another --output.",
        ) from None
    return found


def _checksum(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()
