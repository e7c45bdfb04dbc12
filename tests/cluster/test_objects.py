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
        self.door.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits at it
        self.door.close()
        for guest in self.inside:
            with contextlib.suppress(OSError):
                guest.shutdown(socket.SHUT_RDWR)
            guest.close()
        self.inside.clear()

    def _let_in(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                guest, _ = door.accept()
                server = socket.create_connection(("127.0.0.1", self.behind))
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


def test_the_endpoint_goes_away_for_20_seconds(endpoint: Endpoint, spaces: Any, tmp_path: Path) -> None:
    space = spaces.write("objects", epochs=300)
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"}
    address = f"s3://{BUCKET}/results?endpoint_override=http://127.0.0.1:{endpoint.port}&scheme=http&region=us-east-1"
    command = [
        str(Path(sysconfig.get_paths()["scripts"]) / "mer"), "run", "--space", str(space),
        "--data", str(spaces.folder / "tiny"), "--results", address, "--address", "local", "--workers", "2",
    ]  # fmt: skip
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        while len(names(endpoint, "results/ledger/")) < 2:
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.5)
        endpoint.shut()
        time.sleep(20)
        assert run.poll() is None, "the run ended while the endpoint was away"
        before = len(names(endpoint, "results/ledger/"))
        endpoint.open()
        said = run.communicate()[0]
    assert run.returncode == 0, said
    assert "no report is written to an object store" in said
    assert before < 12  # it did go away in the middle
    assert _downloaded(endpoint, "objects", tmp_path / "copy", spaces) == spaces.alone("objects")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "12 complete" in again.stdout  # from the ledger: nothing is left to be run


def _downloaded(endpoint: Endpoint, space: str, folder: Path, spaces: Any) -> Any:
    import boto3

    (folder / space).mkdir(parents=True)
    target = folder / space / "trials.parquet"
    client(boto3, endpoint.behind).download_file(BUCKET, f"results/{space}/trials.parquet", str(target))
    return spaces.rows(folder, space)
