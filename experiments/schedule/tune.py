"""The Ray Tune executor: one experiment for the whole plan, in which a Tune trial is a *worker*.

Tune places workers on the cluster, starts them, restarts those that die, and uses nodes as they join. Which trial of
the plan a worker trains is decided by the protocol (`Session`): the Searcher says how many workers there should be, the
TrialScheduler hands results to the session and orders to the workers. Neither holds a decision of its own.

Why a Tune trial is not a trial of the plan: benchmarks/README.md, "Trials per worker". With one Tune trial per trial
and reused actors (`reuse_actors=True`, Ray 2.60) each costs a placement, a reset and a file tree, the driver keeps a
record of each for ever, pausing goes through a checkpoint, and a worker is free only after another round through Tune's
loop. A worker that is handed orders costs one actor call for each, and Tune's memory does not grow with trials.

A step of the Trainable carries out the orders that the driver sent ahead of it (calls of one caller to one actor keep
their order) and returns the outcomes as its result. What a worker does between two results is seen by `Pulse`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray import cloudpickle, tune
from ray.tune import PlacementGroupFactory
from ray.tune.callback import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from experiments.schedule.blame import one_line
from experiments.schedule.cluster import last_line
from experiments.schedule.nodes import Guard, wait_for_admission
from experiments.schedule.occupancy import Occupancy
from experiments.schedule.packing import Packing
from experiments.schedule.pinning import settle, small_steps
from experiments.schedule.pulse import Pulse
from experiments.schedule.session import Session
from experiments.schedule.work import Do, Ended, MakeWork, Order, Outcome, Spec
from experiments.schedule.worker import Worker
from experiments.space.plan import Resources
from mer.data.store.shared import VARIABLE as FEATURES
from mer.errors import UserError

IDLE_S = (0.01, 0.25)
"""How long an idle worker waits before it asks again: at first, and at most."""

STILLBORN = 8
"""Workers that are lost one after the other, with no result in between, before the run gives up. One that raises an
error while it starts, before any has worked, ends the run at once: the next would say the same."""

GRACE_S = 30.0
"""After the budget or Ctrl-C, how long running epochs may take to end before their workers are stopped."""


@dataclass(frozen=True)
class Settings:
    """What a worker process is made with."""

    root: str
    make_work: MakeWork
    boards: str | None = None
    cwd: str | None = None
    """The user's working directory: relative paths mean the same on every worker that has it."""
    modules: tuple[str, ...] = ()
    """Imported when a worker starts, so that its first trial is as quick as its second."""
    guarded: bool = False
    """Does a worker ask whether its node is let in?"""
    features: str | None = None
    """The feature store that machines share."""


class WorkerTrainable(tune.Trainable):
    """A worker as Tune sees it. `step` carries out what `assign` brought."""

    def setup(self, config: dict[str, Any], settings: Settings | None = None, pulse: Any = None) -> None:
        import importlib

        assert settings is not None
        self._name = str(config["worker"])
        self._pulse = pulse
        self._answer: Any = None
        self._orders: list[Order] = []
        self._idle = IDLE_S[0]
        self._refused = settings.guarded and not wait_for_admission(pulse)
        if self._refused:
            return
        if settings.features:
            os.environ[FEATURES] = settings.features
        if settings.cwd and Path(settings.cwd).is_dir():
            os.chdir(settings.cwd)
            sys.path.append(settings.cwd)  # last, as for the driver
        for module in settings.modules:
            importlib.import_module(module)
        self._occupancy = Occupancy()
        if not config["gpus"] and "torch" in settings.modules:
            settle(small_steps())
        self._worker = Worker(settings.root, settings.make_work, beat=self._beat, boards=settings.boards)

    def assign(self, orders: list[Order]) -> None:
        self._orders = orders

    def step(self) -> dict[str, Any]:
        if self._refused:
            return {"outcomes": None, "refused": True}
        if not self._orders:
            time.sleep(self._idle)
            self._idle = min(self._idle * 2, IDLE_S[1])
            return {"outcomes": None}
        self._idle = IDLE_S[0]
        orders, self._orders = self._orders, []
        self._beat(orders[-1].spec, 0, 0.0)
        self._occupancy.start()
        outcomes = self._worker.run(orders)
        return {"outcomes": outcomes, "device_mb": _device_memory_mb(), "busy": self._occupancy.stop()}

    def _beat(self, spec: Spec, epochs: int, value: float) -> bool:
        """Tell that this worker lives; the answer to an earlier call says whether to stop. Never waits.

        A driver that is cut off, or was ended, does not hear it. That says nothing about the trial, which goes on.
        """
        stop = False
        try:
            if self._answer is not None:
                done, _ = ray.wait([self._answer], timeout=0)
                if not done:
                    return False
                stop = bool(ray.get(self._answer))
            self._answer = self._pulse.beat.remote(self._name, str(spec.slot), epochs, value)
        except ray.exceptions.RayError:
            self._answer = None
        return stop


class WorkerSearcher(Searcher):
    """Says how many workers there should be. Tune's own limiter is fixed at start and counts paused trials."""

    def __init__(self, crew: Crew) -> None:
        super().__init__(metric="outcomes", mode="max")
        self.crew = crew

    def suggest(self, trial_id: str) -> Any:
        return self.crew.hire(trial_id)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.crew.left(trial_id)

    def save(self, checkpoint_path: str) -> None:
        return

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run is resumed from the ledger, never from Tune's state")


class WorkerScheduler(TrialScheduler):
    """Hands outcomes to the session and its orders to workers."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        return

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.crew.died(trial.trial_id, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self.crew.result(trial, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.crew.left(trial.trial_id)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.crew.left(trial.trial_id)

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        return None  # pending workers are started by Tune in the order they came

    def debug_string(self) -> str:
        return "workers of one plan"


class Crew(Callback, Stopper):
    """The workers of a run, between Tune and the session."""

    def __init__(
        self,
        session: Session,
        packing: Packing,
        pulse: Any,
        *,
        workers: int | None,
        hang_s: float,
        tick: Callable[[Crew], None] | None,
        choosy: bool = False,
    ) -> None:
        """choosy: nodes where workers cannot run are left out"""
        self._choosy = choosy
        self.session, self.packing, self.pulse = session, packing, pulse
        self.workers, self.hang_s, self._tick = workers, hang_s, tick
        self.shares: dict[str, float] = {}
        """Worker to its share of a GPU."""
        self.actors: dict[str, Any] = {}
        self.vital: dict[str, tuple[str, int, float, float]] = {}
        self._large: set[str] = set()
        self._why: dict[str, str] = {}
        self._reading: Any = None
        self._looked = 0.0
        self._room = 1
        self._stopping_since: float | None = None
        self._stillborn, self._begun = 0, False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its stopper into a snapshot that nobody reads, and a terminal cannot be pickled."""
        return {}

    # ---- Searcher

    def hire(self, worker: str) -> dict[str, Any] | str | None:
        if self.session.finished or self.session.ending:
            return str(Searcher.FINISHED)
        share = self.packing.share
        if self.session.wants_large and not self._large:
            share = self.packing.larger
            self._large.add(worker)
        elif len(self.shares) - len(self._large) >= self._wanted():
            return None
        self.shares[worker] = share
        return {"worker": worker, "gpus": share}

    def left(self, worker: str) -> None:
        for known in (self.shares, self.actors, self.vital, self._why):
            known.pop(worker, None)
        self._large.discard(worker)

    def _wanted(self) -> int:
        room = self.workers if self.workers is not None else max(self._room, 1)
        return min(room, max(self.session.remaining(), 1))

    # ---- TrialScheduler

    def result(self, trial: Any, result: dict[str, Any]) -> bool:
        """Report what a worker has done, send it what comes next; False: the worker is not needed any more."""
        self._stillborn, self._begun = 0, True
        try:
            return self._result(trial, result)
        except Exception as error:  # the results cannot be written, say; Tune would bury the message in a traceback
            self._block(error)
            return False

    def _block(self, error: Exception) -> None:
        self.session.block(str(error) if isinstance(error, UserError) else one_line(error))

    def _result(self, trial: Any, result: dict[str, Any]) -> bool:
        worker = trial.trial_id
        self.actors[worker] = trial.temporary_state.ray_actor
        outcomes: list[Outcome] | None = result.pop("outcomes", None)
        if result.pop("refused", False):
            return False  # its node is left out: another worker takes its place elsewhere
        orders: list[Order] = []
        if outcomes is not None:
            self.packing.measured(outcomes, result.get("device_mb"), result.get("busy"))
            orders = self.session.report(worker, outcomes)
            if any(outcome.ended is Ended.BROKEN for outcome in outcomes):
                self._why[worker] = "its device failed"
                ray.kill(self.actors[worker])  # Tune starts another in its place
                return True
        large = worker in self._large
        if not orders and not large and self.shares.get(worker) != self.packing.share:
            return False  # a worker of an earlier phase: one of today's share takes its place
        if not orders:
            orders = self.session.orders(worker, large=large)
        if large and not orders and not self.session.wants_large:
            return False
        if orders:
            trial.temporary_state.ray_actor.assign.remote(orders)
        return not self.session.finished

    def died(self, worker: str, trial: Any = None) -> None:
        self._stillborn += 1
        error = _last_error(trial)
        why = "see Ray's logs" if error is None else last_line(str(error)) or type(error).__name__
        if getattr(error, "actor_init_failed", False) and not self._begun and not self._choosy:
            self.session.block(f"workers cannot be started: {why}")
        elif self._stillborn > STILLBORN and self.session.ending is None:
            self.session.ending = f"{self._stillborn} workers in a row could not be started: {why}"
        self.actors.pop(worker, None)
        self.vital.pop(worker, None)
        why = self._why.pop(worker, "its process or machine was lost")
        self.session.lost(worker, why, blameless=_machine_was_taken(str(error)))

    # ---- Callback and Stopper: called on every turn of Tune's loop

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        if now - self._looked > 1.0:
            self._looked = now
            self._room = self.packing.room(cast("dict[str, float]", ray.cluster_resources()))  # type: ignore[no-untyped-call]
            self._read_pulse()
        if self.session.overtime and self._stopping_since is None:
            self._stopping_since = now
            self.pulse.stop.remote()
        if self._tick is not None:
            try:
                self._tick(self)
            except Exception as error:
                self._block(error)

    def _read_pulse(self) -> None:
        if self._reading is not None:
            done, _ = ray.wait([self._reading], timeout=0)
            if not done:
                return
            try:
                self.vital = ray.get(self._reading)
            except ray.exceptions.RayError:
                self._reading = None
                return
            for worker, (slot, epochs, _, silent) in self.vital.items():
                # Before the first epoch a worker may be extracting features for hours.
                limit = self.hang_s if epochs else self.hang_s * 4
                if silent > limit and worker in self.actors and worker in self.session.busy_workers():
                    self._why[worker] = f"no sign of life for {silent:.0f} s while training {slot}"
                    ray.kill(self.actors.pop(worker))
        self._reading = self.pulse.read.remote()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.session.finished:
            return True
        since = self._stopping_since
        return since is not None and time.monotonic() - since > GRACE_S


def run_tune(
    session: Session,
    settings: Settings,
    resources: Resources,
    *,
    workers: int | None = None,
    gpus: float | None = 0.0,
    hang_s: float = 1800.0,
    tick: Callable[[Crew], None] | None = None,
    guard: Guard | None = None,
) -> None:
    """Run a session to its end on the Ray cluster that this process is connected to.

    gpus   a trial's share of a GPU; None: by measured peak memory and occupancy
    guard  looks at nodes before trials run there
    """
    packing = Packing(cpus=resources.cpus, gpus=gpus, memory=resources.memory)
    # Beside the driver: on a worker's machine it would be lost with that machine.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    pulse: Any = ray.remote(Pulse).options(num_cpus=0, scheduling_strategy=here).remote()
    if guard is not None:
        guard.attach(pulse)
    choosy = guard is not None and guard.policy == "drop"
    crew = Crew(session, packing, pulse, workers=workers, hang_s=hang_s, tick=tick, choosy=choosy)
    trainable = tune.with_resources(
        tune.with_parameters(WorkerTrainable, settings=settings, pulse=pulse),
        lambda config: PlacementGroupFactory([packing.bundle(config["gpus"])]),
    )
    folder = tempfile.mkdtemp(prefix="mer-tune-")
    try:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=WorkerSearcher(crew), scheduler=WorkerScheduler(crew), num_samples=-1, reuse_actors=False
            ),
            run_config=tune.RunConfig(
                name="workers",
                storage_path=folder,
                stop=crew,
                callbacks=[crew],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=-1),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        ray.kill(pulse)


def _last_error(trial: Any) -> Exception | None:
    """Why a worker died, as Tune has noted it in its own folder; None where it has not, or it cannot be read here."""
    try:
        found: Exception = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:
        return None
    return found


def _machine_was_taken(error: str) -> bool:
    """Was a worker lost with its machine: pre-empted, or gone?"""
    return any(sign in error for sign in ("preempt", "node has died", "node was terminated", "NodeDied"))


def _device_memory_mb() -> float | None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1]) / 1e6
    return None


__all__ = ["Crew", "Do", "Settings", "run_tune"]
