"""What Terraform says of a wrong value: every validation of the root module fails once, and names what it found.

A folder with nothing but the files of variables has no provider to start, so a plan takes a tenth of a second.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from terraform.tool import Terraform

_GOOD = {"environment": "prod", "cluster_name": "judge-prod", "subnet_ids": ["subnet-0a"]}
_RULE = re.compile(r" This was checked by the validation rule at ([^ :]+):([0-9]+),")
_SHA256 = "0" * 64
_KEY = "arn:aws:kms:us-east-1:111122223333:alias/x"

# variable, a wrong value, what is said
CASES: list[tuple[str, Any, str]] = [
    ("environment", "Prod", 'environment is "Prod": it must begin with a lower-case letter'),
    ("sandbox", "-anna", 'sandbox is "-anna": it must be null, or lower-case letters'),
    ("cluster_name", "arn:aws:eks:x", 'cluster_name is "arn:aws:eks:x": an EKS cluster\'s name begins with'),
    ("subnet_ids", [], "subnet_ids is empty: name at least one subnet"),
    ("subnet_ids", ["subnet-0a", "vpc-0a"], 'subnet_ids has "vpc-0a": each must be the id of a subnet'),
    ("security_group_ids", ["default"], 'security_group_ids has "default": each must be the id of a security group'),
    ("security_group_ids", [f"sg-{number}" for number in range(6)],
     "security_group_ids has 6 groups: EC2 allows 5 on a network interface"),
    ("capacity_type", "on-demand", 'capacity_type is "on-demand": it must be ON_DEMAND or SPOT'),
    ("instance_types", [], "instance_types has 0 types: an EKS node group takes 1 to 20"),
    ("instance_types", ["g5.xlarge", "G5"], 'instance_types has "G5": each must be an EC2 instance type'),
    ("instance_types", ["g5.xlarge", "g5.xlarge"], 'instance_types names a type twice: "g5.xlarge", "g5.xlarge"'),
    ("disk_size_gib", 19, "disk_size_gib is 19: it must be a whole number from 20"),
    ("disk_size_gib", 100.5, "disk_size_gib is 100.5: it must be a whole number from 20"),
    ("ami_type", "AL2_x86_64_GPU", 'ami_type is "AL2_x86_64_GPU": the EKS images of Amazon Linux 2 reached their end '
                                   "of support on 26 November 2025"),
    ("ami_type", "BOTTLEROCKET_x86_64_NVIDIA", "Bottlerocket has neither nodeadm nor a place for judge-node's boot"),
    ("ami_type", "AL2023_x86_64_STANDARD", 'ami_type is "AL2023_x86_64_STANDARD": it must be an image with NVIDIA'),
    ("ami_release_version", "latest", 'ami_release_version is "latest": it must be null, or Kubernetes version and'),
    ("kubernetes_version", "v1.33", 'kubernetes_version is "v1.33": it must be null, or major and minor version'),
    ("desired_size", -1, "desired_size is -1: it must be a whole number, 0 or more"),
    ("min_size", 0.5, "min_size is 0.5: it must be a whole number, 0 or more"),
    ("max_size", 0, "max_size is 0: it must be a whole number from 1 to 450"),
    ("node_role_label", "ai gpu", 'node_role_label is "ai gpu": a label\'s value has 1 to 63 letters'),
    ("labels", {"role": "web"}, "labels sets role: that label is what node_role_label says"),
    ("labels", {"-team": "a"}, "labels has the keys -team: each must be a Kubernetes label key"),
    ("labels", {"kubernetes.io/os": "linux"}, "labels has kubernetes.io/os: EKS or kubelet refuses labels under"),
    ("labels", {"team": "a b"}, 'labels has the values team="a b": each must have 1 to 63 letters'),
    ("taints", [{"key": "a b"}], 'taints has the keys "a b": each must be a Kubernetes taint key'),
    ("taints", [{"key": None}], "taints has the keys null: each must be a Kubernetes taint key"),
    ("taints", [{"key": "sku", "value": "a b"}], 'taints has the values "sku" = "a b": each must be empty, or have'),
    ("taints", [{"key": "sku", "effect": "No"}], 'taints has the effects "sku": "No": each must be NoSchedule'),
    ("taints", [{"key": "sku"}, {"key": "sku", "effect": "NoExecute"}], 'taints has a key twice: "sku", "sku".'),
    ("startup_taint_key", "a/b/c", 'startup_taint_key is "a/b/c": it must be a Kubernetes taint key'),
    ("max_unavailable", 0, "max_unavailable is 0: it must be a whole number from 1 to 100"),
    ("max_unavailable_percentage", 101, "max_unavailable_percentage is 101: it must be null, or a whole number from 1"),
    ("imds_hop_limit", 0, "imds_hop_limit is 0: it must be a whole number from 1 to 64"),
    ("key_name", " on-call", 'key_name is " on-call": it must be null, or the name of a key pair in the region'),
    ("kms_key_arn", _KEY, f'kms_key_arn is "{_KEY}": it must be null, or the ARN of a key'),
    ("tags", {"role": "x", "a": "b"}, "tags sets role: these tags say what environment, sandbox and node_role_label"),
    ("tags", {"aws:x": "y"}, "a key has 1 to 128 characters and does not begin with aws:"),
    ("tags", {f"t{number}": "x" for number in range(41)}, "tags has 41 tags: AWS allows 50"),
    ("model_commits", ["main"], 'model_commits is ["main"]: each must be a commit of 40 hex digits'),
    ("nvme_owner", "ansible", 'nvme_owner is "ansible": it must be nodeadm or judge'),
    ("nvme_mount_path", "mnt/nvme", 'nvme_mount_path is "mnt/nvme": it must be an absolute path'),
    ("nvme_strategy", "RAID5", 'nvme_strategy is "RAID5": it must be RAID0, RAID10 or Mount'),
    ("nvme_fstype", "btrfs", 'nvme_fstype is "btrfs": it must be xfs or ext4'),
    ("nvme_nodeadm_path", "/", 'nvme_nodeadm_path is "/": it must be an absolute path'),
    ("nvme_wait_seconds", 86401, "nvme_wait_seconds is 86401: it must be a whole number from 0 to 86400"),
    ("judge_node", {"url": "ftp://a/b", "sha256": _SHA256}, 'judge_node.url is "ftp://a/b": it must be an https://'),
    ("judge_node", {"url": "https://a/b", "sha256": "0" * 63}, "it must be 64 lower-case hex digits, as sha256sum"),
    ("judge_node_program", "missing.pyz", 'judge_node_program is "missing.pyz": there is no such file'),
    ("timeouts", {"create": "an hour"}, "each must be a duration such as 60m or 1h30m"),
    ("node_role_arn", "judge-nodes", 'node_role_arn is "judge-nodes": it must be null, or the ARN of a role'),
    ("permissions_boundary_arn", "boundary", 'permissions_boundary_arn is "boundary": it must be null, or the ARN'),
    ("hf_token_secret_arn", "arn:aws:secretsmanager:us-east-1:111122223333:secret:*",
     'secret:*": it must be null, or the full ARN of one secret without a wildcard'),
    ("hf_token_kms_key_arn", _KEY, f'hf_token_kms_key_arn is "{_KEY}": it must be null, or the ARN of a key (no'),
    ("mirror", {"bucket_name": "judge.models"}, 'mirror.bucket_name is "judge.models": it must be null, or 3 to 63'),
    ("mirror", {"prefix": "judge-node/x"}, 'mirror.prefix is "judge-node/x": it must be one or more names'),
    ("mirror", {"kms_key_arn": _KEY}, f'mirror.kms_key_arn is "{_KEY}": it must be null, or the ARN of a key (no'),
    ("mirror", {"vpc_endpoint": {"vpc_id": "main", "route_table_ids": ["rtb-0a"]}},
     'mirror.vpc_endpoint.vpc_id is "main": it must be the id of a VPC'),
    ("mirror", {"vpc_endpoint": {"vpc_id": "vpc-0a", "route_table_ids": []}},
     "mirror.vpc_endpoint.route_table_ids is []: it must name the route tables"),
    ("mirror", {"vpc_endpoint_ids": ["s3"]}, 'mirror.vpc_endpoint_ids is ["s3"]: each must be the id of a gateway'),
    ("appconfig", {"application": ""}, "it must have 1 to 64 letters, digits, '_', '.' and '-', with a letter"),
    ("appconfig", {"profile": "a b"}, 'appconfig.profile is "a b": it must have 1 to 64 letters'),
    ("appconfig", {"settings": 3}, "appconfig.settings is 3: it must be an object of sections"),
    ("alarms", {"sns_topic_arns": ["on-call"]}, 'alarms.sns_topic_arns is ["on-call"]: each must be the ARN of a'),
    ("alarms", {"sns_topic_arns": [f"arn:aws:sns:us-east-1:111122223333:t{number}" for number in range(6)]},
     "alarms.sns_topic_arns has 6 topics: an alarm takes at most 5"),
    ("alarms", {"minutes": 4}, "alarms.minutes is 4: it must be a whole number from 5 to 120"),
    ("warm_pool", {"pool_state": "HIBERNATED"}, "EC2 hibernates none of the instance types with a GPU"),
    ("warm_pool", {"pool_state": "Stopped"}, 'warm_pool.pool_state is "Stopped": it must be STOPPED or RUNNING'),
    ("warm_pool", {"min_size": -1}, "warm_pool.min_size is -1: it must be a whole number from 0 to 450"),
    ("warm_pool", {"max_group_prepared_capacity": 451}, "warm_pool.max_group_prepared_capacity is 451: it must be"),
]


@pytest.fixture(scope="module")
def variables(terraform: Terraform) -> Path:
    """A folder with the root module's variables, and nothing else."""
    return terraform.tree / "tests" / "variables"


def _said(terraform: Terraform, folder: Path, variable: str, value: Any) -> list[str]:
    return terraform.plan(folder, {**_GOOD, variable: value}).errors


def test_what_the_cases_begin_with_is_right(terraform: Terraform, variables: Path) -> None:
    assert terraform.plan(variables, _GOOD).errors == []


@pytest.mark.parametrize(("variable", "value", "said"), CASES, ids=[f"{case[0]}-{case[1]}"[:60] for case in CASES])
def test_a_wrong_value_is_named_and_what_is_wanted(
        terraform: Terraform, variables: Path, variable: str, value: Any, said: str) -> None:
    errors = _said(terraform, variables, variable, value)
    assert (len(errors), said in errors[0]) == (1, True), errors


def test_every_validation_fails_in_one_of_the_cases(terraform: Terraform, variables: Path) -> None:
    lines = {(path.name, str(number)) for path in variables.glob("*.tf")
             for number, line in enumerate(path.read_text().splitlines(), 1) if line.strip() == "validation {"}
    failed = {match.groups() for variable, value, _ in CASES for error in _said(terraform, variables, variable, value)
              if (match := _RULE.search(error))}
    assert sorted(lines - failed) == []


@pytest.mark.parametrize(("variable", "value"), [
    ("taints", []), ("labels", {"example.com/team": "a"}), ("security_group_ids", ["sg-0a"]), ("sandbox", "pr-412"),
    ("desired_size", 0), ("max_unavailable_percentage", 33), ("timeouts", {"create": "1h30m"}), ("warm_pool", {}),
    ("ami_type", "AL2023_ARM_64_NVIDIA"), ("instance_types", ["g4dn.xlarge", "p4d.24xlarge", "g6e.xlarge"]),
    ("appconfig", {"settings": {"model": {"max_model_len": 2048}}}), ("mirror", {"prefix": "a/b"}),
    ("taints", [{"key": "sku", "value": "gpu", "effect": "NO_SCHEDULE"}]), ("kubernetes_version", "1.33"),
    ("judge_node", {"url": "s3://bucket/judge-node.pyz", "sha256": _SHA256}),
])
def test_a_value_at_the_edge_of_what_is_right_is_right(
        terraform: Terraform, variables: Path, variable: str, value: Any) -> None:
    assert _said(terraform, variables, variable, value) == []
