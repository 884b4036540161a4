"""A cluster for tests of model updates: a Deployment whose controller is stepped by the clock that the code waits on.

It does what Kubernetes' controller does with maxSurge 0 and maxUnavailable 1: it takes an old pod away only when all
others are ready, prefers one that is not ready, makes a new pod in its place, and rolls nothing while it is paused.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judge_bootstrap.adapters.roll_state import Place
from judge_bootstrap.adapters.roll_watch import Timing
from judge_bootstrap.core.errors import BootstrapError

A, B, C = "a" * 40, "b" * 40, "c" * 40
PLACE = Place("llm-judge", "judge", node_selector={"role": "ai-gpu"}, loader_namespace="llm-judge-loader", env="prod")
LABELS = {"app": "judge"}
STARTS_AFTER = 6.0


def template(commit: str, gateway: str = "judge-gateway-1") -> dict[str, Any]:
    """Return the pods' template of a commit, as the role renders it as far as an update looks at it."""
    volumes = [{"name": "manifest", "configMap": {"name": f"judge-model-{commit[:12]}"}},
               {"name": "gateway", "configMap": {"name": gateway}}]
    return {"metadata": {"labels": dict(LABELS), "annotations": {"judge-bootstrap.io/model-commit": commit}},
            "spec": {"containers": [{"name": "vllm"}], "volumes": volumes}}


def merged(target: Any, patch: Any) -> Any:
    """Return RFC 7386's merge."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    found = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


@dataclass
class Pod:
    """One pod. `health`: what it says of itself once it runs."""

    name: str
    template_hash: str
    commit: str
    made: float
    ready: bool = False
    restarts: int = 0
    health: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeCluster:
    """A Deployment with its ReplicaSets and pods, nodes and ConfigMaps."""

    wanted: int = 4
    now: float = 0.0
    objects: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    loader_pods: list[str] = field(default_factory=list)
    # Commits whose pods never hold -> what they say at /health/ready (None: nothing).
    bad: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    # What happens to the cluster as time goes by.
    events: list[tuple[float, Callable[[FakeCluster], None]]] = field(default_factory=list)
    # The fewest pods that were ready at any time, the most that were there, and every write.
    fewest_ready: int = 99
    most_pods: int = 0
    writes: list[tuple[str, str, Any]] = field(default_factory=list)
    reachable: bool = True
    broken: BootstrapError | None = None
    made: int = 0

    # --- what a test sets up and looks at

    @classmethod
    def serving(cls, commit: str = A, wanted: int = 4, **given: Any) -> FakeCluster:
        """Return a cluster that serves a commit on all its replicas."""
        found = cls(wanted=wanted, **given)
        found.add_manifest(commit)
        found.objects["ConfigMap", PLACE.namespace, "judge-gateway-1"] = {"data": {}}
        found.objects["ConfigMap", "llm-judge-loader", "judge-loader-models"] = {
            "data": {"wanted.json": json.dumps(manifest(commit))}}
        found.objects["Deployment", PLACE.namespace, PLACE.name] = {
            "metadata": {"name": PLACE.name, "namespace": PLACE.namespace, "generation": 1, "annotations": {}},
            "spec": {"replicas": wanted, "selector": {"matchLabels": LABELS}, "progressDeadlineSeconds": 100,
                     "template": template(commit)}, "status": {}}
        for index in range(wanted):
            found.add_node(f"node-{index}", commit)
        for _ in range(60 + 4 * wanted):
            found.tick(2.0)
        found.fewest_ready, found.most_pods, found.writes, found.events = 99, 0, [], []
        return found

    def add_manifest(self, commit: str) -> None:
        self.objects["ConfigMap", PLACE.namespace, f"judge-model-{commit[:12]}"] = {
            "data": {"manifest.json": json.dumps(manifest(commit))}}

    def add_node(self, name: str, *commits: str) -> None:
        self.nodes[name] = {
            "metadata": {"name": name, "labels": {"role": "ai-gpu"} | {
                f"judge-bootstrap.io/model-{commit}": "ready" for commit in commits}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}

    def verified(self, commit: str) -> None:
        """Have all nodes say that they have a commit."""
        for node in self.nodes.values():
            node["metadata"]["labels"][f"judge-bootstrap.io/model-{commit}"] = "ready"

    def roll_out(self, commit: str, previous: str | None = None, gateway: str = "judge-gateway-1") -> None:
        """Do what the role does: apply the objects of a commit."""
        self.add_manifest(commit)
        self.objects.setdefault(("ConfigMap", PLACE.namespace, gateway), {"data": {}})
        annotations = {"judge-bootstrap.io/previous-commit": previous} if previous else {}
        self.merge("Deployment", PLACE.namespace, PLACE.name, {"metadata": {"annotations": annotations}})
        self.deployment["spec"]["template"] = template(commit, gateway)
        self.deployment["metadata"]["generation"] += 1

    @property
    def deployment(self) -> dict[str, Any]:
        return self.objects["Deployment", PLACE.namespace, PLACE.name]

    @property
    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.deployment["metadata"]["annotations"]
        return found

    @property
    def loader_files(self) -> dict[str, str]:
        """Return the commit in each of the loader's files."""
        data = self.objects["ConfigMap", "llm-judge-loader", "judge-loader-models"]["data"]
        return {name: json.loads(text)["commit"] for name, text in data.items()}

    def commits(self) -> list[str]:
        """Return the first letter of the commit of each pod that is ready."""
        return sorted(pod.commit[0] for pod in self.pods if pod.ready)

    def timing(self) -> Timing:
        return Timing(lambda: self.now, self.tick)

    def at(self, seconds: float, event: Callable[[FakeCluster], None]) -> None:
        """Have something happen in so many seconds."""
        self.events.append((self.now + seconds, event))

    # --- time

    def tick(self, seconds: float) -> None:
        """Let time go by, and the controller and the pods do their work."""
        self.now += seconds
        due = [event for at, event in self.events if at <= self.now]
        self.events = [(at, event) for at, event in self.events if at > self.now]
        for event in due:
            event(self)
        self._control()
        for pod in self.pods:
            if pod.commit in self.bad:
                pod.health = self.bad[pod.commit] or {}
            elif self.now - pod.made >= STARTS_AFTER:
                pod.ready = True
                pod.health = {"ready": True, "commit": pod.commit, "golden": {"items": 2, "drift": 0.25}}
        ready = sum(pod.ready for pod in self.pods)
        self.fewest_ready, self.most_pods = min(self.fewest_ready, ready), max(self.most_pods, len(self.pods))
        self._status(ready)

    def _control(self) -> None:
        spec = self.deployment["spec"]
        wanted = spec["replicas"]
        name = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:8]
        if not spec.get("paused"):
            revisions = [int(one["metadata"]["annotations"]["deployment.kubernetes.io/revision"])
                         for one in self.sets.values()]
            one = self.sets.setdefault(name, {
                "metadata": {"name": name, "labels": {**LABELS, "pod-template-hash": name}, "annotations": {}},
                "spec": {"template": copy.deepcopy(spec["template"])}})
            one["spec"]["template"]["metadata"]["labels"]["pod-template-hash"] = name
            revision = one["metadata"]["annotations"].get("deployment.kubernetes.io/revision")
            if revision is None or int(revision) < max(revisions, default=0):
                revision = str(max(revisions, default=0) + 1)
                one["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = revision
            self.annotations["deployment.kubernetes.io/revision"] = revision
        self.deployment["status"]["observedGeneration"] = self.deployment["metadata"]["generation"]
        current = self.annotations.get("deployment.kubernetes.io/revision")
        newest = next((key for key, one in self.sets.items()
                       if one["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == current), None)
        old = [pod for pod in self.pods if pod.template_hash != newest]
        if len(self.pods) > wanted:
            self.pods.remove((old or self.pods)[0])
        elif len(self.pods) < wanted and newest:
            self._make(newest)
        elif old and not spec.get("paused"):
            broken = [pod for pod in old if not pod.ready]
            if broken:
                self.pods.remove(broken[0])
            elif all(pod.ready for pod in self.pods):
                self.pods.remove(old[0])

    def _make(self, template_hash: str) -> None:
        self.made += 1
        commit = self.sets[template_hash]["spec"]["template"]["metadata"]["annotations"][
            "judge-bootstrap.io/model-commit"]
        self.pods.append(Pod(f"judge-{template_hash}-{self.made}", template_hash, commit, self.now))

    def _status(self, ready: int) -> None:
        current = self.annotations.get("deployment.kubernetes.io/revision")
        newest = next((key for key, one in self.sets.items()
                       if one["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == current), None)
        self.deployment["status"].update({
            "replicas": len(self.pods), "availableReplicas": ready,
            "updatedReplicas": sum(pod.template_hash == newest for pod in self.pods)})
        for key, one in self.sets.items():
            one["status"] = {"readyReplicas": sum(pod.ready for pod in self.pods if pod.template_hash == key)}

    # --- what the code asks (adapters.roll_state.Cluster)

    def get(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        if self.broken:
            raise self.broken
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    def listed(self, kind: str, namespace: str | None, selector: Mapping[str, str]) -> list[Mapping[str, Any]]:
        if kind == "Node":
            return [copy.deepcopy(node) for node in self.nodes.values()
                    if selector.items() <= node["metadata"]["labels"].items()]
        if kind == "ReplicaSet":
            return copy.deepcopy(list(self.sets.values()))
        if namespace != PLACE.namespace:
            return [{"metadata": {"name": name}} for name in self.loader_pods]
        return [{"metadata": {"name": pod.name, "labels": {"pod-template-hash": pod.template_hash}},
                 "spec": {"nodeName": "node-1"},
                 "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(pod.ready)}],
                            "containerStatuses": [{"restartCount": pod.restarts, "ready": pod.ready,
                                                   "state": {"running": {}}}]}} for pod in self.pods]

    def merge(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> None:
        self.writes.append(("merge", f"{kind}/{name}", body))
        if kind == "Pod":
            return
        found = merged(self.objects[kind, namespace, name], body)
        if kind == "Deployment" and "spec" in body:
            found["metadata"]["generation"] += 1
        self.objects[kind, namespace, name] = found

    def apply(self, item: Mapping[str, Any]) -> None:
        self.writes.append(("apply", f"{item['kind']}/{item['metadata']['name']}", item))
        there = self.objects[item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]]
        kept = {name: value for name, value in there["metadata"]["annotations"].items()
                if name == "judge-bootstrap.io/update" or name.startswith("deployment.")}
        there["metadata"]["annotations"] = {**kept, **item["metadata"]["annotations"]}
        if there["spec"]["template"] != item["spec"]["template"]:
            there["spec"]["template"] = copy.deepcopy(item["spec"]["template"])
            there["metadata"]["generation"] += 1

    def health(self, namespace: str, pod: str, port: int) -> Mapping[str, Any] | None:
        found = next(one for one in self.pods if one.name == pod)
        return (found.health or None) if self.reachable else None

    def explain(self, namespace: str, name: str, pods: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        return "POD_PENDING", f"{len(pods)} pods wait"


def manifest(commit: str) -> dict[str, Any]:
    """Return a manifest as far as an update looks at it."""
    return {"repo_id": "org/judge", "commit": commit, "files": []}
