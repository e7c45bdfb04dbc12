"""TensorBoard: one run per trial with its curves and its HParams, `tensorboard --logdir results/<space>/tensorboard`.

Written once, when the trial is committed. torch's writer is used when it is there and loaded only then.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from experiments.results.records import TrialRecord
from experiments.schedule.work import Spec
from mer.files import make_folder, share_tree


class Board:
    """Event files below one folder. A trial that is written again replaces its run."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def write(self, spec: Spec, record: TrialRecord) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        slot = spec.slot
        draw = f"-draw{slot.draw}" if slot.draw >= 0 else ""
        name = f"{slot.corpus}-study{slot.study}-fold{slot.fold}-{slot.stage}{draw}-{record.trial}"
        run = self.folder / name
        shutil.rmtree(run, ignore_errors=True)
        make_folder(self.folder)
        writer = SummaryWriter(log_dir=str(run))
        try:
            for row in record.curve:
                writer.add_scalar(f"{row.split}/{row.metric}", row.value, row.epoch)
            settings = {key: _plain(value) for key, value in {"cell": slot.cell, **spec.params}.items()}
            measured = {f"best/valid_{metric}": value for metric, value in record.valid.items()}
            measured |= {f"best/test_{row.metric}": row.value for row in record.scores if row.condition == "complete"}
            file_writer = writer._get_file_writer()  # type: ignore[no-untyped-call]
            for summary in hparams(settings, measured):  # type: ignore[no-untyped-call]
                file_writer.add_summary(summary)
            for metric, value in measured.items():
                writer.add_scalar(metric, value)
        finally:
            writer.close()
        share_tree(run)


def _plain(value: object) -> str | float | bool | int:
    return value if isinstance(value, str | int | float | bool) else str(value)
