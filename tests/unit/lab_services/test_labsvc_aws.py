"""The lab's AWS: moto with the nodes' instances, read back by boto3 and by the real inventory plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from judge_lab import aws

ROOT = Path(__file__).parents[3]
COLLECTIONS = ROOT / ".collections"
NODES = [("node-1", "10.77.0.11"), ("node-2", "10.77.0.12")]
INVENTORY = """\
plugin: amazon.aws.aws_ec2
regions: [us-east-1]
filters:
  instance-state-name: running
  tag:Environment: local
  tag:role: ai-gpu
  tag:eks:cluster-name: judge-local
hostnames: [instance-id]
groups:
  gpu_nodes: true
compose:
  ansible_host: private_ip_address
strict: true
"""


@pytest.fixture(scope="module")
def moto() -> Iterator[aws.AwsServer]:
    with aws.AwsServer() as server:
        yield server


@pytest.fixture
def endpoint(moto: aws.AwsServer) -> str:
    """A server without instances: moto's own reset, which is quicker than a new server."""
    with urllib.request.urlopen(f"{moto.url}/moto-api/reset", data=b"", timeout=120):
        return moto.url


def instances(endpoint: str) -> dict[str, dict[str, Any]]:
    """All instances by Name, read by a client of the test's own."""
    ec2 = boto3.client(
        "ec2", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    found = {}
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            if instance["State"]["Name"] != "terminated":
                found[tags["Name"]] = {**instance, "tags": tags}
    return found


def listed(endpoint: str, folder: Path) -> dict[str, str]:
    """What the real aws_ec2 plugin lists in gpu_nodes: {instance id: ansible_host}."""
    inventory = folder / "aws_ec2.yml"
    inventory.write_text(INVENTORY)
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "lab",
        "AWS_SECRET_ACCESS_KEY": "lab",
        "AWS_EC2_METADATA_DISABLED": "true",
        "LC_ALL": "C.UTF-8",
    }
    result = subprocess.run(
        ["ansible-inventory", "-i", str(inventory), "--list"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    hosts = json.loads(result.stdout)
    variables = hosts["_meta"]["hostvars"]
    return {host: str(_plain(variables[host]["ansible_host"])) for host in hosts.get("gpu_nodes", {}).get("hosts", [])}


def _plain(value: object) -> object:
    return value["__ansible_unsafe"] if isinstance(value, dict) else value


def test_each_node_gets_a_gpu_instance_with_its_address_and_tags(endpoint: str) -> None:
    ids = aws.seed(endpoint, NODES)
    found = instances(endpoint)
    assert {name: found[name]["InstanceId"] for name, _ in NODES} == ids
    node = found["node-1"]
    assert (node["PrivateIpAddress"], node["InstanceType"]) == ("10.77.0.11", "g5.xlarge")
    assert node["tags"] == {
        "Name": "node-1",
        "Environment": "local",
        "role": "ai-gpu",
        "eks:cluster-name": "judge-local",
        "judge-bootstrap.io/node": "node-1",
    }


def test_seeding_again_keeps_every_instance_and_adds_only_the_new_node(endpoint: str) -> None:
    first = aws.seed(endpoint, NODES)
    second = aws.seed(endpoint, [*NODES, ("node-3", "10.77.0.13")])
    assert {name: second[name] for name in first} == first
    assert sorted(instances(endpoint)) == [
        "judge-lab-decoy-staging", "judge-lab-decoy-web", "node-1", "node-2", "node-3"
    ]  # fmt: skip


def test_a_terminated_instance_is_replaced(endpoint: str) -> None:
    first = aws.seed(endpoint, NODES)
    assert aws.set_state(endpoint, "node-1", "terminate") == first["node-1"]
    second = aws.seed(endpoint, NODES)
    assert second["node-1"] != first["node-1"]
    assert second["node-2"] == first["node-2"]


def test_an_instance_that_nobody_made_cannot_be_stopped(endpoint: str) -> None:
    aws.seed(endpoint, NODES)
    with pytest.raises(KeyError, match="node-9"):
        aws.set_state(endpoint, "node-9", "stop")


@pytest.mark.skipif(not COLLECTIONS.is_dir(), reason="no amazon.aws collection: run `make setup`")
def test_the_real_inventory_plugin_lists_exactly_the_running_nodes(endpoint: str, tmp_path: Path) -> None:
    ids = aws.seed(endpoint, [*NODES, ("node-3", "10.77.0.13")])
    aws.set_state(endpoint, "node-3", "stop")
    assert listed(endpoint, tmp_path) == {ids["node-1"]: "10.77.0.11", ids["node-2"]: "10.77.0.12"}
    aws.set_state(endpoint, "node-3", "start")
    assert listed(endpoint, tmp_path)[ids["node-3"]] == "10.77.0.13"
