"""The real cluster for adapters.roll_state, over the Kubernetes client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from judge_bootstrap.adapters.kube import ask
from judge_bootstrap.adapters.objects import FIELD_MANAGER, apply, request

# Of one answer of a pod: the gateway itself waits for nothing.
HEALTH_SECONDS = 5.0
_PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments", "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "Pod": "/api/v1/namespaces/{}/pods", "ConfigMap": "/api/v1/namespaces/{}/configmaps", "Node": "/api/v1/nodes",
}
_PAGE = 500

Object = Mapping[str, Any]


class KubernetesRollCluster:
    """What a roll asks of the API server. Raises BootstrapError as kube.ask does."""

    def __init__(self, api_client: Any) -> None:
        self._api_client = api_client

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None."""
        from kubernetes.client.exceptions import ApiException

        def call() -> Object | None:
            try:
                return request(self._api_client, "GET", f"{_path(kind, namespace)}/{name}")
            except ApiException as error:
                if error.status == 404:
                    return None
                raise

        return ask(f"read {kind}/{namespace}/{name}", call)

    def listed(self, kind: str, namespace: str | None, selector: Mapping[str, str]) -> list[Object]:
        """Return the objects with these labels."""
        labels = ",".join(f"{key}={value}" for key, value in selector.items())
        found: list[Object] = []
        more = ""
        while True:
            query = [("limit", str(_PAGE)), ("labelSelector", labels), ("continue", more)]
            page = self._page(kind, namespace, [pair for pair in query if pair[1]])
            found += page.get("items") or []
            more = (page.get("metadata") or {}).get("continue") or ""
            if not more:
                return found

    def _page(self, kind: str, namespace: str | None, query: list[tuple[str, str]]) -> dict[str, Any]:
        return ask(f"list {kind} in {namespace or 'the cluster'}",
                   lambda: request(self._api_client, "GET", _path(kind, namespace), query=query))

    def merge(self, kind: str, namespace: str, name: str, body: Object) -> None:
        """Change some fields; None removes one. The fields' owner is ours, as of all that we write."""
        ask(f"change {kind}/{namespace}/{name}", lambda: request(
            self._api_client, "PATCH", f"{_path(kind, namespace)}/{name}", body,
            content_type="application/merge-patch+json", query=[("fieldManager", FIELD_MANAGER)]))

    def apply(self, item: Object) -> None:
        """Make the object so."""
        apply(self._api_client, [item])

    def health(self, namespace: str, pod: str, port: int) -> Mapping[str, Any] | None:
        """Return what a pod says of itself, ready (200) or not (503); None when it says nothing that can be read."""
        from judge_bootstrap.adapters.pod_http import get
        from judge_bootstrap.adapters.port_forward import forward

        with forward(self._api_client, namespace, pod, port) as base_url:
            found = get(f"{base_url}/health/ready", timeout_seconds=HEALTH_SECONDS).json()
        return found if isinstance(found, dict) else None

    def explain(self, namespace: str, name: str, pods: Sequence[Object]) -> tuple[str, str]:
        """Return a reason code and what holds up the pod that is furthest from ready."""
        from judge_bootstrap.adapters.rollout import KubernetesCluster, explain

        return explain(KubernetesCluster(self._api_client, namespace, name), list(pods))


def _path(kind: str, namespace: str | None) -> str:
    return _PATHS[kind].format(namespace)
