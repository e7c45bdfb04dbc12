"""Results in an object store: an S3 endpoint on this machine, which goes away for a while in the middle of a run."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

BUCKET = "mer-results"


class Endpoint:
    """A door in front of a server, which can be shut: nobody is let in, and whoever was inside is thrown out."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.inside: list[socket.socket] = []
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.door.getsockname()[1])
        self.open()

    def open(self) -> None:
        if self.door.fileno() < 0:
            self.door = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._let_in, args=(self.door,), daemon=True).start()

    def shut(self) -> None:
        if self.door.fileno() < 0:
            return
        self.door.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits at it
        self.door.close()
        for guest in self.inside:
            with contextlib.suppress(OSError):
                guest.shutdown(socket.SHUT_RDWR)
            guest.close()
        self.inside.clear()

    def _let_in(self, door: socket.socket) -> None:
        while True:
            try:
                guest, _ = door.accept()
            except OSError:  # shut
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.behind))
            except OSError:  # too busy to open: this guest has to come again, the others need not
                guest.close()
                continue
            self.inside += [guest, server]
            for one, other in ((guest, server), (server, guest)):
                threading.Thread(target=_carry, args=(one, other), daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    server_module = pytest.importorskip("moto.server", reason="needs moto[server] as the S3 endpoint")
    boto3 = pytest.importorskip("boto3", reason="needs boto3 to look into the bucket")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    client(boto3, port).create_bucket(Bucket=BUCKET)
    found = Endpoint(port)
    try:
        yield found
    finally:
        found.shut()
        server.stop()


def client(boto3: Any, port: int) -> Any:
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")


def names(endpoint: Endpoint, prefix: str) -> list[str]:
    """What lies in the bucket, asked behind the door."""
    import boto3  # type: ignore[import-untyped]

    listed = client(boto3, endpoint.behind).list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    found = [str(item["Key"]).removeprefix(prefix) for item in listed.get("Contents", [])]
    return [name for name in found if not name.startswith("_")]


@dataclass
class Bucket:
    """A bucket behind the endpoint, with a corpus in it, and a person's command line that may use it."""

    endpoint: Endpoint
    environment: dict[str, str]

    def address(self, name: str) -> str:
        return (
            f"s3://{BUCKET}/{name}?endpoint_override=http://127.0.0.1:{self.endpoint.port}&scheme=http&region=us-east-1"
        )

    def command(self, *words: str) -> list[str]:
        return [str(Path(sysconfig.get_paths()["scripts"]) / "mer"), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), env=self.environment, capture_output=True, text=True, check=False)


@pytest.fixture
def bucket(endpoint: Endpoint, spaces: Any, tmp_path: Path) -> Bucket:
    import boto3

    spaces.write("objects")
    s3 = client(boto3, endpoint.behind)
    for file in (path for path in (spaces.folder / "tiny").rglob("*") if path.is_file()):
        s3.upload_file(str(file), BUCKET, f"tiny/{file.relative_to(spaces.folder / 'tiny').as_posix()}")
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    mine = {"HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(spaces.folder / "plugins")}  # fmt: skip
    return Bucket(endpoint, {**os.environ, **mine})


def test_the_endpoint_goes_away_for_20_seconds(bucket: Bucket, spaces: Any, tmp_path: Path) -> None:
    """Corpus and results in a bucket. Trials end while nobody answers, and are recorded when somebody does again."""
    endpoint = bucket.endpoint
    space = spaces.folder / "objects.yaml"
    words = ("run", "--space", str(space), "--data", bucket.address("tiny"), "--results", bucket.address("results"),
             "--address", "local", "--workers", "2")  # fmt: skip
    spaces.gate.shut(but=2)
    with subprocess.Popen(
        bucket.command(*words), env=bucket.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        while len(names(endpoint, "results/ledger/")) < 2 or not spaces.gate.waiting():
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.5)
        endpoint.shut()
        spaces.gate.open()
        time.sleep(20)
        assert run.poll() is None, "the run ended while the endpoint was away"
        before = len(names(endpoint, "results/ledger/"))
        endpoint.open()
        said = run.communicate()[0]
    assert run.returncode == 0, said
    assert f"fetching s3://{BUCKET}/tiny: " in said
    assert "no report is written to an object store" in said
    assert before < 12  # it did go away in the middle
    assert _downloaded(endpoint, "objects", tmp_path / "copy", spaces) == spaces.alone("objects")
    again = bucket.run(*words)
    assert again.returncode == 0, again.stderr
    assert "12 complete" in again.stdout  # from the ledger: nothing is left to be run
    assert "fetching" not in again.stdout + again.stderr


def test_a_corpus_in_a_bucket_is_planned_and_checked_like_a_folder(bucket: Bucket, spaces: Any, tmp_path: Path) -> None:
    text = (spaces.folder / "objects.yaml").read_text()
    space = tmp_path / "remote.yaml"
    space.write_text(text.replace("corpora: tiny", f'corpora: "{bucket.address("tiny")}"'))
    plan = bucket.run("plan", str(space), "--no-smoke", "--results", str(tmp_path / "results"))
    assert plan.returncode == 0, plan.stderr
    assert "to do: 12" in plan.stdout, plan.stdout
    check = bucket.run("data", "check", bucket.address("tiny"))
    assert check.returncode == 0, check.stderr
    bucket.endpoint.shut()
    away = bucket.run("data", "check", bucket.address("tiny"))
    assert away.returncode == 2
    assert f"error: s3://{BUCKET}/tiny" in away.stderr
    assert "the object store has not answered for 20 s" in away.stderr
    assert "Traceback" not in away.stderr


def test_features_are_extracted_once_and_shared_through_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    bucket.environment["MER_FEATURES"] = bucket.address("features")
    words = ("features", "build", bucket.address("tiny"), "--encoder", "text=words")
    for machine, todo in (("one", 84), ("two", 0)):
        bucket.environment["MER_CACHE"] = str(tmp_path / machine)
        done = bucket.run(*words)
        assert done.returncode == 0, done.stderr
        assert f"84 utterances, {todo} to compute" in done.stdout
    assert not [name for name in names(bucket.endpoint, "features/") if "/_claims/" in name and not name.endswith("/")]


def _downloaded(endpoint: Endpoint, space: str, folder: Path, spaces: Any) -> Any:
    import boto3

    (folder / space).mkdir(parents=True)
    target = folder / space / "trials.parquet"
    client(boto3, endpoint.behind).download_file(BUCKET, f"results/{space}/trials.parquet", str(target))
    return spaces.rows(folder, space)
