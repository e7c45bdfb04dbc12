"""What Ray makes of the AWS file before it launches anything, against a pretended EC2: who can reach the nodes?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.cluster.check import read_cluster_file

FILE = Path(__file__).parents[3] / "cluster" / "cluster.yaml"


@pytest.fixture
def ec2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    moto = pytest.importorskip("moto", reason="needs moto, which pretends to be AWS")
    boto3 = pytest.importorskip("boto3", reason="needs boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setattr("ray.autoscaler._private.aws.config.time.sleep", lambda seconds: None)
    from ray.autoscaler._private.aws import utils

    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield boto3.client("ec2", region_name="us-west-2")


def bootstrapped(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config

    found: dict[str, Any] = bootstrap_aws(prepare_config(copy.deepcopy(config)))
    return found


def open_to_the_world(ec2: Any, config: dict[str, Any]) -> list[str]:
    """Groups of the nodes that let anybody in."""
    used = {
        group for node in config["available_node_types"].values() for group in node["node_config"]["SecurityGroupIds"]
    }
    groups = ec2.describe_security_groups(GroupIds=sorted(used))["SecurityGroups"]
    return [group["GroupName"] for group in groups if "0.0.0.0/0" in str(group["IpPermissions"])]


def test_nobody_else_reaches_the_nodes_of_the_shipped_file(ec2: Any) -> None:
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    mine = ec2.create_security_group(GroupName="mer", Description="mer", VpcId=vpc)["GroupId"]
    config = read_cluster_file(FILE)
    for node in config["available_node_types"].values():
        node["node_config"]["SecurityGroupIds"] = [mine]
    found = bootstrapped(config)
    assert open_to_the_world(ec2, found) == []
    types = found["available_node_types"]
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["head"]["resources"]["CPU"] == 0


def test_a_group_of_rays_own_would_be_open(ec2: Any) -> None:
    """Why `mer cluster check` wants a group of one's own: if Ray no longer does this, the rule can go."""
    config = read_cluster_file(FILE)
    for node in config["available_node_types"].values():
        node["node_config"].pop("SecurityGroupIds")
    mine = {"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}
    config["provider"]["security_group"] = {"GroupName": "mer", "IpPermissions": [mine]}
    assert open_to_the_world(ec2, bootstrapped(config)) == ["mer"]
