"""A worker: carries out orders, one trial at a time, and writes what is finished into the ledger.

It knows nothing of Ray, of cells or of the protocol. Every order is complete in itself, so that it makes no
difference which worker carries it out: a trial that this worker does not hold is restored from its saved state, or
trained again from the beginning if there is none, with the same result.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.results import provenance
from experiments.results.ledger import Ledger
from experiments.results.records import Cost, EpochRow, TrialRecord
from experiments.results.schema import COMPLETE, METRICS
from experiments.schedule import states
from experiments.schedule.states import Saved
from experiments.schedule.tensorboard import Board
from experiments.schedule.work import Diverged, Do, Ended, Finished, MakeWork, Order, Outcome, Spec, Work
from experiments.slots import Stage, Status
from mer.errors import UnfitMachine, UserError
from mer.faults import visit
from mer.storage import LocalStore

SAVE_EVERY_S = 10.0
"""Seconds of training after which a state is saved at the next end of an epoch; what a crash costs at most."""

Beat = Callable[[Spec, int, float], bool]
"""Called after every epoch with the trial, its epochs so far and the last value; True: stop as soon as you can."""


@dataclass
class _Held:
    """The trial in hand."""

    spec: Spec
    work: Work
    rows: list[EpochRow] = field(default_factory=list)
    wall_s: float = 0.0
    device_s: float = 0.0
    peak_memory_mb: float | None = None
    energy_j: float | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def epochs(self) -> int:
        return max((row.epoch for row in self.rows), default=0)

    def curve(self) -> tuple[float, ...]:
        found = [(row.epoch, row.value) for row in self.rows if (row.split, row.metric) == ("valid", self.spec.metric)]
        return tuple(value for _, value in sorted(found))


class Worker:
    """Carries out orders with the work that `make_work` makes."""

    def __init__(self, root: str, make_work: MakeWork, *, beat: Beat | None = None, boards: str | None = None) -> None:
        self.ledger = Ledger(root)
        self.store = self.ledger.store
        self.make_work = make_work
        self.beat = beat or (lambda spec, epochs, value: False)
        self.boards = boards
        self._held: _Held | None = None

    def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Carry out orders in turn. What goes wrong with one trial ends that trial, not the worker."""
        return [self._one(order) for order in orders]

    def _one(self, order: Order) -> Outcome:
        try:
            if order.do is Do.TRAIN:
                return self._train(order)
            if order.do is Do.PAUSE:
                return self._pause(order)
            return self._close(order)
        except UserError as error:
            # The results cannot be written, or the trial cannot be made at all. The former blocks the whole run.
            self._let_go()
            if _is_storage(error):
                return Outcome(order, Ended.BLOCKED, reason=str(error))
            return self._failed(order, error)
        except Exception as error:
            held = self._held
            peak = held.peak_memory_mb if held else None
            if is_out_of_memory(error):
                self._let_go()
                return Outcome(order, Ended.OUT_OF_MEMORY, reason=_one_line(error), peak_memory_mb=peak)
            if _is_device_error(error):
                return Outcome(order, Ended.BROKEN, reason=_one_line(error))
            return self._failed(order, error)

    # ---- the three orders ------------------------------------------------------------------------------------

    def _train(self, order: Order) -> Outcome:
        before = self._held.wall_s if self._held is not None and self._held.spec.trial == order.spec.trial else 0.0
        held = self._take(order.spec)
        stop = self._epochs(held, order.until)
        if stop is not None:
            return stop(order)
        if held.work.finished or held.epochs >= order.spec.epochs:
            return self._finish(order, held, held.wall_s - before)
        reached = Outcome(order, Ended.REACHED, held.curve(), trained_s=held.wall_s - before)
        return dataclasses.replace(reached, peak_memory_mb=held.peak_memory_mb)

    def _pause(self, order: Order) -> Outcome:
        held = self._held
        if held is None or held.spec.trial != order.spec.trial:
            return Outcome(order, Ended.PAUSED)  # whoever holds it later starts from what is saved
        self._save(held)
        self._let_go()
        return Outcome(order, Ended.PAUSED, held.curve())

    def _close(self, order: Order) -> Outcome:
        """Commit a trial as pruned, out of memory or failed, with the epochs up to `until`."""
        if order.until:
            held = self._take(order.spec)
            stop = self._epochs(held, order.until)
            if stop is not None:
                return stop(order)
        else:  # nothing is to be computed any more
            saved = states.load(self.store, order.spec.trial)
            held = _Held(order.spec, _Nothing(), rows=saved.rows if saved else [])
        assert order.status is not None
        rows = [row for row in held.rows if not order.until or row.epoch <= order.until]
        held.rows = rows
        self._commit(held, order.status, order.reason, order=order, finished=_so_far(rows, order.spec))
        self._let_go()
        return Outcome(order, Ended.COMMITTED, held.curve(), order.status, order.reason)

    # ---- parts -----------------------------------------------------------------------------------------------

    def _take(self, spec: Spec) -> _Held:
        """The trial in hand, else restored, else new."""
        if self._held is not None and self._held.spec.trial == spec.trial:
            self._held.spec = spec
            return self._held
        self._let_go()
        work = self.make_work(spec)
        held = _Held(spec, work)
        saved = states.load(self.store, spec.trial)
        if saved is not None:
            try:
                work.restore(saved.payload)
                held.rows, held.wall_s, held.device_s = saved.rows, saved.wall_s, saved.device_s
                held.peak_memory_mb = saved.peak_memory_mb
                if saved.started:
                    held.started = datetime.fromisoformat(saved.started)
            except Exception:  # written by other code, or damaged: the trial starts over
                work.close()
                states.drop(self.store, spec.trial)
                held = _Held(spec, self.make_work(spec))
        self._held = held
        return held

    def _epochs(self, held: _Held, until: int) -> Callable[[Order], Outcome] | None:
        """Train; None when `until` is reached, else what to answer instead."""
        work = held.work
        while work.epochs_done < until and not work.finished:
            started, used, energy = time.perf_counter(), _device_clock(), provenance.energy_j()
            try:
                rows = work.run_to(work.epochs_done + 1)
                lost = next((row for row in rows if not math.isfinite(row.value)), None)
                if lost is not None:
                    raise Diverged(f"{lost.split} {lost.metric} became non-finite in epoch {lost.epoch}")
            except Diverged as error:
                _measure(held, started, used, energy)
                return self._diverged(held, error.reason)
            _measure(held, started, used, energy)
            held.rows += rows
            curve = held.curve()
            if self.beat(held.spec, held.epochs, curve[-1] if curve else 0.0):
                self._save(held)
                self._let_go()
                return lambda order: Outcome(order, Ended.INTERRUPTED, curve)
            if time.monotonic() - held.saved_at > SAVE_EVERY_S and not work.finished:
                self._save(held)
        return None

    def _finish(self, order: Order, held: _Held, trained: float) -> Outcome:
        started, used, energy = time.perf_counter(), _device_clock(), provenance.energy_j()
        finished = held.work.finish()
        numbers = [*finished.valid.values(), *(row.value for row in finished.scores)]
        numbers += [p for row in finished.predictions for p in row.probabilities]
        if not all(map(math.isfinite, numbers)):
            return self._diverged(held, "a score of the finished model is not a number")(order)
        _measure(held, started, used, energy)
        checkpoint = None
        if held.spec.slot.stage is Stage.CONFIRM and held.spec.keep != "none":
            visit("checkpoint.before")
            checkpoint = self._checkpoint(held)
            visit("checkpoint.after")
        self._commit(held, Status.COMPLETE, None, order=order, finished=finished, checkpoint=checkpoint)
        curve, peak = held.curve(), held.peak_memory_mb
        self._let_go()
        test = {row.metric: row.value for row in finished.scores if row.condition == COMPLETE}
        trained += time.perf_counter() - started
        return Outcome(order, Ended.COMMITTED, curve, Status.COMPLETE, None, trained, peak, test)

    def _diverged(self, held: _Held, reason: str) -> Callable[[Order], Outcome]:
        def answer(order: Order) -> Outcome:
            rows = [row for row in held.rows if math.isfinite(row.value)]
            held.rows = rows
            finished = _so_far(rows, held.spec)
            self._commit(held, Status.DIVERGED, reason, order=order, finished=finished)
            self._let_go()
            return Outcome(order, Ended.COMMITTED, held.curve(), Status.DIVERGED, reason)

        return answer

    def _failed(self, order: Order, error: Exception) -> Outcome:
        """Commit a trial that raised, with what raised it and where."""
        reason = _one_line(error)
        held = self._held
        if held is None or held.spec.trial != order.spec.trial:
            held = _Held(order.spec, _Nothing())
        try:
            self._commit(held, Status.FAILED, reason, order=order, finished=None)
        except UserError as blocked:
            self._let_go()
            return Outcome(order, Ended.BLOCKED, reason=str(blocked))
        self._let_go()
        return Outcome(order, Ended.COMMITTED, held.curve(), Status.FAILED, reason)

    def _checkpoint(self, held: _Held) -> str:
        name = f"checkpoints/{held.spec.trial}"
        if isinstance(self.store, LocalStore):
            held.work.save_checkpoint(self.store.folder / name, held.spec.keep)
            return name
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
        try:
            held.work.save_checkpoint(folder / "model", held.spec.keep)
            for file in sorted((folder / "model").rglob("*")):
                if file.is_file():
                    self.store.put(f"{name}/{file.relative_to(folder / 'model').as_posix()}", file.read_bytes())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return name

    def _commit(
        self,
        held: _Held,
        status: Status,
        reason: str | None,
        *,
        order: Order,
        finished: Finished | None,
        checkpoint: str | None = None,
    ) -> None:
        spec, done = held.spec, finished or Finished({}, 0)
        record = TrialRecord(
            key=spec.key,
            recipe=spec.recipe,
            status=status,
            attempt=order.spec.attempt,
            reason=reason,
            space=spec.space,
            cell=spec.slot.cell,
            draw=spec.slot.draw,
            valid=done.valid,
            best_epoch=done.best_epoch or None,
            rung=order.rung,
            rung_value=order.value,
            cutoff=order.cutoff,
            curve=held.rows,
            scores=done.scores,
            predictions=done.predictions,
            labels=done.labels,
            checkpoint=checkpoint,
            cost=Cost(held.wall_s, held.device_s, held.epochs, held.peak_memory_mb, held.energy_j),
            provenance=provenance.here(),
            random_weights=done.random_weights,
            synthetic=spec.corpus.synthetic if done.synthetic is None else done.synthetic,
            parameters=done.parameters,
            started=held.started,
            ended=datetime.now(UTC),
        )
        self.ledger.append(record)
        states.drop(self.store, spec.trial)
        if self.boards:
            Board(self.boards).write(spec, record)

    def _save(self, held: _Held) -> None:
        saved = Saved(
            rows=held.rows,
            wall_s=held.wall_s,
            device_s=held.device_s,
            peak_memory_mb=held.peak_memory_mb,
            started=held.started.isoformat(),
            payload=held.work.state(),
        )
        states.save(self.store, held.spec.trial, saved)
        held.saved_at = time.monotonic()

    def _let_go(self) -> None:
        """Forget the trial in hand, so that the fiftieth trial of a process runs as the first."""
        if self._held is None:
            return
        self._held.work.close()
        self._held = None
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


class _Nothing:
    """Stands in for the work of a trial that is only written down."""

    epochs_done, finished = 0, True

    def run_to(self, epoch: int) -> list[EpochRow]:
        return []

    def finish(self) -> Finished:
        return Finished({}, 0)

    def save_checkpoint(self, folder: Path, keep: str) -> None:
        return

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        return

    def memory_mb(self) -> float | None:
        return None

    def close(self) -> None:
        return


def _so_far(rows: Sequence[EpochRow], spec: Spec) -> Finished:
    """The best epoch among the rows there are, by the selection metric; the earliest of equals."""
    sign = 1.0 if spec.direction == "max" else -1.0
    values = [(sign * row.value, -row.epoch) for row in rows if (row.split, row.metric) == ("valid", spec.metric)]
    if not values:
        return Finished({}, 0)
    epoch = -max(values)[1]
    best = {row.metric: row.value for row in rows if row.split == "valid" and row.epoch == epoch}
    return Finished({metric: best[metric] for metric in METRICS if metric in best}, epoch)


def _measure(held: _Held, started: float, used: float, energy: float | None) -> None:
    held.wall_s += time.perf_counter() - started
    held.device_s += _device_clock() - used
    now = provenance.energy_j()
    if now is not None and energy is not None and now >= energy:
        held.energy_j = (held.energy_j or 0.0) + now - energy
    peak = held.work.memory_mb()
    if peak is not None:
        held.peak_memory_mb = max(peak, held.peak_memory_mb or 0.0)


def _device_clock() -> float:
    """Seconds of the device: time on a GPU, processor time of this process otherwise."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return time.perf_counter()
    return time.process_time()


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
