"""Waiting for a Deployment: what counts as complete, and which sentence explains that it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from judge_bootstrap.adapters.rollout import explain, is_complete, wait
from judge_bootstrap.core.errors import BootstrapError


def deployment(wanted: int = 1, **status: int) -> dict[str, Any]:
    return {"metadata": {"generation": 1},
            "spec": {"replicas": wanted, "selector": {"matchLabels": {"a": "b"}}}, "status": status}


COMPLETE = {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1, "replicas": 1}


def pod(name: str = "judge-0", phase: str = "Pending", containers: list[dict[str, Any]] | None = None,
        conditions: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": name},
            "status": {"phase": phase, "containerStatuses": containers, "conditions": conditions}}


class FakeCluster:
    def __init__(self, deployments: list[dict[str, Any]], pods: list[dict[str, Any]] | None = None,
                 warning: str | None = None, log: str = "") -> None:
        self.deployments, self.found, self.warning, self.log = deployments, pods or [], warning, log

    def deployment(self) -> Mapping[str, Any]:
        return self.deployments.pop(0) if len(self.deployments) > 1 else self.deployments[0]

    def pods(self, selector: Mapping[str, str]) -> list[Mapping[str, Any]]:
        assert selector == {"a": "b"}
        return list(self.found)

    def last_warning(self, kind: str, name: str) -> str | None:
        return self.warning

    def log_tail(self, pod: str, container: str | None = None) -> str:
        return self.log

    def nodes(self, selector: Mapping[str, str]) -> list[Mapping[str, Any]]:
        return []

    def health(self, pod: str, port: int) -> Mapping[str, Any] | None:
        return None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def wait_for(cluster: FakeCluster, seconds: float = 10) -> Any:
    clock = Clock()
    return wait(cluster, "judge", "llm-judge", seconds, clock=clock, sleep=clock.sleep)


def test_a_complete_deployment_is_no_wait() -> None:
    assert wait_for(FakeCluster([deployment(**COMPLETE)])).seconds == 0


def test_it_waits_until_the_pods_are_available() -> None:
    seen = [deployment(), deployment(**{**COMPLETE, "availableReplicas": 0}), deployment(**COMPLETE)]
    found = wait_for(FakeCluster(seen))
    assert (found.ready, found.wanted, found.seconds) == (1, 1, 4)


@pytest.mark.parametrize("status", [
    {**COMPLETE, "observedGeneration": 0},
    {**COMPLETE, "updatedReplicas": 0},
    {**COMPLETE, "availableReplicas": 0},
    {**COMPLETE, "replicas": 2},
    {},
])
def test_an_old_generation_or_an_old_pod_is_not_complete(status: dict[str, int]) -> None:
    assert not is_complete(deployment(**status))


def test_the_failure_says_how_many_are_ready_and_what_to_type() -> None:
    with pytest.raises(BootstrapError) as caught:
        wait_for(FakeCluster([deployment(wanted=2, availableReplicas=1)]))
    assert caught.value.message.startswith("1 of 2 pods of llm-judge/judge are ready after 10 s, wanted all: no pod")
    assert caught.value.hint == ("judge-bootstrap --env ENV health   # names what repairs it; or: kubectl -n llm-judge "
                                 "describe pod -l app.kubernetes.io/instance=judge")


def test_a_pod_that_no_node_takes_is_pending_with_the_schedulers_words() -> None:
    waiting = pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/2 nodes: Insufficient gpu"}])
    assert explain(FakeCluster([], warning="x"), [waiting]) == (
        "POD_PENDING", "pod judge-0 is Pending: 0/2 nodes: Insufficient gpu")


def test_a_pod_that_waits_for_its_volume_is_pending_with_the_last_event() -> None:
    cluster = FakeCluster([], warning="FailedMount: path does not exist")
    assert explain(cluster, [pod()]) == (
        "POD_PENDING", "pod judge-0 is Pending; last event: FailedMount: path does not exist")


def test_an_image_that_cannot_be_pulled_is_pending_with_its_reason() -> None:
    container = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such tag"}}, "restartCount": 0}
    assert explain(FakeCluster([]), [pod(containers=[container])]) == (
        "POD_PENDING", "pod judge-0 waits with ErrImagePull: no such tag")


def test_a_server_that_crashes_is_probe_failing_with_its_exit_and_the_end_of_its_log() -> None:
    container = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 3,
                 "lastState": {"terminated": {"reason": "Error", "exitCode": 2}}}
    reason, why = explain(FakeCluster([], log="unrecognized arguments: --x"), [pod(containers=[container])])
    assert reason == "PROBE_FAILING"
    assert why == ("pod judge-0 is CrashLoopBackOff, restarted 3 times, last ended with Error (status 2); "
                   "end of its log:\nunrecognized arguments: --x")


def test_a_server_that_never_gets_ready_is_probe_failing() -> None:
    container = {"state": {"running": {}}, "restartCount": 0, "ready": False}
    assert explain(FakeCluster([]), [pod(phase="Running", containers=[container])]) == (
        "PROBE_FAILING", "pod judge-0 is running, not ready, restarted 0 times")


def test_the_pod_that_is_furthest_from_ready_is_explained() -> None:
    good = pod("judge-0", "Running", [{"ready": True, "state": {"running": {}}}])
    assert "judge-1" in explain(FakeCluster([]), [good, pod("judge-1")])[1]


COMMIT, OLD = "a" * 40, "b" * 40
ANNOTATION = "judge-bootstrap.io/model-commit"


class Gated(FakeCluster):
    """A cluster whose nodes and pods also say what they know of the model."""

    def __init__(self, pods: list[dict[str, Any]], nodes: list[dict[str, Any]] | None = None,
                 said: dict[str, dict[str, Any] | None] | None = None, log: str = "") -> None:
        waiting = deployment()
        waiting["spec"]["template"] = {"metadata": {"annotations": {ANNOTATION: COMMIT}}}
        super().__init__([waiting], pods, log=log)
        self.known, self.said, self.asked = nodes or [], said or {}, list[str]()

    def nodes(self, selector: Mapping[str, str]) -> list[Mapping[str, Any]]:
        return list(self.known)

    def health(self, pod: str, port: int) -> Mapping[str, Any] | None:
        assert port == 8000
        self.asked.append(pod)
        return self.said[pod]

    def log_tail(self, pod: str, container: str | None = None) -> str:
        assert container in (None, "check-model")
        return self.log


def gated(name: str, phase: str = "Pending", commit: str = COMMIT, status: dict[str, Any] | None = None,
          ) -> dict[str, Any]:
    return {"metadata": {"name": name, "annotations": {ANNOTATION: commit}},
            "spec": {"nodeSelector": {"role": "ai-gpu"},
                     "containers": [{"name": "vllm", "ports": [{"containerPort": 8000}]}]},
            "status": {"phase": phase, **(status or {})}}


UNSCHEDULED = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}]}


def node(name: str, *commits: str, state: str | None = None) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {f"judge-bootstrap.io/model-{commit}": "ready" for commit in commits},
                         "annotations": {"judge-bootstrap.io/model-state": state} if state else {}}}


def test_a_model_that_no_node_has_is_named_with_what_a_loader_says() -> None:
    state = '{"state": "failed", "reason": "SOURCE_DENIED", "message": "the Hub wants a token"}'
    cluster = Gated([gated("judge-0", status=UNSCHEDULED)], [node("node-1", OLD), node("node-2", state=state)])
    with pytest.raises(BootstrapError, match=f"none of 2 nodes has commit {COMMIT[:12]} complete; node-2: the Hub") \
            as caught:
        wait_for(cluster)
    assert caught.value.reason == "SOURCE_DENIED"


def test_a_node_without_a_word_from_its_loader_is_an_incomplete_model() -> None:
    with pytest.raises(BootstrapError, match="its loader has said nothing yet") as caught:
        wait_for(Gated([gated("judge-0", status=UNSCHEDULED)], [node("node-1")]))
    assert caught.value.reason == "MODEL_INCOMPLETE"


def test_with_a_warm_node_the_scheduler_s_own_words_count() -> None:
    with pytest.raises(BootstrapError, match="0/2 nodes are available") as caught:
        wait_for(Gated([gated("judge-0", status=UNSCHEDULED)], [node("node-1", COMMIT)]))
    assert caught.value.reason == "POD_PENDING"


def test_the_init_container_s_own_finding_is_told() -> None:
    failed = {"containerStatuses": [{"name": "vllm", "state": {"waiting": {"reason": "PodInitializing"}}}],
              "initContainerStatuses": [{"name": "check-model", "ready": False,
                                         "lastState": {"terminated": {"exitCode": 1}}}]}
    cluster = Gated([gated("judge-0", status=failed)], log="INTEGRITY_MISMATCH: model.safetensors has other bytes")
    with pytest.raises(BootstrapError, match="its check-model says: INTEGRITY_MISMATCH: model.safetensors") as caught:
        wait_for(cluster)
    assert caught.value.reason == "INTEGRITY_MISMATCH"


def test_a_pod_that_drifts_ends_the_wait_long_before_its_deadline() -> None:
    said = {"ready": False, "reason": "GOLDEN_DRIFT", "message": "drift 6.2", "commit": COMMIT}
    cluster = Gated([gated("judge-0", "Running")], said={"judge-0": said})
    clock = Clock()
    with pytest.raises(BootstrapError, match="pod judge-0: drift 6.2") as caught:
        wait(cluster, "judge", "llm-judge", 1200, clock=clock, sleep=clock.sleep)
    assert caught.value.reason == "GOLDEN_DRIFT" and clock.now < 60


def test_a_pod_that_still_asks_is_waited_for_and_one_of_the_old_commit_is_not_asked() -> None:
    cluster = Gated([gated("judge-0", "Running"), gated("judge-1", "Running", OLD)],
                    said={"judge-0": {"ready": False, "reason": None, "message": "asking", "commit": COMMIT}})
    with pytest.raises(BootstrapError, match="after 30 s"):
        wait_for(cluster, 30)
    assert set(cluster.asked) == {"judge-0"}
