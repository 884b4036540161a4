"""Proving NetworkPolicy: what two pods say before and after a policy, and that nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fakes_kube import Call, FakeKube, api_error
from judge_bootstrap.adapters.policy_proof import ALLOW, CLIENT, DENY, SERVER, Proof, prove
from judge_bootstrap.core.errors import BootstrapError, Refusal
from judge_bootstrap.core.network_enforcement import Enforcement

PODS = "/api/v1/namespaces/llm-judge/pods"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/llm-judge/networkpolicies"
PROOF = Proof("llm-judge", "vllm/vllm-openai:v0.32.0", {"role": "ai-gpu"}, {"app": "x"}, "run-1")


class Plugin(FakeKube):
    """An API server with pods that run at once, and a network that obeys policies as `talks` says."""

    def __init__(self, talks: Callable[[set[str]], bool]) -> None:
        super().__init__()
        self.talks, self.status = talks, {"phase": "Running", "podIP": "10.1.1.1"}
        self.put("/api/v1/namespaces/llm-judge", {"metadata": {}})
        for name in (SERVER, CLIENT):
            self.answers[f"{PODS}/{name}"] = self._pod

    def _pod(self, call: Call) -> Any:
        if call.method != "GET":
            return FakeKube._answer(self, call)
        if call.path not in self.objects:
            raise api_error(404, "not found")
        return {**self.objects[call.path], "status": self.status}

    def policies(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self.objects if path.startswith(POLICIES)}

    def log(self, *_: Any, **__: Any) -> Any:
        word = "open" if self.talks(self.policies()) else "closed"
        return SimpleNamespace(data=f"{word}\n".encode() * 9)


def tried(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> Enforcement:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("kubernetes.client.CoreV1Api",
                        lambda api: SimpleNamespace(read_namespaced_pod_log=plugin.log))
    return prove(plugin, PROOF, clock=lambda: now[0], sleep=sleep)


def left(plugin: Plugin) -> list[str]:
    return [path for path in plugin.objects if "judge-policy" in path]


def test_a_network_that_obeys_is_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin(lambda policies: DENY not in policies)
    assert tried(plugin, monkeypatch).state == "enforced"
    assert left(plugin) == []


def test_a_network_that_does_not_obey_is_not_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin(lambda policies: True)
    assert tried(plugin, monkeypatch).state == "not enforced"
    assert left(plugin) == []


def test_a_default_deny_of_the_namespace_is_no_proof_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin(lambda policies: ALLOW in policies)  # as where deny-all is in force
    assert tried(plugin, monkeypatch).state == "enforced"
    names = [call.path.rpartition("/")[2] for call in plugin.written("PATCH")]
    assert names.index(ALLOW) < names.index(CLIENT) < names.index(DENY)


def test_pods_that_never_talk_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin(lambda policies: False)
    assert tried(plugin, monkeypatch).state == "unknown"
    assert left(plugin) == []


def test_a_pod_that_does_not_start_says_why_and_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin(lambda policies: True)
    plugin.status = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"message": "no such image"}}}]}
    with pytest.raises(BootstrapError, match="no such image") as caught:
        tried(plugin, monkeypatch)
    assert caught.value.reason == "POD_PENDING" and left(plugin) == []


def test_before_the_namespace_is_there_the_command_that_makes_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin(lambda policies: True)
    del plugin.objects["/api/v1/namespaces/llm-judge"]
    with pytest.raises(BootstrapError, match="no namespace llm-judge yet") as caught:
        tried(plugin, monkeypatch)
    assert "secrets apply" in str(caught.value.hint) and plugin.written() == []


def test_ctrl_c_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(policies: set[str]) -> bool:
        raise KeyboardInterrupt

    plugin = Plugin(interrupted)
    with pytest.raises(KeyboardInterrupt):
        tried(plugin, monkeypatch)
    assert left(plugin) == []


def test_somebody_elses_trial_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin(lambda policies: True)
    plugin.put(f"{PODS}/{SERVER}", {"metadata": {"namespace": "llm-judge"}})
    with pytest.raises(Refusal) as caught:
        tried(plugin, monkeypatch)
    assert caught.value.reason == "LOCKED" and left(plugin) == [f"{PODS}/{SERVER}"]


def test_the_pods_are_ones_that_restricted_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin(lambda policies: True)
    tried(plugin, monkeypatch)
    pods = [call.body["spec"] for call in plugin.written() if call.path.startswith(PODS)]
    assert len(pods) == 2
    for spec in pods:
        security = spec["containers"][0]["securityContext"]
        assert (spec["securityContext"]["runAsNonRoot"], security["allowPrivilegeEscalation"]) == (True, False)
        assert security["capabilities"] == {"drop": ["ALL"]} and spec["activeDeadlineSeconds"] > 0
        assert "volumes" not in spec and spec["automountServiceAccountToken"] is False
