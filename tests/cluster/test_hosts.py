"""The laboratory itself: hosts are apart where they must be and share what they must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster


def test_hosts_are_apart_and_share_a_folder(lab: Any) -> None:
    one, two = lab.add("a"), lab.add("b")
    lab.ssh("a", "echo here > /tmp/only_a; echo word > /mnt/shared/word; nohup sleep 300 >/dev/null 2>&1 &")
    assert "only_a" not in lab.ssh("b", "ls /tmp")
    assert lab.ssh("b", "cat /mnt/shared/word").strip() == "word"
    assert lab.ssh("b", "pgrep sleep || echo none").strip() == "none"
    assert lab.ssh("a", "hostname; echo $HOME").split() == [one.name, "/mnt/home"]
    assert lab.ssh("a", f"ssh-keyscan -T 5 {two.address} 2>/dev/null | head -1").startswith(two.address)
    assert lab.ssh("a", "~/venv/bin/python -c 'import ray, torch; print(ray.__version__)'").startswith("2.")
    one.kill()
    assert "ready" not in lab.ssh("a", "echo ready", check=False)
    assert Path(lab.shared / "word").read_text() == "word\n"
