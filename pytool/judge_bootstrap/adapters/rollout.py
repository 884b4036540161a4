"""Wait for a Deployment, and say in one sentence what holds it up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from judge_bootstrap.core.errors import BootstrapError

POLL_SECONDS = 2.0
LOG_TAIL_LINES = 15


class Cluster(Protocol):
    """What is asked of the API server; every answer is the object's JSON form."""

    def deployment(self) -> Mapping[str, Any]: ...

    def pods(self, selector: Mapping[str, str]) -> list[Mapping[str, Any]]: ...

    def last_warning(self, kind: str, name: str) -> str | None: ...

    def log_tail(self, pod: str) -> str: ...


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
    """Return when the Deployment is complete. Raises BootstrapError (a POD_ or PROBE_ code) after `wait_seconds`."""
    started = clock()
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
                reason=reason, hint=f"kubectl -n {namespace} describe pod -l app.kubernetes.io/instance={name}")
        sleep(POLL_SECONDS)


def explain(cluster: Cluster, pods: list[Mapping[str, Any]]) -> tuple[str, str]:
    """Return a reason code and what was found, for the pod that is furthest from ready."""
    if not pods:
        return "POD_PENDING", "no pod exists (see the Deployment's events: a quota or Pod Security may refuse it)"
    pod = min(pods, key=_progress)
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    warning = cluster.last_warning("Pod", name)
    tail = f"; last event: {warning}" if warning else ""
    containers = status.get("containerStatuses") or []
    if not containers:
        message = next((c.get("message") for c in status.get("conditions") or []
                        if c["type"] == "PodScheduled" and c["status"] != "True"), None)
        return "POD_PENDING", f"pod {name} is {status.get('phase', 'unknown')}{': ' + message if message else tail}"
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

    def log_tail(self, pod: str) -> str:
        # A container that never wrote, or was never started, has no log: that is no failure of the explanation.
        try:
            # Raw, because the client turns the text into the repr of bytes.
            answer = self._core.read_namespaced_pod_log(
                pod, self._namespace, tail_lines=LOG_TAIL_LINES, _preload_content=False
            )
            return str(answer.data.decode("utf-8", "replace")).strip()
        except Exception:
            return ""

    def _json(self, item: Any) -> Mapping[str, Any]:
        plain: Mapping[str, Any] = self._api_client.sanitize_for_serialization(item)
        return plain

    def _ask(self, call: Callable[[], Any]) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        from judge_bootstrap.adapters.kube import describe

        try:
            return call()
        except (ApiException, HTTPError, OSError) as error:
            raise BootstrapError(f"the API server did not answer for {self._namespace}/{self._name}: {describe(error)}",
                                 hint=f"kubectl -n {self._namespace} get deployment {self._name}") from error
