"""The label and the taint that the role writes where there is no loader."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
from judge_bootstrap.adapters.node_gate import open_gate
from judge_bootstrap.core.errors import BootstrapError

COMMIT, TAINT = "a" * 40, "judge-bootstrap.io/model-not-ready"
LABEL = f"judge-bootstrap.io/model-{COMMIT}"
OTHER = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}


class Api:
    """One Node. `conflicts`: how often somebody else changes it at the very moment of a patch."""

    def __init__(self, conflicts: int = 0) -> None:
        self.node: dict[str, Any] = {
            "metadata": {"name": "ip-1", "labels": {"role": "ai-gpu"}, "resourceVersion": "1"},
            "spec": {"providerID": "aws:///us-east-1a/i-0abc",
                     "taints": [OTHER, {"key": TAINT, "effect": "NoSchedule"}]}}
        self.conflicts, self.patches = conflicts, list[Any]()

    def call_api(self, path: str, method: str, query_params: Any, header_params: Any, body: Any = None,
                 **options: Any) -> Any:
        if method == "GET":
            found: Any = self.node if path.endswith("ip-1") else {"items": [copy.deepcopy(self.node)], "metadata": {}}
            return SimpleNamespace(data=json.dumps(found).encode())
        if self.conflicts:
            from kubernetes.client.exceptions import ApiException

            self.conflicts -= 1
            self.node["spec"]["taints"].append({"key": "fresh", "effect": "NoExecute"})
            self.node["metadata"]["resourceVersion"] += "1"
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted not in (None, self.node["metadata"]["resourceVersion"]):
            raise ApiException(status=409, reason="Conflict")
        self.patches.append(body)
        self.node["metadata"]["labels"].update(body.get("metadata", {}).get("labels", {}))
        self.node["spec"].update(body.get("spec", {}))
        return SimpleNamespace(data=json.dumps(self.node).encode())


def test_the_gate_is_opened_once() -> None:
    api = Api()
    assert open_gate(api, "i-0abc", None, COMMIT, TAINT) == ("ip-1", True)
    assert api.node["metadata"]["labels"] == {"role": "ai-gpu", LABEL: "ready"}
    assert api.node["spec"]["taints"] == [OTHER]
    assert open_gate(api, "i-0abc", None, COMMIT, TAINT) == ("ip-1", False)
    assert len(api.patches) == 1


def test_a_check_patches_nothing() -> None:
    api = Api()
    assert open_gate(api, "i-0abc", None, COMMIT, TAINT, check=True) == ("ip-1", True)
    assert api.patches == []


def test_a_taint_that_somebody_adds_at_that_moment_is_not_lost() -> None:
    api = Api(conflicts=2)
    open_gate(api, "i-0abc", None, COMMIT, TAINT)
    assert [taint["key"] for taint in api.node["spec"]["taints"]] == ["sku", "fresh", "fresh"]


def test_without_a_taint_only_the_label_is_written() -> None:
    api = Api()
    open_gate(api, "i-0abc", None, COMMIT, None)
    assert api.patches == [{"metadata": {"labels": {LABEL: "ready"}}}]


def test_a_host_without_a_node_is_not_joined() -> None:
    with pytest.raises(BootstrapError, match="none of the cluster's 1 nodes is i-0def") as caught:
        open_gate(Api(), "i-0def", None, COMMIT, TAINT)
    assert caught.value.reason == "NODE_NOT_JOINED"
