"""A real Slurm of one machine runs the shipped script; a job that is cancelled and requeued goes on where it ended."""

from __future__ import annotations

import re
import shutil
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
    """One host with munge, slurmctld and slurmd, and the project with its environment on it."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        pytest.skip(f"needs Debian's slurm-wlm and munge: no {', '.join(missing)}")
    lab = shared_lab
    host = lab.add("slurm")
    spaces.folder = lab.shared
    spaces.write("small", epochs=60)
    spaces.write("long", epochs=300)
    spaces.project = lab.clone_project("slurm")
    cpus = lab.ssh("slurm", "nproc").strip()
    conf = host.home / "slurm.conf"
    conf.write_text(SLURM_CONF.format(host=host.name, address=host.address, cpus=cpus))
    # Left to itself slurmd looks for control groups, which are not mounted here.
    (host.home / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (host.home / ".profile").write_text("export SLURM_CONF=$HOME/slurm.conf MER_VENV=$HOME/venv\n")
    lab.ssh(
        "slurm",
        """
        mkdir -p -m 755 /run/munge /tmp/slurm/state /tmp/slurm/spool
        head -c 1024 /dev/urandom > ~/munge.key && chmod 400 ~/munge.key
        munged --force --key-file=$HOME/munge.key --socket=/run/munge/socket --pid-file=/run/munge/pid \\
            --log-file=/run/munge/log --seed-file=/run/munge/seed
        slurmctld && slurmd
        ~/venv/bin/pip install -q -c ~/mer-ablation/constraints.txt -e ~/mer-ablation
        """,
    )
    until(lambda: "idle" in lab.ssh("slurm", "sinfo -h -o %T", check=False), "the node to be idle")
    return lab


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 3600
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(1)


def submit(lab: Any, space: str, results: str) -> str:
    """As the page says, from the project's folder. Returns the job's number."""
    said = lab.ssh(
        "slurm",
        f"cd ~/mer-ablation && sbatch cluster/slurm.sbatch /mnt/shared/{space}.yaml "
        f"--data /mnt/shared/tiny --results /mnt/shared/{results}",
    )
    found = re.search(r"Submitted batch job (\d+)", said)
    assert found, said
    return found[1]


def state(lab: Any, job: str) -> str:
    found = re.search(r"JobState=(\S+)", lab.ssh("slurm", f"scontrol show job {job}", check=False))
    return found[1] if found else "unknown"


def log(lab: Any, job: str) -> str:
    folder: Path = lab.hosts["slurm"].home / "mer-ablation"
    return (folder / f"mer-{job}.log").read_text()


def finished(lab: Any, results: str) -> set[str]:
    return {path.name for path in (Path(lab.shared) / results / "ledger").glob("[!_]*.parquet")}


def test_the_shipped_script_runs_a_space(slurm: Any, spaces: Any) -> None:
    job = submit(slurm, "small", "first")
    until(lambda: state(slurm, job) not in ("PENDING", "RUNNING", "COMPLETING"), "the job to end")
    assert state(slurm, job) == "COMPLETED", log(slurm, job)
    assert spaces.rows(slurm.shared / "first", "small") == spaces.alone("small")
    assert "12 complete" in log(slurm, job)


def test_a_cancelled_job_goes_on_when_it_is_requeued(slurm: Any, spaces: Any) -> None:
    job = submit(slurm, "long", "cancelled")
    until(lambda: len(finished(slurm, "cancelled")) >= 2 or state(slurm, job) not in ("PENDING", "RUNNING"), "trials")
    assert state(slurm, job) == "RUNNING", log(slurm, job)
    slurm.ssh("slurm", f"scancel {job}")
    until(lambda: state(slurm, job) == "CANCELLED", "the job to be cancelled")
    before = finished(slurm, "cancelled")
    assert 2 <= len(before) < 12
    slurm.ssh("slurm", f"scontrol requeue {job}")
    until(lambda: state(slurm, job) not in ("PENDING", "RUNNING", "COMPLETING", "CANCELLED"), "the job to end")
    assert state(slurm, job) == "COMPLETED", log(slurm, job)
    assert spaces.rows(slurm.shared / "cancelled", "long") == spaces.alone("long")
    assert before <= finished(slurm, "cancelled")  # what had ended was not run again


def test_close_to_its_time_limit_the_job_requeues_itself(slurm: Any, spaces: Any) -> None:
    """Slurm sends USR1 to the script three minutes before the limit; here it is sent by hand."""
    job = submit(slurm, "long", "requeued")
    until(lambda: len(finished(slurm, "requeued")) >= 2 or state(slurm, job) not in ("PENDING", "RUNNING"), "trials")
    slurm.ssh("slurm", f"scancel --batch --signal=USR1 {job}")
    until(lambda: state(slurm, job) == "COMPLETED", "the job to go on and to end")
    said = log(slurm, job)
    assert "requeueing" in said
    assert spaces.rows(slurm.shared / "requeued", "long") == spaces.alone("long")
