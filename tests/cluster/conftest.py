"""Several hosts on one machine: network, mount and process namespaces on a bridge, each with its own sshd.

A host has its own address, /tmp, home folder and process numbers (`ray stop` ends every Ray process it can see), and
shares one folder with the others, as an NFS mount would. Python and the packages are those that run the tests; each
host has a virtual environment of its own in front of them, so that the cluster file's own set-up commands are run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUMBER = os.getpid() % 250
"""Of this process's laboratory, so that two can run at once."""
BRIDGE = f"mer-br{NUMBER}"
NETWORK = f"10.77.{NUMBER}"
GATEWAY = f"{NETWORK}.254"
HOME = Path("/mnt/home")
SHARED = Path("/mnt/shared")
BASE = Path("/mnt/base")
"""Where a host sees the environment that runs the tests: all of its users may read it there."""
USERS = {"anna": 7101, "ben": 7102}
GROUP, GROUP_ID = "lab", 7100
"""People of a laboratory, with accounts on every host and nothing in them until they are furnished."""


def missing_tools() -> str | None:
    """Why several hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    for tool in ("ip", "unshare", "ssh", "sshd", "rsync", "mount"):
        if shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            return f"needs {tool}"
    probe = subprocess.run(["ip", "netns", "add", "mer-probe"], capture_output=True, check=False)
    if probe.returncode != 0:
        return "needs network namespaces, which this machine does not allow"
    subprocess.run(["ip", "netns", "delete", "mer-probe"], capture_output=True, check=False)
    return None


def run(*command: str, check: bool = True, **more: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(command), capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done  # type: ignore[no-any-return]


@dataclass
class Host:
    """One host. `alive` while its sshd runs."""

    name: str
    address: str
    folder: Path
    shared: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def namespace(self) -> str:
        return f"{self.name}-{NUMBER}"

    @property
    def outer_link(self) -> str:
        """This machine's end of the host's cable; 15 characters at most."""
        return f"v{NUMBER}{self.name[-8:]}"

    def create(self, public_key: str) -> None:
        """Network, home folder with an environment, and sshd."""
        run("ip", "netns", "delete", self.namespace, check=False)  # of a test that was killed
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self.outer_link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "link", "set", self.outer_link, "master", BRIDGE, "up")
        inside = ("ip", "netns", "exec", self.namespace)
        run(*inside, "ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        run(*inside, "ip", "link", "set", "eth0", "up")
        run(*inside, "ip", "link", "set", "lo", "up")
        run(*inside, "ip", "route", "add", "default", "via", GATEWAY)
        self._furnish(public_key)
        self.start()

    def _furnish(self, public_key: str) -> None:
        for folder in (self.home / ".ssh", self.home / ".sshd", self.folder / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        (self.home / ".ssh" / "authorized_keys").write_text(public_key)
        for path, mode in ((self.home, 0o711), (self.home / ".ssh", 0o700), (self.folder / "tmp", 0o1777)):
            path.chmod(mode)
        pip = self.home / ".config" / "pip"
        pip.mkdir(parents=True, exist_ok=True)
        # A host has no way out: pip finds everything in the environment, the means to build the project as well.
        # (In a file this option is the value of "build isolation", whatever its name says.)
        (pip / "pip.conf").write_text("[global]\nno-index = true\nno-build-isolation = false\n")
        passwd = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
        passwd += [f"{name}:x:{uid}:{uid}:{name}:{HOME}/{name}:/bin/bash" for name, uid in USERS.items()]
        (self.home / ".sshd" / "passwd").write_text("\n".join([f"root:x:0:0:root:{HOME}:/bin/bash", *passwd]) + "\n")
        groups = [f"{name}:x:{uid}:" for name, uid in USERS.items()]
        groups += [f"{GROUP}:x:{GROUP_ID}:{','.join(USERS)}"]
        (self.home / ".sshd" / "group").write_text(Path("/etc/group").read_text() + "\n".join(groups) + "\n")
        (self.home / ".sshd" / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        make_environment(self.home / "venv", HOME / "venv")
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.home / ".sshd" / "host_key"))
        (self.home / ".sshd" / "config").write_text(
            textwrap.dedent(
                f"""\
                HostKey {HOME}/.sshd/host_key
                PidFile none
                PermitRootLogin prohibit-password
                PasswordAuthentication no
                UsePAM no
                StrictModes no
                MaxStartups 50
                Subsystem sftp internal-sftp
                """
            )
        )

    def start(self) -> None:
        """Boot: everything of this host lives and dies with one process."""
        # A checkout, an environment or a Python below /tmp or /root would vanish behind the host's own.
        paths = dict.fromkeys((str(ROOT), sys.prefix, sys.base_prefix))
        kept = [path for path in paths if path.startswith(("/tmp/", "/root/"))]
        keep = "\n".join(f"mkdir -p /mnt/kept/{i}; mount --bind {path} /mnt/kept/{i}" for i, path in enumerate(kept))
        back = "\n".join(f"mkdir -p {path}; mount --bind /mnt/kept/{i} {path}" for i, path in enumerate(kept))
        script = f"""
            mount --make-rprivate /
            mount -t tmpfs tmpfs /mnt
            mkdir {HOME} {SHARED}
            mount --bind {self.home} {HOME}
            mount --bind {self.shared} {SHARED}
            mkdir /mnt/base
            mount --bind {sys.prefix} /mnt/base
            mount --bind {HOME}/.sshd/passwd /etc/passwd
            mount --bind {HOME}/.sshd/group /etc/group
            mount --bind {HOME}/.sshd/hosts /etc/hosts
            mount -t tmpfs tmpfs /run
            mkdir /run/sshd
            mount -t proc proc /proc
            {keep}
            mount --bind {self.folder}/tmp /tmp
            mount -t tmpfs -o mode=755 tmpfs /root
            {back}
            hostname {self.name}
            cd {HOME}
            exec env -i HOME={HOME} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                /usr/sbin/sshd -D -e -f {HOME}/.sshd/config
        """
        log = (self.folder / "sshd.log").open("ab")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork",
             "--kill-child", "bash", "-euc", script],
            stdout=log, stderr=log,
        )  # fmt: skip

    def ssh(self, command: str, *, key: Path, check: bool = True) -> str:
        done = subprocess.run(
            ["ssh", *SSH_OPTIONS, "-i", str(key), f"root@{self.address}", f"bash -lc {_quoted(command)}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"{self.name}: {command}\n{done.stdout}\n{done.stderr}")
        return done.stdout + (done.stderr if not check else "")

    def kill(self) -> None:
        """Power off: every process ends at once, and the link goes down."""
        self.link("down")
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def link(self, state: str) -> None:
        run("ip", "link", "set", self.outer_link, state)

    def destroy(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        run("ip", "netns", "delete", self.namespace, check=False)


SSH_OPTIONS = (
    "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
    "-o", "ConnectTimeout=5", "-o", "BatchMode=yes",
)  # fmt: skip


def _quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"


def make_environment(folder: Path, seen_as: Path) -> None:
    """A virtual environment in front of the packages of this one, with scripts of its own."""
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    packages = BASE / Path(sysconfig.get_paths()["purelib"]).relative_to(sys.prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "lib" / version / "site-packages" / "shared.pth").write_text(f"{packages}\n{SHARED}/plugins\n")
    activate = folder / "bin" / "activate"
    activate.write_text(activate.read_text().replace(str(folder), str(seen_as)))
    for script in Path(sysconfig.get_paths()["scripts"]).iterdir():
        text = script.read_bytes()[:200] if script.is_file() else b""
        if text.startswith(b"#!") and b"python" in text.splitlines()[0]:
            lines = script.read_text("utf-8", errors="replace").split("\n", 1)
            target = folder / "bin" / script.name
            if not target.exists() and len(lines) == 2:
                target.write_text(f"#!{seen_as}/bin/python\n{lines[1]}", "utf-8")
                target.chmod(0o755)


@dataclass
class Lab:
    """The hosts of a test, the folder they share, and the key that opens them."""

    folder: Path
    shared: Path
    key: Path
    hosts: dict[str, Host] = field(default_factory=dict)

    def add(self, name: str) -> Host:
        host = Host(f"mer-{name}", f"{NETWORK}.{len(self.hosts) + 1}", self.folder / name, self.shared)
        self.hosts[name] = host
        host.create(self.key.with_suffix(".pub").read_text())
        self.wait_for_ssh(host)
        return host

    def wait_for_ssh(self, host: Host) -> None:
        def boots() -> bool:
            assert host.process is not None
            assert host.process.poll() is None, (host.folder / "sshd.log").read_text()
            return True

        until(lambda: "ready" in host.ssh("echo ready", key=self.key, check=False), f"sshd on {host.name}", boots)

    def ssh(self, name: str, command: str, *, check: bool = True) -> str:
        return self.hosts[name].ssh(command, key=self.key, check=check)

    def account(self, name: str, user: str, umask: str) -> Path:
        """Give a user a home folder with the project, and an environment that has it. Returns the home folder."""
        host = self.hosts[name]
        home = host.home / user
        make_environment(home / "venv", HOME / user / "venv")
        shutil.copytree(host.home / "mer-ablation", home / "mer-ablation", symlinks=True)
        shutil.copytree(host.home / ".config", home / ".config")
        (home / ".profile").write_text(f"umask {umask}\nexport MER_VENV=$HOME/venv SLURM_CONF={HOME}/slurm.conf\n")
        self.ssh(name, f"chown -R {user}:{user} ~/{user} && chmod 700 ~/{user}")
        self.as_user(name, user, "~/venv/bin/pip install -q -c ~/mer-ablation/constraints.txt -e ~/mer-ablation")
        return home

    def as_user(self, name: str, user: str, command: str, *, check: bool = True) -> str:
        """Run something as a user who has logged in."""
        return self.ssh(name, f"runuser -l {user} -c {_quoted(command)}", check=check)

    def clone_project(self, name: str) -> Path:
        """The project as it is here, uncommitted changes included, as a checkout of the host's own."""
        folder = self.hosts[name].home / "mer-ablation"
        run("git", "clone", "-q", "--no-hardlinks", f"file://{ROOT}", str(folder))
        listed = run("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
        for file in filter(None, listed.split("\0")):
            source, target = ROOT / file, folder / file
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
            else:
                target.unlink(missing_ok=True)
        return folder

    @staticmethod
    def until(true: Callable[[], bool], what: str, alive: Callable[[], bool] = lambda: True) -> None:
        until(true, what, alive)

    def close(self) -> None:
        for host in self.hosts.values():
            host.destroy()


@contextlib.contextmanager
def open_lab(folder: Path) -> Iterator[Lab]:
    reason = missing_tools()
    if reason:
        pytest.skip(f"several hosts on one machine: {reason}")
    shared = folder / "shared"
    shared.mkdir()
    key = folder / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    run("ip", "link", "delete", BRIDGE, check=False)
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    found = Lab(folder, shared, key)
    try:
        yield found
    finally:
        found.close()
        run("ip", "link", "delete", BRIDGE, check=False)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An empty laboratory: add hosts by name; they and their network are gone afterwards."""
    with open_lab(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The same for all tests of a module, in their order."""
    with open_lab(tmp_path_factory.mktemp("lab")) as found:
        yield found


SPACE = """\
description: Two cells, tuned and confirmed twice, on a corpus made for this test.
corpora: tiny
metric: ua
base:
  encoders: {text: features, audio: features}
  projection.dim: 8
  pooling: gate:Waiting
  classifier.hidden: []
  sampler.batch_size: 16
  training.epochs: %(epochs)d
factors:
  fusion:
    none: {fusion: {name: none, modality: text}}
    concat: {fusion: {name: concat, axis: time, layers: 0}}
tune:
  parameters:
    lr: {loguniform: [4.0e-3, 1.6e-2]}
  draws: 2
  pruner: none
studies: %(studies)d
"""
LABELS = ("calm", "glad", "sad")
WIDTHS = {"text": 6, "audio": 5}
SIZES = {"train": 40, "valid": 20, "test": 24}


def write_corpus(folder: Path) -> None:
    """Three classes, features of two modalities that carry the label, noisily."""
    import numpy as np

    rng = np.random.default_rng(7)
    centres = {name: rng.normal(size=(len(LABELS), width)) for name, width in WIDTHS.items()}
    frames: dict[str, list[np.ndarray]] = {name: [] for name in WIDTHS}
    (folder / "features").mkdir(parents=True)
    row = 0
    for split, size in SIZES.items():
        lines = []
        for number in range(size):
            label = number % len(LABELS)
            about = {"utterance_id": f"{split}_{number}", "speaker_id": f"{split}_{number % 2}", "transcript": "a b"}
            lines.append(json.dumps({**about, "emotion": LABELS[label], "row": row}) + "\n")
            for name, width in WIDTHS.items():
                frames[name].append(centres[name][label] + rng.normal(size=(int(rng.integers(2, 7)), width)))
            row += 1
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")
    for name, arrays in frames.items():
        np.save(folder / "features" / f"{name}.npy", np.concatenate(arrays).astype(np.float32))
        np.save(folder / "features" / f"{name}.offsets.npy", np.cumsum([0, *map(len, arrays)]).astype(np.int64))
    corpus = {"name": "tiny", "labels": list(LABELS), "features": WIDTHS, "synthetic": True}
    (folder / "corpus.json").write_text(json.dumps(corpus), "utf-8")


NOT_VALUES = {"wall_s", "device_s", "peak_memory_mb", "energy_j", "attempt", "commit", "dirty", "hardware", "host",
              "started", "ended"}  # fmt: skip
"""Columns of trials.parquet that tell where, when and at what cost a trial ran."""


@dataclass
class Gate:
    """Holds trials up in the middle of their training (`gate.py`)."""

    folder: Path

    def shut(self, but: int = 0) -> None:
        """From now on trials wait, but for the next few."""
        for name in ("passed", "waiting"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o777)
        (self.folder / "shut").write_text(str(but))

    def open(self) -> None:
        (self.folder / "shut").unlink(missing_ok=True)

    def waiting(self) -> set[str]:
        """Hosts on which a trial waits."""
        return {path.name.partition(".")[0] for path in (self.folder / "waiting").iterdir()}


@dataclass
class Spaces:
    """Small spaces in a folder, beside their corpus; what one process of this machine makes of them; their tables."""

    folder: Path
    results_alone: Path
    project: Path = ROOT
    """The checkout that runs them alone; the one that was copied to the hosts has the same code at any time."""

    def write(self, name: str, *, epochs: int = 60, studies: int = 2) -> Path:
        """Two cells, two draws each and a confirm trial in every study: 12 trials."""
        if not (self.folder / "tiny").exists():
            write_corpus(self.folder / "tiny")
            plugins = self.folder / "plugins"
            plugins.mkdir()
            shutil.copy(Path(__file__).parent / "gate.py", plugins)
        path = self.folder / f"{name}.yaml"
        path.write_text(SPACE % {"epochs": epochs, "studies": studies}, "utf-8")
        return path

    @property
    def gate(self) -> Gate:
        return Gate(self.folder / "plugins")

    def alone(self, name: str) -> list[dict[str, object]]:
        """The rows of a space that ran in one process, once: every cluster must agree with them, value for value."""
        if not (self.results_alone / name).exists():
            run(
                sys.executable, str(self.project / "experiments" / "run_ablation.py"),
                "--space", str(self.folder / f"{name}.yaml"), "--data", str(self.folder / "tiny"),
                "--results", str(self.results_alone), "--executor", "inline", "--no-report",
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.folder / "plugins")},
            )  # fmt: skip
        return self.rows(self.results_alone, name)

    def rows(self, results: Path, name: str) -> list[dict[str, object]]:
        """The rows of a trial table without what depends on where, when and at what cost they ran."""
        import pyarrow.parquet as parquet

        table = parquet.read_table(results / name / "trials.parquet")
        return table.select([column for column in table.column_names if column not in NOT_VALUES]).to_pylist()  # type: ignore[no-any-return]

    def column(self, results: Path, name: str, column: str) -> list[object]:
        import pyarrow.parquet as parquet

        return parquet.read_table(results / name / "trials.parquet")[column].to_pylist()  # type: ignore[no-any-return]


def until(true: Callable[[], bool], what: str, alive: Callable[[], bool] = lambda: True) -> None:
    """Wait for something that takes as long as the machine is busy; an hour means never, and so does the end of what
    it depends on."""
    deadline = time.monotonic() + 3600
    while not true():
        assert alive(), f"it ended before there was {what}"
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> Spaces:
    """Spaces in a folder of this machine."""
    return Spaces(tmp_path_factory.mktemp("spaces"), tmp_path_factory.mktemp("alone"))
