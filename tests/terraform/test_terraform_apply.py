"""Both examples applied, applied again and destroyed, on stand-ins that have nodes; the product finds these nodes.

Each example lives once (the fixtures), and the tests look at what was seen then. The environment of `minimal` is the
packaged `prod`, whose inventory is used as it is shipped; `complete` is a sandbox of it, with everything switched on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_lab.appconfig import AppConfigServer
from terraform.account import REGION, Account, account
from terraform.life import (
    Example,
    Site,
    new_example,
    policy_statements,
    role_statements,
    start_decoys,
    tags_of,
    template_data,
    user_data,
)
from terraform.tool import CHECKOUT, Answer, Terraform

CLUSTER = "judge-prod"
SANDBOX = "prod-anna"


@pytest.fixture(scope="module")
def aws() -> Iterator[Account]:
    with account() as found:
        yield found


@dataclass
class Seen:
    """What was seen of an example while it lived, and of its end."""

    applied: Answer
    changes: dict[str, Any]
    outputs: dict[str, Any]
    made: list[str]
    instances: list[dict[str, Any]]
    template: dict[str, Any]
    group: dict[str, Any]
    scaling: dict[str, Any]
    user_data: str
    hosts: tuple[str, str]
    more: dict[str, Any] = field(default_factory=dict)


def _look(example: Example, site: Site, name: str, before: list[str], filters: dict[str, str] | None) -> Seen:
    aws = example.account
    outputs = example.outputs()
    ours = outputs["judge_bootstrap"]
    made = [line for line in aws.everything() if line not in before]
    instances = [item for item in aws.instances() if f"instance {item['InstanceId']}" in made]
    node_group = ours["node_group"]
    groups = aws.client("autoscaling").describe_auto_scaling_groups(
        AutoScalingGroupNames=node_group["autoscaling_group_names"])["AutoScalingGroups"]
    site.environment(name, filters=filters)
    return Seen(
        applied=Answer(0, "", ""), changes=example.changes(), outputs=outputs, made=made, instances=instances,
        template=template_data(aws, node_group["launch_template_id"], node_group["launch_template_version"]),
        group=aws.client("eks").describe_nodegroup(clusterName=CLUSTER, nodegroupName=node_group["name"])["nodegroup"],
        scaling=groups[0], user_data=user_data(aws, instances[0]["InstanceId"]), hosts=site.found_hosts(name))


@pytest.fixture(scope="module")
def site(aws: Account, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    (folder / "inventory").mkdir()
    return Site(folder / "inventory", folder / "state", dict(aws.variables))


# --- minimal ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minimal(terraform: Terraform, aws: Account, site: Site) -> Seen:
    """From nothing, through switched off, to two nodes, to switched off again, to none, to destroyed."""
    network = aws.furnish(CLUSTER)
    start_decoys(aws, network["subnet_ids"][0], "prod", CLUSTER)
    before = aws.everything()
    example = new_example(terraform, aws, "minimal", "minimal-lives", **network, environment="prod", region=REGION)
    example.set(enabled=False, desired_size=2)
    example.apply().must()
    off = [line for line in aws.everything() if line not in before], example.outputs()
    example.set(enabled=True)
    applied = example.apply().must()
    seen = _look(example, site, "prod", before, None)
    seen.applied = applied
    seen.more["off"] = off
    example.set(enabled=False)
    example.apply().must()
    seen.more["switched off"] = aws.everything()
    seen.more["hosts of none"] = site.found_hosts("prod")
    example.set(enabled=True, desired_size=0)
    example.apply().must()
    seen.more["nodes at scale 0"] = [line for line in aws.everything() if line.startswith("instance ")
                                     and line not in before]
    seen.more["changes at scale 0"] = example.changes()
    example.destroy().must()
    seen.more |= {"destroyed": aws.everything(), "before": before}
    return seen


def test_a_second_plan_of_minimal_is_empty(minimal: Seen) -> None:
    assert minimal.changes == {}


def test_switched_off_it_makes_nothing_and_its_outputs_are_null(minimal: Seen) -> None:
    made, outputs = minimal.more["off"]
    assert (made, {name: value for name, value in outputs.items() if value is not None}) == ([], {})


def test_switching_it_off_removes_what_is_ours_and_nothing_else(minimal: Seen) -> None:
    assert minimal.more["switched off"] == minimal.more["before"]


def test_a_destroy_leaves_what_was_there_before_and_nothing_else(minimal: Seen) -> None:
    assert minimal.more["destroyed"] == minimal.more["before"]


def test_minimal_makes_a_node_group_a_role_and_a_policy_and_nothing_beside(minimal: Seen) -> None:
    kinds = sorted(line.partition(" ")[0] if not line.startswith(("launch template", "node group", "Auto"))
                   else " ".join(line.split()[:2]) for line in minimal.made)
    # Two launch templates: EKS makes one of its own from ours.
    assert [kind for kind in kinds if kind != "volume"] == [
        "Auto Scaling", "instance", "instance", "launch template", "launch template", "node group", "policy", "role"]


def test_the_group_is_made_with_no_node_when_it_shall_have_none(minimal: Seen) -> None:
    assert (minimal.more["nodes at scale 0"], minimal.more["changes at scale 0"]) == ([], {})


def test_the_shipped_inventory_of_prod_finds_exactly_these_nodes(minimal: Seen) -> None:
    ids = sorted(item["InstanceId"] for item in minimal.instances)
    assert (len(ids), minimal.hosts) == (2, ("ok", f"2 GPU nodes: {', '.join(ids)}"))


def test_the_shipped_inventory_filters_by_what_the_module_puts_out(minimal: Seen) -> None:
    shipped = yaml.safe_load((CHECKOUT / "inventory" / "prod" / "aws_ec2.yml").read_text())
    assert minimal.outputs["judge_bootstrap"]["inventory_filters"] == shipped["filters"]


def test_without_nodes_judge_bootstrap_says_that_there_are_none(minimal: Seen) -> None:
    status, found = minimal.more["hosts of none"]
    assert (status, "has no host in group gpu_nodes" in found) == ("fail", True)


def test_nodes_answer_metadata_to_signed_requests_of_the_node_alone(minimal: Seen) -> None:
    options = minimal.template["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"], options["HttpEndpoint"]) == (
        "required", 1, "enabled")


def test_the_root_volume_is_encrypted_gp3_and_ends_with_its_node(minimal: Seen) -> None:
    disks = [item["Ebs"] for item in minimal.template["BlockDeviceMappings"]]
    assert [(disk["Encrypted"], disk["VolumeType"], disk["DeleteOnTermination"]) for disk in disks] == [
        (True, "gp3", True)]


def test_nodes_have_no_public_address_and_no_ssh_key(minimal: Seen) -> None:
    interfaces = minimal.template["NetworkInterfaces"]
    assert ([item["AssociatePublicIpAddress"] for item in interfaces], minimal.template.get("KeyName")) == (
        [False], None)
    assert [item.get("PublicIpAddress") for item in minimal.instances] == [None, None]


def test_instances_volumes_and_interfaces_carry_the_tags(minimal: Seen) -> None:
    specifications = {item["ResourceType"]: tags_of(item) for item in minimal.template["TagSpecifications"]}
    wanted = {"Environment": "prod", "role": "ai-gpu", "ManagedBy": "terraform"}
    assert {kind: wanted.items() <= tags.items() for kind, tags in specifications.items()} == {
        "instance": True, "volume": True, "network-interface": True}


def test_the_node_group_has_its_label_and_its_taint(minimal: Seen) -> None:
    assert (minimal.group["labels"].get("role"), minimal.group["taints"]) == (
        "ai-gpu", [{"key": "sku", "value": "gpu", "effect": "NO_SCHEDULE"}])


def test_the_autoscaler_finds_the_group_and_knows_its_nodes_before_there_is_one(minimal: Seen) -> None:
    tags, node = tags_of(minimal.scaling), "k8s.io/cluster-autoscaler/node-template"
    wanted = {"k8s.io/cluster-autoscaler/enabled": "true", f"k8s.io/cluster-autoscaler/{CLUSTER}": "owned",
              f"{node}/label/role": "ai-gpu", f"{node}/taint/sku": "gpu:NoSchedule",
              f"{node}/resources/nvidia.com/gpu": "1"}
    assert {key: tags.get(key) for key in wanted} == wanted
    assert f"{node}/resources/ephemeral-storage" in tags


def test_the_autoscaler_is_told_nothing_of_the_startup_taint(minimal: Seen) -> None:
    assert [key for key in tags_of(minimal.scaling) if "model-not-ready" in key] == []


def test_a_node_starts_with_our_part_of_the_user_data_and_eks_own(minimal: Seen) -> None:
    types = [line for line in minimal.user_data.splitlines() if line.startswith("Content-Type: application/node.eks")]
    assert (len(types), f"name: {CLUSTER}" in minimal.user_data, "model-not-ready" in minimal.user_data) == (
        2, True, True)


# --- complete ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def complete(terraform: Terraform, aws: Account, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Everything switched on, with nodes of the environment itself running beside it; then destroyed."""
    network = aws.furnish(CLUSTER)
    start_decoys(aws, network["subnet_ids"][0], SANDBOX, CLUSTER)
    before = aws.everything()
    folder = tmp_path_factory.mktemp("complete")
    program = folder / "judge-node.pyz"
    subprocess.run([Path(sys.executable).parent / "judge-node", "program", "--out", program], check=True,
                   capture_output=True)
    example = new_example(terraform, aws, "complete", "complete-lives", **network, environment="prod", sandbox="anna",
                          region=REGION, judge_node_program=str(program),
                          hf_token_secret_arn=f"arn:aws:secretsmanager:{REGION}:123456789012:secret:hf-token-AbCdEf")
    example.set(desired_size=2)
    applied = example.apply().must()
    ours = example.outputs()["judge_bootstrap"]
    seen = _look(example, site, SANDBOX, before, ours["inventory_filters"])
    seen.applied = applied
    names = ours["appconfig"]
    document = folder / "document.json"
    document.write_bytes(aws.appconfig.deployed(names["application"], names["environment"], names["profile"]))
    seen.more["document"] = json.loads(document.read_text())
    with AppConfigServer(document, **names) as data:
        site.variables["AWS_ENDPOINT_URL_APPCONFIGDATA"] = data.url
        text = json.dumps(terraform.output(example.folder))
        seen.more["config terraform"] = site.run(SANDBOX, "config", "terraform", "-", text=text)
        seen.more["config show"] = site.run(SANDBOX, "config", "show")
        seen.more["hosts again"] = site.found_hosts(SANDBOX)
        del site.variables["AWS_ENDPOINT_URL_APPCONFIGDATA"]
    seen.more["bucket"] = _bucket(aws, seen.outputs["mirror_url"].split("/")[2])
    seen.more["node role"] = role_statements(aws, seen.group["nodeRole"].rpartition("/")[2])
    seen.more["operator"] = policy_statements(aws, seen.outputs["operator_policy_arn"])
    seen.more["alarms"] = aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    example.destroy().must()
    seen.more |= {"destroyed": aws.everything(), "before": before}
    return seen


def _bucket(aws: Account, name: str) -> dict[str, Any]:
    s3 = aws.client("s3")
    rule = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"][0]
    return {"versioning": s3.get_bucket_versioning(Bucket=name)["Status"],
            "encryption": rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"],
            "closed": set(s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values()),
            "policy": json.loads(s3.get_bucket_policy(Bucket=name)["Policy"])["Statement"]}


def test_a_second_plan_of_complete_is_empty(complete: Seen) -> None:
    assert complete.changes == {}


def test_a_destroy_of_complete_leaves_what_was_there_before_and_nothing_else(complete: Seen) -> None:
    assert complete.more["destroyed"] == complete.more["before"]


def test_the_inventory_by_its_filters_finds_exactly_its_nodes(complete: Seen) -> None:
    ids = sorted(item["InstanceId"] for item in complete.instances)
    assert (len(ids) > 0, complete.hosts) == (True, ("ok", f"{len(ids)} GPU nodes: {', '.join(ids)}"))


def test_the_mirror_is_encrypted_versioned_and_closed(complete: Seen) -> None:
    bucket = complete.more["bucket"]
    assert (bucket["versioning"], bucket["encryption"] in ("AES256", "aws:kms"), bucket["closed"]) == (
        "Enabled", True, {True})


def test_the_mirror_refuses_whoever_comes_without_tls(complete: Seen) -> None:
    denied = [item for item in complete.more["bucket"]["policy"] if item["Effect"] == "Deny"
              and item.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport") == "false"]
    assert [(item["Principal"], _list(item["Action"])) for item in denied] == [("*", ["s3:*"])]


def test_no_right_is_given_to_everything_everywhere(complete: Seen) -> None:
    wide = [item for item in [*complete.more["node role"], *complete.more["operator"]]
            if item["Effect"] == "Allow" and "*" in _list(item["Action"])]
    assert wide == []


def test_what_a_node_may_read_is_named(complete: Seen) -> None:
    rights = [(action, resource) for item in complete.more["node role"] for action in _list(item["Action"])
              for resource in _list(item["Resource"]) if action.startswith(("s3:Get", "secretsmanager:"))]
    assert (len(rights) > 0, [pair for pair in rights if pair[1] in ("*", "arn:aws:s3:::*")]) == (True, [])


def test_a_session_can_be_started_on_tagged_nodes_alone(complete: Seen) -> None:
    found = [item for item in complete.more["operator"] if "ssm:StartSession" in _list(item["Action"])
             and any(":instance/" in one for one in _list(item["Resource"]))]
    tags = [{key: _list(value) for block in item.get("Condition", {}).values() for key, value in block.items()}
            for item in found]
    wanted = {"ssm:resourceTag/Environment": [SANDBOX], "ssm:resourceTag/role": ["ai-gpu"]}
    assert [wanted.items() <= found.items() for found in tags] == [True]


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def test_appconfigs_first_document_is_what_the_example_says_under_our_root(complete: Seen) -> None:
    assert list(complete.more["document"]) == ["judge_inference"]


def test_alarms_watch_for_nodes_that_do_not_become_ready(complete: Seen) -> None:
    assert len(complete.more["alarms"]) > 0


def test_judge_bootstrap_reads_the_output_and_names_terraform_as_its_source(complete: Seen) -> None:
    code, written, _ = complete.more["config terraform"]
    assert code == 0, written
    code, shown, _ = complete.more["config show"]
    assert code == 0, shown
    wanted = complete.outputs["judge_bootstrap"]["variables"]["nvme_mount_path"]
    found = shown["settings"]["storage.nvme_mount_path"]
    assert (found["value"], "terraform" in json.dumps(found["source"])) == (wanted, True)


def test_with_terraforms_file_in_place_the_inventory_still_finds_its_nodes(complete: Seen) -> None:
    assert complete.more["hosts again"] == complete.hosts


def test_the_provider_is_linked_to_and_never_copied(terraform: Terraform, minimal: Seen) -> None:
    data = Path(terraform.home) / "data"
    sizes = [path.lstat().st_size for path in data.rglob("*") if not path.is_symlink() and path.is_file()]
    assert sum(sizes) < 10_000_000
