"""A run on Ray: connect, look at the nodes, choose shares of GPUs and where features are shared, then train."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.results.ledger import Ledger
from experiments.schedule.cluster import Connected, connect, gpu_share, is_shared
from experiments.schedule.nodes import Guard
from experiments.schedule.packing import Packing
from experiments.schedule.progress import At
from experiments.schedule.run import Running
from experiments.schedule.tune import Crew, Settings, run_tune
from experiments.space.plan import Plan
from mer.data.store.shared import VARIABLE as FEATURES
from mer.errors import refuse_secrets
from mer.storage import is_address


@dataclass
class OnRay:
    """What was asked of Ray; see `experiments.schedule.run.execute` for each."""

    plan: Plan
    address: str | None
    gpus_per_trial: float | str | None
    hang_s: float
    preflight: str
    features: str | None
    origin: Callable[[], str] | None
    say: Callable[[str], None]

    def execute(self, running: Running) -> float:
        """Run to the end; when the first order could be given, by the monotonic clock."""
        plan, say = self.plan, self.say
        with running.interrupt.elsewhere():
            connected = connect(self.address, workers=running.workers, cpus=plan.resources.cpus)
        if connected.private:
            _end_without_asking()
        say(str(connected))
        if self.origin is not None and not connected.private:
            say(self.origin())
        gpus = gpu_share(plan.resources.gpus if self.gpus_per_trial is None else self.gpus_per_trial, say)
        guard = self._guard(running.root, connected, gpus)
        work = running.make_work
        modules = ("torch",) if work.__module__.endswith("training_work") else ()
        place = self._features_place(running.publisher.ledger, is_shared(connected))
        settings = Settings(running.root, work, running.boards, os.getcwd(), modules, guard is not None, place)

        def tick(crew: Crew) -> None:
            if guard is not None:
                guard.look()
            running.tell({worker: At(*seen) for worker, seen in crew.vital.items()})

        try:
            if guard is not None:
                guard.start()
            ready = time.monotonic()
            run_tune(
                running.session, settings, plan.resources,
                workers=running.workers, gpus=gpus, hang_s=self.hang_s, tick=tick, guard=guard,
            )  # fmt: skip
        finally:
            if guard is not None:
                guard.close()
        return ready

    def _guard(self, root: str, connected: Connected, gpus: float | None) -> Guard | None:
        if self.preflight == "off" or connected.private:
            return None
        packing = Packing(cpus=self.plan.resources.cpus, gpus=gpus)
        bundle = packing.bundle(packing.share)
        return Guard(root, self.plan.corpora, policy=self.preflight, bundle=bundle, say=self.say)

    def _features_place(self, ledger: Ledger, shared: bool) -> str | None:
        """Where machines share what encoders extract; None: each keeps its own."""
        place = self.features or os.environ.get(FEATURES) or (ledger.store.path("_features") if shared else None)
        if place is None or place == "off":
            return None
        refuse_secrets(place)
        self.say(f"features are shared in {place}")
        return place if is_address(place) else str(Path(place).absolute())


def _end_without_asking() -> None:
    """Ray's own processes hear no SIGTERM here (`Interrupt.elsewhere`), with which Ray would ask each of them to end
    and wait for it: after the second in which workers end they are killed."""
    ray: Any = importlib.import_module("ray")
    node = getattr(ray._private.worker, "_global_node", None)
    if node is None:
        return
    kill = node.kill_all_processes

    def act(**asked: object) -> None:
        time.sleep(1.0)
        kill(check_alive=False, allow_graceful=False)

    node.kill_all_processes = act
