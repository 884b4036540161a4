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

    def log_tail(self, pod: str) -> str:
        return self.log


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
    assert caught.value.hint == "kubectl -n llm-judge describe pod -l app.kubernetes.io/instance=judge"


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
