"""docs/clusters.md, "Machines that you have", followed literally on hosts of one machine; then hosts come and go.

One laboratory for the whole file, and the tests go through it in order: a desk from which everything is started, a head
that trains nothing, two workers, and later a third.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

ON_DESK = "cd ~/mer-ablation && export PATH=$HOME/venv/bin:$PATH RAY_AUTH_MODE=token && "
WITHOUT_TOKEN = "rm -f ~/.ray/auth_token; unset RAY_AUTH_TOKEN; "


@dataclass
class Site:
    """A cluster of hosts and the desk from which it is used."""

    lab: Any

    def desk(self, command: str, *, check: bool = True, timeout: float = 600) -> str:
        return str(self.lab.ssh("desk", ON_DESK + command, check=check, timeout=timeout))

    def up(self, nodes: int) -> None:
        self.desk("ray up -y my-onprem.yaml")
        self.wait_for(nodes)

    def wait_for(self, nodes: int) -> None:
        until(lambda: self.alive() >= nodes, f"{nodes} nodes, the last look found {self.alive()}")

    def alive(self) -> int:
        """Nodes of the cluster, the head included, by the head's own count."""
        status = self.lab.ssh("head", "ray status", check=False)
        active = re.search(r"Active:(.*?)Pending:", status, re.S)
        return sum(int(n) for n in re.findall(r"^ (\d+) ", active[1], re.M)) if active else 0

    def submit(self, space: str, results: str, *, check: bool = True) -> str:
        return self.desk(
            f"ray submit my-onprem.yaml experiments/run_ablation.py -- --space /mnt/shared/{space}.yaml "
            f"--data /mnt/shared/tiny --results /mnt/shared/{results}; echo exit code $?",
            check=check,
            timeout=1200,
        )

    def begin(self, space: str, results: str, *, on: str) -> Submitted:
        """Submit in the background and come back when a host has finished a trial: it is at the next one by then."""
        submitted = Submitted(self, space, results)
        until(lambda: on in self.hosts(results) or not submitted.is_alive(), f"a trial finished on {on}")
        assert submitted.is_alive(), f"the run ended before anything could happen to it:\n{submitted.said}"
        return submitted

    def hosts(self, results: str) -> list[str]:
        """The host of each trial that has ended, as the ledger has it."""
        import pyarrow.parquet as parquet

        folder = self.lab.shared / results / "ledger"
        return [
            parquet.read_table(folder / name, columns=["host"])["host"][0].as_py() for name in self.finished(results)
        ]

    def finished(self, results: str) -> set[str]:
        """Files of the ledger: one for each trial that has ended."""
        return {path.name for path in (self.lab.shared / results / "ledger").glob("[!_]*.parquet")}


class Submitted(threading.Thread):
    def __init__(self, site: Site, space: str, results: str) -> None:
        super().__init__(daemon=True)
        self.site, self.space, self.results, self.said = site, space, results, ""
        self.start()

    def run(self) -> None:
        self.said = self.site.submit(self.space, self.results, check=False)

    def end(self) -> str:
        self.join()
        return self.said


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something that takes as long as the machine is busy; an hour means never."""
    deadline = time.monotonic() + 3600
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(1)


def substituted(text: str, *, head: str, workers: list[str]) -> str:
    """The shipped file with what it marks CHANGE changed, and nothing else."""
    changes = {
        "head_ip: 10.0.0.1": f"head_ip: {head}",
        "worker_ips: [10.0.0.2, 10.0.0.3]": f"worker_ips: [{', '.join(workers)}]",
        "ssh_user: lab": "ssh_user: root",
        "/home/lab/": "/mnt/home/",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def site(shared_lab: Any, spaces: Any) -> Site:
    lab = shared_lab
    for name in ("desk", "head", "one", "two"):
        lab.add(name)
    spaces.folder = lab.shared
    spaces.write("small", epochs=60)
    spaces.write("long", epochs=300, studies=3)
    home = lab.hosts["desk"].home
    spaces.project = lab.clone_project("desk")
    (home / ".ssh" / "id_ed25519").write_text(lab.key.read_text())
    (home / ".ssh" / "id_ed25519").chmod(0o600)
    shipped = (home / "mer-ablation" / "cluster" / "onprem.yaml").read_text()
    addresses = {name: lab.hosts[name].address for name in ("head", "one", "two")}
    mine = substituted(shipped, head=addresses["head"], workers=[addresses["one"], addresses["two"]])
    (home / "mer-ablation" / "my-onprem.yaml").write_text(mine)
    found = Site(lab)
    found.desk("pip install -q -c constraints.txt -e .")
    found.desk("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
    assert "0 errors" in found.desk("mer cluster check my-onprem.yaml")
    found.up(3)
    return found


def test_a_space_runs_over_the_hosts(site: Site, spaces: Any) -> None:
    said = site.submit("small", "first")
    assert "exit code 0" in said
    assert "preflight: 2 nodes" in said
    assert "Traceback" not in said
    results = site.lab.shared / "first"
    assert spaces.rows(results, "small") == spaces.alone("small")
    assert set(spaces.column(results, "small", "status")) == {"complete"}
    assert set(spaces.column(results, "small", "host")) == {"mer-one", "mer-two"}  # both workers, and not the head
    assert (results / "small" / "report" / "index.html").exists()


def test_nobody_joins_or_looks_without_the_token(site: Site) -> None:
    """A third host, before it is given the token. With it, it joins: the others were refused for lack of it."""
    lab = site.lab
    head = lab.hosts["head"].address
    lab.add("three")
    join = f"~/venv/bin/ray start --address={head}:6379 --disable-usage-stats; echo exit code $?; ~/venv/bin/ray stop"
    for attempt in (
        WITHOUT_TOKEN + "RAY_AUTH_MODE=disabled " + join,
        WITHOUT_TOKEN + "RAY_AUTH_MODE=token " + join,
        WITHOUT_TOKEN + "export RAY_AUTH_TOKEN=" + "0" * 64 + "; RAY_AUTH_MODE=token " + join,
    ):
        said = lab.ssh("three", attempt, check=False)
        assert "exit code 0" not in said, said
        assert site.alive() == 3
    for name in ("three", "desk"):  # dashboard and job port
        assert lab.ssh(name, _knock(head, 8265)).strip() == "closed"
    assert lab.ssh("head", _knock("127.0.0.1", 8265)).strip() == "open"
    assert _asked_for_jobs(site, "head", "127.0.0.1:8265") == ["401", "403", "200"]
    assert _asked_for_jobs(site, "desk", f"{head}:52365")[:2] == ["401", "403"]  # the agent's own port, which Ray opens


def _asked_for_jobs(site: Site, name: str, address: str) -> list[str]:
    """What the job interface answers: without a token, with a wrong one, with the right one."""
    return list(site.lab.ssh(name, f"~/venv/bin/python - {address} <<'END'\n{ASK_FOR_JOBS}END").split())


ASK_FOR_JOBS = """\
import os, sys, urllib.error, urllib.request
for token in (None, "0" * 64, open(os.path.expanduser("~/.ray/auth_token")).read().strip()):
    headers = {"Authorization": "Bearer " + token} if token else {}
    request = urllib.request.Request(f"http://{sys.argv[1]}/api/jobs/", headers=headers)
    try:
        print(urllib.request.urlopen(request).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


def _knock(host: str, port: int) -> str:
    knock = f"s.connect_ex(({host!r}, {port})) and 'closed' or 'open'"
    code = f"import socket; s = socket.socket(); s.settimeout(5); print({knock})"
    return f'~/venv/bin/python -c "{code}"'


def test_a_worker_dies_and_another_joins(site: Site, spaces: Any) -> None:
    """Power off one of two workers in the middle of a run, and start a third by hand, as the docs say."""
    lab = site.lab
    _furnish(site, "three")
    run = site.begin("long", "faults", on="mer-one")
    lab.hosts["one"].kill()
    before = site.hosts("faults").count("mer-one")
    head = lab.hosts["head"].address
    lab.ssh("three", f"RAY_AUTH_MODE=token ~/venv/bin/ray start --address={head}:6379 --disable-usage-stats")
    said = run.end()
    assert "exit code 0" in said, said
    results = lab.shared / "faults"
    assert spaces.rows(results, "long") == spaces.alone("long")
    hosts = spaces.column(results, "long", "host")
    assert "mer-three" in hosts
    assert hosts.count("mer-one") == before  # what it had done, and nothing after its end


def test_the_link_is_cut_and_restored(site: Site, spaces: Any) -> None:
    run = site.begin("long", "cut", on="mer-two")
    site.lab.hosts["two"].link("down")
    time.sleep(20)
    site.lab.hosts["two"].link("up")
    said = run.end()
    assert "exit code 0" in said, said
    results = site.lab.shared / "cut"
    assert spaces.rows(results, "long") == spaces.alone("long")
    trials = spaces.column(results, "long", "trial")
    assert len(trials) == len(set(trials))


def test_the_head_dies_and_the_run_goes_on_after_ray_up(site: Site, spaces: Any) -> None:
    lab = site.lab
    run = site.begin("long", "headless", on="mer-two")
    lab.hosts["head"].kill()
    assert "exit code 0" not in run.end()
    finished = site.finished("headless")
    assert finished
    for name in ("head", "one"):  # powered on again, with nothing running
        lab.hosts[name].start()
        lab.hosts[name].link("up")
        lab.wait_for_ssh(lab.hosts[name])
    site.up(3)
    said = site.submit("long", "headless")
    assert "exit code 0" in said, said
    assert spaces.rows(lab.shared / "headless", "long") == spaces.alone("long")
    assert finished <= site.finished("headless")  # nothing was run again that had ended


def test_ray_down_leaves_nothing(site: Site) -> None:
    site.desk("ray down -y my-onprem.yaml")
    for name in ("head", "one", "two"):
        until(lambda name=name: _ray_processes(site, name) == "", f"Ray to end on {name}")  # type: ignore[misc]


def _ray_processes(site: Site, name: str) -> str:
    return str(site.lab.ssh(name, "pgrep -fa 'raylet|gcs_server|ray::|dashboard' | grep -v pgrep || true")).strip()


def _furnish(site: Site, name: str) -> None:
    """Bring a host by hand to where the file's mounts and set-up commands bring it."""
    host = site.lab.hosts[name]
    subprocess.run(
        ["cp", "-a", str(site.lab.hosts["head"].home / "mer-ablation"), str(host.home / "mer-ablation")], check=True
    )
    (host.home / ".ray").mkdir(exist_ok=True)
    token = (site.lab.hosts["head"].home / ".ray" / "auth_token").read_text()
    (host.home / ".ray" / "auth_token").write_text(token)
    (host.home / ".ray" / "auth_token").chmod(0o600)
    site.lab.ssh(name, "~/venv/bin/pip install -q -c ~/mer-ablation/constraints.txt -e ~/mer-ablation")
