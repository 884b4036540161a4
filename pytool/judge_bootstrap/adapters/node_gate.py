"""The label and the taint of a Node that say whether a model is complete there, where no loader looks after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from judge_bootstrap.adapters.kube import ask
from judge_bootstrap.adapters.node_pod import find_node
from judge_bootstrap.adapters.objects import FIELD_MANAGER, listed, request
from judge_bootstrap.core.errors import BootstrapError

LABEL_PREFIX = "judge-bootstrap.io/model-"
READY = "ready"
_TRIES = 5


def open_gate(api_client: Any, host: str, address: str | None, commit: str, taint: str | None, *,
              check: bool = False) -> tuple[str, bool]:
    """Say on the host's Node that it has the commit, and take the taint away; return the Node's name, and changed.

    Labels of commits that nothing is known of stay: whoever verified them wrote them. Raises BootstrapError
    NODE_NOT_JOINED, or what kube.ask raises.
    """
    from kubernetes.client.exceptions import ApiException

    node = find_node(list(listed(api_client, "v1", "Node")), host, address)
    name = node["metadata"]["name"]
    path = f"/api/v1/nodes/{quote(name, safe='')}"
    for _ in range(_TRIES):
        body = _patch(node, commit, taint)
        if body is None:
            return name, False
        if check:
            return name, True

        def send(body: Mapping[str, Any] = body) -> bool:
            try:
                request(api_client, "PATCH", path, body, content_type="application/merge-patch+json",
                        query=[("fieldManager", f"{FIELD_MANAGER}-gate")])
            except ApiException as error:
                if error.status == 409:
                    return False
                raise
            return True

        if ask(f"patch node {name}", send):
            return name, True
        node = ask(f"read node {name}", lambda: request(api_client, "GET", path))
    raise BootstrapError(f"node {name} was changed by others each time that its taint was to be removed",
                         reason="CLUSTER_UNREACHABLE", hint=f"kubectl describe node {name}")


def _patch(node: Mapping[str, Any], commit: str, taint: str | None) -> dict[str, Any] | None:
    """Return the merge patch that opens the gate; None when it is open. The taints are a list: it is replaced whole."""
    body: dict[str, Any] = {}
    if (node["metadata"].get("labels") or {}).get(LABEL_PREFIX + commit) != READY:
        body["metadata"] = {"labels": {LABEL_PREFIX + commit: READY}}
    taints = node["spec"].get("taints") or []
    others = [entry for entry in taints if entry.get("key") != taint]
    if len(others) != len(taints):
        body["spec"] = {"taints": others}
        # So that a taint which somebody adds in this very moment is not lost: the server answers 409 then.
        body.setdefault("metadata", {})["resourceVersion"] = node["metadata"]["resourceVersion"]
    return body or None
