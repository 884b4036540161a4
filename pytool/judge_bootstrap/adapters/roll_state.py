"""What of a model update can be read from the cluster: which commit is served, and what an update has left.

State of an update lies on the Deployment, so that a command which was interrupted can be taken up by the next one:
`judge-bootstrap.io/update` while one is under way ({"from", "to", "previous", "at"}), and `.../previous-commit`, which
the role renders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from judge_bootstrap.adapters.rollout import is_complete
from judge_bootstrap.core.errors import BootstrapError, Refusal
from judge_bootstrap.core.model_roll import commit_of, config_maps_of, earlier_replica_set

PREFIX = "judge-bootstrap.io/"
UPDATE, PREVIOUS = PREFIX + "update", PREFIX + "previous-commit"

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
    # What was applied says by now that the way back is where the update came from.
    return replace(served, commit=update["from"], target=update["to"], previous=update.get("previous"))


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
    earlier = earlier_replica_set(commit, replica_sets_of(cluster, place, deployment))
    return [f"ConfigMap/{place.namespace}/{name}" for name in (config_maps_of(earlier) if earlier else [])]


def manifest_of(cluster: Cluster, place: Place, commit: str | None) -> Any:
    """Return the manifest of a commit that was applied here, or None."""
    there = cluster.get("ConfigMap", place.namespace, f"judge-model-{commit[:12]}") if commit else None
    text = ((there or {}).get("data") or {}).get("manifest.json")
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


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


def deployment_of(cluster: Cluster, place: Place) -> Object:
    """Return the Deployment. Raises BootstrapError SERVICE_EMPTY when it is gone."""
    found = cluster.get("Deployment", place.namespace, place.name)
    if found is None:
        raise BootstrapError(f"there is no Deployment {place.namespace}/{place.name} any more", reason="SERVICE_EMPTY",
                             hint=place.command("run vllm_k8s"))
    return found


def replica_sets_of(cluster: Cluster, place: Place, deployment: Object) -> list[Object]:
    """Return the Deployment's ReplicaSets, those of earlier commits too."""
    return cluster.listed("ReplicaSet", place.namespace, deployment["spec"]["selector"]["matchLabels"])


def _update_of(deployment: Object) -> dict[str, Any] | None:
    """Return {from, to, previous} of an update under way; None for none, and for a text that is none of ours."""
    try:
        found = json.loads((deployment["metadata"].get("annotations") or {}).get(UPDATE) or "null")
    except ValueError:
        return None
    whole = isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("from", "to"))
    return found if whole else None


def _overtaken(deployment: Object, update: Mapping[str, str]) -> bool:
    """Tell whether an update has come to its end without saying so: all pods moved, or somebody applied another one."""
    live = commit_of(deployment)
    return live not in (update["from"], update["to"]) or (live == update["to"] and is_complete(deployment)
                                                          and not deployment["spec"].get("paused"))
