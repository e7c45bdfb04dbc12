"""What the preflight says of a node that is fine, and of each way in which a node can be wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from experiments.cluster.preflight import NodeView, inspect_node, judge, remove_probes, write_nonce


def corpus(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "valid", "test"):
        lines = [
            {"utterance_id": f"{split}{i}", "speaker_id": "s", "transcript": "a", "emotion": "xy"[i]} for i in range(2)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


@pytest.fixture
def driver(tmp_path: Path) -> NodeView:
    return inspect_node(str(tmp_path / "results"), (str(corpus(tmp_path / "corpus")),))


def test_a_node_like_the_driver_passes(tmp_path: Path) -> None:
    results, folder = str(tmp_path / "results"), str(corpus(tmp_path / "corpus"))
    nonce = write_nonce(results)
    view = inspect_node(results, (folder,))
    assert view.nonce == nonce
    assert view.writable is None
    assert judge(view, view, nonce, needs_gpu=False) == []
    remove_probes(results)
    assert inspect_node(results, ()).nonce is None


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "another Python": ({"python": "3.12.1"}, "Python 3.12.1"),
    "another commit": ({"commit": "abc"}, "project at abc"),
    "not shared": ({"nonce": None}, "results are not shared: it found nothing"),
    "a stale mount": ({"nonce": "old"}, "something else"),
    "read-only": ({"writable": "Read-only file system"}, "cannot write results: Read-only"),
    "full disk": ({"free_gb": 0.1}, "0.1 GB of disk left"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_named(driver: NodeView, case: str) -> None:
    changes, message = CASES[case]
    good = dataclasses.replace(driver, nonce="n")
    found = judge(good, dataclasses.replace(good, **changes), "n", needs_gpu=False)
    assert len(found) == 1
    assert message in found[0]


def test_versions_clock_gpu_and_corpus(driver: NodeView) -> None:
    good = dataclasses.replace(driver, nonce="n", gpus=0)
    assert judge(good, good, "n", needs_gpu=True) == ["no GPU visible"]
    late = dataclasses.replace(good, clock=good.clock + 3600)
    assert judge(good, late, "n", needs_gpu=False) == ["its clock differs by +3600 s"]
    other = dataclasses.replace(good, packages={**good.packages, "ray": "2.59.0"})
    assert "ray 2.59.0, the driver has" in judge(good, other, "n", needs_gpu=False)[0]
    folder = next(iter(good.corpora))
    changed = dataclasses.replace(good, corpora={folder: "1234"})
    assert f"corpus {folder}: 1234" in judge(good, changed, "n", needs_gpu=False)[0]


def test_an_unwritable_store_gives_the_reason(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    view = inspect_node(str(blocked / "results"), ())
    assert view.writable
