"""The preflight on a Ray cluster: every node is asked, and one that differs stops the run or is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from experiments.cluster.preflight import NodeView, inspect_node, judge, remove_probes, write_nonce
from mer.errors import UserError

ANSWER_S = 120.0
"""How long a node may take to answer: a fresh one first has to start a worker process and import its packages."""


def preflight(
    results: str, corpora: Mapping[str, str], *, policy: str, needs_gpu: bool, say: Callable[[str], None]
) -> list[Any]:
    """Check every node of the connected cluster before any trial.

    policy   "stop": refuse to run where a node differs; "drop": go on without it
    Returns handles that must be kept for the length of the run: they hold the resources of the nodes left out.
    """
    import ray as installed
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray: Any = installed  # parts of it are untyped
    nodes = [node for node in ray.nodes() if node["Alive"] and _offers_work(node)]
    here = ray.get_runtime_context().get_node_id()
    if all(node["NodeID"] == here for node in nodes):
        return []  # one machine, this one: nothing could differ
    folders = tuple(corpora.values())
    nonce = write_nonce(results)
    driver = inspect_node(results, folders)
    look = ray.remote(num_cpus=0, max_retries=0)(inspect_node)
    asked = {
        node["NodeID"]: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(results, folders)
        for node in nodes
    }
    say(f"preflight: {len(nodes)} nodes, project {driver.commit or 'not a checkout'}, ray {driver.packages['ray']}")
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
    problems: dict[str, list[str]] = {}
    for node in nodes:
        view = _answer(ray, asked[node["NodeID"]])
        found = [view] if isinstance(view, str) else judge(driver, view, nonce, needs_gpu=needs_gpu)
        if found:
            problems[node["NodeID"]] = found
            say(f"preflight: {node['NodeManagerAddress']}: " + "; ".join(found))
    remove_probes(results)
    if not problems:
        return []
    if policy == "stop" or len(problems) == len(nodes):
        raise UserError(
            f"{len(problems)} of {len(nodes)} nodes cannot be trusted with trials (see above)",
            hint="Mend them, or go on without them: --preflight drop; --preflight off does not look.",
        )
    return [_occupy(ray, node) for node in nodes if node["NodeID"] in problems]


def _offers_work(node: Mapping[str, Any]) -> bool:
    resources = node["Resources"]
    return bool(resources.get("CPU") or resources.get("GPU"))


def _answer(ray: Any, reference: Any) -> NodeView | str:
    try:
        view: NodeView = ray.get(reference, timeout=0.1)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {ANSWER_S:.0f} s"
    except Exception as error:  # another version may not even be able to unpickle the question
        return f"cannot answer: {str(error).splitlines()[-1]}"
    return view


def _occupy(ray: Any, node: Mapping[str, Any]) -> Any:
    """Hold all CPUs and GPUs of a node, so that no trial lands there; let go when the driver ends."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class LeftOut:
        pass

    resources = node["Resources"]
    return (
        ray.remote(LeftOut)
        .options(
            num_cpus=resources.get("CPU", 0),
            num_gpus=resources.get("GPU", 0),
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote()
    )
