"""The real aws_ec2 plugin, run as the CLI runs it, against moto: our own inventory files, unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_bootstrap.adapters import inventory
from judge_bootstrap.adapters.config import load_environment
from judge_bootstrap.core.environment import Environment
from judge_bootstrap.core.errors import Refusal
from judge_lab import aws

ROOT = Path(__file__).parents[2]
NODES = [("node-1", "10.77.0.11"), ("node-2", "10.77.0.12")]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with aws.AwsServer() as server:
        yield server.url


@pytest.fixture
def instances(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
                        "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1", "AWS_CONFIG_FILE": os.devnull,
                        "AWS_SHARED_CREDENTIALS_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    found = aws.seed(endpoint, NODES)
    for name, _ in NODES:
        aws.set_state(endpoint, name, "start")
    return found


@pytest.fixture
def local() -> Environment:
    return load_environment("local", ROOT / "inventory")


def test_exactly_the_running_gpu_nodes_of_the_environment_are_hosts(
        local: Environment, instances: dict[str, str]) -> None:
    found = inventory.read(local).hosts
    assert {host.name: host.address for host in found.values()} == {
        instances["node-1"]: "10.77.0.11", instances["node-2"]: "10.77.0.12"}


def test_a_stopped_node_is_no_host(local: Environment, instances: dict[str, str], endpoint: str) -> None:
    aws.set_state(endpoint, "node-2", "stop")
    assert list(inventory.read(local).hosts) == [instances["node-1"]]
    with pytest.raises(Refusal, match="has 1 of 2 expected hosts"):
        inventory.read(local.model_copy(update={"expected_hosts": 2}))


def test_the_limit_is_ansibles_own_pattern(local: Environment, instances: dict[str, str]) -> None:
    assert list(inventory.read(local, instances["node-2"]).hosts) == [instances["node-2"]]
    assert list(inventory.read(local, f"all:!{instances['node-2']}").hosts) == [instances["node-1"]]


@pytest.mark.usefixtures("instances")
@pytest.mark.parametrize("limit", ["i-0abc", "-x", "localhost", "all:!all"])
def test_a_limit_that_leaves_no_host_is_refused(local: Environment, limit: str) -> None:
    with pytest.raises(Refusal, match="no host of local matches --limit"):
        inventory.read(local, limit)


@pytest.mark.usefixtures("instances")
def test_another_environment_has_no_host_here_and_says_what_it_looked_for() -> None:
    with pytest.raises(Refusal, match=r"inventory of prod has no host in group gpu_nodes \(looked for region us-east-1"
                                      r", instance-state-name=running, tag:Environment=prod, tag:role=ai-gpu"):
        inventory.read(load_environment("prod", ROOT / "inventory"))


@pytest.mark.usefixtures("instances")
def test_missing_credentials_are_named(local: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Refusal, match="cannot be read: no valid AWS credentials"):
        inventory.read(local)


@pytest.mark.usefixtures("instances")
def test_an_endpoint_that_is_down_is_named(local: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Refusal, match="cannot be read: AWS cannot be reached"):
        inventory.read(local)


@pytest.mark.usefixtures("instances")
def test_a_missing_collection_is_named(local: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", str(tmp_path))
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CONTENT_ROOT", str(tmp_path))
    for name in ("playbooks", "roles"):
        (tmp_path / name).mkdir()
    (tmp_path / "ansible.cfg").write_text((ROOT / "ansible.cfg").read_text())
    with pytest.raises(Refusal, match="unknown plugin 'amazon.aws.aws_ec2'") as caught:
        inventory.read(local)
    assert "ansible-galaxy collection install" in str(caught.value.hint)
