"""The objects as Ansible renders them: what production promises of a pod must be in the manifest, not in a comment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLAYBOOK = [{
    "hosts": "localhost", "connection": "local", "gather_facts": False,
    "tasks": [
        {"ansible.builtin.include_role": {"name": "vllm_k8s", "tasks_from": entry, "public": True}}
        for entry in ("model", "render")
    ] + [{"ansible.builtin.copy": {"content": "{{ vllm_k8s_objects | to_json }}", "dest": "{{ rendered }}",
                                   "mode": "0600"},
          "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}}],
}]


def render(folder: Path, **variables: Any) -> dict[str, Any]:
    """Return the objects by kind."""
    manifest = {"schema": 1, "repo_id": "org/name", "revision": "main", "commit": COMMIT, "files": []}
    given = {"model_cache_manifest": manifest, "model_cache_quantization": "awq", "rendered": str(folder / "out.json"),
             **variables}
    (folder / "playbook.json").write_text(json.dumps(PLAYBOOK))
    (folder / "vars.json").write_text(json.dumps(given))
    subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-e", f"@{folder / 'vars.json'}",
         str(folder / "playbook.json")],
        check=True, cwd=ROOT, capture_output=True, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )
    return {item["kind"]: item for item in json.loads((folder / "out.json").read_text())}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return render(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same with every option that changes the shape of something."""
    return render(
        tmp_path_factory.mktemp("other"), model_cache_quantization=None, vllm_k8s_quantization="fp8",
        model_cache_dir="/mnt/other/hub", vllm_k8s_gpu_count=2, vllm_k8s_port=8123,
        vllm_k8s_served_model_names=["judge", "yes"], vllm_k8s_extra_args=["--seed", "1"],
        vllm_k8s_extra_env={"ODD": "a: {b} \"c\""},
    )


def pod(objects: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(objects: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod(objects)["containers"]
    return dict(found)


def option(objects: dict[str, Any], name: str) -> str:
    arguments = container(objects)["args"]
    return str(arguments[arguments.index(name) + 1])


def test_the_kinds_are_these_and_the_namespace_comes_first(objects: dict[str, Any]) -> None:
    assert list(objects) == ["Namespace", "ServiceAccount", "PersistentVolume", "PersistentVolumeClaim", "Deployment",
                             "Service"]


def test_the_namespace_enforces_restricted(objects: dict[str, Any]) -> None:
    assert objects["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_pod_has_no_token_and_no_way_up(objects: dict[str, Any]) -> None:
    assert pod(objects)["automountServiceAccountToken"] is False
    assert objects["ServiceAccount"]["automountServiceAccountToken"] is False
    assert pod(objects)["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert not [e for e in container(objects)["env"] if "TOKEN" in e["name"] or "valueFrom" in e]


def test_the_server_is_named_explicitly_and_serves_exactly_the_commit_offline(objects: dict[str, Any]) -> None:
    assert container(objects)["command"] == ["vllm", "serve"]
    assert container(objects)["args"][0] == f"/models/models--org--name/snapshots/{COMMIT}"
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in container(objects)["env"]
    assert option(objects, "--served-model-name") == "org/name"
    assert json.loads(option(objects, "--structured-outputs-config")) == {
        "backend": "guidance", "disable_any_whitespace": True}


def test_a_checkpoint_that_names_its_quantization_gets_no_flag(objects: dict[str, Any], other: dict[str, Any]) -> None:
    assert "--quantization" not in container(objects)["args"]
    assert option(other, "--quantization") == "fp8"


def test_everything_that_is_written_has_a_writable_folder(objects: dict[str, Any]) -> None:
    mounts = {m["mountPath"]: m for m in container(objects)["volumeMounts"]}
    assert sorted(mounts) == ["/dev/shm", "/home/judge", "/models", "/tmp"]
    assert [path for path, mount in mounts.items() if mount.get("readOnly")] == ["/models"]
    folders = [e["value"] for e in container(objects)["env"] if e["value"].startswith("/")]
    assert folders and all(folder.startswith("/home/judge") for folder in folders)


def test_the_store_is_read_only_at_every_level(objects: dict[str, Any]) -> None:
    (volume,) = [v for v in pod(objects)["volumes"] if v["name"] == "models"]
    assert volume["persistentVolumeClaim"]["readOnly"] is True
    assert objects["PersistentVolume"]["spec"]["accessModes"] == ["ReadOnlyMany"]
    assert objects["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadOnlyMany"]


def test_volume_and_claim_are_tied_to_each_other(objects: dict[str, Any]) -> None:
    volume, claim = objects["PersistentVolume"], objects["PersistentVolumeClaim"]
    assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"]
    assert volume["spec"]["claimRef"]["namespace"] == claim["metadata"]["namespace"] == "llm-judge"
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]


def test_another_store_is_another_volume_because_its_path_cannot_change(
    objects: dict[str, Any], other: dict[str, Any]
) -> None:
    assert objects["PersistentVolume"]["spec"]["local"]["path"] == "/mnt/nvme/hub"
    assert other["PersistentVolume"]["spec"]["local"]["path"] == "/mnt/other/hub"
    assert objects["PersistentVolume"]["metadata"]["name"] != other["PersistentVolume"]["metadata"]["name"]


def test_the_pod_goes_to_gpu_nodes_and_asks_for_its_gpus(objects: dict[str, Any], other: dict[str, Any]) -> None:
    assert pod(objects)["nodeSelector"] == {"role": "ai-gpu"}
    assert pod(objects)["tolerations"] == [{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}]
    assert container(objects)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container(other)["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert option(other, "--tensor-parallel-size") == "2"


def test_a_roll_on_a_full_fleet_takes_the_old_pod_away_first(objects: dict[str, Any]) -> None:
    assert objects["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_the_commit_is_part_of_the_template_so_that_another_one_rolls_the_pods(objects: dict[str, Any]) -> None:
    annotations = objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"judge-bootstrap.io/model-commit": COMMIT}


def test_only_the_startup_probe_is_patient(objects: dict[str, Any]) -> None:
    probes = container(objects)
    assert probes["startupProbe"]["periodSeconds"] * probes["startupProbe"]["failureThreshold"] == 900
    assert probes["livenessProbe"]["periodSeconds"] * probes["livenessProbe"]["failureThreshold"] == 60
    assert not [p for p in ("startupProbe", "readinessProbe", "livenessProbe") if "initialDelaySeconds" in probes[p]]


def test_the_service_leads_to_the_pods(objects: dict[str, Any], other: dict[str, Any]) -> None:
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"].items() <= labels.items()
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == objects["Service"]["spec"]["selector"]
    assert other["Service"]["spec"]["ports"][0]["port"] == 8123
    assert container(other)["ports"][0]["containerPort"] == 8123
    assert option(other, "--port") == "8123"


def test_strings_stay_strings_whatever_is_in_them(other: dict[str, Any]) -> None:
    assert container(other)["args"][-2:] == ["--seed", "1"]
    assert container(other)["args"][1:4] == ["--served-model-name", "judge", "yes"]
    assert {"name": "ODD", "value": 'a: {b} "c"'} in container(other)["env"]


def test_a_model_that_is_not_quantized_as_expected_is_refused(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render(tmp_path, model_cache_quantization="gptq")
    output = " ".join((caught.value.stdout + caught.value.stderr).decode().split())
    assert "org/name declares quantization gptq, the settings expect awq" in output
