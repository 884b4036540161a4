"""Values that are each fine and together are not, and instance types that cannot be judges: what the plan says of them.

`terraform test` proves that these fail (invalid_combinations.tftest.hcl), but cannot read a message. The facts of the
instance types are those that moto carries, taken from EC2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from terraform.account import account
from terraform.life import Example, new_example
from terraform.tool import CHECKOUT, Answer, Terraform

_PROGRAM = str(CHECKOUT / "terraform" / "tests" / "mocks" / "judge-node.txt")
CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"min_size": 3, "desired_size": 5, "environment": "a" * 31, "sandbox": "b" * 25, "kubernetes_version": "1.34",
      "ami_release_version": "1.33.5-20251120"}, [
        "has 66 characters, and EKS allows 63: shorten sandbox or environment by 3.",
        "min_size is 3 and max_size is 2: min_size must not be above max_size.",
        "desired_size is 5: it must lie between min_size (3) and max_size (2).",
        'ami_release_version is "1.33.5-20251120", an image of another Kubernetes than kubernetes_version "1.34".',
    ]),
    ({"nvme_mount_path": "/mnt/k8s-disks/models", "taints": [{"key": "judge-bootstrap.io/model-not-ready"}]}, [
        "nvme_mount_path /mnt/k8s-disks/models and nvme_nodeadm_path /mnt/k8s-disks lie in each other",
        "taints has judge-bootstrap.io/model-not-ready, which is startup_taint_key: EKS would put it back",
    ]),
    ({"instance_types": ["m5d.xlarge", "g5g.xlarge", "g5.xlarge"], "nvme_strategy": "RAID10"}, [
        "instance_types has m5d.xlarge, which has no NVIDIA GPU: vLLM would find no device.",
        "instance_types has g5g.xlarge, which has no instance store: there would be no local disk to hold a model.",
        "instance_types has g5g.xlarge, which is arm64, and ami_type AL2023_x86_64_NVIDIA is x86_64",
        "instance_types has m5d.xlarge with 1 local disk(s), and nvme_strategy RAID10 needs at least 4.",
        "instance_types has g5g.xlarge with 0 local disk(s), and nvme_strategy RAID10 needs at least 4.",
        "instance_types has g5.xlarge with 1 local disk(s), and nvme_strategy RAID10 needs at least 4.",
    ]),
    ({"nvme_owner": "judge"}, ["nvme_owner is judge, and judge_node is null: it must say where nodes fetch"]),
    ({"judge_node": {"url": "https://mirror.example/judge-node.pyz", "sha256": "0" * 64},
      "judge_node_program": _PROGRAM, "mirror": {"enabled": True}},
     ["Both judge_node and judge_node_program are set: nodes fetch judge-node from one place."]),
    ({"judge_node_program": _PROGRAM},
     ["judge_node_program is set and mirror.enabled is false: the program is put into the mirror's bucket."]),
    ({"sandbox": "b" * 36, "mirror": {"enabled": True}},
     ["-ai-mirror-123456789012, 70 characters of the 63 that S3 takes: set mirror.bucket_name."]),
    ({"capacity_type": "SPOT", "warm_pool": {"min_size": 3, "max_group_prepared_capacity": 2},
      "appconfig": {"enabled": True, "settings": {"vllm": {"max_model_len": 4096}, "models": {}, "storage": 1}}}, [
        'warm_pool.pool_state is "STOPPED" and nvme_owner is "nodeadm": such instances come back with blank disks',
        'warm_pool is set and capacity_type is "SPOT": EC2 keeps no warm pool of Spot instances.',
        "warm_pool.max_group_prepared_capacity is 2: it must not be below warm_pool.min_size, which is 3.",
        "appconfig.settings has models, storage.(no object), vllm.max_model_len: wanted an object for each of",
    ]),
]


@pytest.fixture(scope="module")
def example(terraform: Terraform) -> Iterator[Example]:
    with account() as aws:
        yield new_example(terraform, aws, "minimal", "minimal-combinations", cluster_name="judge-prod",
                          subnet_ids=["subnet-0a1b2c3d4e5f67890"])


def _plan(example: Example, **arguments: Any) -> Answer:
    example.arguments.clear()
    example.set(security_group_ids=["sg-0a1b2c3d4e5f67890"], **arguments)
    return example.terraform.plan(example.folder, example.given, **example.account.variables)


@pytest.mark.parametrize(("arguments", "messages"), CASES, ids=[
    "sizes", "paths", "types", "owner", "two-programs", "no-mirror", "bucket", "parts"])
def test_the_plan_names_everything_that_does_not_fit(
        example: Example, arguments: dict[str, Any], messages: list[str]) -> None:
    errors = _plan(example, **arguments).errors
    assert [message for message in messages if not any(message in error for error in errors)] == [], errors
    assert len(errors) == len(messages), errors


def test_types_with_different_numbers_of_gpus_are_a_warning_and_still_a_plan(example: Example) -> None:
    answer = _plan(example, instance_types=["g5.xlarge", "g5.12xlarge"])
    assert answer.errors == []
    assert any("(g5.12xlarge: 4, g5.xlarge: 1): the cluster-autoscaler takes 1 for every node." in item.detail
               for item in answer.diagnostics if item.severity == "warning"), answer.diagnostics


def test_a_mirror_that_no_node_can_read_is_a_warning_and_still_a_plan(example: Example) -> None:
    answer = _plan(example, mirror={"enabled": True})
    assert answer.errors == []
    assert any(item.detail.startswith("mirror is enabled, and nodes cannot read models from it: neither mirror.")
               for item in answer.diagnostics if item.severity == "warning"), answer.diagnostics
