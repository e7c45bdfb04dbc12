"""No trial runs on a node that differs, be it there at the start or come later, or the driver's own: nodes of Ray on
one machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.experiments.small_run import make_plan
from experiments.results import identity
identity.recipe_code = lambda recipe: "the code of this test"
from experiments.results.ledger import Ledger
from experiments.schedule.fake import MakeFake
from experiments.schedule.run import execute
from experiments.space.plan import CorpusRef
from mer.errors import UserError
import ray
from ray.cluster_utils import Cluster

folder, policy = Path(sys.argv[1]), sys.argv[2]
head, early, late = (json.loads(word) for word in sys.argv[3:])
fake = folder / "fake" / "torch_geometric-9.9.9.dist-info"
fake.mkdir(parents=True)
(fake / "METADATA").write_text("Name: torch-geometric\\nVersion: 9.9.9\\n")
paths = os.pathsep.join([{root!r}, os.environ.get("PYTHONPATH", "")])

class Make(MakeFake):
    def __call__(self, spec):
        with (folder / "log").open("a") as stream:
            stream.write(os.environ.get("NODE", "none") + "\\n")
        if os.environ.get("NODE") == "later":
            (folder / "go").touch()
        while not (folder / "go").exists() and os.environ["NODE"] == "good":
            time.sleep(0.05)  # nothing ends before the late nodes are at work, or have been named
        return super().__call__(spec)

def node(name):
    path = os.pathsep.join([str(folder / "fake"), paths]) if name == "bad" else paths
    return {{"num_cpus": 2, "env_vars": {{"NODE": name, "PYTHONPATH": path}}}}

def add(name):
    return cluster.add_node(**node(name))

said = []
def say(text):
    said.append(text)
    if "bad" in late and sum("torch-geometric 9.9.9" in line for line in said) == (early + late).count("bad"):
        (folder / "go").touch()

found = {{}}
cluster = Cluster(initialize_head=True, head_node_args=node(head) if head else {{"num_cpus": 0}})
for name in early:
    add(name)
if not late:
    (folder / "go").touch()
corpus = CorpusRef("demo", Path("demo"), "f00d", ("audio",), False, True, address="demo")
plan = make_plan(cells=2, studies=2, draws=3, corpora={{"demo": corpus}})
def work():
    try:
        result = execute(plan, Ledger(str(folder / "results")), workers=4, address=cluster.address, progress=False,
                         make_work=Make(seconds=0.1), preflight=policy, say=say)
        found["counts"] = dict(result.counts)
    except UserError as error:
        found["error"] = str(error)

worker = threading.Thread(target=work)  # Ray adds nodes in the main thread alone
worker.start()
while late and not (folder / "log").exists() and worker.is_alive():
    time.sleep(0.05)
for name in late:
    add(name)
worker.join()
found["said"] = said
found["nodes"] = (folder / "log").read_text().split() if (folder / "log").exists() else []
found["left"] = [str(path) for path in (folder / "results" / "ledger" / "_probes").glob("*")]
print("FOUND " + json.dumps(found))
ray.shutdown()
cluster.shutdown()
"""


def run(tmp_path: Path, policy: str, early: list[str], late: list[str], head: str | None = None) -> dict[str, object]:
    """head: the driver's own node, which offers nothing to trials if it is None."""
    script = SCRIPT.format(root=str(Path(__file__).parents[3]))
    command = [sys.executable, "-c", script, str(tmp_path), policy, *map(json.dumps, (head, early, late))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stdout + done.stderr
    found: dict[str, object] = json.loads(lines[0].removeprefix("FOUND "))
    assert found["left"] == []  # the word in the results is gone
    return found


def test_a_node_that_differs_stops_the_run_before_any_trial(tmp_path: Path) -> None:
    found = run(tmp_path, "stop", ["good", "bad"], [])
    assert "1 of 2 nodes cannot be trusted with trials" in str(found["error"])
    assert "torch-geometric 9.9.9, the driver has" in str(found["said"])
    assert found["nodes"] == []


def test_the_drivers_own_node_is_looked_at_where_trials_may_run_there(tmp_path: Path) -> None:
    found = run(tmp_path, "drop", ["good"], [], head="bad")
    assert found["counts"] == {"complete": 12, "pruned": 4}
    assert set(found["nodes"]) == {"good"}  # type: ignore[call-overload]
    assert "torch-geometric 9.9.9, the driver has" in str(found["said"])


@pytest.mark.slow
def test_nodes_that_differ_are_left_out_whenever_they_come(tmp_path: Path) -> None:
    found = run(tmp_path, "drop", ["good", "bad"], ["bad"])
    assert found["counts"] == {"complete": 12, "pruned": 4}
    assert set(found["nodes"]) == {"good"}  # type: ignore[call-overload]
    assert Counter("9.9.9" in line for line in found["said"])[True] == 2  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_node_that_joins_is_used_once_it_has_been_looked_at(tmp_path: Path) -> None:
    found = run(tmp_path, "stop", ["good"], ["later"])
    assert found["counts"] == {"complete": 12, "pruned": 4}
    assert set(found["nodes"]) == {"good", "later"}  # type: ignore[call-overload]


@pytest.mark.slow
def test_a_node_that_joins_and_differs_stops_the_run_if_asked(tmp_path: Path) -> None:
    found = run(tmp_path, "stop", ["good"], ["bad"])
    assert "a node that joined cannot be trusted with trials" in str(found["error"])
    assert set(found["nodes"]) == {"good"}  # type: ignore[call-overload]
