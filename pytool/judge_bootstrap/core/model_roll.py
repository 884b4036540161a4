"""When a rolling update of a model goes on, waits, is paused for its canary, or has failed. Pure: no cluster is asked.

Kubernetes itself rolls, one replica at a time (maxSurge 0, maxUnavailable 1), and stops at one that is not ready. What
is decided here is what it does not: whether a replica that is not ready will ever be, and when a canary has passed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from judge_bootstrap.core.errors import UsageProblem

COMMIT = "judge-bootstrap.io/model-commit"
REVISION = "deployment.kubernetes.io/revision"
# Reasons of a replica's own /health/ready that more time does not change; every other one may still pass.
FINAL_REASONS = ("GOLDEN_DRIFT", "WRONG_MODEL_SERVED")
# A container that ended so often is not "still loading".
MOST_RESTARTS = 3


@dataclass(frozen=True)
class Replica:
    """One pod of the newest ReplicaSet. `refusal`: why it will never be ready, as (reason code, text)."""

    pod: str
    ready: bool
    restarts: int = 0
    refusal: tuple[str, str] | None = None


@dataclass(frozen=True)
class View:
    """A Deployment at one moment.

    `observed`: its controller has seen what we wrote last; `made`: it has made a ReplicaSet for it, which it does not
    while the Deployment is paused; `complete`: all replicas are new and ready. `replicas` are the new ones alone.
    """

    wanted: int
    paused: bool
    observed: bool
    made: bool
    complete: bool
    replicas: tuple[Replica, ...] = ()
    old: int = 0


@dataclass(frozen=True)
class Step:
    """What to do next. With `bad`: the reason code and text, or None where the pods have to be asked why."""

    act: Literal["wait", "pause", "resume", "done", "bad"]
    reason: str | None = None
    text: str = ""


class Roll:
    """Takes one view after the other, and says what to do. `now` is a clock in seconds that never goes back."""

    def __init__(self, *, replica_seconds: float, canary: int | None = None, bake_seconds: float = 0.0) -> None:
        """`replica_seconds`: how long one replica may take to become ready; `canary`: how many go first, None: none."""
        self._replica_seconds = replica_seconds
        self._canary = canary
        self._bake_seconds = bake_seconds
        self._seen: tuple[Any, ...] | None = None
        self._moved = 0.0
        self._baking: tuple[float, frozenset[str], int] | None = None

    def step(self, view: View, now: float) -> Step:
        """Return the next step."""
        for replica in view.replicas:
            if replica.refusal:
                return Step("bad", *replica.refusal)
            if replica.restarts >= MOST_RESTARTS:
                return Step("bad", "PROBE_FAILING", f"pod {replica.pod} was restarted {replica.restarts} times")
        if bad := self._broken_canary(view):
            return bad
        seen = (view.replicas, view.old, view.paused, view.observed)
        if seen != self._seen:
            self._seen, self._moved = seen, now
        if not view.observed:
            return self._waiting(now)
        if not view.made:
            return Step("resume") if view.paused else self._waiting(now)
        if self._canary is not None and not view.complete:
            return self._first_ones(view, self._canary, now)
        if view.paused:
            return Step("resume")
        if not view.complete:
            return self._waiting(now)
        # All at once were the canary: they are watched too.
        return Step("done") if self._canary is None else self._bake(view, now, then="done")

    def _first_ones(self, view: View, canary: int, now: float) -> Step:
        """Return the next step until the canary has passed."""
        if len(view.replicas) < canary:
            return Step("resume") if view.paused else self._waiting(now)
        if not view.paused:
            return Step("pause")
        if not all(replica.ready for replica in view.replicas):
            self._baking = None
            return self._waiting(now)
        return self._bake(view, now, then="resume")

    def _bake(self, view: View, now: float, *, then: Literal["resume", "done"]) -> Step:
        names = frozenset(replica.pod for replica in view.replicas)
        restarts = sum(replica.restarts for replica in view.replicas)
        if self._baking is None or self._baking[1] != names:
            self._baking = (now, names, restarts)
        self._moved = now
        if now - self._baking[0] < self._bake_seconds:
            return Step("wait")
        self._canary = self._baking = None
        return Step(then)

    def _broken_canary(self, view: View) -> Step | None:
        if self._baking is None:
            return None
        _, names, restarts = self._baking
        if frozenset(replica.pod for replica in view.replicas) != names:
            return None  # one was evicted, and its successor has still to show itself
        for replica in view.replicas:
            if not replica.ready:
                return Step("bad", "PROBE_FAILING", f"pod {replica.pod} was ready, and is not any more")
        if sum(replica.restarts for replica in view.replicas) > restarts:
            return Step("bad", "PROBE_FAILING", "a replica was restarted after it had been ready")
        return None

    def _waiting(self, now: float) -> Step:
        return Step("bad") if now - self._moved > self._replica_seconds else Step("wait")


def canary_count(share: str, replicas: int) -> int:
    """Return how many of `replicas` a share such as `25%` is: rounded up, at least one.

    Raises UsageProblem unless it is a percentage above 0 and up to 100.
    """
    number = share.strip().removesuffix("%")
    if not share.strip().endswith("%") or not number.isascii() or not number.isdigit() or not 0 < int(number) <= 100:
        raise UsageProblem(f"--canary is {share!r}, wanted a percentage from 1% to 100%", hint="--canary 25%")
    return max(1, math.ceil(int(number) * replicas / 100))


def view_of(deployment: Mapping[str, Any], replica_sets: Sequence[Mapping[str, Any]],
            pods: Sequence[Mapping[str, Any]], refusals: Mapping[str, tuple[str, str]]) -> View:
    """Return the view: `pods` are the Deployment's that are not being deleted, `refusals` what pods were asked."""
    status = deployment.get("status") or {}
    wanted = deployment["spec"].get("replicas", 1)
    observed = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    newest = newest_replica_set(deployment, replica_sets)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "availableReplicas", "replicas")]
    new = [pod for pod in pods if newest and _template_hash(pod) == _template_hash(newest)]
    return View(wanted=wanted, paused=bool(deployment["spec"].get("paused")), observed=observed,
                made=newest is not None, complete=observed and newest is not None and counts == [wanted] * 3,
                replicas=tuple(sorted((_replica(pod, refusals) for pod in new), key=lambda replica: replica.pod)),
                old=len(pods) - len(new))


def _template_hash(owned: Mapping[str, Any]) -> str | None:
    found = (owned["metadata"].get("labels") or {}).get("pod-template-hash")
    return str(found) if found else None


def newest_replica_set(deployment: Mapping[str, Any],
                       replica_sets: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the ReplicaSet that the Deployment's template has now, or None before its controller made it."""
    revision = (deployment["metadata"].get("annotations") or {}).get(REVISION)
    commit = commit_of(deployment)
    return next((found for found in replica_sets
                 if revision and (found["metadata"].get("annotations") or {}).get(REVISION) == revision
                 and commit_of(found) == commit), None)


def earlier_replica_set(commit: str, replica_sets: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the ReplicaSet with which a commit was served: one with ready pods before others, then the latest."""
    def rank(found: Mapping[str, Any]) -> tuple[bool, int]:
        revision = str((found["metadata"].get("annotations") or {}).get(REVISION, "0"))
        return bool((found.get("status") or {}).get("readyReplicas")), int(revision) if revision.isdigit() else 0

    return max((found for found in replica_sets if commit_of(found) == commit), key=rank, default=None)


def commit_of(owner: Mapping[str, Any]) -> str | None:
    """Return the model's commit that the pods of a Deployment or ReplicaSet serve."""
    annotations = owner["spec"]["template"].get("metadata", {}).get("annotations") or {}
    found = annotations.get(COMMIT)
    return str(found) if found else None


def config_maps_of(owner: Mapping[str, Any]) -> list[str]:
    """Return the names of the ConfigMaps that pods of a Deployment or ReplicaSet mount."""
    volumes = owner["spec"]["template"]["spec"].get("volumes") or []
    return sorted({volume["configMap"]["name"] for volume in volumes if (volume.get("configMap") or {}).get("name")})


def ready(item: Mapping[str, Any]) -> bool:
    """Tell whether a pod or a node has the condition Ready."""
    return any(condition.get("type") == "Ready" and condition.get("status") == "True"
               for condition in (item.get("status") or {}).get("conditions") or [])


def _replica(pod: Mapping[str, Any], refusals: Mapping[str, tuple[str, str]]) -> Replica:
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return Replica(name, ready(pod), max((container.get("restartCount", 0) for container in containers), default=0),
                   refusals.get(name))


def health_refusal(pod: str, answer: Mapping[str, Any] | None, commit: str) -> tuple[str, str] | None:
    """Return why a replica will never be ready, out of its /health/ready; None while it still may, or is."""
    if answer is None:
        return None
    reason = answer.get("reason")
    if reason in FINAL_REASONS:
        return str(reason), f"pod {pod}: {answer.get('message') or reason}"
    served = answer.get("commit")
    if served and served != commit:
        return "WRONG_MODEL_SERVED", f"pod {pod} serves commit {str(served)[:12]}, wanted {commit[:12]}"
    return None
