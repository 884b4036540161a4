"""The judge's objects in the cluster, and what its pods answer, as `health` needs them. Read only, bounded in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from judge_bootstrap.adapters.bounded import within
from judge_bootstrap.adapters.kube import ask
from judge_bootstrap.adapters.parallel import each
from judge_bootstrap.adapters.pod_http import Reply, get
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.health import Answer, Found, commit_of, served_names
from judge_bootstrap.core.health_pods import Names, failed_container
from judge_bootstrap.core.kube_objects import name_of
from judge_bootstrap.core.problems import one_line
from judge_bootstrap.core.vllm_metrics import read_metrics

Read = TypeVar("Read")

# All reading together, the client's own tries included.
READ_SECONDS = 60.0
# One pod, the verdict aside; a verdict; and all pods together.
POD_SECONDS = 20.0
VERDICT_SECONDS = 60.0
PODS_SECONDS = 120.0
AT_ONCE = 16
PAGE = 500
# Warnings are kept for an hour; a cluster in trouble has very many of them.
EVENT_PAGES = 4
LOG_TAIL_LINES = 20
# So many failed pods are asked for their log.
MOST_LOGS = 20
DAEMON_SET = "judge-loader"


class Cluster(Protocol):
    """What is asked of the API server; each answer is JSON. Each call raises BootstrapError."""

    def items(self, path: str, *, labels: str = "", fields: str = "", pages: int | None = None
              ) -> Iterator[Mapping[str, Any]]: ...

    def item(self, path: str) -> Mapping[str, Any] | None: ...

    def log_tail(self, namespace: str, pod: str, container: str, *, previous: bool) -> str: ...


def read_found(cluster: Cluster, names: Names, secret: str | None, *, detail: bool) -> Found:
    """Return the judge's objects, without the pods' answers; with `detail` the disruption budget and the key's Secret.

    Raises BootstrapError when the API server does not answer, or the Deployment and the pods may not be read; what else
    may not be read is told in `unread`.
    """
    return bounded(lambda: _Reading(cluster, names).read(secret, detail))


def bounded(read: Callable[[], Read]) -> Read:
    """Return what is read of the API server. Raises BootstrapError CLUSTER_UNREACHABLE when that takes too long."""
    try:
        return within(READ_SECONDS, read)
    except TimeoutError as error:
        raise BootstrapError(f"the API server did not answer everything within {READ_SECONDS:g} s",
                             reason="CLUSTER_UNREACHABLE", hint="kubectl get --raw /readyz") from error


class _Reading:
    def __init__(self, cluster: Cluster, names: Names) -> None:
        self._cluster, self._names = cluster, names
        self._unread: dict[str, str] = {}

    def read(self, secret: str | None, detail: bool) -> Found:
        names, cluster = self._names, self._cluster
        serving = f"app.kubernetes.io/name=judge-inference,app.kubernetes.io/instance={names.service}"
        loading = f"app.kubernetes.io/name=judge-loader,app.kubernetes.io/instance={names.service}"
        inside, apps = f"/api/v1/namespaces/{names.namespace}", "/apis/apps/v1/namespaces"
        pods = list(cluster.items(f"{inside}/pods", labels=serving))
        deployment = cluster.item(f"{apps}/{names.namespace}/deployments/{names.service}")
        service = cluster.item(f"{inside}/services/{names.service}")
        slices = list(cluster.items(f"/apis/discovery.k8s.io/v1/namespaces/{names.namespace}/endpointslices",
                                    labels=f"kubernetes.io/service-name={names.service}"))
        nodes: list[Mapping[str, Any]] = self._may("nodes", lambda: list(cluster.items(
            "/api/v1/nodes", labels=names.selector)), [])
        loader: Mapping[str, Any] | None = None
        loader_pods: list[Mapping[str, Any]] = []
        namespaces = [names.namespace]
        if names.loader:
            loader = self._may("loader", lambda: cluster.item(
                f"{apps}/{names.loader_namespace}/daemonsets/{DAEMON_SET}"), None)
            loader_pods = self._may("loader", lambda: list(cluster.items(
                f"/api/v1/namespaces/{names.loader_namespace}/pods", labels=loading)), [])
            namespaces.append(names.loader_namespace)
        events = self._may("events", lambda: self._warnings(namespaces), {})
        logs = self._logs(names.namespace, pods) | self._logs(names.loader_namespace, loader_pods)
        found = Found(nodes=nodes, deployment=deployment, pods=pods, loader=loader, loader_pods=loader_pods,
                      service=service, endpoint_slices=slices, events=events, logs=logs)
        if detail:
            budgets = self._may("budget", lambda: list(cluster.items(
                f"/apis/policy/v1/namespaces/{names.namespace}/poddisruptionbudgets")), [])
            found = replace(found, budget=_of_pods(budgets, names.service))
            if secret:
                key = self._may("key", lambda: cluster.item(f"{inside}/secrets/{secret}") is not None, None)
                found = replace(found, has_key=key)
        return replace(found, unread=dict(self._unread))

    def _may(self, part: str, read: Callable[[], Any], nothing: Any) -> Any:
        """Return what is read, or `nothing` where we have no right to."""
        try:
            return read()
        except BootstrapError as error:
            if error.reason != "CLUSTER_DENIED":
                raise
            self._unread[part] = error.message
            return nothing

    def _warnings(self, namespaces: Sequence[str]) -> dict[str, str]:
        newest: dict[str, tuple[str, str]] = {}
        for namespace in namespaces:
            for event in self._cluster.items(f"/api/v1/namespaces/{namespace}/events", pages=EVENT_PAGES,
                                             fields="type=Warning,involvedObject.kind=Pod"):
                key = f"{namespace}/{(event.get('involvedObject') or {}).get('name')}"
                at = str(event.get("lastTimestamp") or event.get("eventTime") or "")
                if at >= newest.get(key, ("", ""))[0]:
                    newest[key] = (at, one_line(f"{event.get('reason')}: {event.get('message')}"))
        return {key: text for key, (_, text) in newest.items()}

    def _logs(self, namespace: str, pods: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        failed = [(name_of(pod), *which) for pod in pods if (which := failed_container(pod))][:MOST_LOGS]
        return {pod: self._cluster.log_tail(namespace, pod, container, previous=previous)
                for pod, container, previous in failed}


def _of_pods(budgets: Sequence[Mapping[str, Any]], service: str) -> Mapping[str, Any] | None:
    for budget in budgets:
        chosen = ((budget["spec"].get("selector") or {}).get("matchLabels")) or {}
        if chosen.get("app.kubernetes.io/instance") == service:
            return budget
    return None


class KubernetesCluster:
    """The real one."""

    def __init__(self, api_client: Any) -> None:
        self._api_client = api_client

    def items(self, path: str, *, labels: str = "", fields: str = "", pages: int | None = None
              ) -> Iterator[Mapping[str, Any]]:
        """Yield a list's objects, page by page; of a kind that the cluster has not there are none."""
        more, read = "", 0
        while pages is None or read < pages:
            query = [("limit", str(PAGE)), ("labelSelector", labels), ("fieldSelector", fields), ("continue", more)]
            page = self._get(path, [pair for pair in query if pair[1]])
            if page is None:
                return
            read += 1
            yield from page.get("items") or []
            more = (page.get("metadata") or {}).get("continue") or ""
            if not more:
                return

    def item(self, path: str) -> Mapping[str, Any] | None:
        """Return one object. Of a Secret only its metadata: its content is nothing that we need."""
        found: Mapping[str, Any] | None = self._get(path, [], metadata_only="/secrets/" in path)
        return found

    def log_tail(self, namespace: str, pod: str, container: str, *, previous: bool) -> str:
        """Return the end of a container's log; nothing where it has none, which is no failure of the explanation."""
        query = [("container", container), ("tailLines", str(LOG_TAIL_LINES)), ("previous", str(previous).lower())]
        path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/log"
        try:
            answer = self._api_client.call_api(path, "GET", query_params=query, header_params={"Accept": "*/*"},
                                               auth_settings=["BearerToken"], _preload_content=False)
            return str(answer.data.decode("utf-8", "replace"))
        except Exception:
            return ""

    def _get(self, path: str, query: Sequence[tuple[str, str]], *, metadata_only: bool = False) -> Any:
        import json

        from kubernetes.client.exceptions import ApiException

        kind = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io" if metadata_only else "application/json"

        def call() -> Any:
            try:
                answer = self._api_client.call_api(
                    quote(path), "GET", query_params=list(query), header_params={"Accept": kind},
                    auth_settings=["BearerToken"], _preload_content=False)
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
            return json.loads(answer.data)

        return ask(f"read {path}", call)


# --- the pods' answers ------------------------------------------------------------------------------------------------


Forward = Callable[[str], AbstractContextManager[str]]
Judge = Callable[[str, str], Mapping[str, Any]]


def ask_pods(found: Found, forward: Forward, key: str | None, *, metrics: bool = False, judge: Judge | None = None,
             seconds: float = PODS_SECONDS, clock: Callable[[], float] = time.monotonic) -> dict[str, Answer]:
    """Ask every pod whose server runs, several at once; with `judge` the first ready one gives a verdict too.

    Those that time was too short for have `asked` False. Never raises for a pod.
    """
    running = [pod for pod in found.pods if _is_up(pod)]
    judges = next((name_of(pod) for pod in running if _is_ready(pod)), None) if judge else None
    give_up = clock() + seconds

    def one(pod: Mapping[str, Any]) -> Answer:
        left = give_up - clock()
        if left <= 0:
            return Answer(asked=False)
        asks = judge if name_of(pod) == judges else None
        limit = min(left, POD_SECONDS + (VERDICT_SECONDS if asks else 0))
        try:
            return within(limit, lambda: _ask_pod(pod, forward, key, metrics, asks))
        except TimeoutError:
            return Answer("PROBE_FAILING", f"did not answer within {limit:.0f} s")
        except Exception as error:  # one pod's odd answer must not hide the others
            return Answer("PROBE_FAILING", one_line(f"could not be asked: {error}"))

    return dict(zip(map(name_of, running), each(one, running, AT_ONCE), strict=True))


def _ask_pod(pod: Mapping[str, Any], forward: Forward, key: str | None, metrics: bool, judge: Judge | None) -> Answer:
    with forward(name_of(pod)) as base_url:
        told = get(f"{base_url}/health/ready")
        body = told.json() if told.status in (200, 503) else None
        ready = body if isinstance(body, Mapping) else {}
        # An older server has /health alone, and kubelet's word has to do.
        gateway = told.status != 404
        if gateway and told.status != 200:
            reason = str(ready.get("reason") or "PROBE_FAILING")
            said = one_line(ready.get("message") or f"/health/ready answered {told.status or told.error}")
            return Answer(reason, said, ready)
        if not _is_ready(pod):
            return Answer(None, "", ready, gateway)
        answer = _right_model(pod, get(f"{base_url}/v1/models", key), ready, gateway, has_key=key is not None)
        if metrics:
            page = get(f"{base_url}/metrics", key)
            answer = replace(answer, metrics=read_metrics(page.text()) if page.status == 200 else {})
        if judge and not answer.reason and not answer.keyless:
            try:
                answer = replace(answer, verdict=judge(base_url, served_names(pod)[0]))
            except BootstrapError as error:
                return replace(answer, reason=error.reason or "VERDICT_INVALID", message=error.message)
        return answer


def _right_model(pod: Mapping[str, Any], listed: Reply, ready: Mapping[str, Any], gateway: bool, *,
                 has_key: bool) -> Answer:
    """Compare /v1/models with what the pod is for: its own arguments, not the Deployment's, which may be newer."""
    from judge_bootstrap.adapters.judge_check import served_model

    if listed.status != 200:
        said = f"/v1/models answered {listed.status or listed.error}"
        if listed.status == 401 and not has_key:
            # Its gateway vouches for model and commit, without a key.
            return Answer(None, "", ready, gateway, keyless=True)
        if listed.status == 401:
            return Answer("API_KEY_WRONG", f"{said}: the pod does not take the key that the Secret holds", ready,
                          gateway)
        return Answer("PROBE_FAILING", said, ready, gateway)
    names, commit = served_names(pod), commit_of(pod)
    if not names or not commit:
        return Answer("WRONG_MODEL_SERVED", "its arguments name no model and commit", ready, gateway)
    try:
        served_model(listed.json(), names[0], commit)
    except BootstrapError as error:
        return Answer(error.reason, error.message, ready, gateway)
    vouched = ready.get("commit")
    if vouched is not None and vouched != commit:
        said = f"its gateway vouches for commit {vouched}, wanted {commit}"
        return Answer("WRONG_MODEL_SERVED", said, ready, gateway)
    return Answer(None, "", ready, gateway)


def _is_up(pod: Mapping[str, Any]) -> bool:
    """Tell whether the server answers at all: its startup probe has passed."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return any(one.get("started") and "running" in (one.get("state") or {})
               for one in (pod.get("status") or {}).get("containerStatuses") or [])


def _is_ready(pod: Mapping[str, Any]) -> bool:
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return bool(containers) and all(one.get("ready") for one in containers)
