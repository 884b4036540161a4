"""Every object that the role renders, against the schemas of the API of each Kubernetes version that we support.

The package has the schemas of every version from 1.25 to 1.37. Strict: a field that a version does not know is an error
there, where an API server of that version would refuse it.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from ansible_play import run_play
from judge_node.cache.manifest import File, Manifest
from kubernetes_validate import utils

VERSIONS = ("1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
MODEL = Manifest("org/name", "main", "0123456789abcdef" * 2 + "01234567", (File("config.json", 2, "0" * 64, None),))
MANIFEST = {**MODEL.as_dict(), "digest": MODEL.digest}
# Kinds of other projects, which no version of Kubernetes itself has.
FOREIGN = {"ServiceMonitor"}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "everything": {
        "vllm_k8s_replicas": None, "vllm_k8s_gpu": "t4", "vllm_k8s_gpu_count": 2, "vllm_k8s_service_monitor": True,
        "vllm_k8s_image_digest": "sha256:" + "0" * 64, "vllm_k8s_loader_gated_model": True,
        "vllm_k8s_ingress": {"host": "judge.example.org", "class_name": "alb", "tls_secret_name": "judge-tls"},
        "vllm_k8s_clients": [{"namespaceSelector": {"matchLabels": {"team": "evaluation"}}},
                             {"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "vllm_k8s_tolerations": [{"operator": "Exists"}], "vllm_k8s_extra_env": {"ODD": "a: {b} \"c\""},
        "vllm_k8s_extra_args": ["--seed", "1"], "vllm_k8s_served_model_names": ["judge", "yes"],
    },
    "little": {
        "vllm_k8s_loader": False, "vllm_k8s_network_policy": False, "vllm_k8s_api_key_secret_name": None,
        "vllm_k8s_compile_cache_dir": None, "vllm_k8s_cpu_limit": None, "vllm_k8s_replicas": 0,
        "vllm_k8s_node_taint": None, "vllm_k8s_node_selector": {},
    },
    "hostPath": {"vllm_k8s_store_volume": "hostPath", "vllm_k8s_pod_security": "privileged"},
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """All objects by variant, rendered by one run of Ansible."""
    folder = tmp_path_factory.mktemp("schemas")
    role = {"name": "vllm_k8s", "public": True}
    tasks: list[dict[str, Any]] = [{"ansible.builtin.include_role": {**role, "tasks_from": "model"}}]
    for number, variables in enumerate(VARIANTS.values()):
        tasks += [
            {"ansible.builtin.include_role": {**role, "tasks_from": "render"}, "vars": variables},
            {"ansible.builtin.copy": {"content": "{{ vllm_k8s_objects | to_json }}", "mode": "0600",
                                      "dest": str(folder / f"{number}.json")},
             "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}}]
    given = {"model_cache_manifest": MANIFEST, "model_cache_quantization": "awq"}
    done = run_play(folder, {"tasks": tasks}, given)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((folder / f"{number}.json").read_text()) for number, name in enumerate(VARIANTS)}


@pytest.fixture(autouse=True, scope="module")
def schemas_are_read_once() -> Iterator[None]:
    """The package reads a megabyte of JSON for each object otherwise."""
    read = utils.schema_contents
    utils.schema_contents = functools.cache(read)
    yield
    utils.schema_contents = read


def problems(item: dict[str, Any], version: str) -> list[str]:
    """Return what this version would refuse."""
    try:
        checked = kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(map(str, error.path))
        return [f"{version}: {item['kind']}/{item['metadata']['name']}: {path}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [] if item["kind"] in FOREIGN else [f"{version} has no {item['apiVersion']} {item['kind']}"]
    # For a version that it does not have the package takes the one before.
    assert checked == version
    return []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_is_valid(rendered: dict[str, list[dict[str, Any]]], variant: str, version: str) -> None:
    assert [problem for item in rendered[variant] for problem in problems(item, version)] == []


def test_the_variants_have_the_kinds_that_they_are_for(rendered: dict[str, list[dict[str, Any]]]) -> None:
    kinds = {name: {item["kind"] for item in objects} for name, objects in rendered.items()}
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "PersistentVolume", "ConfigMap",
            "DaemonSet", "ClusterRole", "ValidatingAdmissionPolicy"} <= kinds["as it comes"]
    assert kinds["everything"] - kinds["as it comes"] == {"Ingress", "ServiceMonitor"}
    assert not kinds["little"] & {"DaemonSet", "NetworkPolicy", "ValidatingAdmissionPolicy"}
    assert "PersistentVolume" not in kinds["hostPath"]


def test_a_field_that_does_not_exist_is_found(rendered: dict[str, list[dict[str, Any]]]) -> None:
    (deployment,) = [copy.deepcopy(item) for item in rendered["as it comes"] if item["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    (problem,) = problems(deployment, "1.36")
    assert "readynessProbe" in problem and "spec.template.spec.containers.0" in problem
