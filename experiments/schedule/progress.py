"""What a person sees while a run goes on: a live page in a terminal, one line every so often elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, TextIO

from experiments.schedule.interrupt import MESSAGE
from experiments.schedule.session import Session
from experiments.slots import Status
from mer.metrics import metric

LINE_EVERY_S = 30.0
PAGE_EVERY_S = 1.0

T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""Student's t, two-sided 95 %, by degrees of freedom from 1. Beyond them the normal's 1.96 is close enough here."""


@dataclass(frozen=True)
class At:
    """What a worker is doing: slot, epochs so far, last value, seconds since it was heard of."""

    slot: str
    epochs: int
    value: float
    silent_s: float


class Progress:
    """Shows a session. `update` is called often and acts now and then."""

    def __init__(self, session: Session, *, stream: TextIO | None = None, live: bool | None = None) -> None:
        self.session = session
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty() if live is None else live
        self._next = time.monotonic() + (0.0 if self.live else LINE_EVERY_S)
        self._page: Any = None

    def update(self, workers: Mapping[str, At] | None = None, *, now: bool = False) -> None:
        if self.live and self.session.ending == "interrupted":
            self._end_page()
        if not now and time.monotonic() < self._next:
            return
        if self.live:
            self._next = time.monotonic() + PAGE_EVERY_S
            self._show_page(workers or {})
        else:
            self._next = time.monotonic() + LINE_EVERY_S
            print(line(self.session, len(workers or {})), file=self.stream, flush=True)

    def close(self) -> None:
        if self._page is not None and self.session.ending == "interrupted":
            self._end_page()
        if self._page is not None:
            self._page.stop()
            self._page = None

    def _end_page(self) -> None:
        """The page goes, and what was said in its place of the interrupt is said so that it stays."""
        self.live = False
        page, self._page = self._page, None
        if page is not None:
            if os.isatty(2):  # the handler's line below the page, which the page does not know of
                self.stream.write("\x1b[1A\x1b[2K\x1b[1A")
                self.stream.flush()
            page.stop()
            print(MESSAGE, file=self.stream, flush=True)
        self._next = time.monotonic() + LINE_EVERY_S

    def _show_page(self, workers: Mapping[str, At]) -> None:
        if self._page is None:
            from rich.console import Console
            from rich.live import Live

            self._page = Live(console=Console(file=self.stream), auto_refresh=False, transient=True)
            self._page.start()
        self._page.update(page(self.session, workers), refresh=True)


def counts(session: Session) -> dict[str, int]:
    """Slots by how they ended, and how many are left. They add up to the plan."""
    found = {status.value: 0 for status in Status if status is not Status.MISSING}
    for slot in session.state.order:
        status = session.state.status(slot)
        if status is not Status.MISSING:
            found[status.value] += 1
    left = len(session.state.order) - sum(found.values())
    return {**{name: count for name, count in found.items() if count}, "left": left}


def seconds_left(session: Session) -> float | None:
    """At the pace of this run; None until enough has ended to tell."""
    ended = len(session.state.order) - session.remaining() - session.tally.before
    elapsed = session.clock() - session.started
    if ended < 5 or elapsed <= 0:
        return None
    return elapsed / ended * session.remaining()


def line(session: Session, workers: int) -> str:
    """`12/60 done (2 pruned), 48 left, about 6 min to go, 2 workers`."""
    found = counts(session)
    total = len(session.state.order)
    left = found.pop("left")
    details = ", ".join(f"{count} {name}" for name, count in found.items())
    remaining = seconds_left(session)
    text = f"{total - left}/{total} trials" + (f" ({details})" if details else "") + f", {left} left"
    if left and remaining is not None:
        text += f", about {duration(remaining)} to go"
    return text + f", {workers} worker{'' if workers == 1 else 's'}"


def duration(seconds: float) -> str:
    """
    >>> duration(50), duration(400), duration(9000)
    ('50 s', '7 min', '2 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def interval(values: list[float]) -> tuple[float, float | None]:
    """Mean and half-width of the 95 % t-interval over studies; no width from fewer than two."""
    if len(values) < 2:
        return fmean(values), None
    freedom = len(values) - 1
    quantile = T_975[freedom - 1] if freedom <= len(T_975) else 1.96
    return fmean(values), quantile * stdev(values) / math.sqrt(len(values))


def best_cells(session: Session, most: int = 8) -> list[tuple[str, str, int, float, float | None]]:
    """Corpus, cell, number of studies, mean test score and half-width; folds are averaged within a study first."""
    rows = []
    for (corpus, cell), studies in session.tally.tests.items():
        values = [fmean(folds) for _, folds in sorted(studies.items())]
        rows.append((corpus, cell, len(values), *interval(values)))
    sign = metric(session.plan.metric).sign
    return sorted(rows, key=lambda row: (row[0], -sign * row[3]))[:most]


def page(session: Session, workers: Mapping[str, At]) -> Any:
    """The live page as something rich can show."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = len(session.state.order)
    parts: list[Any] = [
        Text(f"{session.plan.space}   {line(session, len(workers))}"),
        ProgressBar(total=total, completed=total - session.remaining(), width=60),
        Text(),  # the bar does not end its line
    ]
    rows = best_cells(session)
    if rows:
        cells = Table(box=None, header_style="bold")
        for title in ("corpus", "best cells so far", "studies", f"test {session.plan.metric} (95 % t-interval)"):
            cells.add_column(title)
        for corpus, cell, studies, mean, half in rows:
            shown = f"{mean:.4f}" + (f" ± {half:.4f}" if half is not None else "")
            cells.add_row(Text(corpus), Text(cell), str(studies), shown)
        parts.append(cells)
    if workers:
        at_work = Table(box=None, header_style="bold")
        for title in ("worker", "trains", "epoch", session.plan.metric):
            at_work.add_column(title)
        for name, at in sorted(workers.items())[:16]:
            at_work.add_row(name, Text(at.slot), str(at.epochs), f"{at.value:.4f}" if at.epochs else "")
        parts.append(at_work)
    return Group(*parts)
