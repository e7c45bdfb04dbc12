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
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.results import provenance
from experiments.results.ledger import Ledger
from experiments.results.records import Cost, TrialRecord
from experiments.results.schema import COMPLETE
from experiments.schedule import states
from experiments.schedule.held import Held, Meter, Nothing, Verdict, so_far
from experiments.schedule.states import Saved
from experiments.schedule.tensorboard import Board
from experiments.schedule.work import Do, Ended, Epoch, Finished, MakeWork, Order, Outcome, Result, Spec, Work
from experiments.slots import Stage, Status
from mer.errors import UnfitMachine, UserError
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

    def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Carry out orders in turn. What goes wrong with one item ends that item, not the worker."""
        return [self._one(order, {later.item for later in orders[n + 1 :]}) for n, order in enumerate(orders)]

    def _one(self, order: Order, later: Collection[str]) -> Outcome:
        try:
            if order.do is Do.TRAIN:
                return self._train(order)
            if order.do is Do.PAUSE:
                return self._pause(order)
            return self._close(order, goes_on=order.item in later)
        except UserError as error:
            # The results cannot be written, or the trial cannot be made at all. The former blocks the whole run.
            if _is_storage(error):
                self._let_go()
                return Outcome(order, Ended.BLOCKED, reason=str(error))
            return self._failed(order, error)
        except Exception as error:
            peak = self._held.peak_memory_mb if self._held else None
            if is_out_of_memory(error):
                self._let_go()
                return Outcome(order, Ended.OUT_OF_MEMORY, reason=_one_line(error), peak_memory_mb=peak)
            if _is_device_error(error):
                return Outcome(order, Ended.BROKEN, reason=_one_line(error))
            return self._failed(order, error)

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
            saved = states.load(self.store, order.item)
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
        saved = states.load(self.store, order.item)
        if saved is not None:
            try:
                held.take_over(saved)
            except Exception:  # written by other code, or damaged: the item starts over
                held.work.close()
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
            meter = Meter()
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
        spec, meter = held.members[number].spec, Meter()
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
            if len(held.members) == 1 or isinstance(error, UserError):
                raise
            if is_out_of_memory(error) or _is_device_error(error):
                raise
            return Verdict(number, Status.FAILED, _one_line(error), Finished({}, 0))  # one member's doing, not all's

    # ---- writing ---------------------------------------------------------------------------------------------

    def _failed(self, order: Order, error: Exception) -> Outcome:
        """Commit an item that raised, with what raised it and where: every member that has not ended yet."""
        reason = _one_line(error)
        held = self._held
        if held is None or held.item != order.item:
            held = Held.fresh(order, Nothing(len(order.members)))
        failed = [Verdict(number, Status.FAILED, reason, Finished({}, 0)) for number in held.open]
        try:
            results = self._results(held, self._commit(held, order, failed))
        except UserError as blocked:
            self._let_go()
            return Outcome(order, Ended.BLOCKED, reason=str(blocked))
        self._drop(held)
        return Outcome(order, Ended.COMMITTED, results)

    def _checkpoint(self, held: Held, number: int) -> tuple[str, str | None]:
        """Write a member's model; its path below the results folder, and the digest of what was written."""
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
            self.ledger.append(*records)
        held.closed |= {verdict.number for verdict in found}
        if self.boards:
            for verdict, record in zip(found, records, strict=True):
                Board(self.boards).write(held.members[verdict.number].spec, record)
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
            provenance=provenance.here(),
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

    def _save(self, held: Held) -> None:
        saved: Saved = held.saved()
        states.save(self.store, held.item, saved)
        held.saved_at, held.unsaved = time.monotonic(), False

    def _leave(self, order: Order, held: Held, ended: Ended) -> Outcome:
        results = self._results(held, ())
        self._let_go()
        return Outcome(order, ended, results)

    def _drop(self, held: Held) -> None:
        """The item is over: nothing of it is needed any more."""
        states.drop(self.store, held.item)
        self._let_go()

    def _let_go(self) -> None:
        """Forget the item in hand, so that the fiftieth trial of a process runs as the first."""
        if self._held is None:
            return
        work: Work = self._held.work
        work.close()
        self._held = None
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def is_out_of_memory(error: BaseException) -> bool:
    """Out of device or host memory, by whatever name it comes."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "out of memory" in text


def _is_device_error(error: BaseException) -> bool:
    """After any other CUDA error nothing that this process computes can be trusted."""
    text = str(error)
    return any(sign in text for sign in ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "device-side assert", "NCCL"))


def _is_storage(error: UserError) -> bool:
    return isinstance(error, UnfitMachine) or isinstance(error.__cause__, OSError)


def _one_line(error: BaseException) -> str:
    """What was raised and where in the code it came from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}{where}"
