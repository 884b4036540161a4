"""Terraform's output: what is let through to Ansible, what is refused, what an inventory lacks to find the nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_bootstrap.adapters.terraform import known_variables
from judge_bootstrap.core import terraform
from judge_bootstrap.core.errors import UsageProblem

ROOT = Path(__file__).parents[3]
KNOWN = known_variables()
GOOD: dict[str, Any] = {
    "schema": 1, "region": "eu-central-1", "environment": "prod", "cluster_name": "judge-prod",
    "node_group": {"name": "judge-prod-ai", "launch_template_id": "lt-0abc", "launch_template_version": 3,
                   "autoscaling_group_names": ["eks-judge-prod-ai-1"]},
    "inventory_filters": {"instance-state-name": "running", "tag:Environment": "prod", "tag:role": "ai-gpu",
                          "tag:eks:cluster-name": "judge-prod"},
    "appconfig": {"application": "abc1234", "environment": "def5678", "profile": "0a1b2c3"},
    "variables": {"nvme_owner": "nodeadm", "nvme_mount_path": "/mnt/nvme", "nvme_wait_seconds": 300,
                  "model_cache_dir": "/mnt/nvme/hub", "model_cache_mirror": "s3://bucket/models",
                  "model_cache_sources": ["https://bucket.s3.eu-central-1.amazonaws.com/models"]}}


def outputs(value: Any, *, sensitive: Any = False, **others: Any) -> bytes:
    """Return what `terraform output -json` prints."""
    entry = {"sensitive": sensitive, "type": "dynamic", "value": value}
    return json.dumps({"judge_bootstrap": entry, **others}).encode()


def read(value: Any) -> terraform.TerraformOutput:
    return terraform.read_output(outputs(value), KNOWN)


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return a good output with one value changed or added; None takes it away."""
    found = json.loads(json.dumps(GOOD))
    *parents, last = path.split("/")
    place = found
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return found


@pytest.mark.parametrize("body", [
    outputs(GOOD, other={"sensitive": True, "type": "string", "value": "hf_" + "a" * 34}), json.dumps(GOOD).encode(),
    json.dumps({"sensitive": False, "type": "dynamic", "value": GOOD}).encode()])
def test_all_outputs_or_ours_alone_say_the_same(body: bytes) -> None:
    found = terraform.read_output(body, KNOWN)
    assert (found.region, found.node_group.launch_template_version) == ("eu-central-1", 3)
    assert found.variables == dict(sorted(GOOD["variables"].items()))


def test_what_is_written_is_read_again_as_it_was() -> None:
    found = read(GOOD)
    text = terraform.inventory_text(found)
    assert terraform.read_inventory(text, "terraform.yml", KNOWN) == found
    assert yaml.safe_load(text)["all"]["vars"] == {
        "judge_environment": {"region": "eu-central-1", "appconfig": GOOD["appconfig"]},
        "judge_terraform": {key: GOOD[key] for key in ("schema", "environment", "cluster_name", "node_group",
                                                       "inventory_filters")}, **GOOD["variables"]}


def test_null_variables_and_no_appconfig_are_left_out() -> None:
    found = read({**GOOD, "appconfig": None, "variables": {"nvme_owner": "judge", "model_cache_mirror": None}})
    assert found.variables == {"nvme_owner": "judge"}
    assert found.judge_environment == {"region": "eu-central-1"}


@pytest.mark.parametrize(("body", "message"), [
    (b"", "Terraform's output is empty, wanted: what terraform output -json prints"),
    (b" \n", "Terraform's output is empty, wanted: what terraform output -json prints"),
    (b"null", "Terraform's output judge_bootstrap is null: the module makes no nodes (enabled = false)"),
    (outputs(None), "Terraform's output judge_bootstrap is null: the module makes no nodes (enabled = false)"),
    (b"{}", "Terraform has no output judge_bootstrap (found: no output at all), or it is null because the module"),
    (b'{"x": {"sensitive": true, "value": "hf_abc"}}', "Terraform has no output judge_bootstrap (found: x), or it i"),
    (outputs(GOOD, sensitive=True), "Terraform's output judge_bootstrap is marked as sensitive, so it is not written"),
    (outputs(GOOD, sensitive="no"), "Terraform's output judge_bootstrap is marked as sensitive, so it is not written"),
    (b'{"judge_bootstrap": {"value": {}}}', "Terraform's output judge_bootstrap is marked as sensitive, so it is not"),
    (outputs([]), "Terraform's output judge_bootstrap is a list, wanted: an object"),
    (b'{"judge_bootstrap": 1}', "Terraform's output judge_bootstrap is a whole number, wanted: an object with value"),
    (b"[]", "Terraform's output cannot be read: it holds a list, wanted: an object"),
    (b"\xff{", "Terraform's output cannot be read: byte 0 is not UTF-8"),
    (b"[command]/usr/bin/terraform output\n{}", "Terraform's output cannot be read: it is not JSON: "),
    (b'{"a": 1, "a": 2}', "Terraform's output cannot be read: the key 'a' stands twice in one object"),
    (b'{"a": NaN}', "Terraform's output cannot be read: NaN is not a JSON number"),
    (b'{"a":' * 100_000, "Terraform's output cannot be read: it is nested too deeply"),
    (b" " * (4 << 20) + b"{}", "Terraform's output cannot be read: it has 4194306 bytes, wanted: at most 4194304"),
])
def test_what_is_no_output_of_ours_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        terraform.read_output(body, KNOWN)
    assert caught.value.message.startswith(message)
    assert "hf_abc" not in caught.value.message
    assert (caught.value.message + (caught.value.hint or "")).isprintable()
    assert "terraform" in (caught.value.hint or "")


@pytest.mark.parametrize(("path", "value", "message"), [
    ("schema", 2, "schema is 2 (a whole number), wanted: the schema that this program knows, 1"),
    ("schema", None, "schema is missing, wanted: the schema that this program knows, 1"),
    ("schema", True, "schema is true (true or false), wanted: the schema that this program knows, 1"),
    ("region", "moon", 'region is "moon" (a text), wanted: an AWS region such as us-east-1'),
    ("region", None, "region is missing, wanted: an AWS region"),
    ("environment", "../prod", 'environment is "../prod" (a text), wanted: the name of an environment'),
    ("surprise", "hf_abc", "unknown key surprise (a text), wanted: one of schema, environment, cluster_name, node_g"),
    ("node_group/versoin", 1, "unknown key node_group.versoin (a whole number), wanted: one of name, launch_templat"),
    ("node_group", "x", "node_group is \"x\" (a text), wanted: an object with name, launch_template_id"),
    ("node_group/launch_template_version", 0, "node_group.launch_template_version is 0 (a whole number), wanted: th"),
    ("node_group/launch_template_version", "$Latest", 'node_group.launch_template_version is "$Latest" (a text), wa'),
    ("node_group/autoscaling_group_names", [["x"]], 'node_group.autoscaling_group_names is ["x"] (a list), wanted: '),
    ("inventory_filters", {}, "inventory_filters is {} (an object), wanted: an object of EC2 filters"),
    ("inventory_filters/tag:role", "{{ x }}", 'inventory_filters is "{{ x }}" (a text), wanted: an object of EC2 fi'),
    ("inventory_filters/tag:role", ["a"], 'inventory_filters is ["a"] (a list), wanted: an object of EC2 filters'),
    ("inventory_filters/a\nb", "a", 'inventory_filters is "a\\nb" (a text), wanted: an object of EC2 filters'),
    ("appconfig", {"application": "a"}, "appconfig.environment is missing, wanted: name or id of the AppConfig envi"),
    ("appconfig/production", False, "unknown key appconfig.production (true or false), wanted: one of application, "),
    ("variables", [], "variables is [] (a list), wanted: an object of role variables"),
    ("variables/nvme_ownr", "judge", "unknown role variable nvme_ownr (a text); did you mean nvme_owner?"),
    ("variables/judge_environment", {"production": False}, "unknown role variable judge_environment (an object)"),
    ("variables/ansible_connection", "local", "unknown role variable ansible_connection (a text)"),
    ("variables/hf_token", "hf_abc", "unknown role variable hf_token (a text)"),
    ("variables/nvme_owner", "me", 'nvme_owner is "me" (a text), wanted: one of auto, nodeadm, judge'),
    ("variables/nvme_wait_seconds", "300", 'nvme_wait_seconds is "300" (a text), wanted: a whole number'),
    ("variables/nvme_wait_seconds", True, "nvme_wait_seconds is true (true or false), wanted: a whole number"),
    ("variables/model_cache_sources", "https://x", 'model_cache_sources is "https://x" (a text), wanted: a list, ea'),
    ("variables/model_cache_sources", [1], "model_cache_sources is [1] (a list), wanted: a list, each item a text"),
    ("variables/model_cache_mirror", "{{ lookup('pipe', 'id') }}", "model_cache_mirror has a template in it, wanted"),
    ("variables/model_cache_sources", ["{% x %}"], "model_cache_sources has a template in it, wanted: a plain value"),
    ("variables/vllm_k8s_node_selector", {"{{ x }}": "y"}, "vllm_k8s_node_selector has a template in it, wanted: a "),
    ("variables/model_cache_mirror", "s3://a\nb", "model_cache_mirror has a text that is not one line of at most 40"),
    ("variables/model_cache_mirror", "s3://\x1b[2J", "model_cache_mirror has a text that is not one line of at most"),
    ("variables/model_cache_mirror", "x" * 5000, "model_cache_mirror has a text that is not one line of at most 409"),
    ("variables/model_cache_mirror", "s3://hf_" + "a" * 34, "model_cache_mirror looks like a credential, wanted: no"),
    ("variables/nvme_mount_path", "/etc", 'judge_inference.storage.nvme_mount_path is "/etc" (a text), wanted: an a'),
    ("variables/model_cache_dir", "/data/hub", "judge_inference.storage.models_dir is \"/data/hub\", wanted: a path"),
])
def test_a_wrong_value_is_named_with_what_is_wanted(path: str, value: Any, message: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        read(changed(path, value))
    assert caught.value.message.startswith(f"Terraform's output judge_bootstrap is not usable: {message}")
    assert "hf_a" not in caught.value.message
    assert caught.value.message.isprintable()


def test_every_variable_of_the_roles_is_known_with_its_type() -> None:
    assert {name.partition("_")[0] for name in KNOWN} == {"nvme", "model", "vllm"}
    assert KNOWN["nvme_strategy"].wanted == "one of RAID0, RAID10, Mount"
    assert {item.type for item in KNOWN.values()} <= {"str", "int", "float", "bool", "list", "dict", "raw"}


@pytest.mark.parametrize(("old", "new", "message"), [
    ("    region: eu", "    production: false\n      region: eu", "judge_environment.production cannot come from Te"),
    ("schema: 1", "schema: 1\n      region: us-east-1", "judge_terraform.region cannot come from Terraform"),
    ("schema: 1", "schema: 9", "schema is 9 (a whole number), wanted: the schema that this program knows, 1"),
    ("nvme_owner: nodeadm", "nvme_owner: '{{ x }}'", "nvme_owner has a template in it"),
    ("nvme_owner: nodeadm", "nvme_owner: !vault x", "nvme_owner is a Vaulted, wanted: a plain value"),
    ("nvme_owner: nodeadm", "ansible_connection: local", "unknown role variable ansible_connection (a text)"),
    ("nvme_owner: nodeadm", "1: local", "variables is 1 (a whole number), wanted: an object of role"),
    ("nvme_owner: nodeadm", "nvme_owner: 2001-01-01", "nvme_owner is a date, wanted: a plain value"),
    ("nvme_owner: nodeadm", "nvme_owner: !!python/object:os.system x", "could not determine a constructor for the tag"),
    ("nvme_owner: nodeadm", "nvme_owner: &a nodeadm\n    nvme_strategy: *a", "it has aliases, wanted: the file as i"),
    ("all:\n", "gpu_nodes: {hosts: {x: }}\nall:\n", "was edited: it has more than variables of the group all"),
    ("all:\n", "all:\n  hosts: {x: }\n", "was edited: it has more than variables of the group all"),
    ("nvme_owner: nodeadm", "nvme_owner: " + "[" * 1000, "it is not YAML that can be read"),
    ("nvme_owner: nodeadm", "nvme_owner: [", "it is not YAML that can be read"),
])
def test_a_file_of_ours_that_was_edited_is_refused_with_how_to_make_it_again(old: str, new: str, message: str) -> None:
    text = terraform.inventory_text(read(GOOD))
    assert text.count(old) == 1
    with pytest.raises(UsageProblem) as caught:
        terraform.read_inventory(text.replace(old, new), "inventory/prod/terraform.yml", KNOWN)
    assert caught.value.message.startswith("inventory/prod/terraform.yml")
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint == "make it again: terraform output -json | judge-bootstrap --env ENV config terraform"


def test_a_sandbox_is_an_environment_of_its_own() -> None:
    sandbox = read(changed("inventory_filters/tag:Sandbox", "alice"))
    terraform.check_environment(sandbox, "prod-alice", "it")
    with pytest.raises(UsageProblem, match="it is about environment prod-alice, not prod") as caught:
        terraform.check_environment(sandbox, "prod", "it")
    assert "--env prod-alice config terraform" in (caught.value.hint or "")


FILTERS = ("filters: {instance-state-name: running, tag:Environment: prod, tag:role: ai-gpu, "
           "tag:eks:cluster-name: judge-prod")


@pytest.mark.parametrize(("text", "found"), [
    (f"regions: [eu-central-1]\n{FILTERS}}}", []), (f"{FILTERS}}}", []),
    (f"regions: [us-east-1, eu-central-1]\n{FILTERS}}}", []),
    (f"regions: ['{{{{ x }}}}']\n{FILTERS}, 'tag:Team': a}}", []),
    ("filters: {instance-state-name: [running, pending], tag:Environment: 'pr?d', tag:role: '*', tag:eks:cluster-name: "
     "'{{ cluster }}'}", []),
    (f"include_{FILTERS.replace('filters: ', 'filters: [{tag:role: cpu}, ')}}}]", []),
    (f"{FILTERS.replace('ai-gpu', 'cpu')}}}\ninclude_{FILTERS.replace('filters: ', 'filters: [')}}}]", []),
    (f"include_{FILTERS.replace('filters: ', 'filters: [')}x}}]\n{FILTERS}y}}", [
        "f: filters.tag:eks:cluster-name is judge-prody, wanted: judge-prod"]),
    (f"regions: us-east-1\n{FILTERS}}}", ["f: regions is us-east-1, wanted: eu-central-1"]),
    (f"{FILTERS}x}}", ["f: filters.tag:eks:cluster-name is judge-prodx, wanted: judge-prod"]),
    ("regions: [a, b]\nfilters: {tag:role: [x], tag:Environment: prod, instance-state-name: running}", [
        "f: regions is a, b, wanted: eu-central-1", "f: filters.tag:role is x, wanted: ai-gpu",
        "f: filters.tag:eks:cluster-name is not there, wanted: judge-prod"]),
    ("filters: [", ["f: the file is line 1: expected the node content, but found '<stream end>', wanted: YAML of the "
                    "plugin amazon.aws.aws_ec2"]),
])
def test_what_an_inventory_lacks_to_find_the_nodes_is_said_key_by_key(text: str, found: list[str]) -> None:
    assert sorted(map(str, terraform.compare(read(GOOD), "f", text))) == sorted(found)


def test_an_inventory_that_is_proposed_finds_the_nodes_and_is_that_of_prod() -> None:
    output = read({**GOOD, "region": "us-east-1"})
    text = terraform.aws_ec2_text(output)
    assert terraform.compare(output, "f", text) == []
    assert yaml.safe_load(text) == yaml.safe_load((ROOT / "inventory/prod/aws_ec2.yml").read_text())
