"""The objects as Ansible renders them: what production promises of a pod must be in the manifest, not in a comment."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_play import run_play
from judge_node.bundle import build_pyz

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = [{"path": "config.json", "size": 600, "sha256": "0" * 64},
         {"path": "model.safetensors", "size": 5_600_000_000, "sha256": "1" * 64}]
Objects = dict[tuple[str, str], dict[str, Any]]
PLAY = {
    "tasks": [
        {"ansible.builtin.include_role": {"name": "vllm_k8s", "tasks_from": entry, "public": True}}
        for entry in ("preflight", "model", "render")
    ] + [{"ansible.builtin.copy": {"content": "{{ vllm_k8s_objects | to_json }}", "dest": "{{ rendered }}",
                                   "mode": "0600"},
          "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}}],
}


def render(folder: Path, **variables: Any) -> Objects:
    """Return the objects by kind and name, in their order."""
    manifest = {"schema": 1, "repo_id": "org/name", "revision": "main", "commit": COMMIT, "files": FILES}
    given = {"model_cache_manifest": manifest, "model_cache_quantization": "awq", "rendered": str(folder / "out.json"),
             **variables}
    run_play(folder, PLAY, given).check_returncode()
    return {(item["kind"], f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"): item
            for item in json.loads((folder / "out.json").read_text())}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return render(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """The same with every option that changes the shape of something."""
    return render(
        tmp_path_factory.mktemp("other"), model_cache_quantization=None, vllm_k8s_quantization="fp8",
        model_cache_dir="/mnt/other/hub", vllm_k8s_gpu_count=2, vllm_k8s_port=8123, vllm_k8s_replicas=None,
        vllm_k8s_served_model_names=["judge", "yes"], vllm_k8s_extra_args=["--seed", "1"],
        vllm_k8s_extra_env={"ODD": "a: {b} \"c\""}, vllm_k8s_loader=False, vllm_k8s_gpu="t4",
        vllm_k8s_image_digest="sha256:" + "a" * 64, vllm_k8s_compile_cache_dir=None, vllm_k8s_cpu_limit=None,
        vllm_k8s_api_key_secret_name=None, vllm_k8s_network_policy=False, vllm_k8s_service_monitor=True,
        vllm_k8s_ingress={"host": "judge.example.org", "class_name": "nginx", "tls_secret_name": "judge-tls"},
        vllm_k8s_startup_seconds=700, vllm_k8s_pod_security="privileged", vllm_k8s_store_volume="hostPath",
        vllm_k8s_host="::",
    )


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """Another judge in the same cluster, with another store."""
    return render(tmp_path_factory.mktemp("second"), vllm_k8s_service_name="second-judge",
                  model_cache_dir="/mnt/other/hub")


def only(objects: Objects, kind: str, start: str = "") -> dict[str, Any]:
    """Return the one object of a kind whose namespace/name starts so."""
    (found,) = [item for (a_kind, name), item in objects.items() if a_kind == kind and name.startswith(start)]
    return found


def pod(objects: Objects) -> dict[str, Any]:
    spec: dict[str, Any] = only(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(objects: Objects) -> dict[str, Any]:
    (found,) = pod(objects)["containers"]
    return dict(found)


def gate(objects: Objects) -> dict[str, Any]:
    (found,) = pod(objects)["initContainers"]
    return dict(found)


def volume(objects: Objects, name: str) -> dict[str, Any]:
    (found,) = [entry for entry in pod(objects)["volumes"] if entry["name"] == name]
    return dict(found)


def option(objects: Objects, name: str) -> str:
    arguments = container(objects)["args"]
    return str(arguments[arguments.index(name) + 1])


def gateway(objects: Objects) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(only(objects, "ConfigMap", "llm-judge/judge-gateway-")["data"]["gateway.json"])
    return found


def test_namespaces_come_before_what_is_in_them_and_the_pods_last(objects: Objects, other: Objects) -> None:
    for found in (objects, other):
        made: set[str] = set()
        for (kind, _), item in found.items():
            if kind == "Namespace":
                made.add(item["metadata"]["name"])
            namespace = item["metadata"].get("namespace")
            assert namespace is None or namespace in made | {"default"}, item["metadata"]
    order = list(objects)
    assert order[0] == ("Namespace", "/llm-judge")
    assert order.index(("DaemonSet", "llm-judge-loader/judge-loader")) < order.index(
        ("Deployment", "llm-judge/judge-inference-service"))


def test_every_object_is_marked_as_ours_and_as_this_judges(objects: Objects) -> None:
    owners = {item["metadata"]["labels"]["judge-bootstrap.io/owner"] for item in objects.values()}
    assert len(owners) == 1 and len(next(iter(owners))) == 16
    assert {item["metadata"]["labels"]["app.kubernetes.io/managed-by"] for item in objects.values()} == {
        "judge-bootstrap"}


def test_another_service_is_another_owner(objects: Objects, second: Objects) -> None:
    assert (only(second, "Deployment")["metadata"]["labels"]["judge-bootstrap.io/owner"]
            != only(objects, "Deployment")["metadata"]["labels"]["judge-bootstrap.io/owner"])


def test_the_servers_namespace_enforces_restricted(objects: Objects) -> None:
    labels = objects["Namespace", "/llm-judge"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_pod_has_no_token_and_no_way_up(objects: Objects) -> None:
    account = objects["ServiceAccount", "llm-judge/judge-inference-service"]
    assert pod(objects)["automountServiceAccountToken"] is account["automountServiceAccountToken"] is False
    assert pod(objects)["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}}
    for found in (container(objects), gate(objects)):
        assert found["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert not [e for e in found["env"] if "TOKEN" in e["name"] or "valueFrom" in e]


def test_the_server_is_named_explicitly_and_serves_exactly_the_commit_offline(objects: Objects) -> None:
    assert container(objects)["command"] == ["vllm", "serve"]
    assert container(objects)["args"][0] == f"/models/models--org--name/snapshots/{COMMIT}"
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in container(objects)["env"]
    assert option(objects, "--served-model-name") == "org/name"
    assert json.loads(option(objects, "--structured-outputs-config")) == {
        "backend": "guidance", "disable_any_whitespace": True}


def test_a_checkpoint_that_names_its_quantization_gets_no_flag(objects: Objects, other: Objects) -> None:
    assert "--quantization" not in container(objects)["args"]
    assert option(other, "--quantization") == "fp8"


def test_the_card_decides_the_number_format(objects: Objects, other: Objects) -> None:
    assert (option(objects, "--dtype"), option(other, "--dtype")) == ("auto", "half")


def test_a_digest_decides_what_is_pulled_by_every_container(objects: Objects, other: Objects) -> None:
    assert container(objects)["image"] == gate(objects)["image"] == "vllm/vllm-openai:v0.32.0"
    assert container(other)["image"] == gate(other)["image"] == "vllm/vllm-openai:v0.32.0@sha256:" + "a" * 64


# --- the gates --------------------------------------------------------------------------------------------------------


def test_no_node_without_the_commit_gets_the_pod(objects: Objects) -> None:
    (term,) = pod(objects)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"]
    assert term == {"matchExpressions": [
        {"key": f"judge-bootstrap.io/model-{COMMIT}", "operator": "In", "values": ["ready"]}]}
    assert pod(objects)["nodeSelector"] == {"role": "ai-gpu"}


def test_the_pod_does_not_tolerate_the_taint_of_a_node_that_is_not_ready(objects: Objects) -> None:
    assert pod(objects)["tolerations"] == [{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}]


def test_the_init_container_checks_the_manifest_of_this_very_commit(objects: Objects) -> None:
    assert gate(objects)["command"] == ["python3", "/opt/judge-node/judge-node.pyz", "cache", "verify",
                                        "/etc/judge-model/manifest.json", "--store", "/models"]
    name = volume(objects, "manifest")["configMap"]["name"]
    manifest = json.loads(objects["ConfigMap", f"llm-judge/{name}"]["data"]["manifest.json"])
    assert (manifest["commit"], manifest["files"]) == (COMMIT, FILES)
    assert {m["name"] for m in gate(objects)["volumeMounts"] if m.get("readOnly")} == {"models", "program", "manifest"}


def test_the_program_is_the_one_of_this_version_and_named_by_its_content(objects: Objects) -> None:
    name = volume(objects, "program")["configMap"]["name"]
    for namespace in ("llm-judge", "llm-judge-loader"):
        content = base64.b64decode(objects["ConfigMap", f"{namespace}/{name}"]["binaryData"]["judge-node.pyz"])
        assert content == build_pyz()
        assert name == f"judge-node-{hashlib.sha256(content).hexdigest()[:8]}"


# --- the gateway ------------------------------------------------------------------------------------------------------


def test_the_gateway_is_outermost_and_its_configuration_names_the_commit(objects: Objects) -> None:
    assert option(objects, "--middleware") == "judge_node.serving.gateway.Gateway"
    environment = {e["name"]: e["value"] for e in container(objects)["env"]}
    assert environment["PYTHONPATH"] == "/opt/judge-node/judge-node.pyz"
    assert environment["JUDGE_GATEWAY_CONFIG"] == "/etc/judge-gateway/gateway.json"
    told = gateway(objects)
    assert (told["commit"], told["served_name"], told["repo_id"]) == (COMMIT, "org/name", "org/name")
    assert told["api_key_file"] == "/etc/judge-api-key/api-key"
    assert volume(objects, "api-key")["secret"] == {"secretName": "judge-api-key", "defaultMode": 0o440}
    assert volume(objects, "gateway")["configMap"]["name"] in {name.split("/")[1] for kind, name in objects
                                                              if kind == "ConfigMap"}


def test_without_a_key_the_gateway_is_told_so(other: Objects) -> None:
    assert gateway(other)["api_key_file"] is None
    assert not [entry for entry in pod(other)["volumes"] if "secret" in entry]


def test_readiness_is_asked_of_the_gateway_and_only_the_startup_probe_is_patient(objects: Objects) -> None:
    probes = container(objects)
    assert probes["startupProbe"]["httpGet"]["path"] == probes["livenessProbe"]["httpGet"]["path"] == "/health"
    assert probes["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert probes["livenessProbe"]["periodSeconds"] * probes["livenessProbe"]["failureThreshold"] == 60
    assert not [p for p in ("startupProbe", "readinessProbe", "livenessProbe") if "initialDelaySeconds" in probes[p]]


def test_the_startup_budget_follows_the_size_of_the_model(objects: Objects, other: Objects) -> None:
    def budget(found: Objects) -> int:
        probe = container(found)["startupProbe"]
        return int(probe["periodSeconds"] * probe["failureThreshold"])

    assert budget(objects) == 445  # 3 x (120 s + 5.6 GB at 200 MB/s), in steps of 5 s
    assert budget(other) == 700
    assert only(objects, "Deployment")["spec"]["progressDeadlineSeconds"] > budget(objects)


# --- volumes ----------------------------------------------------------------------------------------------------------


def test_everything_that_is_written_has_a_writable_folder(objects: Objects, other: Objects) -> None:
    mounts = {m["mountPath"]: m for m in container(objects)["volumeMounts"]}
    assert sorted(path for path, mount in mounts.items() if not mount.get("readOnly")) == [
        "/cache", "/dev/shm", "/home/judge", "/tmp"]
    for found, homes in ((objects, ("/home/judge", "/cache")), (other, ("/home/judge",))):
        folders = {e["name"]: e["value"] for e in container(found)["env"] if e["value"].startswith("/")}
        del folders["PYTHONPATH"], folders["JUDGE_GATEWAY_CONFIG"]
        assert folders and all(folder.startswith(homes) for folder in folders.values())


def test_the_store_is_read_only_at_every_level(objects: Objects) -> None:
    assert volume(objects, "models")["persistentVolumeClaim"]["readOnly"] is True
    assert only(objects, "PersistentVolume", "/llm-judge-models")["spec"]["accessModes"] == ["ReadOnlyMany"]
    assert only(objects, "PersistentVolumeClaim", "llm-judge/llm-judge-models")["spec"]["accessModes"] == [
        "ReadOnlyMany"]


@pytest.mark.parametrize("what", ["models", "cache"])
def test_volume_and_claim_are_tied_to_each_other(objects: Objects, what: str) -> None:
    tied = only(objects, "PersistentVolume", f"/llm-judge-{what}")
    claim = only(objects, "PersistentVolumeClaim", f"llm-judge/llm-judge-{what}")
    assert tied["spec"]["claimRef"]["name"] == claim["metadata"]["name"]
    assert tied["spec"]["claimRef"]["namespace"] == claim["metadata"]["namespace"] == "llm-judge"
    assert claim["spec"]["volumeName"] == tied["metadata"]["name"]
    assert volume(objects, what)["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_another_store_is_another_volume_because_its_path_cannot_change(objects: Objects, second: Objects) -> None:
    moved = only(second, "PersistentVolume", "/llm-judge-models")
    there = only(objects, "PersistentVolume", "/llm-judge-models")
    assert (there["spec"]["local"]["path"], moved["spec"]["local"]["path"]) == ("/mnt/nvme/hub", "/mnt/other/hub")
    assert there["metadata"]["name"] != moved["metadata"]["name"]


def test_hostpath_is_a_choice_that_makes_no_folder(other: Objects) -> None:
    assert volume(other, "models") == {"name": "models", "hostPath": {"path": "/mnt/other/hub", "type": "Directory"}}
    assert not [kind for kind, _ in other if kind.startswith("PersistentVolume")]


def test_what_is_compiled_is_kept_by_commit_image_and_card(objects: Objects, other: Objects) -> None:
    (mount,) = [m for m in container(objects)["volumeMounts"] if m["name"] == "cache"]
    image = hashlib.sha256(b"vllm/vllm-openai:v0.32.0").hexdigest()[:8]
    assert mount["subPath"] == f"{COMMIT[:12]}-{image}-gpu"
    assert only(objects, "PersistentVolume", "/llm-judge-cache")["spec"]["local"]["path"] == "/mnt/nvme/vllm-cache"
    assert not [m for m in container(other)["volumeMounts"] if m["name"] == "cache"]


# --- pods, network, the rest ------------------------------------------------------------------------------------------


def test_the_pod_asks_for_its_gpus_and_for_what_a_judge_needs(objects: Objects, other: Objects) -> None:
    assert container(objects)["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"},
        "limits": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}}
    assert volume(objects, "shm")["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert container(other)["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "2"}
    assert option(other, "--tensor-parallel-size") == "2"


def test_a_number_of_pods_that_somebody_else_scales_is_not_set(objects: Objects, other: Objects) -> None:
    assert only(objects, "Deployment")["spec"]["replicas"] == 1
    assert "replicas" not in only(other, "Deployment")["spec"]


def test_a_roll_on_a_full_fleet_takes_the_old_pod_away_first(objects: Objects) -> None:
    assert only(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert only(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_commit_is_part_of_the_template_so_that_another_one_rolls_the_pods(objects: Objects) -> None:
    annotations = only(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"judge-bootstrap.io/model-commit": COMMIT}


def test_the_service_leads_to_the_pods(objects: Objects, other: Objects) -> None:
    deployment = only(objects, "Deployment")
    selector = only(objects, "Service")["spec"]["selector"]
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"] == selector
    assert only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == selector
    assert only(other, "Service")["spec"]["ports"][0]["port"] == 8123
    assert container(other)["ports"][0]["containerPort"] == 8123
    assert option(other, "--port") == "8123"
    assert (option(objects, "--host"), option(other, "--host")) == ("0.0.0.0", "::")


def test_the_network_is_closed_but_for_named_clients_and_the_server_asks_nobody(
        objects: Objects, other: Objects) -> None:
    closed = objects["NetworkPolicy", "llm-judge/deny-all"]["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    opened = objects["NetworkPolicy", "llm-judge/judge-inference-service"]["spec"]
    assert opened["policyTypes"] == ["Ingress"] and "egress" not in opened
    (rule,) = opened["ingress"]
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    assert [next(iter(peer.values()))["matchLabels"] for peer in rule["from"]] == [
        {"judge-bootstrap.io/client": "true"}] * 2
    assert not [kind for kind, _ in other if kind == "NetworkPolicy"]


def test_monitor_and_ingress_are_off_unless_asked_for(objects: Objects, other: Objects) -> None:
    assert not [kind for kind, _ in objects if kind in ("ServiceMonitor", "Ingress")]
    assert only(other, "Ingress")["spec"]["rules"][0]["host"] == "judge.example.org"
    assert only(other, "Ingress")["spec"]["ingressClassName"] == "nginx"
    assert only(other, "ServiceMonitor")["spec"]["endpoints"] == [{"port": "http", "path": "/metrics"}]


def test_without_the_loader_nothing_of_it_is_made(objects: Objects, other: Objects) -> None:
    assert [name for kind, name in objects if kind == "DaemonSet"] == ["llm-judge-loader/judge-loader"]
    assert not [name for _, name in other if "loader" in name]


def test_strings_stay_strings_whatever_is_in_them(other: Objects) -> None:
    assert container(other)["args"][-2:] == ["--seed", "1"]
    assert container(other)["args"][1:4] == ["--served-model-name", "judge", "yes"]
    assert {"name": "ODD", "value": 'a: {b} "c"'} in container(other)["env"]


REFUSED = [
    ({"vllm_k8s_store_volume": "hostPath"}, "since nothing else admits hostPath"),
    ({"vllm_k8s_require_digest": True}, "wanted vllm_k8s_image_digest: sha256:HEX"),
    ({"vllm_k8s_image_digest": "latest"}, "wanted vllm_k8s_image_digest: sha256:HEX"),
    ({"vllm_k8s_image_tag": "v0.6.4"}, "has known advisories"),
    ({"vllm_k8s_extra_args": ["--disable-log-requests"]}, "--disable-log-requests"),
    ({"vllm_k8s_extra_env": {"VLLM_API_KEY": "x"}}, "VLLM_API_KEY"),
    ({"vllm_k8s_golden_file": "no-such-file.json"}, "GOLDEN_FILE_UNUSABLE"),
    ({"vllm_k8s_node_selector": {}}, "with `local` a label that the GPU nodes have"),
    ({"vllm_k8s_compile_cache_dir": "/var/cache/vllm"}, "wanted a folder below /mnt/nvme, which the loader mounts"),
    ({"vllm_k8s_node_taint": "a/b=c:NoSchedule"}, "Wanted a taint's key such as"),
    ({"vllm_k8s_api_key_secret_name": "Judge_Key"}, "names of small letters"),
    ({"vllm_k8s_hf_secret_name": "hf/secret"}, "names of small letters"),
    ({"vllm_k8s_ingress": {"class_name": "nginx"}}, "wanted {host: judge.example.org}"),
    ({"vllm_k8s_ingress": {"host": "a.example.org", "class": "nginx"}}, "wanted {host: judge.example.org}"),
    ({"model_cache_quantization": "gptq"}, "org/name declares quantization gptq, the settings expect awq"),
]


def test_what_the_server_would_refuse_is_refused_here(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [{"ansible.builtin.include_role": {"name": "vllm_k8s", "tasks_from": entry}}
                                     for entry in ("preflight", "model", "render")]
    tried = [{"vars": given, "block": entries, "rescue": [
        {"ansible.builtin.debug": {"msg": f"CASE {number}: {{{{ ansible_failed_result.msg }}}}"}}]}
             for number, (given, _) in enumerate(REFUSED)]
    manifest = {"schema": 1, "repo_id": "org/name", "revision": "main", "commit": COMMIT, "files": FILES}
    start = {"model_cache_manifest": manifest, "model_cache_quantization": "awq"}
    # As variables of the play, which a case's own overrule; those of -e would win.
    done = run_play(tmp_path, {"vars": start, "tasks": tried}, {})
    found = dict(part.split(": ", 1) for part in " ".join(done.stdout.split()).split("CASE ")[1:])
    assert set(found) == {str(number) for number in range(len(REFUSED))}, done.stdout
    for number, (given, said) in enumerate(REFUSED):
        assert said in found[str(number)], given
