"""Model updates against Kubernetes' own API server and Deployment controller: many replicas, canary, the way back.

What kubelet would say of a pod is written by a thread here, and so is what a pod would say of itself; the rest is real.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from control_plane import control_plane
from judge_bootstrap.adapters import objects
from judge_bootstrap.adapters.kube import connect
from judge_bootstrap.adapters.model_roll import roll, roll_back, stage
from judge_bootstrap.adapters.roll_cluster import KubernetesRollCluster
from judge_bootstrap.adapters.roll_state import Place, read_served
from judge_bootstrap.adapters.roll_watch import Found, Timing
from judge_bootstrap.core.errors import BootstrapError
from judge_lab import LabError

A, B, C = "a" * 40, "b" * 40, "c" * 40
REPLICAS = 5
# More than a look at the cluster takes, as with real pods.
STARTS_AFTER_SECONDS = 1.0
DRIFT = {"ready": False, "reason": "GOLDEN_DRIFT", "message": "too far", "commit": C}
FAST = Timing(time.monotonic, lambda _: time.sleep(0.1))


def rendered(place: Place, commit: str, previous: str | None, gateway: str) -> list[dict[str, Any]]:
    """Return what the role would render, as far as pods roll by it."""
    labels = {"app.kubernetes.io/managed-by": "judge-bootstrap", "app": place.name}
    mark = {"judge-bootstrap.io/previous-commit": previous} if previous else {}
    names = [f"judge-model-{commit[:12]}", gateway]

    def config_map(name: str, data: Mapping[str, str]) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "data": dict(data),
                "metadata": {"name": name, "namespace": place.namespace, "labels": labels}}

    manifest = {"manifest.json": json.dumps({"repo_id": "org/judge", "commit": commit, "files": []})}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace, "labels": labels}},
        config_map(names[0], manifest), config_map(gateway, {"gateway.json": "{}"}),
        {"apiVersion": "apps/v1", "kind": "Deployment",
         "metadata": {"name": place.name, "namespace": place.namespace, "labels": labels,
                      "annotations": {"judge-bootstrap.io/model": "org/judge", **mark}},
         "spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": place.name}},
                  "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
                  "progressDeadlineSeconds": 120,
                  "template": {
                      "metadata": {"labels": labels, "annotations": {"judge-bootstrap.io/model-commit": commit}},
                      "spec": {"containers": [{"name": "vllm", "image": "vllm/vllm-openai:v0.32.0",
                                               "args": [commit], "ports": [{"containerPort": 8000}]}],
                               "volumes": [{"name": name, "configMap": {"name": name}} for name in names]}}}}]


class Kubelet(threading.Thread):
    """Says of each pod of a namespace that it is ready, unless its commit is bad; counts what it sees.

    With `canary`, so many pods of a commit, the last of them is not ready before the Deployment is paused: real pods
    take minutes to start, and nobody who watches them is later than that.
    """

    def __init__(self, api_client: Any, namespace: str) -> None:
        super().__init__(daemon=True)
        self.bad: set[str] = set()
        self.canary: int | None = None
        self.fewest_ready, self.most_pods = 99, 0
        self._client, self._path = api_client, f"/api/v1/namespaces/{namespace}/pods"
        self._deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/judge"
        self._said: dict[str, bool] = {}
        self._seen: dict[str, float] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            pods = self.pods()
            self.most_pods = max(self.most_pods, len(pods))
            self.fewest_ready = min(self.fewest_ready, sum(ready for _, _, ready in pods))
            for name, commit, _ in pods:
                wanted = commit not in self.bad
                if wanted and self._would_end_the_canary(commit, pods):
                    continue
                if time.monotonic() - self._seen.setdefault(name, time.monotonic()) < STARTS_AFTER_SECONDS:
                    continue
                if self._said.get(name) != wanted:
                    self._said[name] = wanted
                    self._say(name, wanted)

    def _would_end_the_canary(self, commit: str, pods: list[tuple[str, str, bool]]) -> bool:
        """Whether the next ready pod of a commit would be its canary's last, and nobody has stopped the others yet."""
        there = sum(ready for _, found, ready in pods if found == commit)
        if self.canary is None or there != self.canary - 1:
            return False
        return not objects.request(self._client, "GET", self._deployment)["spec"].get("paused")

    def pods(self) -> list[tuple[str, str, bool]]:
        """Return (name, commit, ready) of each pod."""
        found = objects.request(self._client, "GET", self._path)["items"]
        return [(pod["metadata"]["name"], pod["metadata"]["annotations"]["judge-bootstrap.io/model-commit"],
                 any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", [])))
                for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def commits(self) -> list[str]:
        """Return the first letter of the commit of each pod that is ready."""
        return sorted(commit[0] for _, commit, ready in self.pods() if ready)

    def end(self) -> None:
        self._ended.set()
        self.join(120)

    def _say(self, name: str, ready: bool) -> None:
        running = {"name": "vllm", "image": "", "imageID": "", "ready": ready, "restartCount": 0,
                   "state": {"running": {}}}
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}],
                  "containerStatuses": [running]}
        with_gone_pods(lambda: objects.request(self._client, "PATCH", f"{self._path}/{name}/status",
                                               {"status": status}, content_type="application/merge-patch+json"))


def with_gone_pods(call: Any) -> None:
    """Call the API server about a pod that may be gone by now."""
    from kubernetes.client.exceptions import ApiException

    try:
        call()
    except ApiException as error:
        if error.status not in (404, 409):
            raise


class Cluster(KubernetesRollCluster):
    """The real one, where pods say of themselves what a test tells them to."""

    def __init__(self, api_client: Any, kubelet: Kubelet) -> None:
        super().__init__(api_client)
        self._kubelet = kubelet

    def health(self, namespace: str, pod: str, port: int) -> Mapping[str, Any] | None:
        commit = next((found for name, found, _ in self._kubelet.pods() if name == pod), None)
        return DRIFT if commit == C else {"ready": True, "commit": commit, "golden": {"items": 1, "drift": 0.0}}


class Judge:
    """A judge on the cluster, and what a user does with it."""

    def __init__(self, kubeconfig: Path, name: str) -> None:
        self.client = connect(str(kubeconfig))
        self.place = Place(f"judge-{name}", "judge", node_selector={"role": name})
        self.kubelet = Kubelet(connect(str(kubeconfig)), self.place.namespace)
        self.cluster = Cluster(self.client, self.kubelet)
        self.apply(A)
        self.node(A)
        self.kubelet.start()
        self.settle()
        self.kubelet.fewest_ready = 99

    def apply(self, commit: str, previous: str | None = None, gateway: str = "judge-gateway-1") -> list[str]:
        """Do what the role does; return the objects that it changed."""
        wanted = rendered(self.place, commit, previous, gateway)
        return [one.object for one in objects.apply(self.client, wanted) if one.action == "changed"]

    def node(self, *commits: str) -> None:
        name = f"node-{self.place.namespace}"
        labels = {"role": self.place.node_selector["role"]} | {
            f"judge-bootstrap.io/model-{commit}": "ready" for commit in commits}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        query = [("fieldManager", "test"), ("force", "true")]
        objects.request(self.client, "PATCH", f"/api/v1/nodes/{name}", body,
                        content_type="application/apply-patch+yaml", query=query)
        objects.request(self.client, "PATCH", f"/api/v1/nodes/{name}/status",
                        {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
                        content_type="application/merge-patch+json")

    def settle(self, seconds: float = 300) -> None:
        from judge_bootstrap.adapters.rollout import is_complete

        until = time.monotonic() + seconds
        while not is_complete(self.deployment()):
            assert time.monotonic() < until, self.deployment()["status"]
            time.sleep(0.1)

    def deployment(self) -> dict[str, Any]:
        found = self.cluster.get("Deployment", self.place.namespace, self.place.name)
        assert found is not None
        return dict(found)

    def start_update(self, commit: str, gateway: str = "judge-gateway-1") -> Any:
        """Do an update up to where the pods begin to move; return what was served before."""
        served = read_served(self.cluster, self.place)
        self.node(A, B, C)
        stage(self.cluster, self.place, served, {"repo_id": "org/judge", "commit": commit}, 10, FAST)
        self.apply(commit, served.commit, gateway)
        return served

    def update(self, commit: str, gateway: str = "judge-gateway-1", **options: Any) -> Found:
        served = self.start_update(commit, gateway)
        return roll(self.cluster, self.place, served, commit, timing=FAST, **options)


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    try:
        with control_plane(tmp_path_factory.mktemp("plane"), ["deployment", "replicaset"]) as found:
            yield found
    except LabError as error:
        pytest.skip(f"no control plane here: {error}")


@contextmanager
def judge(kubeconfig: Path, name: str) -> Iterator[Judge]:
    made = Judge(kubeconfig, name)
    try:
        yield made
    finally:
        made.kubelet.end()


def test_an_update_moves_all_replicas_one_by_one_and_a_rollback_brings_them_back(kubeconfig: Path) -> None:
    with judge(kubeconfig, "update") as made:
        found = made.update(B)
        assert (found.outcome, len(found.replicas), made.kubelet.commits()) == ("rolled", REPLICAS, ["b"] * REPLICAS)
        assert (made.kubelet.fewest_ready, made.kubelet.most_pods) == (REPLICAS - 1, REPLICAS)
        assert roll_back(made.cluster, made.place, read_served(made.cluster, made.place), FAST).commit == A
        assert made.kubelet.commits() == ["a"] * REPLICAS
        # What the role renders for the commit that is served now is what is there.
        assert made.apply(A, B) == []


def test_an_update_whose_replica_drifts_goes_back_to_the_very_pods_of_before(kubeconfig: Path) -> None:
    with judge(kubeconfig, "drift") as made:
        made.kubelet.bad.add(C)
        before = {name for name, _, _ in made.kubelet.pods()}
        template = made.deployment()["spec"]["template"]
        with pytest.raises(BootstrapError, match="rolled back, aaaaaaaaaaaa serves on all 5 replicas") as caught:
            made.update(C, gateway="judge-gateway-2")
        assert caught.value.reason == "GOLDEN_DRIFT"
        assert made.deployment()["spec"]["template"] == template
        assert len(before & {name for name, _, _ in made.kubelet.pods()}) == REPLICAS - 1
        assert made.kubelet.fewest_ready == REPLICAS - 1
        assert made.apply(A) == []


def test_a_canary_holds_the_others_back_until_its_time_is_over(kubeconfig: Path) -> None:
    with judge(kubeconfig, "canary") as made:
        made.kubelet.canary = 2
        seen: list[tuple[int, bool]] = []
        now = 0.0  # a clock that every look moves on, so that the three seconds have room for many of them

        def look(_: float) -> None:
            nonlocal now
            time.sleep(0.1)
            now += 0.2
            seen.append((made.kubelet.commits().count("b"), bool(made.deployment()["spec"].get("paused"))))

        served = made.start_update(B)
        found = roll(made.cluster, made.place, served, B, canary="40%", bake_seconds=3,
                     timing=Timing(lambda: now, look))
        assert (found.canary, made.kubelet.commits()) == (2, ["b"] * REPLICAS)
        assert seen.count((2, True)) > 5
        assert max(count for count, paused in seen if paused) == 2
        assert "paused" not in made.deployment()["spec"]
        assert made.apply(B, A) == []


def test_a_canary_that_drifts_leaves_nothing_paused(kubeconfig: Path) -> None:
    with judge(kubeconfig, "canary-drift") as made:
        made.kubelet.bad.add(C)
        with pytest.raises(BootstrapError, match="rolled back"):
            made.update(C, canary="20%", bake_seconds=60)
        assert made.kubelet.commits() == ["a"] * REPLICAS
        assert "paused" not in made.deployment()["spec"]
        assert made.apply(A) == []


def test_an_update_that_was_cut_at_its_canary_is_taken_up_by_one_to_another_commit_or_by_a_rollback(
    kubeconfig: Path
) -> None:
    with judge(kubeconfig, "cut") as made:
        made.kubelet.canary = 2

        def cut(commit: str) -> None:
            served = made.start_update(commit)

            def stop(_: float) -> None:
                time.sleep(0.1)
                if made.deployment()["spec"].get("paused") and made.kubelet.commits().count(commit[0]) == 2:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                roll(made.cluster, made.place, served, commit, canary="40%", bake_seconds=600,
                     timing=Timing(time.monotonic, stop))

        cut(B)
        time.sleep(1)
        assert made.kubelet.commits() == ["a"] * 3 + ["b"] * 2
        roll_back(made.cluster, made.place, read_served(made.cluster, made.place), FAST)
        assert made.kubelet.commits() == ["a"] * REPLICAS
        cut(B)
        made.kubelet.bad.add(C)
        with pytest.raises(BootstrapError, match="rolled back, aaaaaaaaaaaa serves"):
            made.update(C)
        assert made.kubelet.commits() == ["a"] * REPLICAS
        cut(B)
        assert made.update(B).outcome == "rolled"
        assert made.kubelet.fewest_ready == REPLICAS - 1


def test_no_write_of_an_update_takes_a_field_from_the_role(kubeconfig: Path) -> None:
    with judge(kubeconfig, "owner") as made:
        made.kubelet.canary = 1
        made.update(B, canary="20%")
        owners = {(entry["manager"], entry["operation"]) for entry in made.deployment()["metadata"]["managedFields"]
                  if entry.get("subresource") != "status"}
        assert {manager for manager, _ in owners} <= {"judge-bootstrap", "kube-controller-manager"}
