"""The shipped cluster files pass Ray's schema and our rules, and each rule finds what it names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli import main
from experiments.cluster.check import check_cluster_file, read_cluster_file
from experiments.cluster.project import project_line
from mer.errors import UserError

CLUSTER = Path(__file__).parents[3] / "cluster"
SHIPPED = ["cluster.yaml", "onprem.yaml"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_have_no_errors(name: str) -> None:
    findings = check_cluster_file(CLUSTER / name)
    assert [finding for finding in findings if finding.error] == []
    assert {finding.rule for finding in findings} <= {"placeholder"}


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.pop(key)


def replaced(key: str, old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        assert old in str(config[key])
        config[key] = [command.replace(old, new) for command in config[key]]

    return change


def without_group(config: dict[str, Any]) -> None:
    for node in config["available_node_types"].values():
        node["node_config"].pop("SecurityGroupIds", None)


def with_rules_of_ones_own(config: dict[str, Any]) -> None:
    without_group(config)
    mine = {"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}
    config["provider"]["security_group"] = {"GroupName": "mer", "IpPermissions": [mine]}


BROKEN = {
    "dashboard opened": ("dashboard", replaced("head_start_ray_commands", "127.0.0.1", "0.0.0.0")),
    "default head command": ("dashboard", without("head_start_ray_commands")),
    "no token mode on workers": ("token", replaced("worker_start_ray_commands", "RAY_AUTH_MODE=token", "")),
    "no token file": ("token", without("file_mounts")),
    "token readable": ("token", replaced("setup_commands", "chmod 600", "ls")),
    "default nightly wheel": ("versions", without("setup_commands")),
    "no cap": ("cost", without("max_workers")),
    "ssh open": ("ssh", without_group),
    "ssh opened by Ray beside rules of one's own": ("ssh", with_rules_of_ones_own),
    "project in a folder called mer": ("sync", lambda config: config["file_mounts"].update({"/home/ubuntu/mer": "."})),
    "unknown key": ("schema", lambda config: config.update(idle_timeout_minuts=3)),
    "head on spot": (
        "cost",
        lambda config: config["available_node_types"]["head"]["node_config"].update(
            InstanceMarketOptions={"MarketType": "spot"}
        ),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_rule_finds_what_it_names(case: str, tmp_path: Path) -> None:
    rule, change = BROKEN[case]
    config = copy.deepcopy(read_cluster_file(CLUSTER / "cluster.yaml"))
    change(config)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    found = [finding for finding in check_cluster_file(path) if finding.error]
    assert rule in {finding.rule for finding in found}
    assert all(finding.fix for finding in found)


def test_own_machines_need_the_first_autoscaler_and_leave_nothing(tmp_path: Path) -> None:
    config = copy.deepcopy(read_cluster_file(CLUSTER / "onprem.yaml"))
    replaced("head_start_ray_commands", "RAY_enable_autoscaler_v2=0", "")(config)
    replaced("worker_start_ray_commands", "--block", "")(config)
    path = tmp_path / "onprem.yaml"
    path.write_text(yaml.safe_dump(config))
    assert [(finding.rule, finding.error) for finding in check_cluster_file(path)] == [
        ("autoscaler", True),
        ("leftovers", False),
    ]


def test_advice_does_not_fail_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = copy.deepcopy(read_cluster_file(CLUSTER / "cluster.yaml"))
    config["provider"]["cache_stopped_nodes"] = True
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    assert "stopped nodes" in {finding.rule for finding in check_cluster_file(path)}
    assert main(["cluster", "check", str(path), "--space", "quickstart"]) == 0
    assert f"here: {project_line('quickstart')};" in capsys.readouterr().out


def test_what_is_not_a_cluster_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: [1\n")
    with pytest.raises(UserError, match=r"x\.yaml:2: not YAML"):
        check_cluster_file(path)
    path.write_text("a: 1\n")
    assert main(["cluster", "check", str(path)]) == 2
    assert "names no `provider`" in capsys.readouterr().err
    assert main(["cluster", "check", str(tmp_path / "none.yaml")]) == 2
