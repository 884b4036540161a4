"""Roll the serving pods to another commit of the model, checked replica by replica, and back when one does not hold.

Kubernetes rolls; what is added is the canary, the early end, and the way back. Going back renders nothing: the old pods
come from the ReplicaSet that still describes them, because arguments, image and golden answers may have changed too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from judge_bootstrap.adapters.roll_state import (
    PREFIX,
    PREVIOUS,
    UPDATE,
    Cluster,
    Object,
    Place,
    Served,
    deployment_of,
    manifest_of,
    replica_sets_of,
)
from judge_bootstrap.adapters.roll_watch import POLL_SECONDS, REAL_TIME, Found, Overtaken, Timing, watch
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.model_roll import config_maps_of, earlier_replica_set, ready

NODE_STATE, CHANGED = PREFIX + "model-state", PREFIX + "models-changed"
LOADER_MODELS = "judge-loader-models"


class RollFailed(BootstrapError):
    """A replica did not hold; `found` says what was found, and whether the old commit serves again."""

    def __init__(self, message: str, found: Found, *, reason: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.found = found


def do_step(cluster: Cluster, place: Place, step: str, given: Mapping[str, Any], manifest: Mapping[str, Any] | None, *,
            wait_seconds: float, canary: str | None, bake_seconds: float, check: bool) -> dict[str, Any]:
    """Do one step of an update, for the Ansible module; return its result. `given` is what `describe` returned before.

    In check mode nothing is written; only what would make a rollback impossible is looked for.
    """
    served = Served(given.get("commit"), given.get("live"), given.get("target"), given.get("previous_commit"),
                    bool(given.get("paused")), bool(given.get("marked")), int(given.get("replicas") or 0))
    if step == "stage":
        assert manifest is not None
        nodes = [] if check else stage(cluster, place, served, manifest, wait_seconds)
        return {"changed": False, "nodes": nodes, "msg": f"{len(nodes)} nodes have {manifest['commit'][:12]}"}
    if step == "roll":
        assert manifest is not None
        commit = manifest["commit"]
        if check:
            return {"changed": True, "msg": f"would move {served.replicas} replicas to {commit[:12]}"}
        found = roll(cluster, place, served, commit, canary=canary, bake_seconds=bake_seconds)
        return {"changed": True, "roll": found.to_json(), "msg": f"{found.wanted} replicas serve {commit[:12]}"}
    if step == "rollback":
        to = target_of_rollback(place, served)
        check_nodes(cluster, place, served, to)
        diff = {"before": f"commit: {served.live}\n", "after": f"commit: {to}\n", "before_header": place.name,
                "after_header": place.name}
        result = {"changed": True, "diff": diff, "manifest": manifest_of(cluster, place, to)}
        if check:
            return {**result, "msg": f"would go back to {to[:12]}"}
        back = roll_back(cluster, place, served)
        return {**result, "roll": back.to_json(), "msg": f"{back.wanted} replicas serve {to[:12]}"}
    if not check:
        finish(cluster, place)
    return {"changed": False, "msg": "no update is under way"}


def stage(cluster: Cluster, place: Place, served: Served, manifest: Mapping[str, Any], wait_seconds: float,
          timing: Timing = REAL_TIME) -> list[str]:
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
         bake_seconds: float = 0.0, timing: Timing = REAL_TIME) -> Found:
    """Watch the pods move to `commit`, which has been applied; go back when one does not hold.

    Raises BootstrapError with the reason of the replica that did not hold; what it says begins with what serves now.
    """
    before = served.commit or ""
    found = Found(before, commit)
    try:
        watch(cluster, place, found, canary, bake_seconds, timing)
    except BootstrapError as error:
        if isinstance(error, Overtaken) or error.reason in ("CLUSTER_UNREACHABLE", "CLUSTER_DENIED"):
            raise BootstrapError(f"{error.message}; the update is left as it is", reason=error.reason,
                                 hint=place.command("models update   # goes on; models rollback goes back")) from error
        raise _back(cluster, place, served, found, error, timing) from error
    finish(cluster, place)
    return found


def roll_back(cluster: Cluster, place: Place, served: Served, timing: Timing = REAL_TIME) -> Found:
    """Bring the pods of the commit before back, from the ReplicaSet that described them, and watch them.

    Raises BootstrapError ROLLBACK_NONE when there is none.
    """
    to = target_of_rollback(place, served)
    found = Found(served.live or "", to)
    # After an unfinished update the commit that it went to is not known to be good: what was there before both is.
    restore(cluster, place, to, served.previous if served.target else served.live)
    watch(cluster, place, found, None, 0.0, timing)
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
    deployment = deployment_of(cluster, place)
    earlier = earlier_replica_set(commit, replica_sets_of(cluster, place, deployment))
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


def _back(cluster: Cluster, place: Place, served: Served, found: Found, error: BootstrapError,
          timing: Timing) -> RollFailed:
    """Go back to what was served; return the error to raise, which says both."""
    before = served.commit or ""
    said = f"{found.commit[:12]} was not taken: {error.message}"
    found.outcome = "stuck"
    if not before or before == found.commit:
        return RollFailed(said, found, reason=error.reason, hint=place.command("models update"))
    again = Found(found.commit, before)
    try:
        restore(cluster, place, before, served.previous)
        watch(cluster, place, again, None, 0.0, timing)
        finish(cluster, place)
    except BootstrapError as problem:
        return RollFailed(f"{said}; and going back to {before[:12]} did not end: {problem.message}", found,
                          reason=error.reason, hint=place.command("models rollback"))
    found.outcome = "rolled_back"
    return RollFailed(f"rolled back, {before[:12]} serves on all {again.wanted} replicas: {said}", found,
                      reason=error.reason, hint=place.command("models update   # when that is repaired"))


def _mark(cluster: Cluster, place: Place, served: Served, to: str) -> None:
    """Write on the Deployment that an update is under way."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    update = json.dumps({"from": served.commit, "to": to, "previous": served.previous, "at": at}, separators=(",", ":"))
    cluster.merge("Deployment", place.namespace, place.name, {"metadata": {"annotations": {UPDATE: update}}})


def _tell_loader(cluster: Cluster, place: Place, files: Mapping[str, Any]) -> None:
    """Change what the loader is to bring, and have kubelet show it to the loader's pods at once."""
    if place.loader_namespace is None:
        return
    there = cluster.get("ConfigMap", place.loader_namespace, LOADER_MODELS)
    if there is None:
        return
    # As the role renders it, so that its next run finds nothing to change.
    data = {name: None if content is None else json.dumps(content, sort_keys=True) for name, content in files.items()}
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
