"""What `gpus: auto` means where there is no GPU: processors, at once, instead of waiting for ever."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.schedule.cluster import gpu_share
from mer.errors import UserError


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, float]:
    """The resources of the cluster that is connected to; empty home folder."""
    found: dict[str, float] = {"CPU": 2.0}
    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(cluster_resources=lambda: found))
    monkeypatch.setenv("HOME", str(tmp_path))
    return found


def test_auto_without_a_gpu_is_none_of_it_and_says_so(cluster: dict[str, float]) -> None:
    said: list[str] = []
    assert gpu_share(None, said.append) == 0.0
    assert gpu_share("auto", said.append) == 0.0
    assert said == ["no GPU in this cluster: trials run on processors"] * 2


def test_auto_with_a_gpu_is_measured(cluster: dict[str, float]) -> None:
    cluster["GPU"] = 1.0
    assert gpu_share("auto", print) is None
    assert gpu_share(0.25, print) == 0.25


def test_asking_for_what_is_not_there_is_refused(cluster: dict[str, float]) -> None:
    assert gpu_share(0.0, print) == 0.0
    with pytest.raises(UserError, match=r"asks for 0\.5 of a GPU"):
        gpu_share(0.5, print)


@pytest.mark.parametrize(("provider", "waits"), [("aws", True), ("local", False)])
def test_a_cloud_may_still_bring_gpus(cluster: dict[str, float], tmp_path: Path, provider: str, waits: bool) -> None:
    (tmp_path / "ray_bootstrap_config.yaml").write_text(f'{{"provider": {{"type": "{provider}"}}}}')
    assert gpu_share(None, lambda text: None) == (None if waits else 0.0)
