"""What the preflight says of a node that is fine, and of each way in which a node can be wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.cluster.preflight import (
    LEFT_BEHIND_S,
    PROBES,
    NodeView,
    Question,
    ask,
    inspect_node,
    judge,
    read_answer,
    remove_nonce,
    required_packages,
    write_nonce,
)
from experiments.cluster.project import project_line, source_digest
from mer.data import fetching


def corpus(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "valid", "test"):
        lines = [
            {"utterance_id": f"{split}{i}", "speaker_id": "s", "transcript": "a", "emotion": "xy"[i]} for i in range(2)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def look(results: Path, nonce: str, **corpora: tuple[str, str | None]) -> NodeView:
    """What this machine sees, by way of a question and an answer as they are sent."""
    found = read_answer(inspect_node(ask(Question(str(results), nonce, corpora))))
    assert found is not None
    return found


@pytest.fixture
def driver(tmp_path: Path) -> NodeView:
    return look(tmp_path / "results", "n", c=(str(corpus(tmp_path / "corpus")), None))


def test_a_node_like_the_driver_passes(tmp_path: Path) -> None:
    results, folder = str(tmp_path / "results"), str(corpus(tmp_path / "corpus"))
    nonce = write_nonce(results)
    view = look(tmp_path / "results", nonce, c=(folder, None))
    assert view.nonce == nonce
    assert view.writable is None
    assert judge(view, view, nonce, needs_gpu=False) == []
    remove_nonce(results, nonce)
    assert look(tmp_path / "results", nonce).nonce is None
    assert list((tmp_path / "results" / PROBES).iterdir()) == []


def test_drivers_do_not_disturb_each_other(tmp_path: Path) -> None:
    results = str(tmp_path / "results")
    mine, theirs = write_nonce(results), write_nonce(results)
    assert look(tmp_path / "results", mine).nonce == mine
    remove_nonce(results, mine)
    assert look(tmp_path / "results", theirs).nonce == theirs
    then = time.time() - LEFT_BEHIND_S - 60
    os.utime(tmp_path / "results" / PROBES / theirs, (then, then))
    write_nonce(results)
    assert look(tmp_path / "results", theirs).nonce is None  # left by a driver that was killed long ago


def test_an_answer_of_another_version_is_told_apart(driver: NodeView) -> None:
    answer = dataclasses.asdict(driver)
    assert read_answer(answer) == driver
    assert read_answer({**answer, "mood": "good"}) is None
    assert read_answer({key: value for key, value in answer.items() if key != "source"}) is None
    assert read_answer(None) is None


def test_every_package_that_a_number_may_depend_on_is_compared() -> None:
    assert {"torch", "ray", "scipy", "scikit-learn", "soxr", "underthesea", "mer-ablation"} <= set(required_packages())
    assert {"pytest", "sphinx", "ruff"}.isdisjoint(required_packages())


def test_the_line_that_is_compared_by_eye(tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("corpora: demo\n")
    before = project_line(str(space))
    assert f"(files {source_digest()[:8]})" in before
    space.write_text("corpora: [demo]\n")
    assert project_line(str(space)) != before


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "another Python": ({"python": "3.12.1"}, "Python 3.12.1"),
    "another commit": ({"commit": "abc"}, "project at abc"),
    "another state of the same commit": (
        {"source": "0123456789"},
        "project's files differ from the driver's (01234567",
    ),
    "a package that the driver has not": ({"packages": {"x": "1"}}, "x 1, the driver has missing"),
    "fewer GPUs than it offers": ({"gpus": 1}, "offers 2 GPUs and sees 1"),
    "not shared": ({"nonce": None}, "results are not shared: it found nothing"),
    "a stale mount": ({"nonce": "old"}, "something else"),
    "read-only": ({"writable": "Read-only file system"}, "cannot write results: Read-only"),
    "full disk": ({"free_gb": 0.1}, "0.1 GB of disk left"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_named(driver: NodeView, case: str) -> None:
    changes, message = CASES[case]
    good = dataclasses.replace(driver, nonce="n", gpus=2)
    changes = {**changes, "packages": {**good.packages, **changes.get("packages", {})}}
    found = judge(good, dataclasses.replace(good, **changes), "n", needs_gpu=False, offers_gpus=2)
    assert len(found) == 1
    assert message in found[0]


def test_versions_clock_gpu_and_corpus(driver: NodeView) -> None:
    good = dataclasses.replace(driver, nonce="n", gpus=0)
    assert judge(good, good, "n", needs_gpu=True) == ["no GPU visible"]
    late = dataclasses.replace(good, clock=good.clock + 3600)
    assert judge(good, late, "n", needs_gpu=False) == ["its clock differs by +3600 s"]
    hour = good.clock, good.clock + 3601
    assert judge(good, late, "n", needs_gpu=False, between=hour) == []  # it has answered an hour later
    assert judge(good, good, "n", needs_gpu=False, between=hour) == []  # or its answer has waited for the driver
    for wrong, said in ((good.clock - 100, "-100 s"), (good.clock + 3701, "+100 s")):
        other = dataclasses.replace(good, clock=wrong)
        assert judge(good, other, "n", needs_gpu=False, between=hour) == [f"its clock differs by {said}"]
    other = dataclasses.replace(good, packages={**good.packages, "ray": "2.59.0"})
    assert "ray 2.59.0, the driver has" in judge(good, other, "n", needs_gpu=False)[0]
    folder = next(iter(good.corpora))
    changed = dataclasses.replace(good, corpora={folder: "1234"})
    assert "corpus c: 1234, the driver has" in judge(good, changed, "n", needs_gpu=False)[0]


def test_a_corpus_that_is_fetched_is_compared_without_fetching_it(tmp_path: Path, monkeypatch: Any) -> None:
    address = "s3://bucket/tiny"
    monkeypatch.setattr(fetching, "listing", lambda asked: f"what lies at {asked}")
    view = look(tmp_path, "n", tiny=("/nowhere", address), demo=("/elsewhere", "demo"))
    assert view.corpora == {"tiny": f"what lies at {address}", "demo": "demo"}


def test_an_unwritable_store_gives_the_reason(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert look(blocked / "results", "n").writable


def test_a_store_that_cannot_be_opened_is_a_reason_too(tmp_path: Path) -> None:
    view = read_answer(inspect_node(ask(Question("s4://bucket/results", "n"))))
    assert view is not None
    assert "cannot open s4://bucket/results" in str(view.writable)
