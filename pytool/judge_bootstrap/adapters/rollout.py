"""Wait for a Deployment, and say in one sentence what holds it up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from judge_node.reasons import REASONS

from judge_bootstrap.adapters.kube import ask
from judge_bootstrap.adapters.node_gate import LABEL_PREFIX, READY
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.health_nodes import report_of
from judge_bootstrap.core.model_roll import COMMIT, commit_of, health_refusal

POLL_SECONDS = 2.0
LOG_TAIL_LINES = 15
# Pods that run and are not ready are asked what they have found at every so many looks.
ASK_EVERY = 5
HEALTH_SECONDS = 15.0


class Cluster(Protocol):
    """What is asked of the API server; every answer is the object's JSON form."""

    def deployment(self) -> Mapping[str, Any]: ...

    def pods(self, selector: Mapping[str, str]) -> list[Mapping[str, Any]]: ...

    def last_warning(self, kind: str, name: str) -> str | None: ...

    def log_tail(self, pod: str, container: str | None = None) -> str: ...

    def nodes(self, selector: Mapping[str, str]) -> list[Mapping[str, Any]]: ...

    def health(self, pod: str, port: int) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True)
class Rollout:
    """How far a Deployment is: pods of the newest generation that are ready, and how many there should be."""

    ready: int
    wanted: int
    seconds: float


def is_complete(deployment: Mapping[str, Any]) -> bool:
    """Tell whether the newest generation was seen and all its pods, and no older ones, are available."""
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == wanted
        and status.get("availableReplicas", 0) == wanted
        and status.get("replicas", 0) == wanted
    )


def wait(cluster: Cluster, name: str, namespace: str, wait_seconds: float,
         clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> Rollout:
    """Return when the Deployment is complete.

    Raises BootstrapError after `wait_seconds`, with what holds up the pods; earlier when a pod says of itself that it
    will never be ready (GOLDEN_DRIFT, WRONG_MODEL_SERVED).
    """
    started = clock()
    polls = 0
    while True:
        deployment = cluster.deployment()
        wanted = deployment["spec"].get("replicas", 1)
        if is_complete(deployment):
            return Rollout(wanted, wanted, clock() - started)
        if clock() - started >= wait_seconds:
            reason, why = explain(cluster, cluster.pods(deployment["spec"]["selector"]["matchLabels"]))
            ready = (deployment.get("status") or {}).get("availableReplicas", 0)
            raise BootstrapError(
                f"{ready} of {wanted} pods of {namespace}/{name} are ready after {wait_seconds:g} s, wanted all: {why}",
                # What holds up a pod may be its node, and then the pod itself shows nothing of it.
                reason=reason, hint="judge-bootstrap --env ENV health   # names what repairs it; or: kubectl -n "
                                    f"{namespace} describe pod -l app.kubernetes.io/instance={name}")
        polls += 1
        if polls % ASK_EVERY == 0 and (final := _refusal(cluster, deployment)):
            reason, why = final
            raise BootstrapError(
                f"{namespace}/{name} will not become ready: {why}", reason=reason,
                hint=f"kubectl -n {namespace} logs deployment/{name}; judge-bootstrap --env ENV models rollback")
        sleep(POLL_SECONDS)


def _refusal(cluster: Cluster, deployment: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return a reason code and what a new pod says of itself when waiting longer is no use."""
    template = deployment["spec"].get("template") or {}
    commit = commit_of({"spec": {"template": template}})
    if commit is None:
        return None
    for pod in cluster.pods(deployment["spec"]["selector"]["matchLabels"]):
        status = pod.get("status") or {}
        runs = status.get("phase") == "Running" and not any(
            c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or [])
        if not runs or (pod["metadata"].get("annotations") or {}).get(COMMIT) != commit:
            continue
        ports = [port["containerPort"] for container in (pod.get("spec") or {}).get("containers") or []
                 for port in container.get("ports") or []]
        name = pod["metadata"]["name"]
        try:
            found = health_refusal(name, cluster.health(name, ports[0]) if ports else None, commit)
        except (BootstrapError, OSError):
            continue  # it does not answer yet
        if found:
            return found
    return None


def explain(cluster: Cluster, pods: list[Mapping[str, Any]]) -> tuple[str, str]:
    """Return a reason code and what was found, for the pod that is furthest from ready."""
    if not pods:
        return "POD_PENDING", "no pod exists (see the Deployment's events: a quota or Pod Security may refuse it)"
    pod = min(pods, key=_progress)
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    warning = cluster.last_warning("Pod", name)
    tail = f"; last event: {warning}" if warning else ""
    containers = status.get("containerStatuses") or []
    unscheduled = next((c.get("message") for c in status.get("conditions") or []
                        if c["type"] == "PodScheduled" and c["status"] != "True"), None)
    if unscheduled and (cold := _cold_nodes(cluster, pod)):
        return cold
    if not containers or unscheduled:
        return "POD_PENDING", (f"pod {name} is {status.get('phase', 'unknown')}"
                               f"{': ' + unscheduled if unscheduled else tail}")
    if gate := _failed_gate(cluster, pod):
        return gate
    container = containers[0]
    state = container.get("state") or {}
    waiting, restarts = state.get("waiting"), container.get("restartCount", 0)
    if waiting and not restarts:
        return "POD_PENDING", (f"pod {name} waits with {waiting.get('reason', 'no reason')}"
                               f"{': ' + waiting['message'] if waiting.get('message') else ''}{tail}")
    found = waiting.get("reason") if waiting else "running, not ready"
    last = ((container.get("lastState") or {}).get("terminated") or {})
    ended = f", last ended with {last.get('reason')} (status {last.get('exitCode')})" if last else ""
    log = cluster.log_tail(name)
    return "PROBE_FAILING", (f"pod {name} is {found}, restarted {restarts} times{ended}{tail}"
                             + (f"; end of its log:\n{log}" if log else ""))


def _cold_nodes(cluster: Cluster, pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what keeps a pod from every node: that none has its commit, with what the first node's loader says."""
    commit = (pod["metadata"].get("annotations") or {}).get(COMMIT)
    if not commit:
        return None
    nodes = cluster.nodes((pod.get("spec") or {}).get("nodeSelector") or {})
    if any((node["metadata"].get("labels") or {}).get(LABEL_PREFIX + commit) == READY
           for node in nodes):
        return None
    if not nodes:
        return "GPU_NONE", f"no node has the labels {dict((pod.get('spec') or {}).get('nodeSelector') or {})}"
    said = [(node["metadata"]["name"], report_of(node)) for node in nodes]
    name, state = next(((name, state) for name, state in said if state.get("reason")), said[0])
    what = state.get("message") or state.get("state") or "its loader has said nothing yet"
    return str(state.get("reason") or "MODEL_INCOMPLETE"), (
        f"none of {len(nodes)} nodes has commit {commit[:12]} complete; {name}: {what}")


def _failed_gate(cluster: Cluster, pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what the init container found that checks the model; None when it has not failed."""
    for container in (pod.get("status") or {}).get("initContainerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
        if ended and ended.get("exitCode") and not container.get("ready"):
            name = pod["metadata"]["name"]
            said = cluster.log_tail(name, container["name"])
            code = next((word.strip(":") for word in said.split() if word.strip(":") in REASONS), "MODEL_INCOMPLETE")
            return code, f"pod {name} does not start, its {container['name']} says: {said or 'nothing'}"
    return None


def _progress(pod: Mapping[str, Any]) -> tuple[bool, int]:
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return (any(c.get("ready") for c in containers), len(containers))


class KubernetesCluster:
    """The real one, over the Kubernetes client. Raises BootstrapError when the API server cannot be asked."""

    def __init__(self, api_client: Any, namespace: str, name: str) -> None:
        from kubernetes import client

        self._api_client, self._namespace, self._name = api_client, namespace, name
        self._apps, self._core = client.AppsV1Api(api_client), client.CoreV1Api(api_client)

    def deployment(self) -> Mapping[str, Any]:
        return self._json(self._ask(lambda: self._apps.read_namespaced_deployment(self._name, self._namespace)))

    def pods(self, selector: Mapping[str, str]) -> list[Mapping[str, Any]]:
        labels = ",".join(f"{key}={value}" for key, value in selector.items())
        found = self._ask(lambda: self._core.list_namespaced_pod(self._namespace, label_selector=labels))
        return [self._json(pod) for pod in found.items if pod.metadata.deletion_timestamp is None]

    def last_warning(self, kind: str, name: str) -> str | None:
        fields = f"involvedObject.kind={kind},involvedObject.name={name},type=Warning"
        found = self._ask(lambda: self._core.list_namespaced_event(self._namespace, field_selector=fields))
        events = [self._json(event) for event in found.items]
        events.sort(key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")
        return f"{events[-1].get('reason')}: {events[-1].get('message')}" if events else None

    def nodes(self, selector: Mapping[str, str]) -> list[Mapping[str, Any]]:
        from judge_bootstrap.adapters.objects import listed

        return list(listed(self._api_client, "v1", "Node", labels=",".join(f"{k}={v}" for k, v in selector.items())))

    def health(self, pod: str, port: int) -> Mapping[str, Any] | None:
        from judge_bootstrap.adapters.pod_http import get
        from judge_bootstrap.adapters.port_forward import forward

        with forward(self._api_client, self._namespace, pod, port) as base_url:
            found = get(f"{base_url}/health/ready", timeout_seconds=HEALTH_SECONDS).json()
        return found if isinstance(found, dict) else None

    def log_tail(self, pod: str, container: str | None = None) -> str:
        # A container that never wrote, or was never started, has no log: that is no failure of the explanation.
        try:
            # Raw, because the client turns the text into the repr of bytes.
            answer = self._core.read_namespaced_pod_log(
                pod, self._namespace, tail_lines=LOG_TAIL_LINES, _preload_content=False,
                **({"container": container} if container else {}))
            return str(answer.data.decode("utf-8", "replace")).strip()
        except Exception:
            return ""

    def _json(self, item: Any) -> Mapping[str, Any]:
        plain: Mapping[str, Any] = self._api_client.sanitize_for_serialization(item)
        return plain

    def _ask(self, call: Callable[[], Any]) -> Any:
        return ask(f"read {self._namespace}/{self._name}", call,
                   hint=f"kubectl -n {self._namespace} get deployment {self._name}")
