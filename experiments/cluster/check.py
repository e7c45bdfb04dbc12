"""`mer cluster check FILE`: Ray's own schema, and the rules that keep a cluster safe, affordable and reproducible.

Each rule is one small function from the prepared configuration to findings; the table `RULES` is all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer.errors import UserError
from mer.yaml_text import read_yaml

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """Something wrong with a cluster file, and what to write instead. `error`: it must not be launched like this."""

    rule: str
    error: bool
    problem: str
    fix: str


def check_cluster_file(path: Path) -> list[Finding]:
    """All findings of all rules. Raises `UserError` where the file is not a Ray cluster file at all."""
    config = read_cluster_file(path)
    schema = list(_ray_schema(config))
    return schema + [finding for rule in RULES for finding in rule(config)]


def read_cluster_file(path: Path) -> dict[str, Any]:
    config = read_yaml(path)
    if not isinstance(config, dict) or "provider" not in config:
        raise UserError("not a Ray cluster file: it names no `provider`", where=str(path))
    return config


def _ray_schema(config: Config) -> Iterator[Finding]:
    """What the installed Ray itself says. Its validator is private, so a Ray without it is not an error of the file."""
    import copy

    try:
        from ray.autoscaler._private.util import prepare_config, validate_config
    except ImportError:
        return
    try:
        validate_config(prepare_config(copy.deepcopy(dict(config))))
    except Exception as error:  # jsonschema's, and whatever Ray raises
        message = str(error).split("\n\n")[0].strip()
        yield Finding("schema", True, f"Ray refuses this file: {message}", "see Ray's cluster YAML reference")


def _start_commands(config: Config) -> dict[str, str | None]:
    """Head and worker start commands as one text each; None where the file leaves them to Ray's defaults."""
    found: dict[str, str | None] = {}
    for kind in ("head", "worker"):
        commands = config.get(f"{kind}_start_ray_commands")
        found[kind] = "\n".join(commands) if commands else None
    return found


def _is_cloud(config: Config) -> bool:
    return bool(config["provider"].get("type") != "local")


def dashboard_exposed(config: Config) -> Iterator[Finding]:
    head = _start_commands(config)["head"]
    fix = "head_start_ray_commands: ray start --head ... --dashboard-host=127.0.0.1"
    if head is None and _is_cloud(config):
        yield Finding(
            "dashboard", True, "no head_start_ray_commands: Ray's default opens the dashboard to every address", fix
        )
    elif head and re.search(r"--dashboard-host[= ](?!127\.0\.0\.1|localhost)", head):
        yield Finding("dashboard", True, "the dashboard, and with it the job API, listens beyond the loopback", fix)


def no_token(config: Config) -> Iterator[Finding]:
    options = " ".join(config.get("docker", {}).get("run_options", []) if config.get("docker") else [])
    for kind, commands in _start_commands(config).items():
        if "RAY_AUTH_MODE=token" not in (commands or "") + options:
            yield Finding(
                "token",
                True,
                f"the {kind} starts without RAY_AUTH_MODE=token: whoever reaches a port can run code",
                f"{kind}_start_ray_commands: RAY_AUTH_MODE=token ray start ...",
            )
    mounts = config.get("file_mounts") or {}
    if not any(str(target).endswith(".ray/auth_token") for target in mounts):
        yield Finding(
            "token",
            True,
            "no token file reaches the nodes",
            "file_mounts: {/home/USER/.ray/auth_token: ~/.ray/auth_token}  (ray get-auth-token --generate)",
        )
    setup = "\n".join([*(config.get("setup_commands") or []), *(config.get("initialization_commands") or [])])
    if "chmod 600" not in setup:
        yield Finding("token", True, "others can read the token", "setup_commands: chmod 600 ~/.ray/auth_token")


def nightly_wheel(config: Config) -> Iterator[Finding]:
    commands = config.get("setup_commands")
    if not commands and config["provider"].get("type") == "aws":
        yield Finding(
            "versions",
            True,
            "no setup_commands: Ray's default installs a nightly wheel for Python 3.10",
            "setup_commands: install the project with constraints.txt",
        )
    text = "\n".join(commands or [])
    if "ray-wheels/latest" in text or "3.0.0.dev" in text:
        yield Finding("versions", True, "setup_commands install a nightly Ray", "pin Ray by constraints.txt")
    elif re.search(r"pip install(?!.*(constraint|-c |==|-r ))", text):
        yield Finding("versions", False, "a pip install without pins", "add `-c constraints.txt`")


def no_cap(config: Config) -> Iterator[Finding]:
    if "max_workers" not in config:
        yield Finding("cost", True, "no max_workers: nothing caps the bill", "max_workers: 8")
    types = config.get("available_node_types") or {}
    head = types.get(config.get("head_node_type"), {})
    for name, node in types.items():
        spot = "spot" in str(node.get("node_config", {})).lower()
        if name == config.get("head_node_type"):
            if spot:
                yield Finding("cost", True, f"the head ({name}) is a spot instance", "run the head on demand")
        elif not spot and config["provider"].get("type") == "aws":
            yield Finding(
                "cost",
                False,
                f"workers ({name}) are on demand",
                "node_config: InstanceMarketOptions: {MarketType: spot}",
            )
    if types and (head.get("resources") or {}).get("CPU") != 0:
        yield Finding("head", False, "trials may run on the head", "head node type: resources: {CPU: 0}")
    local_head = _start_commands(config)["head"] or ""
    if not _is_cloud(config) and "--num-cpus=0" not in local_head:
        yield Finding("head", False, "trials may run on the head", "ray start --head --num-cpus=0")


def stopped_nodes(config: Config) -> Iterator[Finding]:
    if _is_cloud(config) and config["provider"].get("cache_stopped_nodes", True):
        yield Finding(
            "stopped nodes",
            False,
            "stopped nodes are kept: they come back with a stale environment, and their disks cost money",
            "provider: {cache_stopped_nodes: false}",
        )


def open_ssh(config: Config) -> Iterator[Finding]:
    """Ray 2.60 adds SSH from 0.0.0.0/0 to every security group that it makes, also to one with rules of one's own."""
    provider = config["provider"]
    if provider.get("type") != "aws" or provider.get("use_internal_ips"):
        return
    for name, node in (config.get("available_node_types") or {}).items():
        if "SecurityGroupIds" not in (node.get("node_config") or {}):
            yield Finding(
                "ssh",
                True,
                f"{name}: Ray opens SSH to the world in every security group that it makes, whatever the file says",
                "node_config: {SecurityGroupIds: [a group that you have made]} (docs/clusters.md), or use_internal_ips",
            )


def idle_and_sync(config: Config) -> Iterator[Finding]:
    if _is_cloud(config) and "idle_timeout_minutes" not in config:
        yield Finding("cost", False, "no idle_timeout_minutes", "idle_timeout_minutes: 15")
    mounts_project = any(str(source) in (".", "./") for source in (config.get("file_mounts") or {}).values())
    excluded = " ".join(config.get("rsync_exclude") or [])
    if mounts_project and not ("results" in excluded and ".venv" in excluded):
        yield Finding(
            "sync",
            False,
            "results and environments travel with the project",
            "rsync_exclude: [/.venv/, /results/, /data/]",
        )


def local_workers(config: Config) -> Iterator[Finding]:
    """What was learnt from running Ray 2.60 on machines of one's own (tests/cluster/test_onprem.py)."""
    if _is_cloud(config):
        return
    commands = _start_commands(config)
    workers = config["provider"].get("worker_ips") or []
    if len(workers) > 1 and "RAY_enable_autoscaler_v2=0" not in (commands["head"] or ""):
        yield Finding(
            "autoscaler",
            True,
            "Ray's second autoscaler counts the head of a `local` cluster as a worker: the last worker never joins",
            "head_start_ray_commands: RAY_AUTH_MODE=token RAY_enable_autoscaler_v2=0 ray start --head ...",
        )
    if "--block" not in (commands["worker"] or ""):
        yield Finding(
            "leftovers",
            False,
            "`ray down` does not reach the workers, where some of Ray's processes stay",
            "worker_start_ray_commands: setsid nohup ray start --block ... & (see cluster/onprem.yaml)",
        )


def hidden_package(config: Config) -> Iterator[Finding]:
    """`ray submit` runs the script in the home folder, which Python then searches first on every worker."""
    for target in config.get("file_mounts") or {}:
        if str(target).rstrip("/").rsplit("/", 1)[-1] in ("mer", "experiments"):
            yield Finding(
                "sync", True, f"{target}: a folder of a package's name hides the package", "call it mer-ablation"
            )


def placeholders(config: Config) -> Iterator[Finding]:
    text = str(config)
    for mark in ("ami-0123456789abcdef0", "sg-0123456789abcdef0", "CHANGE"):
        if mark in text:
            yield Finding("placeholder", False, f"{mark} is a placeholder", "put your own value")


RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    dashboard_exposed,
    no_token,
    nightly_wheel,
    no_cap,
    stopped_nodes,
    open_ssh,
    idle_and_sync,
    local_workers,
    hidden_package,
    placeholders,
)
