"""Run a plan: on Ray or in this process, with progress, tables, Ctrl-C, and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from experiments.results.accepted import changed_code
from experiments.results.declared import changed_corpora, declare
from experiments.results.ledger import Ledger
from experiments.results.tables import Verdict
from experiments.schedule.compacting import Compactor
from experiments.schedule.progress import At, Progress
from experiments.schedule.publish import publish
from experiments.schedule.session import Session
from experiments.schedule.work import MakeWork
from experiments.slots import Status
from experiments.space.plan import Plan
from mer.errors import UserError
from mer.storage import LocalStore, check_writable

PUBLISH_EVERY_S = 30.0
PUBLISH_SHARE = 30.0
"""Tables are written at most every so many times as long as it took to write them: 3 % of the driver's time."""

HANG_S = 1800.0
"""An epoch without a sign of life for this long ends its worker (the first epoch, which may extract features: four
times as long)."""

OK, FAILED_TRIALS, INTERRUPTED = 0, 3, 130


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    exit_code  0 done, or as far as the budget went; 3 finished with failed trials; 130 interrupted
    reason     why it ended before its plan was done, for people; None if it did not
    counts     slots by status
    notices    what should be read: damaged parts, a changed corpus
    """

    exit_code: int
    reason: str | None
    counts: Mapping[str, int]
    verdicts: tuple[Verdict, ...]
    notices: tuple[str, ...] = ()
    seconds: float = 0.0
    started_in: float = 0.0
    """Seconds until the first order could be given: connecting, reading the ledger."""
    trained_s: float = 0.0
    done: Mapping[str, int] = field(default_factory=dict)
    """Trials of this run by status."""


def execute(
    plan: Plan,
    ledger: Ledger,
    *,
    out: str | None = None,
    workers: int | None = None,
    executor: str = "ray",
    gpus_per_trial: float | str | None = None,
    address: str | None = None,
    budget: float | None = None,
    retry: bool = False,
    progress: bool = True,
    make_work: MakeWork | None = None,
    hang_s: float = HANG_S,
    preflight: str = "off",
    features: str | None = None,
    origin: Callable[[], str] | None = None,
    say: Callable[[str], None] = print,
) -> RunResult:
    """Run what the ledger lacks of a plan, and write its tables to `out` (default: the space's folder beside the
    ledger). The same call after any crash goes on where the ledger ends.

    executor        "ray" or "inline"
    gpus_per_trial  a share, "auto" (by measured peak memory), or None: what the space says
    budget          seconds after which running trials are saved and the run ends
    preflight       "stop" or "drop": what to do about a cluster node that differs from the driver; "off": do not look
    features        where machines share what encoders extract; None: MER_FEATURES, else beside the results on a
                    cluster of several machines; "off": nowhere
    origin          which project and space this is, said where a run joins a cluster: its files may be stale
    retry           run trials again that failed or ran out of memory
    """
    started = time.monotonic()
    if executor not in ("ray", "inline"):
        raise UserError(f"unknown executor {executor!r}", expected="ray, inline")
    root = ledger.store.root
    out = out or ledger.store.path(plan.space)
    check_writable(ledger.store)
    history = declare(plan, ledger.store)
    seconds = budget if budget is not None else plan.limits.seconds
    session = Session(plan, ledger, retry=retry, seconds=seconds, trials=plan.limits.trials)
    notices = [*ledger.notices, *changed_corpora(plan, history)]
    notices += changed_code(ledger.refresh(), plan.space, ledger.equal_code())
    for notice in notices:
        say(f"note: {notice}")
    make_work = make_work or _training_work()
    boards = _boards(plan, ledger, out, make_work)
    running = Running(
        session, make_work, root, workers, boards, _Publisher(plan, ledger, out, session),
        Progress(session) if progress else None, Compactor(ledger),
    )  # fmt: skip
    with _interruptible(session):
        try:
            ready = time.monotonic()
            if executor == "inline" and not session.finished:
                running.inline()
            elif not session.finished:
                from experiments.schedule.on_ray import OnRay

                ray = OnRay(plan, address, gpus_per_trial, hang_s, preflight, features, origin, say)
                ready = ray.execute(running)
        finally:
            verdicts = running.close()
    if session.blocked:
        raise UserError(session.blocked)
    session.sweep()
    counts = Counter(verdict.status.value for verdict in verdicts)
    failed = counts[Status.FAILED.value] + counts[Status.OOM.value]
    code = OK
    if session.ending == "interrupted":
        code = INTERRUPTED
    elif failed or session.ending not in (None, "budget", "trials"):
        code = FAILED_TRIALS
    return RunResult(
        exit_code=code,
        reason=session.ending,
        counts=dict(sorted(counts.items())),
        verdicts=tuple(verdicts),
        notices=tuple(notices),
        seconds=time.monotonic() - started,
        started_in=ready - started,
        trained_s=session.tally.trained_s,
        done={status.value: count for status, count in session.tally.done.items()},
    )


@dataclass
class Running:
    """What an executor needs of a run: orders from the session, and somebody to tell."""

    session: Session
    make_work: MakeWork
    root: str
    workers: int | None
    boards: str | None
    publisher: _Publisher
    shown: Progress | None
    compactor: Compactor

    def tell(self, vital: Mapping[str, At]) -> None:
        """Said often: which worker is where."""
        self.publisher.now_and_then()
        if self.shown is not None:
            self.shown.update(vital)

    def inline(self) -> None:
        from experiments.schedule.inline import run_inline

        vital: dict[str, At] = {}

        def watch(worker: str, spec: object, epochs: int, value: float) -> None:
            vital[worker] = At(str(getattr(spec, "slot", "")), epochs, value, 0.0)

        run_inline(
            self.session,
            self.make_work,
            self.root,
            workers=self.workers or 1,
            tick=lambda: self.tell(vital),
            boards=self.boards,
            watch=watch,
        )

    def close(self) -> list[Verdict]:
        if self.shown is not None:
            self.shown.close()
        self.compactor.close()
        self.session.compact_decisions()
        return self.publisher.publish()


class _Publisher:
    """Writes the tables now and then: rarely enough to cost little, however large they are."""

    def __init__(self, plan: Plan, ledger: Ledger, out: str, session: Session) -> None:
        self.plan, self.ledger, self.out, self.session = plan, ledger, out, session
        self._next = time.monotonic() + PUBLISH_EVERY_S

    def now_and_then(self) -> None:
        if time.monotonic() < self._next:
            return
        started = time.monotonic()
        self.session.compact_decisions()
        self.publish()
        took = time.monotonic() - started
        self._next = time.monotonic() + max(PUBLISH_EVERY_S, PUBLISH_SHARE * took)

    def publish(self) -> list[Verdict]:
        return publish(self.plan, self.ledger, self.out, self.session)


@contextlib.contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """Ctrl-C once: finish writing and end; twice: now."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        if session.ending == "interrupted":
            os._exit(INTERRUPTED)
        session.ending = "interrupted"
        os.write(2, b"\ninterrupted: saving running trials and writing the tables; once more to stop at once\n")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _training_work() -> MakeWork:
    from experiments.schedule.training_work import make_training_work

    return make_training_work


def _boards(plan: Plan, ledger: Ledger, out: str, make_work: MakeWork) -> str | None:
    """Where event files go: beside the tables, on file systems; fake work leaves none."""
    if not isinstance(ledger.store, LocalStore) or not make_work.__module__.endswith("training_work"):
        return None
    return str(Path(out) / "tensorboard")
