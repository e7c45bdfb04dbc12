"""A real Slurm of one machine, and the people of a laboratory, who share results and features and nothing else.

A job runs the shipped script; cancelled and requeued it goes on where it ended; what one has begun a colleague goes on
with.
"""

from __future__ import annotations

import re
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

SLURM_CONF = """\
ClusterName=mer
SlurmctldHost={host}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge/socket,cred_expire=10
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerType=sched/backfill
StateSaveLocation=/tmp/slurm/state
SlurmdSpoolDir=/tmp/slurm/spool
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/tmp/slurm/ctld.log
SlurmdLogFile=/tmp/slurm/d.log
ReturnToService=2
JobRequeue=1
KillWait=5
NodeName={host} NodeAddr={address} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol", "scancel")


@pytest.fixture(scope="module")
def slurm(shared_lab: Any, spaces: Any) -> Any:
    """One host with munge, slurmctld and slurmd, a folder that the laboratory's group shares, and anna's account."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        pytest.skip(f"needs Debian's slurm-wlm and munge: no {', '.join(missing)}")
    lab = shared_lab
    spaces.folder = lab.shared
    spaces.write("small")
    host = lab.add("slurm")
    spaces.project = lab.clone_project("slurm")
    cpus = lab.ssh("slurm", "nproc").strip()
    (host.home / "slurm.conf").write_text(SLURM_CONF.format(host=host.name, address=host.address, cpus=cpus))
    # Left to itself slurmd looks for control groups, which are not mounted here.
    (host.home / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    lab.ssh(
        "slurm",
        """
        mkdir -p -m 755 /run/munge /tmp/slurm/state /tmp/slurm/spool
        head -c 1024 /dev/urandom > ~/munge.key && chmod 400 ~/munge.key
        munged --force --key-file=$HOME/munge.key --socket=/run/munge/socket --pid-file=/run/munge/pid \\
            --log-file=/run/munge/log --seed-file=/run/munge/seed
        export SLURM_CONF=$HOME/slurm.conf
        slurmctld && slurmd
        umask 077  # whoever owns the disk may be as careful as anna; then as the page says
        mkdir -p /mnt/shared/lab && chgrp -R lab /mnt/shared/lab && chmod -R g+rwXs /mnt/shared/lab
        """,
    )
    lab.account("slurm", "anna", umask="077")
    if "works" not in lab.as_user(
        "slurm", "anna", "~/venv/bin/python -c 'import torch; print(\"works\")'", check=False
    ):
        pytest.skip("other users of this machine cannot run the Python that runs the tests")
    lab.until(lambda: "idle" in lab.as_user("slurm", "anna", "sinfo -h -o %T", check=False), "the node to be idle")
    return lab


def submit(lab: Any, results: str, *options: str, user: str = "anna") -> str:
    """As the page says, from the project's folder. Returns the job's number."""
    said = lab.as_user(
        "slurm",
        user,
        "cd ~/mer-ablation && sbatch cluster/slurm.sbatch /mnt/shared/small.yaml "
        f"--data /mnt/shared/tiny --results /mnt/shared/lab/{results} {' '.join(options)}",
    )
    found = re.search(r"Submitted batch job (\d+)", said)
    assert found, said
    return found[1]


def state(lab: Any, job: str) -> str:
    found = re.search(r"JobState=(\S+)", lab.as_user("slurm", "anna", f"scontrol show job {job}", check=False))
    return found[1] if found else "unknown"


def log(lab: Any, job: str, user: str = "anna") -> str:
    path: Path = lab.hosts["slurm"].home / user / "mer-ablation" / f"mer-{job}.log"
    return path.read_text() if path.exists() else ""


def goes_on(lab: Any, job: str) -> bool:
    assert state(lab, job) in ("PENDING", "CONFIGURING", "RUNNING"), log(lab, job)
    return True


def completed(lab: Any, job: str, user: str = "anna") -> str:
    """Wait for the job's end, which must be a good one. Returns its log."""
    at_work = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "CANCELLED")
    lab.until(lambda: state(lab, job) not in at_work, f"the end of job {job}")
    assert state(lab, job) == "COMPLETED", log(lab, job, user)
    return log(lab, job, user)


def finished(lab: Any, results: str) -> set[str]:
    return {path.name for path in (Path(lab.shared) / "lab" / results / "ledger").glob("[!_]*.parquet")}


def test_the_shipped_script_runs_a_space(slurm: Any, spaces: Any) -> None:
    said = completed(slurm, submit(slurm, "first"))
    assert spaces.rows(slurm.shared / "lab" / "first", "small") == spaces.alone("small")
    assert "12 complete" in said
    token = slurm.hosts["slurm"].home / "anna" / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_job_without_an_environment_says_so(slurm: Any) -> None:
    said = slurm.as_user("slurm", "anna", "sbatch --output=nothing.log mer-ablation/cluster/slurm.sbatch quickstart")
    job = said.split()[-1]
    slurm.until(lambda: state(slurm, job) not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), "its end")
    assert state(slurm, job) == "FAILED"
    log = (slurm.hosts["slurm"].home / "anna" / "nothing.log").read_text()
    assert "submit from the project's folder, after make setup" in log
    assert len(log.splitlines()) == 1


def test_a_job_whose_ray_does_not_start_fails(slurm: Any) -> None:
    """Ray itself is content then; here another process has the port that the job's Ray needs."""
    options = "--hold --output=nowhere.log cluster/slurm.sbatch /mnt/shared/small.yaml"
    job = slurm.as_user("slurm", "anna", f"cd ~/mer-ablation && sbatch {options}").split()[-1]
    port = 20000 + int(job)
    taken = f"nohup ~/venv/bin/python -m http.server {port} > /dev/null 2>&1 < /dev/null & echo $!"
    other = slurm.ssh("slurm", taken).strip()
    slurm.as_user("slurm", "anna", f"scontrol release {job}")
    slurm.until(lambda: state(slurm, job) not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), "its end")
    said = (slurm.hosts["slurm"].home / "anna" / "mer-ablation" / "nowhere.log").read_text()
    assert state(slurm, job) == "FAILED", said
    assert "Ray did not start on all nodes, attempt 3 of 3" in said
    slurm.ssh("slurm", f"kill {other}")


def test_a_cancelled_job_goes_on_when_it_is_requeued(slurm: Any, spaces: Any) -> None:
    spaces.gate.shut(but=3)
    job = submit(slurm, "cancelled")
    slurm.until(lambda: len(finished(slurm, "cancelled")) >= 3 and bool(spaces.gate.waiting()), "a trial that waits",
                lambda: goes_on(slurm, job))  # fmt: skip
    slurm.as_user("slurm", "anna", f"scancel {job}")
    slurm.until(lambda: state(slurm, job) == "CANCELLED", "the job to be cancelled")
    before = finished(slurm, "cancelled")
    assert 3 <= len(before) < 12
    spaces.gate.open()
    slurm.as_user("slurm", "anna", f"scontrol requeue {job}")
    completed(slurm, job)
    assert spaces.rows(slurm.shared / "lab" / "cancelled", "small") == spaces.alone("small")
    assert before <= finished(slurm, "cancelled")  # what had ended was not run again


def test_close_to_its_time_limit_the_job_saves_its_trials_and_requeues_itself(slurm: Any, spaces: Any) -> None:
    """Slurm sends USR1 to the script three minutes before the limit; here it is sent by hand."""
    spaces.gate.shut(but=3)
    job = submit(slurm, "requeued")
    slurm.until(lambda: bool(spaces.gate.waiting()), "a trial that waits", lambda: goes_on(slurm, job))
    slurm.as_user("slurm", "anna", f"scancel --batch --signal=USR1 {job}")
    slurm.until(lambda: "interrupted: saving running trials" in log(slurm, job), "the run to be told")
    time.sleep(5)  # it tells its workers on its next turn; a trial that ended before that would have nothing to save
    spaces.gate.open()
    slurm.until(lambda: "missing" in log(slurm, job), "the first part of the run to end")
    assert list((slurm.shared / "lab" / "requeued" / "_state").glob("[!_]*"))  # in the middle of a trial
    said = completed(slurm, job)
    first, second = re.findall(r"^(\d+) complete(?:, (\d+) missing)?$", said, re.MULTILINE)
    assert 3 <= int(first[0]) < 12
    assert int(first[0]) + int(first[1]) == 12
    assert second[0] == "12"
    assert spaces.rows(slurm.shared / "lab" / "requeued", "small") == spaces.alone("small")


def test_a_job_that_is_told_before_its_run_has_begun_requeues_itself(slurm: Any, spaces: Any) -> None:
    """Ray takes seconds to start, minutes on many nodes; nothing waits for it then."""
    job = submit(slurm, "early")
    starting = f"pgrep -f '[r]ay symmetric-run.*{20000 + int(job)}'"
    slurm.until(lambda: slurm.ssh("slurm", starting, check=False).strip(), "Ray to start", lambda: goes_on(slurm, job))
    slurm.ssh("slurm", "find /tmp -maxdepth 1 -name 'mer-????????' -perm 700 | grep -q . && ! ls /tmp/mer-*/driver.pid")
    slurm.as_user("slurm", "anna", f"scancel --batch --signal=USR1 {job}")
    slurm.until(lambda: "time limit near" in log(slurm, job), "the job to be told")
    said = completed(slurm, job)
    assert "interrupted" not in said
    assert said.count("12 complete") == 1
    assert spaces.rows(slurm.shared / "lab" / "early", "small") == spaces.alone("small")


# ---- a laboratory ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ben(slurm: Any) -> None:
    """Another user, who keeps nothing to himself."""
    slurm.account("slurm", "ben", umask="022")


def test_a_colleague_goes_on_with_the_same_results(slurm: Any, spaces: Any, ben: None) -> None:
    """Anna keeps everything to herself (umask 077), Ben nothing; the folder that they share is what counts."""
    results = slurm.shared / "lab" / "first"
    before = finished(slurm, "first")
    said = completed(slurm, submit(slurm, "first", "--set", "studies=3", user="ben"), "ben")
    assert "18 complete" in said
    assert before <= finished(slurm, "first")
    assert (results / "small@studies-3" / "report" / "index.html").exists()
    again = slurm.as_user("slurm", "anna", mer("run", "first", "--set studies=4 --executor inline"))
    assert "24 complete" in again
    # What two umasks have left can be read by both, and written by both.
    for user in ("anna", "ben"):
        closed = "find /mnt/shared/lab ! -readable -o ! -writable -o -type d ! -executable"
        assert slurm.as_user("slurm", user, closed).strip() == ""
    assert "Permission denied" in slurm.as_user("slurm", "ben", "ls /mnt/home/anna", check=False)


def test_two_drivers_at_once_on_one_ledger(slurm: Any, spaces: Any, ben: None) -> None:
    """The same command by two people at the same time: one runs it, the other watches, and both see the same table."""
    spaces.gate.shut(but=2)
    threads = {}
    for user in ("anna", "ben"):
        command = mer("run", "both", "--executor inline")
        threads[user] = Background(lambda user=user, command=command: slurm.as_user("slurm", user, command))
    drivers = slurm.shared / "lab" / "both" / "_drivers"

    def one_at_work() -> bool:
        queue = [file for file in drivers.iterdir() if file.name[0] != "_"] if drivers.is_dir() else []
        return len(queue) == 2 and any((spaces.gate.folder / "waiting").iterdir())

    slurm.until(one_at_work, "one at work and the other waiting", lambda: all(t.goes_on() for t in threads.values()))
    spaces.gate.open()
    said = [thread.end() for thread in threads.values()]
    assert all("12 complete" in text for text in said)
    assert sum("another run is at work here" in text for text in said) == 1
    assert spaces.rows(slurm.shared / "lab" / "both", "small") == spaces.alone("small")


def test_features_are_extracted_once_for_the_laboratory(slurm: Any, ben: None) -> None:
    build = "MER_FEATURES=/mnt/shared/lab/features ~/venv/bin/mer features build /mnt/shared/tiny --encoder text=words"
    first = slurm.as_user("slurm", "anna", build)
    second = slurm.as_user("slurm", "ben", build)
    assert "84 utterances, 84 to compute" in first
    assert "84 utterances, 0 to compute" in second


def mer(command: str, results: str, options: str) -> str:
    return (
        f"cd ~/mer-ablation && ~/venv/bin/mer {command} --space /mnt/shared/small.yaml --data /mnt/shared/tiny "
        f"--results /mnt/shared/lab/{results} {options}"
    )


class Background(threading.Thread):
    def __init__(self, work: Callable[[], str]) -> None:
        super().__init__(daemon=True)
        self.work, self.said, self.error = work, "", None
        self.start()

    def run(self) -> None:
        try:
            self.said = self.work()
        except BaseException as error:
            self.error = error

    def end(self) -> str:
        self.join()
        if self.error is not None:
            raise self.error
        return self.said

    def goes_on(self) -> bool:
        """Does it? If it has ended with an error, that is raised."""
        if self.error is not None:
            raise self.error
        return self.is_alive()
