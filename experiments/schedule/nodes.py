"""The preflight on a Ray cluster: no trial runs on a node before it has been looked at.

Nodes that are there when a run starts are looked at before anything else. Of those that join later a worker may be
placed on one at once; it then waits, before it loads anything, until the driver has looked and has let it in. A node
that differs stops the run, or is left out: workers that were placed there go away, and the place that they leave is
held, so that no other is placed there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from experiments.cluster.preflight import (
    NodeView,
    Question,
    ask,
    inspect_node,
    judge,
    read_answer,
    remove_nonce,
    write_nonce,
)
from experiments.space.plan import CorpusRef
from mer.errors import UserError

ANSWER_S = 1800.0
"""How long a node may take to answer: a fresh one starts a process, imports packages, and hashes the corpus once."""

PATIENT_S = 60.0
"""How often it is said that an answer is still awaited."""

LOOK_S = 2.0
"""How often the driver looks for nodes that have joined."""

HINT = "Mend it, or go on without it: --preflight drop; --preflight off does not look."


class Guard:
    """Looks at nodes, and tells workers (through the run's `Pulse`) whether theirs is let in.

    policy  "stop": a node that differs ends the run; "drop": it is left out
    bundle  what one worker takes of a node
    """

    def __init__(
        self,
        results: str,
        corpora: Mapping[str, CorpusRef],
        *,
        policy: str,
        bundle: Mapping[str, float],
        say: Callable[[str], None],
    ) -> None:
        import ray as installed

        self._ray: Any = installed  # parts of it are untyped
        self.results, self.policy, self.say = results, policy, say
        self._bundle = {kind: amount for kind, amount in bundle.items() if amount and kind != "memory"}
        self._corpora = {name: (str(ref.folder.absolute()), ref.address) for name, ref in corpora.items()}
        self._fingerprints = {name: ref.fingerprint for name, ref in corpora.items() if ref.address is None}
        self._asked: dict[str, tuple[Any, float, Mapping[str, Any]]] = {}
        self._verdicts: dict[str, list[str]] = {}
        self._held: list[Any] = []
        self._pulse: Any = None
        self._own: tuple[Question, NodeView] | None = None
        self._looked = 0.0

    def start(self) -> None:
        """Look at every node that is there, and come back when all have answered."""
        self._ask_new()
        waited = time.monotonic()
        while self._asked:
            self._take_answers()
            if time.monotonic() - waited > PATIENT_S:
                waited = time.monotonic()
                names = ", ".join(str(node["NodeManagerAddress"]) for _, _, node in self._asked.values())
                self.say(f"preflight: waiting for {names}")
            time.sleep(0.1)
        bad = {node for node, problems in self._verdicts.items() if problems}
        if bad and (self.policy == "stop" or len(bad) == len(self._verdicts)):
            raise UserError(f"{len(bad)} of {len(self._verdicts)} nodes cannot be trusted with trials (see above)",
                            hint=HINT)  # fmt: skip

    def attach(self, pulse: Any) -> None:
        """Tell workers from now on, through the run's pulse, who is let in."""
        self._pulse = pulse
        for node, problems in self._verdicts.items():
            self._tell(node, problems)

    def look(self) -> None:
        """Look for nodes that have joined, and take answers; called on every turn of the driver's loop."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        self._ask_new()
        for node, problems in self._take_answers():
            self._tell(node, problems)
            if problems and self.policy == "stop":
                raise UserError("a node that joined cannot be trusted with trials (see above)", hint=HINT)

    def close(self) -> None:
        """Let go of the nodes that were left out."""
        for place in self._held:
            self._ray.util.remove_placement_group(place)
        self._held.clear()
        if self._own is not None:
            remove_nonce(self.results, self._own[0].nonce)
            self._own = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    # ---- asking ----------------------------------------------------------------------------------------------

    def _ask_new(self) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        fresh = [node for node in self._ray.nodes() if self._is_new(node)]
        if not fresh:
            return
        question, _ = self._prepared()
        look = self._ray.remote(num_cpus=0, max_retries=0)(inspect_node)
        for node in fresh:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answer = look.options(scheduling_strategy=there).remote(ask(question))
            self._asked[node["NodeID"]] = answer, time.monotonic(), node
        names = ", ".join(str(node["NodeManagerAddress"]) for node in fresh)
        self.say(f"preflight: {len(fresh)} node{'' if len(fresh) == 1 else 's'}: {names}")

    def _is_new(self, node: Mapping[str, Any]) -> bool:
        offers = node["Resources"].get("CPU") or node["Resources"].get("GPU")
        known = node["NodeID"] in self._asked or node["NodeID"] in self._verdicts
        return bool(node["Alive"] and offers and not known)

    def _prepared(self) -> tuple[Question, NodeView]:
        """The question, once there is somebody to be asked, and what this machine itself answers to it."""
        if self._own is None:
            question = Question(self.results, write_nonce(self.results), self._corpora)
            # The driver has read its folders when it planned.
            elsewhere = {name: place for name, place in self._corpora.items() if place[1] is not None}
            mine = read_answer(inspect_node(ask(replace(question, corpora=elsewhere))))
            assert mine is not None
            self._own = question, replace(mine, corpora={**mine.corpora, **self._fingerprints})
        return self._own

    # ---- answers ---------------------------------------------------------------------------------------------

    def _take_answers(self) -> list[tuple[str, list[str]]]:
        found = []
        for name, (answer, since, node) in list(self._asked.items()):
            done, _ = self._ray.wait([answer], timeout=0)
            if not done and time.monotonic() - since < ANSWER_S:
                continue
            del self._asked[name]
            problems = self._judged(answer, since, node) if done else [f"no answer within {ANSWER_S:.0f} s"]
            if problems is None:
                continue
            self._verdicts[name] = problems
            found.append((name, problems))
            if problems:
                self.say(f"preflight: {node['NodeManagerAddress']} differs:\n  " + "\n  ".join(problems))
                self._hold(node)
        return found

    def _judged(self, answer: Any, since: float, node: Mapping[str, Any]) -> list[str] | None:
        """What speaks against a node; None where it has left again, as spot instances do."""
        question, driver = self._prepared()
        try:
            view = read_answer(self._ray.get(answer))
        except Exception as error:  # another version may not even understand the question
            if not any(other["Alive"] for other in self._ray.nodes() if other["NodeID"] == node["NodeID"]):
                return None
            return [f"cannot answer, as when it has another version of the project: {str(error).splitlines()[-1]}"]
        if view is None:
            return ["has another version of the project"]
        return judge(
            driver,
            view,
            question.nonce,
            needs_gpu="GPU" in self._bundle,
            offers_gpus=node["Resources"].get("GPU", 0),
            between=(time.time() - (time.monotonic() - since), time.time()),
        )

    def _tell(self, node: str, problems: list[str]) -> None:
        self._pulse.admit.remote(node, not problems)

    def _hold(self, node: Mapping[str, Any]) -> None:
        """Take every place of a node as it becomes free. Placement groups need no process, and end with the driver."""
        from ray.util.placement_group import placement_group

        there = {"ray.io/node-id": node["NodeID"]}
        offered = (node["Resources"].get(kind, 0) / amount for kind, amount in self._bundle.items())
        for _ in range(int(min(offered) + 1e-9)):
            self._held.append(placement_group([dict(self._bundle)], bundle_label_selector=[there]))


def wait_for_admission(pulse: Any) -> bool:
    """On a worker: is this node let in? Waits until the driver knows."""
    import ray as installed

    ray: Any = installed
    node = ray.get_runtime_context().get_node_id()
    while True:
        verdict = ray.get(pulse.admitted.remote(node))
        if verdict is not None:
            return bool(verdict)
        time.sleep(0.5)
