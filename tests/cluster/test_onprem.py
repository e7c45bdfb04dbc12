"""docs/clusters.md, "Machines that you have", followed literally on hosts of one machine; then hosts come and go.

One laboratory for the whole file, and the tests go through it in order: a desk from which everything is started, a head
that trains nothing, two workers, and later a third.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

ON_DESK = "cd ~/mer-ablation && export PATH=$HOME/venv/bin:$PATH RAY_AUTH_MODE=token && "
WITHOUT_TOKEN = "rm -f ~/.ray/auth_token; unset RAY_AUTH_TOKEN; "
WORKERS = ("one", "two")


@dataclass
class Site:
    """A cluster of hosts and the desk from which it is used."""

    lab: Any
    spaces: Any

    def desk(self, command: str, *, check: bool = True) -> str:
        return str(self.lab.ssh("desk", ON_DESK + command, check=check))

    def up(self) -> None:
        """`ray up`, and wait until the workers have joined: each says so in the log that the file gives it."""
        for name in WORKERS:
            (self.lab.hosts[name].home / "ray-worker.log").unlink(missing_ok=True)
        self.desk("ray up -y my-onprem.yaml")
        logs = [self.lab.hosts[name].home / "ray-worker.log" for name in WORKERS]
        self.lab.until(lambda: all(log.exists() and "runtime started" in log.read_text() for log in logs), "workers")
        self.lab.until(lambda: self.alive() == 3, "three nodes by the head's count")

    def alive(self) -> int:
        """Nodes of the cluster, the head included, by the head's own count."""
        status = self.lab.ssh("head", "ray status", check=False)
        active = re.search(r"Active:(.*?)Pending:", status, re.S)
        return sum(int(n) for n in re.findall(r"^ (\d+) ", active[1], re.M)) if active else 0

    def submit(self, results: str, *options: str) -> str:
        return self.desk(
            "ray submit my-onprem.yaml experiments/run_ablation.py -- --space /mnt/shared/small.yaml "
            f"--data /mnt/shared/tiny --results /mnt/shared/{results} {' '.join(options)} 2>&1 "
            f"| tee ~/{results}.log; echo exit code ${{PIPESTATUS[0]}}",
            check=False,
        )

    def said_so_far(self, results: str) -> str:
        log = self.lab.hosts["desk"].home / f"{results}.log"
        return str(log.read_text()) if log.exists() else ""

    def begin(self, results: str, *options: str, waiting: set[str], passed: int = 0) -> Submitted:
        """Submit, let some trials pass, and come back when trials wait in the middle of training on these hosts."""
        self.spaces.gate.shut(but=passed)
        submitted = Submitted(self, results, options)
        self.wait_for_trials(submitted, waiting)
        return submitted

    def wait_for_trials(self, run: Submitted, hosts: set[str]) -> None:
        gate = self.spaces.gate
        self.lab.until(lambda: hosts <= gate.waiting(), f"trials on {hosts}", run.goes_on)

    def finished(self, results: str) -> set[str]:
        """Files of the ledger: one for each trial that has ended."""
        return {path.name for path in (self.lab.shared / results / "ledger").glob("[!_]*.parquet")}

    def check(self, results: str, said: str) -> list[object]:
        """The run is done and right. Returns the host of each trial."""
        assert "exit code 0" in said, said
        assert "Traceback" not in said
        folder = self.lab.shared / results
        assert self.spaces.rows(folder, "small") == self.spaces.alone("small")
        trials = self.spaces.column(folder, "small", "trial")
        assert len(trials) == len(set(trials)) == 12
        return list(self.spaces.column(folder, "small", "host"))


class Submitted(threading.Thread):
    """A submission in the background."""

    def __init__(self, site: Site, results: str, options: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self.site, self.results, self.options, self.said = site, results, options, ""
        self.start()

    def run(self) -> None:
        self.said = self.site.submit(self.results, *self.options)

    def goes_on(self) -> bool:
        assert self.is_alive(), f"the run ended too early:\n{self.said}"
        return True

    def end(self) -> str:
        self.site.spaces.gate.open()
        self.join()
        return self.said


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
    spaces.folder = lab.shared
    spaces.write("small")
    for name in ("desk", "head", *WORKERS):
        lab.add(name)
    home = lab.hosts["desk"].home
    spaces.project = lab.clone_project("desk")
    (home / ".ssh" / "mer_cluster").write_text(lab.key.read_text())
    (home / ".ssh" / "mer_cluster").chmod(0o600)
    shipped = (home / "mer-ablation" / "cluster" / "onprem.yaml").read_text()
    workers = [lab.hosts[name].address for name in WORKERS]
    mine = substituted(shipped, head=lab.hosts["head"].address, workers=workers)
    (home / "mer-ablation" / "my-onprem.yaml").write_text(mine)
    found = Site(lab, spaces)
    found.desk("pip install -q -c constraints.txt -e .")
    found.desk("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
    assert "0 errors" in found.desk("mer cluster check my-onprem.yaml")
    found.up()
    return found


def test_a_space_runs_over_the_hosts(site: Site, spaces: Any) -> None:
    run = site.begin("first", waiting={"mer-one", "mer-two"})
    said = run.end()
    hosts = site.check("first", said)
    assert set(hosts) == {"mer-one", "mer-two"}  # both workers, and not the head
    assert "preflight: 2 nodes" in said
    here = site.desk("mer cluster check my-onprem.yaml --space /mnt/shared/small.yaml")
    assert re.search(r"here: (project .*?);", here)[1] in said  # type: ignore[index]
    assert set(spaces.column(site.lab.shared / "first", "small", "status")) == {"complete"}
    assert (site.lab.shared / "first" / "small" / "report" / "index.html").exists()


AS_A_JOB = """
export PYTHONUNBUFFERED=1
ray dashboard my-onprem.yaml > ~/forward.log 2>&1 < /dev/null &
until ~/venv/bin/python -c 'import socket; socket.create_connection(("127.0.0.1", 8265))' 2> /dev/null; do sleep 1; done
ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
    python experiments/run_ablation.py --space /mnt/shared/small.yaml --data /mnt/shared/tiny --results /mnt/shared/job
echo exit code $?
kill %1
"""


def test_a_job_goes_through_the_forwarded_dashboard(site: Site) -> None:
    """The other way of the page: the project travels with the job, and the driver is a process of the head."""
    said = site.desk(AS_A_JOB, check=False)
    hosts = site.check("job", said)
    assert set(hosts) <= {"mer-one", "mer-two"}
    assert "preflight: 2 nodes" in said


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


FAULTS = """
set -e
cd ~/mer-ablation
echo '# edited on this host alone' >> mer/errors.py
git -c user.name=three -c user.email=three@lab commit -qam 'A commit of its own'
mkdir -p ~/elsewhere ~/corpus /mnt/shared/watched
mount --bind ~/elsewhere /mnt/shared/watched
cp -r /mnt/shared/tiny/. ~/corpus
sed -i '0,/"emotion": "glad"/s//"emotion": "sad"/' ~/corpus/train.jsonl
mount --bind ~/corpus /mnt/shared/tiny
"""
MENDED = """
~/venv/bin/ray stop --force
umount /mnt/shared/watched /mnt/shared/tiny
cd ~/mer-ablation && git reset -q --soft HEAD~1 && git reset -q && sed -i '$d' mer/errors.py
"""


def test_a_host_that_differs_is_named_and_gets_no_trial(site: Site, spaces: Any) -> None:
    """Another commit, another folder under the results' name, another corpus: a host that joins, then is there."""
    lab = site.lab
    _furnish(site, "three")
    run = site.begin("watched", "--preflight", "drop", waiting={"mer-one", "mer-two"})
    lab.ssh("three", FAULTS)
    _start(site, "three")
    named = f"preflight: {lab.hosts['three'].address} differs: "
    lab.until(lambda: named.strip() in site.said_so_far("watched"), "a word about the host that joined", run.goes_on)
    said = run.end()
    assert set(site.check("watched", said)) == {"mer-one", "mer-two"}
    _names_the_faults(said, named)
    stopped = site.submit("watched", "--set", "studies=3")
    _names_the_faults(stopped, named)
    assert "1 of 3 nodes cannot be trusted with trials" in stopped
    assert "exit code 0" not in stopped
    assert set(spaces.column(lab.shared / "watched", "small@studies-3", "host")) == {"mer-one", "mer-two", None}
    assert not list((lab.hosts["three"].home / "elsewhere").rglob("*.parquet"))
    lab.ssh("three", MENDED)


def _names_the_faults(said: str, named: str) -> None:
    """All three, each once."""
    plain = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).split())  # without the progress display's colours
    assert plain.count(named) == 1, said
    for reason in (
        r"project at [0-9a-f]+, the driver's at ",
        "results are not shared: it found nothing where the driver had just written",
        "corpus tiny: [0-9a-f]+, the driver has [0-9a-f]+",
    ):
        assert len(re.findall(reason, plain)) == 1, said


def test_a_worker_dies_and_another_joins(site: Site, spaces: Any) -> None:
    """Power off one of two workers in the middle of a trial, and start a third by hand, as the docs say."""
    lab = site.lab
    run = site.begin("faults", waiting={"mer-one", "mer-two"}, passed=2)
    lab.until(lambda: len(site.finished("faults")) >= 2, "two trials", run.goes_on)
    lab.hosts["one"].kill()
    before = site.finished("faults")
    _start(site, "three")
    site.wait_for_trials(run, {"mer-three"})
    said = run.end()
    hosts = site.check("faults", said)
    assert "mer-three" in hosts
    assert len(before) >= 2
    assert before <= site.finished("faults")
    assert hosts.count("mer-one") <= len(before)  # what it had done, and nothing after its end


def test_the_link_is_cut_and_restored(site: Site, spaces: Any) -> None:
    """A trial ends and is recorded while nobody can hear of it: it is there once, whatever the driver has thought."""
    run = site.begin("cut", waiting={"mer-two"})
    site.lab.hosts["two"].link("down")
    spaces.gate.open()
    time.sleep(20)
    site.lab.hosts["two"].link("up")
    site.check("cut", run.end())


def test_the_head_dies_and_the_run_goes_on_after_ray_up(site: Site, spaces: Any) -> None:
    lab = site.lab
    run = site.begin("headless", waiting={"mer-two"}, passed=3)
    lab.until(lambda: len(site.finished("headless")) >= 3, "three trials", run.goes_on)
    lab.hosts["head"].kill()
    assert "exit code 0" not in run.end()
    finished = site.finished("headless")
    for name in ("head", "one"):  # powered on again, with nothing running
        lab.hosts[name].start()
        lab.hosts[name].link("up")
        lab.wait_for_ssh(lab.hosts[name])
    site.up()
    site.check("headless", site.submit("headless"))
    assert 3 <= len(finished) < 12
    assert finished <= site.finished("headless")  # nothing was run again that had ended


def test_ray_down_leaves_nothing(site: Site) -> None:
    site.desk("ray down -y my-onprem.yaml")
    for name in ("head", *WORKERS):
        site.lab.until(lambda name=name: _ray_processes(site, name) == "", f"Ray to end on {name}")


def _ray_processes(site: Site, name: str) -> str:
    return str(site.lab.ssh(name, "pgrep -fa 'raylet|gcs_server|ray::|dashboard' | grep -v pgrep || true")).strip()


def _start(site: Site, name: str) -> None:
    """Start Ray on a worker by hand, as the docs say; again where the machine was too busy for Ray's 30 seconds."""
    head = site.lab.hosts["head"].address
    command = f"RAY_AUTH_MODE=token ~/venv/bin/ray start --address={head}:6379 --disable-usage-stats; echo code $?"

    def started() -> bool:
        said = str(site.lab.ssh(name, command, check=False))
        if "code 0" in said:
            return True
        assert "timed out during startup" in said, said
        site.lab.ssh(name, "~/venv/bin/ray stop --force", check=False)
        return False

    site.lab.until(started, f"Ray on {name}")


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
