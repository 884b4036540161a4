"""One pod of ours: how far is it, which of its gates is shut, and what opens it? Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from judge_bootstrap.core.kube_objects import condition, many, moment, name_of, seconds_since
from judge_bootstrap.core.problems import one_line

if TYPE_CHECKING:
    from judge_bootstrap.core.health import Found

# Deletion may take its grace period, and kubelet's clean-up after it.
_SLOW_END_SECONDS = 60.0
# A container waits like this while its volumes and its network are made.
_NORMAL_WAITS = ("ContainerCreating", "PodInitializing")
_CODE = re.compile(r"\b[A-Z]{2,}(?:_[A-Z]+)+\b|\bLOCKED\b")


@dataclass(frozen=True)
class Names:
    """How things are called in this environment. `loader` False: nodes get their model over ssh only."""

    env: str
    namespace: str
    loader_namespace: str
    service: str
    selector: str
    taint: str
    loader: bool = True
    gpus_per_pod: int = 1


@dataclass(frozen=True)
class PodState:
    """What is known of a pod. `state`: ready, starting, not ready, checking (init containers), pending, failing,
    ended, terminating. `reason` is None where nothing has to be done.

    `placed`: its server was started on a node, so no node is to blame for what it does. `start_seconds`: from the
    container's start until it was ready, None while it is not; `budget_seconds`: how long its startup probe waits;
    `image_id`: the image by digest, as the node resolved it.
    """

    name: str
    namespace: str
    node: str | None
    state: str
    ready: bool
    placed: bool
    restarts: int
    reason: str | None
    message: str
    repair: str | None
    image: str | None
    image_id: str | None
    start_seconds: float | None
    budget_seconds: float | None
    phase: str


_Finding = tuple[str, str | None, str, str | None]


def pod_state(pod: Mapping[str, Any], names: Names, found: Found, now: datetime, *, loader: bool = False) -> PodState:
    """Return the state of a serving pod, or of one of the loader's."""
    status, name = pod.get("status") or {}, name_of(pod)
    namespace = names.loader_namespace if loader else names.namespace
    server = _main(status.get("containerStatuses") or [], "loader" if loader else "vllm")
    spec = _main(pod["spec"].get("containers") or [], "loader" if loader else "vllm")
    state, reason, message, repair = _Look(pod, names, found, now, loader, namespace, server, spec).finding()
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return PodState(
        name=name, namespace=namespace, node=pod["spec"].get("nodeName"), state=state, ready=state == "ready",
        placed=state not in ("ended", "terminating") and _was_started(server),
        restarts=sum(int(one.get("restartCount", 0)) for one in statuses), reason=reason, message=message,
        repair=repair, image=spec.get("image"), image_id=server.get("imageID") or None,
        start_seconds=_start_seconds(pod, server, found), budget_seconds=_budget_seconds(spec),
        phase=str(status.get("phase", "Unknown")))


@dataclass(frozen=True)
class _Look:
    pod: Mapping[str, Any]
    names: Names
    found: Found
    now: datetime
    loader: bool
    namespace: str
    server: Mapping[str, Any]
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        return name_of(self.pod)

    def finding(self) -> _Finding:
        """Return state, reason code, message and repair."""
        status, metadata = self.pod.get("status") or {}, self.pod["metadata"]
        if metadata.get("deletionTimestamp"):
            return self._terminating(metadata)
        if status.get("phase") in ("Failed", "Succeeded"):
            said = one_line(status.get("message") or status.get("reason") or f"phase {status['phase']}")
            return ("ended", "POD_PENDING", f"ended ({status.get('reason') or status['phase']}): {said}",
                    f"kubectl -n {self.namespace} delete pod {self.name}   # it is only what is left of one")
        scheduled = condition(self.pod, "PodScheduled")
        if not self.pod["spec"].get("nodeName") or (scheduled and scheduled.get("status") == "False"):
            said = one_line((scheduled or {}).get("message") or self._event() or "no node was chosen yet")
            return "pending", "POD_PENDING", f"has no node: {said}", self._room()
        return self._init_container(status) or self._server()

    def _terminating(self, metadata: Mapping[str, Any]) -> _Finding:
        over = seconds_since(metadata["deletionTimestamp"], self.now) or 0.0
        if over > _SLOW_END_SECONDS:
            return ("terminating", "POD_PENDING", f"should have been gone {over:.0f} s ago",
                    f"kubectl describe node {self.pod['spec'].get('nodeName')}   # does its kubelet answer?")
        return "terminating", None, "on its way out", None

    def _init_container(self, status: Mapping[str, Any]) -> _Finding | None:
        for one in status.get("initContainerStatuses") or []:
            state = one.get("state") or {}
            if (state.get("terminated") or {}).get("exitCode") == 0 or (one.get("started") and one.get("ready")):
                continue
            ended = state.get("terminated") or (one.get("lastState") or {}).get("terminated")
            if ended and ended.get("exitCode") != 0:
                return self._failed_init(one, ended)
            if state.get("running"):
                age = seconds_since(state["running"].get("startedAt"), self.now) or 0.0
                return ("checking", "MODEL_INCOMPLETE", f"init container {one['name']} has run for {age:.0f} s",
                        f"judge-bootstrap --env {self.names.env} logs --pod {self.name} -f")
            return self._waiting(one, state.get("waiting") or {})
        return None

    def _failed_init(self, one: Mapping[str, Any], ended: Mapping[str, Any]) -> _Finding:
        log = self.found.logs.get(self.name) or str(ended.get("message") or "")
        said = last_line(log)
        code = code_in(log) or "MODEL_INCOMPLETE"
        node = self.pod["spec"].get("nodeName")
        return ("failing", code, f"init container {one['name']} ended with status {ended.get('exitCode')}"
                f"{self._restarted(one)}{': ' + said if said else ''}",
                f"judge-bootstrap --env {self.names.env} models preload {node}")

    def _waiting(self, one: Mapping[str, Any], waiting: Mapping[str, Any]) -> _Finding:
        why = str(waiting.get("reason") or "no reason")
        said = one_line(waiting.get("message") or "") if waiting.get("message") else self._event()
        text = f"container {one['name']} waits: {why}{': ' + said if said else ''}"
        # While volumes and network are made, an event may say that they cannot be.
        state = "pending" if why in _NORMAL_WAITS else "failing"
        return state, "POD_PENDING", text, f"kubectl -n {self.namespace} describe pod {self.name}"

    def _server(self) -> _Finding:
        one, log = self.server, f"judge-bootstrap --env {self.names.env} logs --pod {self.name}"
        state = one.get("state") or {}
        last = (one.get("lastState") or {}).get("terminated") or {}
        ended = state.get("terminated") or last
        code = "LOADER_FAILING" if self.loader else "PROBE_FAILING"
        if "running" not in state:
            if not ended:
                waiting = state.get("waiting") or {}
                return self._waiting({"name": one.get("name", self.spec.get("name"))}, waiting)
            said = last_line(self.found.logs.get(self.name) or str(ended.get("message") or ""))
            return ("failing", code, f"ended with {ended.get('reason') or 'no reason'} (status {ended.get('exitCode')})"
                    f"{self._restarted(one)}{': ' + said if said else ''}", f"{log} --previous")
        if one.get("ready") and (condition(self.pod, "Ready") or {"status": "True"}).get("status") == "True":
            if last:
                times = many(int(one.get("restartCount", 0)), "time")
                return ("ready", None, f"restarted {times}, the last time after "
                        f"{last.get('reason') or 'an end'} (status {last.get('exitCode')})", None)
            return "ready", None, "", None
        if one.get("started") is False:
            return self._starting(state["running"], last, log, code)
        answer = self.found.answers.get(self.name)
        if answer is not None and answer.reason:
            return "not ready", answer.reason, answer.message, self._repair_of(answer.reason, log)
        event = self._event()
        return "not ready", code, f"runs, and its readiness probe fails{': ' + event if event else ''}", log

    def _starting(self, running: Mapping[str, Any], last: Mapping[str, Any], log: str, code: str) -> _Finding:
        age, budget = seconds_since(running.get("startedAt"), self.now) or 0.0, _budget_seconds(self.spec)
        of = f" of the {budget:.0f} s it may take" if budget else ""
        before = (f"; before that it was ended after {last.get('reason') or 'an end'} (status {last.get('exitCode')})"
                  f"{self._restarted(self.server)}") if last else ""
        return "starting", code, f"loading for {age:.0f} s{of}{before}", f"{log} -f"

    def _repair_of(self, reason: str, log: str) -> str:
        if reason == "GOLDEN_DRIFT":
            return (f"judge-bootstrap --env {self.names.env} models rollback   "
                    "# or accept the new answers as the baseline")
        return f"judge-bootstrap --env {self.names.env} run vllm_k8s" if reason == "WRONG_MODEL_SERVED" else log

    def _room(self) -> str:
        return (f"judge-bootstrap --env {self.names.env} preflight   "
                f"# and: kubectl -n {self.namespace} describe pod {self.name}")

    def _restarted(self, one: Mapping[str, Any]) -> str:
        times = int(one.get("restartCount", 0))
        return f", restarted {many(times, 'time')}" if times else ""

    def _event(self) -> str:
        return one_line(self.found.events[key]) if (key := f"{self.namespace}/{self.name}") in self.found.events else ""


def last_line(text: str) -> str:
    """Return the line of a log that says why it ended: the last one that names a reason code, else the last one."""
    # judge-node's error is one line, and its repair the next.
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Hint:")]
    told = [line for line in lines if code_in(line)]
    return one_line((told or lines)[-1]) if lines else ""


def code_in(text: str) -> str | None:
    """Return the last reason code of ours that a log names."""
    from judge_node.reasons import REASONS

    return next((word for word in reversed(_CODE.findall(text)) if word in REASONS), None)


def failed_container(pod: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return the container whose log says why the pod does not run, and whether it is the log before its restart."""
    status = pod.get("status") or {}
    for one in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = one.get("state") or {}
        ended = state.get("terminated") or {}
        if ended and ended.get("exitCode") != 0:
            return str(one["name"]), False
        last = (one.get("lastState") or {}).get("terminated") or {}
        if last and last.get("exitCode") != 0 and "waiting" in state:
            return str(one["name"]), True
    return None


def _main(containers: list[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next((one for one in containers if one.get("name") == name), containers[0] if containers else {})


def _was_started(server: Mapping[str, Any]) -> bool:
    state = server.get("state") or {}
    return "running" in state or "terminated" in state or bool(server.get("lastState"))


def _budget_seconds(container: Mapping[str, Any]) -> float | None:
    probe = container.get("startupProbe")
    if not probe:
        return None
    return float(probe.get("initialDelaySeconds", 0)
                 + int(probe.get("failureThreshold", 3)) * int(probe.get("periodSeconds", 10)))


def _start_seconds(pod: Mapping[str, Any], server: Mapping[str, Any], found: Found) -> float | None:
    """Return how long the server took from its container's start: until its gateway was ready, else kubelet's word."""
    answer = found.answers.get(name_of(pod))
    start = moment(((server.get("state") or {}).get("running") or {}).get("startedAt"))
    end = moment(answer.ready.get("ready_at")) if answer is not None else None
    if end is None and server.get("ready"):
        end = moment((condition(pod, "Ready") or {}).get("lastTransitionTime"))
    if start is None or end is None or end < start:
        return None
    return (end - start).total_seconds()
