"""A pooling that can be held up in the middle of training, so that a test decides what a trial is doing when.

It lies in `plugins/` of the folder that hosts share. While there is a file `shut` beside it, trials wait at their
thirtieth step, but for as many as the file says; who waits leaves its host's name in `waiting/`.
"""

from __future__ import annotations

import platform
import time
import uuid
from pathlib import Path

from torch import Tensor

from mer.batch import Sequence
from mer.pooling import Mean

HERE = Path(__file__).resolve().parent
STEP = 30


class Waiting(Mean):
    """The mean over frames, now and then after a while."""

    unbundled = "it waits"

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.steps = 0

    def forward(self, x: Sequence) -> Tensor:
        self.steps += 1
        if self.steps == STEP:
            wait()
        return super().forward(x)


def wait() -> None:
    shut, name = HERE / "shut", f"{platform.node()}.{uuid.uuid4().hex[:8]}"
    try:
        may_pass = int(shut.read_text())
    except FileNotFoundError:
        return
    for ticket in range(may_pass):  # counting who has come would hold up all of those that come at once
        try:
            (HERE / "passed" / str(ticket)).touch(exist_ok=False)
            return
        except FileExistsError:
            continue
    (HERE / "waiting" / name).touch()
    while shut.exists():
        time.sleep(0.05)
