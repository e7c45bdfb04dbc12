"""Run a plan: on Ray or in this process, with progress, tables, Ctrl-C, and an exit code."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from experiments.results.accepted import changed_code
from experiments.results.declared import changed_corpora, declare
from experiments.results.lease import POLL_S, Driver, Lease
from experiments.results.ledger import Ledger
from experiments.results.tables import Verdict
from experiments.schedule.aside import Aside
from experiments.schedule.blame import SAFE, one_line
from experiments.schedule.compacting import Compactor
from experiments.schedule.interrupt import INTERRUPTED, Interrupt
from experiments.schedule.progress import At, Progress
from experiments.schedule.publish import publish, verdicts_of
from experiments.schedule.rebundled import rebundled
from experiments.schedule.session import TAKEN_OVER, Session
from experiments.schedule.work import MakeWork
from experiments.slots import Status
from experiments.space.plan import Plan
from experiments.space.text import rebundled_text
from mer.errors import UserError
from mer.storage import LocalStore, check_writable

PUBLISH_EVERY_S = 30.0
PUBLISH_SHARE = 30.0
"""Tables are written at most every so many times as long as it took to write them: 3 % of the driver's time."""

HANG_S = 1800.0
"""An epoch without a sign of life for this long ends its worker (the first epoch, which may extract features: four
times as long)."""

WATCH_EVERY_S = 30.0
"""How often a run that waits for another one says how far that has come."""

OK, FAILED_TRIALS = 0, 3


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    exit_code  0 done; 3 finished with failed or missing trials; 130 interrupted
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
    """Run what the ledger lacks of a plan, and write its tables to `out` (default: the plan's folder beside the
    ledger). The same call after any crash goes on where the ledger ends; while another run is at work in the results
    folder it waits for that one, and then does what is left.

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
    out, say = out or ledger.store.path(plan.folder), _sturdy(say)
    make_work = make_work or _training_work()
    seconds = budget if budget is not None else plan.limits.seconds
    deadline = math.inf if seconds is None else started + seconds
    with Interrupt() as interrupt, _explained(ledger):
        check_writable(ledger.store)
        plan = declare(plan, ledger)  # before the wait: what another run finds out meanwhile does not make it late
        lease = Lease(ledger.store, plan.space)
        try:
            while _watch(plan, ledger, lease, deadline, say):
                session = Session(
                    plan, ledger, retry=retry, seconds=None if seconds is None else deadline - time.monotonic(),
                    trials=plan.limits.trials, holds=lease.holds,
                )  # fmt: skip
                interrupt.tell(session.interrupt)
                notices = [*ledger.notices, *changed_corpora(plan, ledger.store)]
                snapshot = ledger.refresh()
                notices += changed_code(snapshot, plan.space, ledger.equal_code())
                if again := rebundled(session.names, session.state, snapshot):
                    notices.append(rebundled_text(again))
                for notice in notices:
                    say(f"note: {notice}")
                aside = Aside(lambda text: say(f"note: {text}"))
                running = Running(
                    session, make_work, ledger.store.root, workers, _boards(plan, ledger, out, make_work),
                    _Publisher(plan, ledger, out, session), Progress(session) if progress else None,
                    Compactor(ledger, aside), aside, say, interrupt,
                )  # fmt: skip
                try:
                    ready = time.monotonic()
                    if executor == "inline" and not session.finished:
                        running.inline()
                    elif not session.finished:
                        from experiments.schedule.on_ray import OnRay

                        ray = OnRay(plan, address, gpus_per_trial, hang_s, preflight, features, origin, say)
                        ready = ray.execute(running)
                except Exception:
                    if interrupt.asked is None:  # else Ray may have been ended by the same signal
                        raise
                finally:
                    verdicts = running.close()
                if session.ending != TAKEN_OVER:
                    return _result(session, verdicts, notices, started, ready)
                say(f"note: {TAKEN_OVER}")
            session = Session(plan, ledger, seconds=0.0)  # the budget is spent on waiting
            assert session.overtime
            return _result(session, verdicts_of(plan, ledger), [], started, time.monotonic())
        finally:
            lease.give_back()


def _result(
    session: Session, verdicts: Sequence[Verdict], notices: Sequence[str], started: float, ready: float
) -> RunResult:
    """How a run has ended: done means that every planned slot is on record."""
    counts = Counter(verdict.status.value for verdict in verdicts)
    missing, reason = counts[Status.MISSING.value], session.ending
    if missing and reason is None:
        reason = f"{missing} planned trials are not on record"
    code = OK
    if reason == "interrupted":
        code = INTERRUPTED
    elif missing or counts[Status.FAILED.value] or counts[Status.OOM.value] or reason not in (None, "budget", "trials"):
        code = FAILED_TRIALS
    return RunResult(
        exit_code=code,
        reason=reason,
        counts=dict(sorted(counts.items())),
        verdicts=tuple(verdicts),
        notices=tuple(notices),
        seconds=time.monotonic() - started,
        started_in=ready - started,
        trained_s=session.tally.trained_s,
        done={status.value: count for status, count in session.tally.done.items()},
    )


def _watch(plan: Plan, ledger: Ledger, lease: Lease, deadline: float, say: Callable[[str], None]) -> bool:
    """Wait until this run holds the lease; False if its time is over before. Says who is at work, and how far."""
    shown: Driver | None = None
    next_line = 0.0
    while (other := lease.take()) is not None:
        if time.monotonic() >= deadline:
            return False
        if other != shown:
            say(f"another run is at work here ({other}): watching")
            shown, next_line = other, time.monotonic() + WATCH_EVERY_S
        elif time.monotonic() >= next_line:
            verdicts = verdicts_of(plan, ledger)
            ended = sum(verdict.status is not Status.MISSING for verdict in verdicts)
            say(f"{ended}/{len(verdicts)} trials, {len(verdicts) - ended} left")
            next_line = time.monotonic() + WATCH_EVERY_S
        time.sleep(POLL_S)
    if shown is not None:
        say("it has ended: this run goes on where it stopped")
    return True


@contextlib.contextmanager
def _explained(ledger: Ledger) -> Iterator[None]:
    """What the operating system says of the results folder, without a traceback."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise UserError(f"the run cannot go on: {one_line(error)}", where=ledger.store.root, hint=SAFE) from error


def _sturdy(say: Callable[[str], None]) -> Callable[[str], None]:
    """Words that nobody reads any more, because a pipe or a terminal was closed, end no run."""

    def act(text: str) -> None:
        with contextlib.suppress(OSError):
            say(text)

    return act


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
    aside: Aside
    say: Callable[[str], None]
    interrupt: Interrupt
    said: int = 0
    """How many of the session's notes."""

    def tell(self, vital: Mapping[str, At]) -> None:
        """Said often: which worker is where."""
        if not self.session.ending:
            self.aside("tables cannot be written on the way", self.publisher.now_and_then)
        if self.shown is not None:
            self.aside("progress cannot be shown", partial(self.shown.update, vital))
        self._say_notes()

    def _say_notes(self) -> None:
        for note in self.session.notes[self.said :]:
            self.say(f"note: {note}")
        self.said = len(self.session.notes)

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
        """End what goes on beside the run, and write the tables; raises what has blocked it, or keeps it from that."""
        if self.shown is not None:
            self.aside("progress cannot be shown", self.shown.close)
        self.compactor.close()
        self._say_notes()
        if self.session.ending == TAKEN_OVER:  # the tables are another run's to write
            return []
        try:
            verdicts = self.publisher.publish()
            self.session.compact_decisions()
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else one_line(error)
            raise UserError(self.session.blocked or f"the tables cannot be written: {reason}\n  {SAFE}") from error
        if self.session.blocked:
            raise UserError(self.session.blocked)
        self.session.sweep()
        return verdicts


class _Publisher:
    """Writes the tables now and then: rarely enough to cost little, however large they are."""

    def __init__(self, plan: Plan, ledger: Ledger, out: str, session: Session) -> None:
        self.plan, self.ledger, self.out, self.session = plan, ledger, out, session
        self._next = time.monotonic() + PUBLISH_EVERY_S

    def now_and_then(self) -> None:
        if time.monotonic() < self._next:
            return
        started = time.monotonic()
        try:
            self.session.compact_decisions()
            self.publish()
        finally:
            took = time.monotonic() - started
            self._next = time.monotonic() + max(PUBLISH_EVERY_S, PUBLISH_SHARE * took)

    def publish(self) -> list[Verdict]:
        return publish(self.plan, self.ledger, self.out, self.session)


def _training_work() -> MakeWork:
    from experiments.schedule.training_work import make_training_work

    return make_training_work


def _boards(plan: Plan, ledger: Ledger, out: str, make_work: MakeWork) -> str | None:
    """Where event files go: beside the tables, on file systems; fake work leaves none."""
    if not isinstance(ledger.store, LocalStore) or not make_work.__module__.endswith("training_work"):
        return None
    return str(Path(out) / "tensorboard")
