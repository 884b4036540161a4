"""The role on 202 nodes: 200 of kwok beside the lab's two. Scheduler, controllers and evictions are real."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.local_site import Cli
from judge_bootstrap.adapters.kube import connect
from judge_bootstrap.adapters.objects import request
from judge_lab import LabError, layout, site
from k8s_drills import converge, kwok_nodes
from k8s_drills.cluster import Cluster
from k8s_drills.role import COMMIT, NODE_ANNOTATIONS, NODE_LABELS, Role, Run
from kubernetes.client.exceptions import ApiException

pytestmark = pytest.mark.lab

NODES, WARM = 200, 20
NAMESPACE = "drill-kwok"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/judge-inference-service"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
MODEL_LABEL = f"judge-bootstrap.io/model-{COMMIT}"
TAINT = "judge-bootstrap.io/model-not-ready"


def fleet() -> list[dict[str, Any]]:
    """20 nodes with the model; 90 that joined tainted and have none; 90 that somebody freed of the taint too early."""
    cold = {key: value for key, value in NODE_LABELS.items() if key != MODEL_LABEL}
    tainted = [{"key": TAINT, "effect": "NoSchedule"}]
    return [
        kwok_nodes.node(f"kwok-{number:03}", NODE_LABELS, annotations=NODE_ANNOTATIONS) if number < WARM
        else kwok_nodes.node(f"kwok-{number:03}", cold, taints=tainted if number % 2 else [])
        for number in range(NODES)]


@dataclass(frozen=True)
class Fleet:
    """The cluster with its 200 nodes more, after the role's first and second run."""

    api: Any
    role: Role
    first: Run
    second: Run

    def pods(self, app: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
        """Return the pods of the server or of the loader."""
        found: list[dict[str, Any]] = request(
            self.api, "GET", f"/api/v1/namespaces/{namespace}/pods",
            query=[("labelSelector", f"app.kubernetes.io/name={app}")])["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready(self) -> dict[str, str]:
        """Return {pod: node} of the server's ready pods."""
        return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in self.pods("judge-inference")
                if any(entry["type"] == "Ready" and entry["status"] == "True"
                       for entry in pod["status"].get("conditions") or [])}

    def unplaced(self) -> list[str]:
        """Return what the scheduler says of each of the server's pods that it has found no node for."""
        return [entry["message"] for pod in self.pods("judge-inference") if not pod["spec"].get("nodeName")
                for entry in pod["status"].get("conditions") or []
                if entry["type"] == "PodScheduled" and entry.get("message")]

    def patch(self, path: str, body: dict[str, Any]) -> None:
        request(self.api, "PATCH", path, body, content_type="application/merge-patch+json")

    def scale(self, replicas: int) -> None:
        self.patch(DEPLOYMENT, {"spec": {"replicas": replicas}})

    def evict(self, pod: str) -> int:
        """Ask for an eviction, as `kubectl drain` does; return the status of the answer."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
        # Not by the product's client, which takes 429 for a bad minute and asks again.
        try:
            request(self.once, "POST", f"{PODS}/{pod}/eviction", body, content_type="application/json")
        except ApiException as error:
            return int(error.status or 0)
        return 201

    @property
    def once(self) -> Any:
        from kubernetes import config

        return config.new_client_from_config(config_file=str(self.role.kubeconfig))


@pytest.fixture(scope="module")
def many(lab_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The fleet, with the role run twice."""
    try:
        kwok_nodes.binary()
    except LabError as error:
        pytest.skip(str(error))
    if not site.status()["running"]:
        site.up()
    folder, kubeconfig = tmp_path_factory.mktemp("kwok"), layout.current().kubeconfig
    client = connect(str(kubeconfig))
    role = Role(kubeconfig, folder, NAMESPACE, {**converge.BEGIN, "vllm_k8s_wait_seconds": 900}, timeout_seconds=30)
    with kwok_nodes.kwok_nodes(kubeconfig, folder, fleet()):
        try:
            yield Fleet(client, role, role.run(), role.run())
        finally:
            converge.remove(Cluster(client), role)
    converge.wait_until_gone(client, role.namespaces)


def wait_until(done: Callable[[], bool], what: str, seconds: float = 900) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(0.3)


def test_the_first_run_converges_and_the_second_changes_nothing(many: Fleet) -> None:
    assert many.first.code == 0, many.first.why()
    assert set(many.first.objects.values()) == {"created"}
    assert (many.second.code, many.second.changed, many.second.objects) == (0, 0, {}), many.second.why()


def test_every_node_has_one_loader_whatever_its_taints(many: Fleet) -> None:
    wait_until(lambda: len(many.pods("judge-loader", f"{NAMESPACE}-loader")) == NODES, "200 loaders")
    nodes = [pod["spec"].get("nodeName") for pod in many.pods("judge-loader", f"{NAMESPACE}-loader")]
    assert len(set(nodes)) == NODES


def test_no_pod_ever_runs_where_the_model_is_not(many: Fleet) -> None:
    nodes = request(many.api, "GET", "/api/v1/nodes")["items"]
    labelled = {node["metadata"]["name"] for node in nodes
                if (node["metadata"].get("labels") or {}).get(MODEL_LABEL) == "ready"}
    assert (len(nodes) >= NODES + 2, len(labelled)) == (True, WARM)
    many.scale(WARM + 10)
    wait_until(lambda: (len(many.ready()), len(many.unplaced())) == (WARM, 10), f"{WARM} ready pods and 10 others")
    assert set(many.ready().values()) == labelled
    assert len(many.pods("judge-inference")) == WARM + 10
    said = many.unplaced()[0]
    # The scheduler's own count: no GPU left on the warm ones, and the others behind the label or the taint.
    counts = {why: int(number) for number, why in re.findall(r"(\d+) (Insufficient|node\(s\) \w+)", said)}
    assert counts.pop("Insufficient") == WARM
    assert min(counts.values()) >= 90 and sum(counts.values()) == len(nodes) - WARM, said


def test_a_label_alone_opens_no_tainted_node_and_a_node_without_both_gates_gets_the_next_pod(many: Fleet) -> None:
    many.scale(WARM + 10)
    tainted, free = "/api/v1/nodes/kwok-021", "/api/v1/nodes/kwok-022"
    for path in (tainted, free):
        many.patch(path, {"metadata": {"labels": {MODEL_LABEL: "ready"}}})
    wait_until(lambda: "kwok-022" in many.ready().values(), "the pod on the node that has become warm")
    assert "kwok-021" not in many.ready().values()
    many.patch(tainted, {"spec": {"taints": []}})
    wait_until(lambda: "kwok-021" in many.ready().values(), "the pod on the node whose taint went")
    assert len(many.ready()) == WARM + 2


def test_a_drain_takes_one_replica_and_waits_with_the_next_until_the_first_is_back(many: Fleet) -> None:
    many.scale(2)
    wait_until(lambda: len(many.pods("judge-inference")) == len(many.ready()) == 2, "two pods")
    (first, first_node), (second, second_node) = many.ready().items()
    # As a drain does, and so that the replacement finds no place yet: every other node is closed.
    for name in kwok_nodes.ready_nodes(many.api) - {second_node}:
        many.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": True}})
    wait_until(lambda: many.evict(first) == 201, "the first eviction")
    wait_until(lambda: first not in many.ready(), "the evicted pod to go")
    assert [many.evict(second) for _ in range(3)] == [429, 429, 429]
    assert list(many.ready()) == [second]
    many.patch(f"/api/v1/nodes/{first_node}", {"spec": {"unschedulable": None}})
    wait_until(lambda: len(many.ready()) == 2, "the replacement")
    wait_until(lambda: many.evict(second) == 201, "the second eviction")


def test_one_object_that_is_not_wanted_any_more_is_removed_and_no_other(many: Fleet) -> None:
    for name in kwok_nodes.ready_nodes(many.api):
        many.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": None}})
    run = many.role.run(vllm_k8s_ingress=None)
    assert run.code == 0, run.why()
    assert run.objects == {f"Ingress/{NAMESPACE}/judge-inference-service": "deleted"}


def test_preflight_counts_the_gpu_nodes(many: Fleet, tmp_path: Path) -> None:
    answer = Cli(tmp_path)("preflight", "-e", f"vllm_k8s_namespace={NAMESPACE}", "-e",
                           json.dumps({"vllm_k8s_node_selector": {kwok_nodes.MARK: "kwok"}}))
    assert answer.code == 0, answer.stderr
    (row,) = [check for check in answer.json["checks"] if check["name"] == "GPU nodes"]
    assert row["found"].startswith(f"{NODES} ready with nvidia.com/gpu, of {NODES} with label")


def test_health_tells_all_nodes_and_which_pods_do_not_answer(many: Fleet, tmp_path: Path) -> None:
    answer = Cli(tmp_path)("health", "-e", f"vllm_k8s_namespace={NAMESPACE}", "-e",
                           json.dumps({"vllm_k8s_node_selector": {kwok_nodes.MARK: "kwok"}}))
    assert (answer.code, len(answer.json["hosts"])) == (1, NODES), answer.stderr
    # Nothing runs in pods of kwok, however ready they say they are.
    assert answer.json["reason"] == "PROBE_FAILING"
    found = {link["name"]: link["status"] for link in answer.json["links"]}
    assert (found["GPU nodes"], found["loader"], found["answers"]) == ("ok", "ok", "fail")
