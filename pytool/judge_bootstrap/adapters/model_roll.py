"""Roll the serving pods to another commit of the model, checked replica by replica, and back when one does not hold.

Kubernetes rolls; what is added is the canary, the early end, and the way back. Going back renders nothing: the old pods
come from the ReplicaSet that still describes them, because arguments, image and golden answers may have changed too.

State of an update lies on the Deployment, so that a command which was interrupted can be taken up by the next one:
`judge-bootstrap.io/update` while one is under way ({"from", "to", "at"}), and `.../previous-commit`, which the role
renders.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from judge_bootstrap.adapters.rollout import is_complete
from judge_bootstrap.core.errors import BootstrapError, Refusal
from judge_bootstrap.core.model_roll import (
    Roll,
    View,
    canary_count,
    commit_of,
    config_maps_of,
    earlier_replica_set,
    health_refusal,
    ready,
    view_of,
)

PREFIX = "judge-bootstrap.io/"
UPDATE, PREVIOUS = PREFIX + "update", PREFIX + "previous-commit"
NODE_STATE, CHANGED = PREFIX + "model-state", PREFIX + "models-changed"
LOADER_MODELS = "judge-loader-models"
POLL_SECONDS = 2.0
# A ready pod that cannot be reached through the API server so often is listed as not asked; kubelet asked it.
MOST_ASKED = 3

Object = Mapping[str, Any]


class Cluster(Protocol):
    """What is asked of the API server; objects are their JSON form. All of it raises BootstrapError."""

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None."""

    def listed(self, kind: str, namespace: str | None, selector: Mapping[str, str]) -> list[Object]:
        """Return the objects with these labels."""

    def merge(self, kind: str, namespace: str, name: str, body: Object) -> None:
        """Change some fields; None removes one."""

    def apply(self, item: Object) -> None:
        """Make the object so."""

    def health(self, namespace: str, pod: str, port: int) -> Mapping[str, Any] | None:
        """Return what a pod says of itself at /health/ready, ready or not; None when it says nothing."""

    def explain(self, namespace: str, name: str, pods: Sequence[Object]) -> tuple[str, str]:
        """Return a reason code and what holds up the pod that is furthest from ready."""


@dataclass(frozen=True)
class Place:
    """Where the judge runs: its Deployment, its port, its nodes, and the loader's namespace (None: no loader)."""

    namespace: str
    name: str
    port: int = 8000
    node_selector: Mapping[str, str] = field(default_factory=dict)
    loader_namespace: str | None = None
    env: str = "ENV"

    def command(self, words: str) -> str:
        """Return a command to type."""
        return f"judge-bootstrap --env {self.env} {words}"


@dataclass(frozen=True)
class Served:
    """What the cluster serves. `commit`: the one that last held everywhere; None when nothing was applied yet.

    `live`: the one that the Deployment names, another one only while an update is unfinished; `target`: where that
    update goes. `previous`: what the annotation says was served before. `marked`: an update has left its mark, though
    it may have got to its end.
    """

    commit: str | None = None
    live: str | None = None
    target: str | None = None
    previous: str | None = None
    paused: bool = False
    marked: bool = False
    replicas: int = 0


@dataclass(frozen=True)
class Timing:
    """The clock, for tests."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Found:
    """What a roll came to: `outcome` is rolled, unchanged or rolled_back; `replicas` what each new one said."""

    before: str
    commit: str
    outcome: str = "rolled"
    wanted: int = 0
    canary: int | None = None
    seconds: float = 0.0
    replicas: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the documented JSON form."""
        return {"from": self.before, "to": self.commit, "outcome": self.outcome, "wanted": self.wanted,
                "canary": self.canary, "seconds": round(self.seconds, 1), "replicas": self.replicas}


class Overtaken(BootstrapError):
    """Somebody else changed the Deployment meanwhile: what they did is not undone."""


def read_served(cluster: Cluster, place: Place) -> Served:
    """Return what is served now. Raises Refusal ROLLOUT_PAUSED when somebody else paused the Deployment."""
    deployment = cluster.get("Deployment", place.namespace, place.name)
    if deployment is None:
        return Served()
    update = _update_of(deployment)
    live, paused = commit_of(deployment), bool(deployment["spec"].get("paused"))
    if paused and update is None:
        raise Refusal(f"Deployment {place.namespace}/{place.name} is paused, and not by an update of ours",
                      reason="ROLLOUT_PAUSED",
                      hint=f"kubectl -n {place.namespace} rollout resume deployment {place.name}   # when that is over")
    previous = (deployment["metadata"].get("annotations") or {}).get(PREVIOUS)
    served = Served(live, live, None, previous, paused, update is not None, deployment["spec"].get("replicas", 1))
    if update is None or _overtaken(deployment, update):
        return served
    return replace(served, commit=update["from"], target=update["to"])


def refuse_paused(place: Place, served: Served) -> None:
    """Raise Refusal ROLLOUT_PAUSED when an update was interrupted at its canary: nothing that is applied would roll."""
    if served.paused:
        raise Refusal(f"Deployment {place.namespace}/{place.name} is paused: an update from commit "
                      f"{str(served.commit)[:12]} to {str(served.target or served.live)[:12]} was interrupted",
                      reason="ROLLOUT_PAUSED", hint=place.command("models update   # goes on; or: models rollback"))


def describe(cluster: Cluster, place: Place, served: Served) -> dict[str, Any]:
    """Return what is served as plain data, with the manifests and what the pods of both commits need."""
    return {
        "commit": served.commit, "live": served.live, "target": served.target, "previous_commit": served.previous,
        "replicas": served.replicas, "paused": served.paused, "marked": served.marked,
        "manifest": manifest_of(cluster, place, served.commit),
        "previous_manifest": manifest_of(cluster, place, served.previous),
        "needs": needed_config_maps(cluster, place, served.commit),
        "previous_needs": needed_config_maps(cluster, place, served.previous),
    }


def needed_config_maps(cluster: Cluster, place: Place, commit: str | None) -> list[str]:
    """Return the ConfigMaps that pods of `commit` need to come back, as a prune wants them (Kind/namespace/name)."""
    deployment = cluster.get("Deployment", place.namespace, place.name)
    if deployment is None or commit is None:
        return []
    earlier = earlier_replica_set(commit, _replica_sets(cluster, place, deployment))
    return [f"ConfigMap/{place.namespace}/{name}" for name in (config_maps_of(earlier) if earlier else [])]


def stage(cluster: Cluster, place: Place, served: Served, manifest: Mapping[str, Any], wait_seconds: float,
          timing: Timing = Timing()) -> list[str]:
    """Have every node that serves now verify the files of the new commit; return the nodes. Nothing rolls yet.

    Raises BootstrapError MODEL_INCOMPLETE, naming each node and what it says, after `wait_seconds`.
    """
    assert served.commit is not None
    _mark(cluster, place, served, manifest["commit"])
    _tell_loader(cluster, place, {"next.json": manifest})
    label = f"{PREFIX}model-{manifest['commit']}"
    started = timing.clock()
    while True:
        nodes = _serving_nodes(cluster, place, served.commit)
        missing = [node for node in nodes if (node["metadata"].get("labels") or {}).get(label) != "ready"]
        if nodes and not missing:
            return sorted(node["metadata"]["name"] for node in nodes)
        if timing.clock() - started >= wait_seconds:
            raise _not_staged(place, manifest["commit"], nodes, missing, wait_seconds)
        timing.sleep(POLL_SECONDS)


def check_nodes(cluster: Cluster, place: Place, served: Served, commit: str) -> None:
    """Raise BootstrapError MODEL_INCOMPLETE unless every node that serves has the files of `commit` too."""
    label = f"{PREFIX}model-{commit}"
    nodes = _serving_nodes(cluster, place, served.live)
    missing = [node for node in nodes if (node["metadata"].get("labels") or {}).get(label) != "ready"]
    if missing or not nodes:
        raise _not_staged(place, commit, nodes, missing, 0)


def roll(cluster: Cluster, place: Place, served: Served, commit: str, *, canary: str | None = None,
         bake_seconds: float = 0.0, timing: Timing = Timing()) -> Found:
    """Watch the pods move to `commit`, which has been applied; go back when one does not hold.

    Raises BootstrapError with the reason of the replica that did not hold; what it says begins with what serves now.
    """
    before = served.commit or ""
    found = Found(before, commit)
    try:
        _watch(cluster, place, found, canary, bake_seconds, timing)
    except BootstrapError as error:
        if isinstance(error, Overtaken) or error.reason in ("CLUSTER_UNREACHABLE", "CLUSTER_DENIED"):
            raise BootstrapError(f"{error.message}; the update is left as it is", reason=error.reason,
                                 hint=place.command("models update   # goes on; models rollback goes back")) from error
        raise _back(cluster, place, served, commit, error, timing) from error
    finish(cluster, place)
    return found


def roll_back(cluster: Cluster, place: Place, served: Served, timing: Timing = Timing()) -> Found:
    """Bring the pods of the commit before back, from the ReplicaSet that described them, and watch them.

    Raises BootstrapError ROLLBACK_NONE when there is none.
    """
    to = target_of_rollback(place, served)
    found = Found(served.live or "", to)
    # After an unfinished update the commit that it went to is not known to be good: what was there before both is.
    restore(cluster, place, to, served.previous if served.target else served.live)
    _watch(cluster, place, found, None, 0.0, timing)
    finish(cluster, place)
    return found


def target_of_rollback(place: Place, served: Served) -> str:
    """Return the commit to which a rollback goes. Raises BootstrapError ROLLBACK_NONE."""
    to = served.commit if served.target else served.previous
    if to is None or (to == served.live and not served.target):
        raise BootstrapError(f"{place.namespace}/{place.name} serves {(served.live or 'nothing')[:12]}, and knows no "
                             "commit before it", reason="ROLLBACK_NONE",
                             hint=place.command("run model_cache vllm_k8s -e model.revision=COMMIT"))
    return to


def restore(cluster: Cluster, place: Place, commit: str, previous: str | None) -> None:
    """Give the Deployment the pod template that `commit` was served with, and the loader its manifest.

    `previous`: the commit to which the next rollback would go. Raises BootstrapError ROLLBACK_NONE when the template is
    not to be had any more.
    """
    deployment = _deployment(cluster, place)
    earlier = earlier_replica_set(commit, _replica_sets(cluster, place, deployment))
    lost = [name for name in (config_maps_of(earlier) if earlier else [])
            if cluster.get("ConfigMap", place.namespace, name) is None]
    if earlier is None or lost:
        what = f"ConfigMap {', '.join(lost)} is gone" if lost else "no ReplicaSet of it is left"
        raise BootstrapError(f"cannot go back to commit {commit[:12]} in {place.namespace}/{place.name}: {what}",
                             reason="ROLLBACK_NONE",
                             hint=place.command(f"run model_cache vllm_k8s -e model.revision={commit}"))
    previous = previous if previous != commit else None
    if manifest := manifest_of(cluster, place, commit):
        _tell_loader(cluster, place, {"wanted.json": manifest, "next.json": None,
                                      "previous.json": manifest_of(cluster, place, previous)})
    cluster.apply(_with_template_of(deployment, earlier, previous))


def finish(cluster: Cluster, place: Place) -> None:
    """Write that no update is under way any more; the loader stages nothing any more."""
    cluster.merge("Deployment", place.namespace, place.name, {"metadata": {"annotations": {UPDATE: None}}})
    _tell_loader(cluster, place, {"next.json": None})


def unfinished_text(cluster: Cluster, place: Place) -> str | None:
    """Return where an update stands that was interrupted, in a sentence; None when none is under way."""
    deployment = cluster.get("Deployment", place.namespace, place.name)
    update = _update_of(deployment) if deployment else None
    if deployment is None or update is None:
        return None
    name, old, new = f"{place.namespace}/{place.name}", update["from"][:12], update["to"][:12]
    if commit_of(deployment) != update["to"]:
        return f"{name} still serves {old}: nothing was rolled yet"
    done, wanted = (deployment.get("status") or {}).get("updatedReplicas", 0), deployment["spec"].get("replicas", 1)
    how = "is paused at its canary" if deployment["spec"].get("paused") else "rolls on by itself"
    return f"{name} {how}: {done} of {wanted} replicas were moved from {old} to {new}"


# --- the watch --------------------------------------------------------------------------------------------------------


def _watch(cluster: Cluster, place: Place, found: Found, canary: str | None, bake_seconds: float,
           timing: Timing) -> None:
    """Return when all pods serve `found.commit` and were asked. Raises BootstrapError at the first that does not."""
    started = timing.clock()
    deployment = _deployment(cluster, place)
    found.wanted = deployment["spec"].get("replicas", 1)
    found.canary = canary_count(canary, found.wanted) if canary else None
    state = Roll(replica_seconds=float(deployment["spec"].get("progressDeadlineSeconds", 600)), canary=found.canary,
                 bake_seconds=bake_seconds)
    asked = _Asked(cluster, place, found)
    while True:
        deployment = _deployment(cluster, place)
        if commit_of(deployment) != found.commit:
            raise Overtaken(f"{place.namespace}/{place.name} was changed to commit "
                            f"{str(commit_of(deployment))[:12]} by somebody else, wanted {found.commit[:12]}",
                            reason="WRONG_MODEL_SERVED")
        replica_sets = _replica_sets(cluster, place, deployment)
        pods = _pods(cluster, place, deployment)
        view = view_of(deployment, replica_sets, pods, asked.refusals)
        asked.ask(view, pods)
        view = view_of(deployment, replica_sets, pods, asked.refusals)
        step = state.step(view, timing.clock())
        if step.act == "done" and asked.all_asked(view):
            found.seconds = timing.clock() - started
            return
        if step.act == "bad":
            reason, text = (step.reason, step.text) if step.reason else cluster.explain(
                place.namespace, place.name, _new_pods(view, pods))
            raise BootstrapError(text, reason=reason)
        if step.act in ("pause", "resume"):
            cluster.merge("Deployment", place.namespace, place.name,
                          {"spec": {"paused": True if step.act == "pause" else None}})
        else:
            timing.sleep(POLL_SECONDS)


class _Asked:
    """What each new pod said of itself: asked until it is ready and has answered, and not again."""

    def __init__(self, cluster: Cluster, place: Place, found: Found) -> None:
        self.refusals: dict[str, tuple[str, str]] = {}
        self._cluster, self._place, self._found = cluster, place, found
        self._done: dict[str, Mapping[str, Any] | None] = {}
        self._tries: dict[str, int] = {}

    def ask(self, view: View, pods: Sequence[Object]) -> None:
        """Ask the new pods that run and have not been heard of as ready."""
        running = {pod["metadata"]["name"]: pod for pod in pods if _runs(pod)}
        for replica in view.replicas:
            pod = running.get(replica.pod)
            if pod is None or replica.pod in self._done:
                continue
            answer = self._cluster.health(self._place.namespace, replica.pod, self._place.port)
            if refusal := health_refusal(replica.pod, answer, self._found.commit):
                self.refusals[replica.pod] = refusal
            elif replica.ready and answer is None:
                self._tries[replica.pod] = self._tries.get(replica.pod, 0) + 1
                if self._tries[replica.pod] >= MOST_ASKED:
                    self._done[replica.pod] = None
            elif replica.ready and answer is not None and answer.get("ready", True):
                self._done[replica.pod] = answer
            self._note(replica.pod, pod, answer)

    def all_asked(self, view: View) -> bool:
        """Tell whether each new pod has been heard, or cannot be reached."""
        return all(replica.pod in self._done for replica in view.replicas)

    def _note(self, name: str, pod: Object, answer: Mapping[str, Any] | None) -> None:
        golden = (answer or {}).get("golden") or {}
        line = {"pod": name, "node": pod["spec"].get("nodeName"), "ready": ready(pod), "asked": answer is not None,
                "commit": (answer or {}).get("commit"), "reason": (answer or {}).get("reason"),
                "golden_items": golden.get("items"), "golden_drift": golden.get("drift")}
        self._found.replicas[:] = [*(one for one in self._found.replicas if one["pod"] != name), line]


def _runs(pod: Object) -> bool:
    return any((container.get("state") or {}).get("running") is not None
               for container in (pod.get("status") or {}).get("containerStatuses") or [])


def _new_pods(view: View, pods: Sequence[Object]) -> list[Object]:
    names = {replica.pod for replica in view.replicas if not replica.ready}
    return [pod for pod in pods if pod["metadata"]["name"] in names]


# --- the way back, and what is written --------------------------------------------------------------------------------


def _back(cluster: Cluster, place: Place, served: Served, commit: str, error: BootstrapError,
          timing: Timing) -> BootstrapError:
    """Go back to what was served; return the error to raise, which says both."""
    before = served.commit or ""
    found = f"{commit[:12]} was not taken: {error.message}"
    if not before or before == commit:
        return BootstrapError(found, reason=error.reason, hint=place.command("models update"))
    try:
        restore(cluster, place, before, served.previous)
        again = Found(commit, before)
        _watch(cluster, place, again, None, 0.0, timing)
        finish(cluster, place)
    except BootstrapError as problem:
        return BootstrapError(f"{found}; and going back to {before[:12]} did not end: {problem.message}",
                              reason=error.reason, hint=place.command("models rollback"))
    return BootstrapError(f"rolled back, {before[:12]} serves on all {again.wanted} replicas: {found}",
                          reason=error.reason, hint=place.command("models update   # when that is repaired"))


def _mark(cluster: Cluster, place: Place, served: Served, to: str) -> None:
    """Write on the Deployment that an update is under way."""
    update = json.dumps({"from": served.commit, "to": to, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
                        separators=(",", ":"))
    cluster.merge("Deployment", place.namespace, place.name, {"metadata": {"annotations": {UPDATE: update}}})


def _tell_loader(cluster: Cluster, place: Place, files: Mapping[str, Any]) -> None:
    """Change what the loader is to bring, and have kubelet show it to the loader's pods at once."""
    if place.loader_namespace is None:
        return
    there = cluster.get("ConfigMap", place.loader_namespace, LOADER_MODELS)
    if there is None:
        return
    data = {name: None if content is None else json.dumps(content, sort_keys=True, separators=(",", ":"))
            for name, content in files.items()}
    now = there.get("data") or {}
    if all(_same_json(now.get(name), content) for name, content in data.items()):
        return
    cluster.merge("ConfigMap", place.loader_namespace, LOADER_MODELS, {"data": data})
    # Kubelet shows a changed ConfigMap within a minute or two, and at once to a pod that changes itself.
    for pod in cluster.listed("Pod", place.loader_namespace, {"app.kubernetes.io/name": "judge-loader",
                                                            "app.kubernetes.io/instance": place.name}):
        cluster.merge("Pod", place.loader_namespace, pod["metadata"]["name"],
                      {"metadata": {"annotations": {CHANGED: str(time.time_ns())}}})


def _same_json(text: str | None, other: str | None) -> bool:
    if text is None or other is None:
        return text is other
    try:
        return bool(json.loads(text) == json.loads(other))
    except ValueError:
        return False


def _with_template_of(deployment: Object, earlier: Object, previous: str | None) -> dict[str, Any]:
    """Return the Deployment as it is applied, with the pods of an earlier ReplicaSet."""
    template = json.loads(json.dumps(earlier["spec"]["template"]))
    template["metadata"].get("labels", {}).pop("pod-template-hash", None)
    template["metadata"].pop("creationTimestamp", None)
    metadata, spec = deployment["metadata"], deployment["spec"]
    kept = {name: value for name, value in (metadata.get("annotations") or {}).items()
            if name not in (UPDATE, PREVIOUS) and not name.startswith("deployment.kubernetes.io/")}
    if previous:
        kept[PREVIOUS] = previous
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "annotations": kept,
                     "labels": dict(metadata.get("labels") or {})},
        "spec": {name: spec[name] for name in ("replicas", "selector", "strategy", "progressDeadlineSeconds",
                                               "revisionHistoryLimit", "minReadySeconds") if name in spec}
        | {"template": template},
    }


# --- reading ----------------------------------------------------------------------------------------------------------


def _deployment(cluster: Cluster, place: Place) -> Object:
    found = cluster.get("Deployment", place.namespace, place.name)
    if found is None:
        raise BootstrapError(f"there is no Deployment {place.namespace}/{place.name} any more", reason="SERVICE_EMPTY",
                             hint=place.command("run vllm_k8s"))
    return found


def _replica_sets(cluster: Cluster, place: Place, deployment: Object) -> list[Object]:
    return cluster.listed("ReplicaSet", place.namespace, deployment["spec"]["selector"]["matchLabels"])


def _pods(cluster: Cluster, place: Place, deployment: Object) -> list[Object]:
    found = cluster.listed("Pod", place.namespace, deployment["spec"]["selector"]["matchLabels"])
    # A pod that was evicted or has ended is a record, and no replica.
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]
            and (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded")]


def _update_of(deployment: Object) -> dict[str, str] | None:
    """Return {from, to} of an update under way; None for none, and for a text that is none of ours."""
    try:
        found = json.loads((deployment["metadata"].get("annotations") or {}).get(UPDATE) or "null")
    except ValueError:
        return None
    whole = isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("from", "to"))
    return found if whole else None


def manifest_of(cluster: Cluster, place: Place, commit: str | None) -> Any:
    """Return the manifest of a commit that was applied here, or None."""
    there = cluster.get("ConfigMap", place.namespace, f"judge-model-{commit[:12]}") if commit else None
    text = ((there or {}).get("data") or {}).get("manifest.json")
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def _overtaken(deployment: Object, update: Mapping[str, str]) -> bool:
    """Tell whether an update has come to its end without saying so: all pods moved, or somebody applied another one."""
    live = commit_of(deployment)
    return live not in (update["from"], update["to"]) or (live == update["to"] and is_complete(deployment)
                                                          and not deployment["spec"].get("paused"))


def _serving_nodes(cluster: Cluster, place: Place, commit: str | None) -> list[Object]:
    """Return the nodes that are ready and may serve `commit`.

    One that is still warming up has no label yet, and gets the new files too; where no node has one, all are meant.
    """
    nodes = [node for node in cluster.listed("Node", None, place.node_selector) if ready(node)]
    label = f"{PREFIX}model-{commit}"
    return [node for node in nodes if (node["metadata"].get("labels") or {}).get(label) == "ready"] or nodes


def _not_staged(place: Place, commit: str, nodes: Sequence[Object], missing: Sequence[Object],
                wait_seconds: float) -> BootstrapError:
    if not nodes:
        selector = ",".join(f"{key}={value}" for key, value in place.node_selector.items())
        return BootstrapError(f"found no ready node with {selector or 'any label'}, wanted at least one",
                              reason="MODEL_INCOMPLETE", hint=f"kubectl get nodes -l '{selector}'")
    said = [_node_says(node) for node in missing]
    reason = next((code for code, _ in said if code), "MODEL_INCOMPLETE")
    after = f" after {wait_seconds:g} s" if wait_seconds else ""
    return BootstrapError(f"{len(missing)} of {len(nodes)} nodes have not verified commit {commit[:12]}{after}, so "
                          f"nothing was rolled: {'; '.join(text for _, text in said[:5])}", reason=reason,
                          hint=place.command("logs --loader") if place.loader_namespace
                          else place.command("run model_cache"))


def _node_says(node: Object) -> tuple[str | None, str]:
    """Return the reason code, and `NODE: what it says of its models`."""
    name = node["metadata"]["name"]
    try:
        state = json.loads((node["metadata"].get("annotations") or {}).get(NODE_STATE) or "{}")
    except ValueError:
        state = {}
    if not isinstance(state, dict) or not state:
        return None, f"{name} says nothing of its models"
    return state.get("reason"), f"{name} is {state.get('state')}: {state.get('message')}"
