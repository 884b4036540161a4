"""Secrets, preflight and preload on a real cluster: what is in it afterwards, and that nothing else is left."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.local_site import Answer, Cli, finish, on_node
from judge_bootstrap.adapters.kube import connect
from judge_bootstrap.adapters.objects import apply, listed, read, request
from judge_lab import layout, site

pytestmark = pytest.mark.lab

SERVING, LOADERS = "judge-verbs", "judge-verbs-loader"
# A site of its own beside the lab's: what these tests make and remove is no one else's.
OWN = ("-e", f"vllm_k8s_namespace={SERVING}", "-e", f"vllm_k8s_loader_namespace={LOADERS}")
TOKEN = "hf_" + "Zq7" * 11
PLAIN = "judge-lab/tiny-judge-plain"


@pytest.fixture(scope="module")
def cli(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    site.up()
    return Cli(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def api() -> Any:
    return connect(str(layout.current().kubeconfig))


@pytest.fixture(scope="module", autouse=True)
def own_namespaces(cli: Cli, api: Any) -> Iterator[None]:
    """Have none at the beginning, and leave none."""
    remove_namespaces(api)
    yield
    remove_namespaces(api)


def remove_namespaces(api: Any) -> None:
    for name in (SERVING, LOADERS):
        item = namespace(name)
        if read(api, item) is None:
            continue
        request(api, "DELETE", f"/api/v1/namespaces/{name}", {}, content_type="application/json")
        give_up = time.monotonic() + 900
        while read(api, item) is not None:
            assert time.monotonic() < give_up, f"namespace {name} does not go"
            time.sleep(0.5)


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def secret(name: str, place: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": place}}


def left_over(api: Any, place: str = LOADERS) -> list[str]:
    """Return the pods, Jobs, ConfigMaps and policies of ours in a namespace that are not on their way out."""
    kinds = (("v1", "Pod"), ("batch/v1", "Job"), ("v1", "ConfigMap"), ("networking.k8s.io/v1", "NetworkPolicy"))
    return [f"{kind}/{item['metadata']['name']}" for version, kind in kinds
            for item in listed(api, version, kind, namespace=place)
            if item["metadata"]["name"].startswith("judge-") and not item["metadata"].get("deletionTimestamp")]


def with_token(cli: Cli, *words: str) -> tuple[Answer, str]:
    """Run `secrets apply` with a token on stdin; return its answer, and all that it wrote."""
    program = [Path(sys.executable).parent / "judge-bootstrap", "--env", "local", "--json", "secrets", "apply"]
    done = subprocess.run([*program, "--from", "stdin", *OWN, *words], input=TOKEN, capture_output=True, text=True,
                          timeout=1200, check=False, env={**os.environ, "JUDGE_BOOTSTRAP_STATE": str(cli.state)})
    return Answer(done.returncode, json.loads(done.stdout), done.stderr), done.stdout + done.stderr


def test_secrets_come_into_being_once_and_are_shown_nowhere(cli: Cli, api: Any) -> None:
    planned, _ = with_token(cli, "--check")
    assert (planned.code, planned.json["changed"]) == (0, 2), planned
    assert read(api, namespace(SERVING)) is None
    first, said = with_token(cli)
    assert first.code == 0, first
    token, key = read(api, secret("hf-secret", LOADERS)), read(api, secret("judge-api-key", SERVING))
    assert token and key
    assert base64.b64decode(token["data"]["token"]).decode() == TOKEN
    second, more = with_token(cli)
    assert [item["action"] for item in second.json["secrets"]] == ["unchanged", "unchanged"]
    again = read(api, secret("judge-api-key", SERVING))
    assert again and again["metadata"]["resourceVersion"] == key["metadata"]["resourceVersion"]
    for stored in (token["data"]["token"], key["data"]["api-key"]):
        assert stored not in said + more and base64.b64decode(stored).decode() not in said + more
    for found in (token, key):
        assert "annotations" not in found["metadata"]
        assert [(entry["manager"], entry["operation"]) for entry in found["metadata"]["managedFields"]] == [
            ("judge-bootstrap", "Apply")]


def test_a_rotated_key_leaves_the_one_before(cli: Cli, api: Any) -> None:
    cli("secrets", "apply", *OWN)
    before = read(api, secret("judge-api-key", SERVING))
    answer = cli("secrets", "apply", "--rotate-api-key", *OWN)
    after = read(api, secret("judge-api-key", SERVING))
    assert (answer.code, before is not None, after is not None) == (0, True, True), answer
    assert before and after and after["data"]["previous-api-key"] == before["data"]["api-key"]
    assert after["data"]["api-key"] != before["data"]["api-key"]


def test_a_secret_that_others_made_is_refused_and_kept(cli: Cli, api: Any) -> None:
    others = {**secret("their-token", SERVING), "stringData": {"token": "theirs"}}
    apply(api, [namespace(SERVING)])
    request(api, "POST", f"/api/v1/namespaces/{SERVING}/secrets", others, content_type="application/json")
    answer, _ = with_token(cli, "-e", f"vllm_k8s_loader_namespace={SERVING}",
                           "-e", "vllm_k8s_hf_secret_name=their-token")
    assert (answer.code, answer.json["reason"]) == (3, "SECRET_FOREIGN"), answer
    kept = read(api, secret("their-token", SERVING))
    assert kept and base64.b64decode(kept["data"]["token"]).decode() == "theirs"


def test_preflight_says_that_the_lab_enforces_no_network_policy(cli: Cli) -> None:
    answer = cli("preflight")
    rows = {row["name"]: row["status"] for row in answer.json["checks"]}
    assert (answer.code, answer.json["network_policy"]) == (0, "not enforced"), answer
    assert answer.json["missing_rights"] == []
    assert rows["Kubernetes"] == rows["rights"] == rows["local volumes"] == "ok"


def test_two_pods_prove_it_and_are_gone_afterwards(cli: Cli, api: Any) -> None:
    cli("secrets", "apply", *OWN)  # makes the namespace, which enforces `restricted`
    answer = cli("preflight", "--prove-network-policy", *OWN)
    assert (answer.code, answer.json["network_policy"]) == (0, "not enforced"), answer
    assert "tried with two pods" in answer.json["checks"][-1]["found"]
    assert left_over(api, SERVING) == []


@pytest.fixture(scope="module")
def poor_kubeconfig(cli: Cli, api: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of a service account that may read pods in one namespace, and nothing else."""
    place = {"name": "poor", "namespace": SERVING}
    rbac = "rbac.authorization.k8s.io"
    apply(api, [
        namespace(SERVING), {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": place,
         "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]},
        {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": place,
         "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "poor"},
         "subjects": [{"kind": "ServiceAccount", **place}]}])
    token = request(api, "POST", f"/api/v1/namespaces/{SERVING}/serviceaccounts/poor/token",
                    {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
                    content_type="application/json")["status"]["token"]
    pki = layout.current().kube / "pki" / "ca.crt"
    path = tmp_path_factory.mktemp("poor") / "kubeconfig"
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "poor",
        "clusters": [{"name": "lab", "cluster": {"server": api.configuration.host,
                                                 "certificate-authority": str(pki)}}],
        "users": [{"name": "poor", "user": {"token": token}}],
        "contexts": [{"name": "poor", "context": {"cluster": "lab", "user": "poor"}}]}))
    path.chmod(0o600)
    return path


def test_no_rights_are_one_table_and_one_line(cli: Cli, poor_kubeconfig: Path) -> None:
    as_poor = (*OWN, "-e", f"vllm_k8s_kubeconfig={poor_kubeconfig}")
    answer = cli("preflight", *as_poor)
    assert (answer.code, answer.json["reason"]) == (1, "CLUSTER_DENIED"), answer
    missing = {(right["namespace"], right["resource"], right["verb"]) for right in answer.json["missing_rights"]}
    assert {(SERVING, "deployments.apps", "patch"), (LOADERS, "jobs.batch", "create")} <= missing
    assert (None, "nodes", "list") in missing
    assert (SERVING, "pods", "list") not in missing
    refused = cli("models", "preload", "node-1", *as_poor)
    assert (refused.code, refused.json["reason"]) == (1, "CLUSTER_DENIED"), refused
    assert refused.json["message"].count("\n") == 0


def test_a_kubeconfig_that_fails_is_one_line_each(cli: Cli, tmp_path: Path) -> None:
    broken = ("-e", f"vllm_k8s_kubeconfig={tmp_path}/none")
    for words in (("preflight",), ("secrets", "apply"), ("models", "preload", "node-1")):
        answer = cli(*words, *broken)
        assert (answer.code, answer.json["reason"]) == (1, "CLUSTER_UNREACHABLE"), answer


def test_a_namespace_that_refuses_the_pod_says_so_before_anything_is_made(cli: Cli, api: Any) -> None:
    strict = "judge-verbs-strict"
    item = namespace(strict, **{"pod-security.kubernetes.io/enforce": "restricted"})
    request(api, "POST", "/api/v1/namespaces", item, content_type="application/json")
    try:
        words = (*OWN, "-e", f"vllm_k8s_loader_namespace={strict}")
        looked = cli("preflight", *words)
        row = next(row for row in looked.json["checks"] if row["name"] == f"namespace {strict}")
        assert (looked.code, row["status"], row["reason"]) == (1, "fail", "POD_FORBIDDEN"), looked
        refused = cli("models", "preload", "node-1", *words)
        assert (refused.code, refused.json["reason"]) == (1, "POD_FORBIDDEN"), refused
        assert "violates PodSecurity" in refused.json["message"] and left_over(api, strict) == []
    finally:
        request(api, "DELETE", f"/api/v1/namespaces/{strict}", {}, content_type="application/json")


def test_a_node_that_is_none_is_named_with_the_nearest(cli: Cli) -> None:
    answer = cli("models", "preload", "node-7", *OWN)
    assert (answer.code, answer.json["reason"]) == (1, "NODE_NOT_JOINED"), answer
    assert "did you mean node-" in answer.json["message"]


@pytest.fixture(scope="module")
def ready_node(cli: Cli) -> dict[str, Any]:
    """node-1 with its disk mounted, and nothing of the plain model on it."""
    found: dict[str, Any] = site.status()["nodes"]["node-1"]
    done = cli("run", "nvme", "--limit", found["instance_id"])
    assert done.code == 0, done
    on_node(found["address"], "rm -rf /mnt/nvme/hub/models--judge-lab--tiny-judge-plain")
    return found


def test_a_preload_that_is_interrupted_leaves_nothing_and_two_do_not_work_on_one_node(
        cli: Cli, api: Any, ready_node: dict[str, Any]) -> None:
    words = ("models", "preload", "node-1", "--model", PLAIN, *OWN, "-e", "model_cache_limit_rate=1K")  # 15 minutes
    slow = cli.start(*words)
    assert slow.stderr
    told = []
    for line in slow.stderr:  # until the pod's own log comes
        told.append(line)
        if "T" in line and line.startswith("node-1: 2"):
            break
    other = cli(*words)
    assert (other.code, other.json["reason"]) == (3, "LOCKED"), other
    slow.send_signal(signal.SIGINT)
    answer = finish(slow)
    assert (answer.code, answer.json["reason"]) == (130, "INTERRUPTED"), (answer, told)
    assert left_over(api) == []


def test_a_model_comes_to_one_node_and_nothing_is_left(cli: Cli, api: Any, ready_node: dict[str, Any]) -> None:
    answer = cli("models", "preload", ready_node["instance_id"], "--model", PLAIN, *OWN)
    assert (answer.code, answer.json["ok"], answer.json["node"]) == (0, True, "node-1"), answer
    assert answer.json["reported"] is False  # no loader of this cluster is to have it
    commit = answer.json["commit"]
    there = on_node(ready_node["address"], f"ls /mnt/nvme/hub/models--judge-lab--tiny-judge-plain/snapshots/{commit}")
    assert "config.json" in there
    assert left_over(api) == []
    # The second time finds it complete.
    again = cli("models", "preload", "node-1", "--model", PLAIN, *OWN)
    assert again.code == 0 and "is complete" in again.json["message"], again
