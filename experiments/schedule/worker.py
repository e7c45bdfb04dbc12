"""A worker: carries out orders, one work item at a time, and writes what is finished into the ledger.

It knows nothing of Ray, of cells or of the protocol. Every order is complete in itself, so that it makes no
difference which worker carries it out: an item that this worker does not hold is restored from its saved state, or
trained again from the beginning if there is none, with the same result.
"""

from __future__ import annotations

import gc
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from experiments.results import provenance
from experiments.results.ledger import Ledger
from experiments.results.records import Cost, Provenance, TrialRecord
from experiments.results.schema import COMPLETE
from experiments.schedule import states
from experiments.schedule.aside import Aside
from experiments.schedule.blame import Unstored, one_line, storing, without_verdict
from experiments.schedule.held import Held, Meter, Nothing, Verdict, so_far
from experiments.schedule.states import Saved
from experiments.schedule.tensorboard import Board
from experiments.schedule.work import Do, Ended, Epoch, Finished, MakeWork, Order, Outcome, Result, Spec, Work
from experiments.slots import Stage, Status
from mer.errors import UserError
from mer.faults import visit
from mer.files import sums_digest
from mer.storage import LocalStore

SAVE_EVERY_S = 10.0
"""Seconds of training after which a state is saved at the next end of an epoch; what a crash costs at most."""

Beat = Callable[[Spec, int, float], bool]
"""Called after every epoch with a trial, its epochs so far and the last value; True: stop as soon as you can."""


class Worker:
    """Carries out orders with the work that `make_work` makes."""

    def __init__(self, root: str, make_work: MakeWork, *, beat: Beat | None = None, boards: str | None = None) -> None:
        self.ledger = Ledger(root)
        self.store = self.ledger.store
        self.make_work = make_work
        self.beat = beat or (lambda spec, epochs, value: False)
        self.boards = boards
        self._held: Held | None = None
        self._notes: list[str] = []
        self._aside = Aside(self._notes.append)

    def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Carry out orders in turn. What goes wrong with one item ends that item, not the worker."""
        outcomes = [self._one(order, {later.item for later in orders[n + 1 :]}) for n, order in enumerate(orders)]
        if self._notes and outcomes:
            outcomes[-1] = replace(outcomes[-1], notes=tuple(self._notes))
            self._notes.clear()
        return outcomes

    def _one(self, order: Order, later: Collection[str]) -> Outcome:
        try:
            if order.do is Do.TRAIN:
                return self._train(order)
            if order.do is Do.PAUSE:
                return self._pause(order)
            return self._close(order, goes_on=order.item in later)
        except Exception as error:
            peak = self._held.peak_memory_mb if self._held else None
            ended = without_verdict(error)
            if ended is None:
                try:
                    return self._failed(order, error)
                except Unstored as unstored:
                    error, ended = unstored, unstored.ended
            self._let_go()
            reason = str(error) if isinstance(error, UserError | Unstored) else one_line(error)
            return Outcome(order, ended, reason=reason, peak_memory_mb=peak)

    # ---- the three orders ------------------------------------------------------------------------------------

    def _train(self, order: Order) -> Outcome:
        before = self._held.wall_s if self._held is not None and self._held.item == order.item else 0.0
        held = self._take(order)
        if self._epochs(held, order.until):
            self._save(held)
            return self._leave(order, held, Ended.INTERRUPTED)
        verdicts = self._commit(held, order, self._verdicts(held))
        trained, peak = held.wall_s - before, held.peak_memory_mb
        results = self._results(held, verdicts)
        if held.open:
            return Outcome(order, Ended.REACHED, results, None, trained, peak)
        self._drop(held)
        return Outcome(order, Ended.COMMITTED, results, None, trained, peak)

    def _pause(self, order: Order) -> Outcome:
        held = self._held
        if held is None or held.item != order.item:
            return Outcome(order, Ended.PAUSED)  # whoever holds it later starts from what is saved
        self._save(held)
        return self._leave(order, held, Ended.PAUSED)

    def _close(self, order: Order, goes_on: bool) -> Outcome:
        """Commit members under the statuses of the order, with the epochs up to `until`. What is left of the item is
        kept if it was in hand or `goes_on`; otherwise somebody else trains it on."""
        in_hand = self._held is not None and self._held.item == order.item
        if order.until:
            held = self._take(order)
            if self._epochs(held, order.until):
                self._save(held)
                return self._leave(order, held, Ended.INTERRUPTED)
        else:  # nothing is to be computed any more
            self._let_go()
            saved = self._load(order.item)
            held = self._held = Held.fresh(order, Nothing(len(order.members)))
            held.parts = saved.parts if saved and len(saved.parts) == len(held.parts) else held.parts
        verdicts = []
        for closing in order.closings:
            part = held.parts[closing.member]
            part.rows = [row for row in part.rows if not order.until or row.epoch <= order.until]
            done = so_far(part.rows, held.members[closing.member].spec)
            verdicts.append(
                Verdict(
                    closing.member, closing.status, closing.reason, done, closing.rung, closing.value, closing.cutoff
                )
            )
            held.work.stop(closing.member)
        results = self._results(held, self._commit(held, order, verdicts))
        if not held.open or not order.until:
            self._drop(held)
        elif not in_hand and not goes_on:
            self._let_go()
        return Outcome(order, Ended.COMMITTED, results)

    # ---- training --------------------------------------------------------------------------------------------

    def _take(self, order: Order) -> Held:
        """The item in hand, else restored, else new."""
        if self._held is not None and self._held.item == order.item:
            return self._held.told(order)
        if self._held is not None and self._held.unsaved:
            self._save(self._held)
        self._let_go()
        held = Held.fresh(order, self.make_work(order.specs))
        saved = self._load(order.item)
        if saved is not None:
            try:
                held.take_over(saved)
            except Exception as error:  # written by other code, or damaged: the item starts over
                held.work.close()
                if without_verdict(error) is not None:
                    raise
                with storing():
                    states.drop(self.store, order.item)
                held = Held.fresh(order, self.make_work(order.specs))
        self._held = held
        return held

    def _epochs(self, held: Held, until: int) -> bool:
        """Train until `until` is reached or nobody goes on; True if it was told to stop before."""
        work = held.work
        while work.epochs_done < until:
            for number, member in enumerate(held.members):
                if member.last is not None and held.parts[number].epochs >= member.last:
                    work.stop(number)
            going = [number for number, ended in enumerate(work.ended) if not ended]
            if not going:
                break
            meter = Meter(self._aside)
            for number, epoch in enumerate(work.epoch()):
                if epoch is not None:
                    self._note(held, number, epoch)
            meter.charge(held, going)
            held.unsaved = True
            curve = held.curve(going[0])
            if self.beat(held.members[going[0]].spec, work.epochs_done, curve[-1] if curve else 0.0):
                return True
            if time.monotonic() - held.saved_at > SAVE_EVERY_S and not all(work.ended):
                self._save(held)
        return False

    def _note(self, held: Held, number: int, epoch: Epoch) -> None:
        """Take in an epoch of one member; a number that was lost ends it."""
        part, lost = held.parts[number], epoch.diverged
        for row in epoch.rows:
            if lost is None and not math.isfinite(row.value):
                lost = f"{row.split} {row.metric} became non-finite in epoch {row.epoch}"
        part.rows += [row for row in epoch.rows if math.isfinite(row.value)]
        if lost is not None:
            part.diverged = lost
            held.work.stop(number)

    def _verdicts(self, held: Held) -> Iterable[Verdict]:
        """How those members end that have trained to their end."""
        ended = held.work.ended
        for number in held.open:
            part, member = held.parts[number], held.members[number]
            if part.diverged is not None:
                yield Verdict(number, Status.DIVERGED, part.diverged, so_far(part.rows, member.spec))
            elif ended[number] or part.epochs >= member.spec.epochs:
                yield self._finish(held, number)

    def _finish(self, held: Held, number: int) -> Verdict:
        spec, meter = held.members[number].spec, Meter(self._aside)
        try:
            finished = held.work.finish(number)
            meter.charge(held, [number])
            numbers = [*finished.valid.values(), *(row.value for row in finished.scores)]
            numbers += [p for row in finished.predictions for p in row.probabilities]
            if not all(map(math.isfinite, numbers)):
                lost = "a score of the finished model is not a number"
                return Verdict(number, Status.DIVERGED, lost, so_far(held.parts[number].rows, spec))
            checkpoint = digest = None
            if spec.slot.stage is Stage.CONFIRM and spec.keep != "none":
                visit("checkpoint.before")
                checkpoint, digest = self._checkpoint(held, number)
                visit("checkpoint.after")
            return Verdict(number, Status.COMPLETE, None, finished, checkpoint=checkpoint, checkpoint_digest=digest)
        except Exception as error:
            if len(held.members) == 1 or isinstance(error, UserError) or without_verdict(error) is not None:
                raise
            return Verdict(number, Status.FAILED, one_line(error), Finished({}, 0))  # one member's doing, not all's

    # ---- writing ---------------------------------------------------------------------------------------------

    def _failed(self, order: Order, error: Exception) -> Outcome:
        """Commit an item that raised, with what raised it and where: every member that has not ended yet."""
        reason = one_line(error)
        held = self._held
        if held is None or held.item != order.item:
            held = Held.fresh(order, Nothing(len(order.members)))
        failed = [Verdict(number, Status.FAILED, reason, Finished({}, 0)) for number in held.open]
        results = self._results(held, self._commit(held, order, failed))
        self._drop(held)
        return Outcome(order, Ended.COMMITTED, results)

    def _checkpoint(self, held: Held, number: int) -> tuple[str, str | None]:
        """Write a member's model; its path below the results folder, and the digest of what was written."""
        with storing():
            return self._put_checkpoint(held, number)

    def _put_checkpoint(self, held: Held, number: int) -> tuple[str, str | None]:
        spec = held.members[number].spec
        name = f"checkpoints/{spec.trial}"
        if isinstance(self.store, LocalStore):
            held.work.save_checkpoint(number, self.store.folder / name, spec.keep)
            return name, sums_digest(self.store.folder / name)
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
        try:
            held.work.save_checkpoint(number, folder / "model", spec.keep)
            for file in sorted((folder / "model").rglob("*")):
                if file.is_file():
                    self.store.put(f"{name}/{file.relative_to(folder / 'model').as_posix()}", file.read_bytes())
            return name, sums_digest(folder / "model")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _commit(self, held: Held, order: Order, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """Write members' ends into the ledger, all in one part; returns what was written."""
        found = list(verdicts)
        records = [self._record(held, verdict) for verdict in found]
        if records:
            with storing():
                self.ledger.append(*records)
        held.closed |= {verdict.number for verdict in found}
        if self.boards:
            for verdict, record in zip(found, records, strict=True):
                write = partial(Board(self.boards).write, held.members[verdict.number].spec, record)
                self._aside("curves for TensorBoard cannot be written", write)
        return found

    def _record(self, held: Held, verdict: Verdict) -> TrialRecord:
        spec, part, done = held.members[verdict.number].spec, held.parts[verdict.number], verdict.finished
        return TrialRecord(
            key=spec.key,
            recipe=spec.recipe,
            status=verdict.status,
            attempt=spec.attempt,
            reason=verdict.reason,
            space=spec.space,
            cell=spec.slot.cell,
            draw=spec.slot.draw,
            declaration=spec.declaration or None,
            valid=done.valid,
            best_epoch=done.best_epoch or None,
            rung=verdict.rung,
            rung_value=verdict.value,
            cutoff=verdict.cutoff,
            curve=part.rows,
            scores=done.scores,
            predictions=done.predictions,
            labels=done.labels,
            checkpoint=verdict.checkpoint,
            checkpoint_digest=verdict.checkpoint_digest,
            cost=Cost(part.wall_s, part.device_s, part.epochs, held.peak_memory_mb, part.energy_j),
            provenance=self._aside("source and machine cannot be looked up", provenance.here) or Provenance(),
            random_weights=done.random_weights,
            synthetic=spec.corpus.synthetic if done.synthetic is None else done.synthetic,
            parameters=done.parameters,
            started=datetime.fromisoformat(part.started) if part.started else None,
            ended=datetime.now(UTC),
        )

    def _results(self, held: Held, verdicts: Sequence[Verdict]) -> tuple[Result, ...]:
        ends = {verdict.number: verdict for verdict in verdicts}
        found = []
        for number in range(len(held.members)):
            end, curve = ends.get(number), held.curve(number)
            if end is None:
                found.append(Result(curve))
                continue
            test = {row.metric: row.value for row in end.finished.scores if row.condition == COMPLETE}
            found.append(Result(curve, end.status, end.reason, test))
        return tuple(found)

    def _load(self, item: str) -> Saved | None:
        with storing():
            return states.load(self.store, item)

    def _save(self, held: Held) -> None:
        with storing():
            states.save(self.store, held.item, held.saved())
        held.saved_at, held.unsaved = time.monotonic(), False

    def _leave(self, order: Order, held: Held, ended: Ended) -> Outcome:
        results = self._results(held, ())
        self._let_go()
        return Outcome(order, ended, results)

    def _drop(self, held: Held) -> None:
        """The item is over: nothing of it is needed any more. What is left of it is swept up by the next run."""
        self._aside("saved states of finished trials cannot be removed", partial(states.drop, self.store, held.item))
        self._let_go()

    def _let_go(self) -> None:
        """Forget the item in hand, so that the fiftieth trial of a process runs as the first."""
        if self._held is None:
            return
        work: Work = self._held.work
        self._held = None
        torch: Any = sys.modules.get("torch")
        with suppress(Exception):  # on a device that has failed; who trains there next will meet it
            work.close()
            if torch is not None and torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
