"""What modules/user-data renders: MIME with a NodeConfig as nodeadm documents it, and judge-node's own script."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Mapping
from email import message_from_string
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from judge_node.bundle import build_pyz
from judge_node.cli import main
from judge_node.disks.facts import Wanted
from judge_node.disks.user_data import first_boot
from judge_node.result import NodeError
from terraform.tool import Terraform

URL = "https://mirror.example/judge-node/judge-node.pyz"
SHA256 = "0123456789abcdef" * 4
JUDGE_NODE = {"url": URL, "sha256": SHA256}
TAINTS = [{"key": "sku", "value": "gpu", "effect": "NoSchedule"},
          {"key": "judge-bootstrap.io/model-not-ready", "value": "", "effect": "NoSchedule"}]
HEAD = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\n"
# Written after awslabs/amazon-eks-ami, nodeadm/doc/api.md and doc/examples.md; `cluster` is EKS's part to add.
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["apiVersion", "kind", "spec"],
    "properties": {
        "apiVersion": {"const": "node.eks.aws/v1alpha1"},
        "kind": {"const": "NodeConfig"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object", "additionalProperties": False,
            "properties": {
                "containerd": {
                    "type": "object", "additionalProperties": False,
                    "properties": {"config": {"type": "string"}, "baseRuntimeSpec": {"type": "object"}},
                },
                "featureGates": {
                    "type": "object", "additionalProperties": {"type": "boolean"},
                    "propertyNames": {"enum": ["InstanceIdNodeName", "FastImagePull"]},
                },
                "instance": {
                    "type": "object", "additionalProperties": False,
                    "properties": {
                        "environment": {"type": "object"},
                        "localStorage": {
                            "type": "object", "additionalProperties": False, "required": ["strategy"],
                            "properties": {
                                "strategy": {"enum": ["RAID0", "RAID10", "Mount"]},
                                "mountPath": {"type": "string", "pattern": "^/"},
                                "disabledMounts": {"type": "array", "items": {"enum": ["Containerd", "PodLogs"]}},
                            },
                        },
                    },
                },
                "kubelet": {
                    "type": "object", "additionalProperties": False,
                    "properties": {
                        "config": {
                            "type": "object",
                            # KubeletConfiguration v1beta1 and the API's Taint.
                            "properties": {"registerWithTaints": {"type": "array", "items": {
                                "type": "object", "additionalProperties": False, "required": ["key", "effect"],
                                "properties": {
                                    "key": {"type": "string"}, "value": {"type": "string"},
                                    "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                                },
                            }}},
                        },
                        "flags": {"type": "array", "items": {"type": "string"}},
                        "imageCredentialProviderConfig": {"type": "string"},
                        "maxPodsExpression": {"type": "string"},
                    },
                },
            },
        },
    },
}  # fmt: skip
FULL = HEAD + """\
spec:
  kubelet:
    config: {maxPods: 20, shutdownGracePeriod: 30s}
    flags: ["--v=2"]
    maxPodsExpression: max_pods + 2
  containerd:
    config: |
      [plugins."io.containerd.grpc.v1.cri".containerd]
      discard_unpacked_layers = false
    baseRuntimeSpec: {process: {rlimits: [{type: RLIMIT_NOFILE, soft: 1024, hard: 1024}]}}
  featureGates: {FastImagePull: true}
"""
CASES: dict[str, dict[str, Any]] = {
    "nodeadm alone": {},
    "nodeadm": {"judge_node": JUDGE_NODE, "taints": TAINTS, "nvme_nodeadm_path": "/mnt/fast", "nvme_wait_seconds": 0},
    "judge": {"judge_node": JUDGE_NODE, "nvme_owner": "judge", "taints": TAINTS, "nvme_fstype": "ext4",
              "nvme_strategy": "RAID10", "nvme_mount_path": "/data/models_v1", "nvme_wait_seconds": 86400},
    "judge, no taints": {"judge_node": {"url": "s3://b/k$(id)`id`%{x}\\y?a=\"b\"&c", "sha256": SHA256},
                         "nvme_owner": "judge", "nvme_strategy": "Mount"},
    "a NodeConfig of the user's": {"judge_node": JUDGE_NODE, "taints": TAINTS, "node_config": FULL},
}  # fmt: skip


@pytest.fixture(scope="module")
def module(terraform: Terraform) -> Path:
    return terraform.copy_of("modules/user-data", "user-data-rendered")


@pytest.fixture(scope="module")
def rendered(terraform: Terraform, module: Path) -> dict[str, dict[str, Any]]:
    """What the module gives in each case."""
    found = {}
    for name, variables in CASES.items():
        terraform.apply(module, variables).must()
        found[name] = {key: output["value"] for key, output in terraform.output(module).items()}
    return found


def parts(text: str) -> dict[str, str]:
    """Return the MIME parts by their type, as cloud-init and nodeadm take them apart."""
    message = message_from_string(text)
    assert message.is_multipart() and not message.defects
    return {part.get_content_type(): part.get_payload() for part in message.get_payload()}


def wanted(variables: Mapping[str, Any]) -> Wanted:
    """Return what judge-node is asked for with the same settings."""
    named = {"nvme_mount_path": "mount_path", "nvme_strategy": "strategy", "nvme_fstype": "fstype",
             "nvme_nodeadm_path": "nodeadm_path", "nvme_wait_seconds": "wait_seconds"}
    given = {"nvme_mount_path": "/mnt/nvme", "nvme_wait_seconds": 300, **variables}
    return Wanted(owner=given.get("nvme_owner", "nodeadm"), gates=("kubelet.service",),
                  **{field: given[name] for name, field in named.items() if name in given})


@pytest.mark.parametrize("case", [case for case in CASES if "judge_node" in CASES[case]])
def test_the_script_is_judge_nodes_own_byte_for_byte(rendered: dict[str, dict[str, Any]], case: str) -> None:
    variables = CASES[case]
    script = parts(rendered[case]["user_data"])["text/x-shellscript"]
    assert script == first_boot(wanted(variables), variables["judge_node"]["url"], SHA256)


def test_the_script_is_what_the_command_prints(
    terraform: Terraform, module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "judge-node.pyz"
    program.write_bytes(build_pyz())
    digest = subprocess.run(["sha256sum", program], capture_output=True, text=True, check=True).stdout.split()[0]
    terraform.apply(module, {"nvme_owner": "judge", "judge_node": {"url": URL, "sha256": digest}}).must()
    user_data = terraform.output(module)["user_data"]["value"]
    command = "disks user-data --owner judge --mount-path /mnt/nvme --gate kubelet.service --wait 300 --url"
    assert main([*command.split(), URL]) == 0
    assert parts(user_data)["text/x-shellscript"] == capsys.readouterr().out


@pytest.mark.parametrize("case", [case for case in CASES if "judge_node" in CASES[case]])
def test_the_script_and_the_one_it_writes_are_shell(rendered: dict[str, dict[str, Any]], case: str) -> None:
    script = parts(rendered[case]["user_data"])["text/x-shellscript"]
    inner = script.partition("<<'END_OF_SCRIPT'\n")[2].partition("END_OF_SCRIPT\n")[0]
    for text in (script, inner):
        assert text.startswith("#!/bin/sh\n")
        done = subprocess.run(["/bin/sh", "-n"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", CASES)
def test_the_node_config_is_one_that_nodeadm_documents(rendered: dict[str, dict[str, Any]], case: str) -> None:
    found = yaml.safe_load(parts(rendered[case]["user_data"])["application/node.eks.aws"])
    jsonschema.validate(found, SCHEMA)
    assert found == rendered[case]["node_config"]


@pytest.mark.parametrize("case", CASES)
def test_user_data_is_plain_ascii_of_the_size_that_it_says(rendered: dict[str, dict[str, Any]], case: str) -> None:
    found = rendered[case]
    raw = base64.b64decode(found["user_data_base64"])
    assert raw.startswith(b"MIME-Version: 1.0\n") and raw.decode("ascii") == found["user_data"]
    assert found["size_bytes"] == len(raw) <= 12288


def test_only_nodeadm_is_told_of_local_storage(rendered: dict[str, dict[str, Any]]) -> None:
    storage = {name: found["node_config"]["spec"].get("instance") for name, found in rendered.items()}
    raid0 = {"localStorage": {"strategy": "RAID0"}}
    assert storage == {
        "nodeadm alone": raid0, "nodeadm": {"localStorage": {"strategy": "RAID0", "mountPath": "/mnt/fast"}},
        "judge": None, "judge, no taints": None, "a NodeConfig of the user's": raid0}  # fmt: skip


def test_kubelet_registers_the_node_with_the_taints(rendered: dict[str, dict[str, Any]]) -> None:
    kubelet = {name: found["node_config"]["spec"].get("kubelet") for name, found in rendered.items()}
    assert kubelet["judge"] == kubelet["nodeadm"] == {"config": {"registerWithTaints": TAINTS}}
    assert kubelet["judge, no taints"] is None


def test_what_the_user_wrote_is_all_there(rendered: dict[str, dict[str, Any]]) -> None:
    given = yaml.safe_load(FULL)["spec"]
    given["kubelet"]["config"]["registerWithTaints"] = TAINTS
    given["instance"] = {"localStorage": {"strategy": "RAID0"}}
    assert rendered["a NodeConfig of the user's"]["node_config"]["spec"] == given


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("spec: [", "it is no YAML (one document, and no key twice)"),
        (HEAD + "spec: {}\n---\n" + HEAD, "it is no YAML (one document, and no key twice)"),
        ("--v=2", 'it is "--v=2", and must be an object with apiVersion, kind and spec'),
        ("- a", 'it is ["a"], and must be an object with apiVersion, kind and spec'),
        ("apiVersion: node.eks.aws/v1alpha\nkind: NodeConfig",
         'apiVersion is "node.eks.aws/v1alpha", and must be "node.eks.aws/v1alpha1" (with the 1 at its end): nodeadm '
         "refuses any other, and the node never joins"),
        ("kind: NodeConfig\nspec: {}",
         'apiVersion is null, and must be "node.eks.aws/v1alpha1" (with the 1 at its end): nodeadm refuses any other, '
         "and the node never joins"),
        ("apiVersion: node.eks.aws/v1alpha1\nkind: nodeconfig", 'kind is "nodeconfig", and must be "NodeConfig"'),
        (HEAD + "kubelet: {}", "kubelet is no key of NodeConfig: it has apiVersion, kind, metadata, spec"),
        (HEAD + "spec: {kubelets: {}}",
         "spec.kubelets is no key of NodeConfig: spec has containerd, featureGates, instance, kubelet"),
        (HEAD + "spec: {kubelet: {flag: []}}", "spec.kubelet.flag is no key of NodeConfig: spec.kubelet has config, "
         "flags, imageCredentialProviderConfig, maxPodsExpression"),
        (HEAD + "spec: {featureGates: {Fast: true}}",
         "spec.featureGates.Fast is no key of NodeConfig: spec.featureGates has FastImagePull, InstanceIdNodeName"),
        (HEAD + "spec: [a]", 'spec is ["a"], and must be an object'),
        (HEAD + "spec: 5", "spec is 5, and must be an object"),
        (HEAD + "spec: {kubelet: null}", "spec.kubelet is null, and must be an object"),
        (HEAD + "spec: {kubelet: {config: [1]}}", "spec.kubelet.config is [1], and must be an object"),
        (HEAD + "spec: {kubelet: {flags: --v=2}}", 'spec.kubelet.flags is "--v=2", and must be a list of strings'),
        (HEAD + "spec: {kubelet: {flags: [1]}}", "spec.kubelet.flags is [1], and must be a list of strings"),
        (HEAD + "spec: {containerd: {config: {a: 1}}}", 'spec.containerd.config is {"a":1}, and must be a string'),
        (HEAD + "spec: {featureGates: {FastImagePull: 'yes'}}",
         'spec.featureGates.FastImagePull is "yes", and must be true or false'),
        (HEAD + "spec: {cluster: {name: x}}", "spec.cluster must not be given: EKS adds the cluster itself"),
        (HEAD + "spec: {instance: {localStorage: {strategy: RAID0}}}", "spec.instance.localStorage must not be given: "
         "nvme_owner, nvme_strategy and nvme_nodeadm_path set it"),
        (HEAD + "spec: {kubelet: {config: {registerWithTaints: []}}}",
         "spec.kubelet.config.registerWithTaints must not be given: taints sets it"),
        (HEAD + "spec: {kubelet: {flags: [--register-with-taints=a=b:NoSchedule]}}",
         "spec.kubelet.flags must not have --register-with-taints, which would win over what taints sets"),
        (HEAD + 'spec: {containerd: {config: "# \\u00e4"}}',
         "it has a character that is not ASCII, which not every reader of user data understands"),
    ],
)  # fmt: skip
def test_a_node_config_that_nodeadm_would_not_take_is_refused_by_the_plan(
    terraform: Terraform, module: Path, text: str, problem: str
) -> None:
    assert terraform.plan(module, {"node_config": text}).errors == [f"node_config: {problem}."]


def test_all_that_is_wrong_with_a_node_config_is_said_at_once(terraform: Terraform, module: Path) -> None:
    (error,) = terraform.plan(module, {"node_config": "kind: Node\nspec: {cluster: {}, x: 1}"}).errors
    assert error.count("; ") == 3, error


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"nvme_owner": "judge"},
         "nvme_owner is judge, and judge_node is null: it must say where nodes fetch judge-node (url, sha256). "
         "`judge-node program --out judge-node.pyz` writes the file."),
        ({"nvme_owner": "auto"}, 'nvme_owner is "auto": it must be nodeadm or judge.'),
        ({"nvme_strategy": "raid0"}, 'nvme_strategy is "raid0": it must be RAID0, RAID10 or Mount.'),
        ({"nvme_fstype": "btrfs"}, 'nvme_fstype is "btrfs": it must be xfs or ext4.'),
        ({"nvme_mount_path": "mnt/nvme"},
         'nvme_mount_path is "mnt/nvme": it must be an absolute path such as /mnt/nvme, '
         "of letters, digits and . _ @ : + - between slashes."),
        ({"nvme_mount_path": "/var/lib/kubelet/x"},
         'nvme_mount_path is "/var/lib/kubelet/x", which the system lives in: '
         "it must be a directory of its own, such as /mnt/nvme."),
        ({"nvme_nodeadm_path": "/mnt/a b"}, 'nvme_nodeadm_path is "/mnt/a b": it must be an absolute path such as '
         "/mnt/k8s-disks, of letters, digits and . _ @ : + - between slashes, with no slash at its end."),
        ({"nvme_wait_seconds": 0.5}, "nvme_wait_seconds is 0.5: it must be a whole number from 0 to 86400."),
        ({"judge_node": {"url": "https://h/it's", "sha256": SHA256}}, 'judge_node.url is "https://h/it\'s": it must be '
         "https://HOST/PATH or s3://BUCKET/KEY, without a user name, blanks and '."),
        ({"judge_node": {"url": URL, "sha256": SHA256.upper()}},
         f'judge_node.sha256 is "{SHA256.upper()}": it must be 64 '
         "lower-case hex digits, as sha256sum prints them."),
        ({"taints": [{"key": "sku", "value": "gpu", "effect": "NO_SCHEDULE"}]},
         "taints has the effects sku:NO_SCHEDULE: "
         "each must be NoSchedule, PreferNoSchedule or NoExecute."),
        ({"taints": [{"key": "sku", "effect": "NoSchedule"}] * 2}, "taints has a key with the same effect twice: "
         "sku:NoSchedule, sku:NoSchedule. kubelet would not start."),
        ({"taints": [{"key": "s k", "effect": "NoSchedule"}]}, 'taints has s k="": each key must be one of Kubernetes, '
         "such as example.com/gpu, and each value empty or at most 63 letters, digits, '.', '_' and '-'. kubelet would "
         "not start."),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_what_was_found_and_what_is_wanted(
    terraform: Terraform, module: Path, variables: dict[str, Any], error: str
) -> None:
    found = terraform.plan(module, variables).errors
    assert [text.partition(" This was checked by the validation rule")[0] for text in found] == [error]


def test_too_much_user_data_is_refused_in_bytes(terraform: Terraform, module: Path) -> None:
    text = HEAD + "spec: {containerd: {config: '" + "x" * 12288 + "'}}"
    (error,) = terraform.plan(module, {"node_config": text}).errors
    found = int(error.split()[4])
    assert found > 12288 and error == (
        f"The user data has {found} bytes: it must have at most 12288, so that EKS's own part fits into EC2's 16384 as "
        "well. Shorten node_config.")


@pytest.mark.parametrize(
    "url", ["https://h/x", "s3://b/k", "https:///x", "https://", "ftp://h/x", "https://u@h/x", "https://h/u@x", "https://@",
            "https://h/it's", "https://h/a b", "https://h/a\tb", "https://h/\u00e4", "s3://b/$(id)"])  # fmt: skip
def test_terraform_takes_the_urls_that_judge_node_takes(terraform: Terraform, module: Path, url: str) -> None:
    try:
        first_boot(wanted({}), url, SHA256)
        taken = True
    except NodeError:
        taken = False
    assert (not terraform.plan(module, {"judge_node": {"url": url, "sha256": SHA256}}).errors) == taken
