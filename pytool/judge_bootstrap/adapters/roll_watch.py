"""Watch the serving pods move to a commit: kubelet asks each of them, and so do we, for what it says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judge_bootstrap.adapters.roll_state import Cluster, Object, Place, deployment_of, replica_sets_of
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.model_roll import Roll, Step, View, canary_count, commit_of, health_refusal, ready, view_of

POLL_SECONDS = 2.0
# A ready pod that cannot be reached through the API server so often is listed as not asked; kubelet asked it.
MOST_ASKED = 3


@dataclass(frozen=True)
class Timing:
    """The clock, for tests."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


REAL_TIME = Timing()


@dataclass
class Found:
    """What a roll came to: `outcome` is rolled, rolled_back or stuck; `replicas` what each new one said of itself."""

    before: str
    commit: str
    outcome: str = "rolled"
    wanted: int = 0
    canary: int | None = None
    seconds: float = 0.0
    replicas: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the documented JSON form."""
        return {"from": self.before, "to": self.commit, "outcome": self.outcome, "wanted": self.wanted,
                "canary": self.canary, "seconds": round(self.seconds, 1), "replicas": self.replicas}


class Overtaken(BootstrapError):
    """Somebody else changed the Deployment meanwhile: what they did is not undone."""


def watch(cluster: Cluster, place: Place, found: Found, canary: str | None, bake_seconds: float,
           timing: Timing) -> None:
    """Return when all pods serve `found.commit` and were asked. Raises BootstrapError at the first that does not."""
    started = timing.clock()
    deployment = deployment_of(cluster, place)
    found.wanted = deployment["spec"].get("replicas", 1)
    found.canary = canary_count(canary, found.wanted) if canary else None
    state = Roll(replica_seconds=float(deployment["spec"].get("progressDeadlineSeconds", 600)), canary=found.canary,
                 bake_seconds=bake_seconds)
    asked = _Asked(cluster, place, found)
    while True:
        deployment = deployment_of(cluster, place)
        if commit_of(deployment) != found.commit:
            raise Overtaken(f"{place.namespace}/{place.name} was changed to commit "
                            f"{str(commit_of(deployment))[:12]} by somebody else, wanted {found.commit[:12]}",
                            reason="WRONG_MODEL_SERVED")
        replica_sets = replica_sets_of(cluster, place, deployment)
        pods = _pods(cluster, place, deployment)
        view = view_of(deployment, replica_sets, pods, asked.refusals)
        asked.ask(view, pods)
        view = view_of(deployment, replica_sets, pods, asked.refusals)
        step = state.step(view, timing.clock())
        if step.act == "done" and asked.all_asked(view):
            found.seconds = timing.clock() - started
            return
        if step.act == "bad":
            if step.reason is None:
                step = asked.explained(cluster.explain(place.namespace, place.name, _new_pods(view, pods)), view)
            raise BootstrapError(step.text, reason=step.reason)
        if step.act in ("pause", "resume"):
            cluster.merge("Deployment", place.namespace, place.name,
                          {"spec": {"paused": True if step.act == "pause" else None}})
        else:
            timing.sleep(POLL_SECONDS)


class _Asked:
    """What each new pod said of itself: asked until it is ready and has answered, and not again."""

    def __init__(self, cluster: Cluster, place: Place, found: Found) -> None:
        self.refusals: dict[str, tuple[str, str]] = {}
        self._cluster, self._place, self._found = cluster, place, found
        self._done: dict[str, Mapping[str, Any] | None] = {}
        self._tries: dict[str, int] = {}
        self._last: dict[str, Mapping[str, Any]] = {}

    def ask(self, view: View, pods: Sequence[Object]) -> None:
        """Ask the new pods that run and have not been heard of as ready."""
        running = {pod["metadata"]["name"]: pod for pod in pods if _runs(pod)}
        for replica in view.replicas:
            pod = running.get(replica.pod)
            if pod is None or replica.pod in self._done:
                continue
            answer = self._cluster.health(self._place.namespace, replica.pod, self._place.port)
            if refusal := health_refusal(replica.pod, answer, self._found.commit):
                self.refusals[replica.pod] = refusal
            elif replica.ready and answer is None:
                self._tries[replica.pod] = self._tries.get(replica.pod, 0) + 1
                if self._tries[replica.pod] >= MOST_ASKED:
                    self._done[replica.pod] = None
            elif replica.ready and answer is not None and answer.get("ready", True):
                self._done[replica.pod] = answer
            self._note(replica.pod, pod, answer)

    def all_asked(self, view: View) -> bool:
        """Tell whether each new pod has been heard, or cannot be reached."""
        return all(replica.pod in self._done for replica in view.replicas)

    def explained(self, found: tuple[str, str], view: View) -> Step:
        """Return why time ran out: what the API server knows, and what the pod said last; its own reason goes first."""
        names = [replica.pod for replica in view.replicas if not replica.ready]
        said = next((answer for name, answer in self._last.items() if name in names and answer.get("message")), {})
        text = f"{found[1]}; it says: {said['message']}" if said else found[1]
        return Step("bad", str(said.get("reason") or found[0]), text)

    def _note(self, name: str, pod: Object, answer: Mapping[str, Any] | None) -> None:
        golden = (answer or {}).get("golden") or {}
        if answer:
            self._last[name] = answer
        line = {"pod": name, "node": pod["spec"].get("nodeName"), "ready": ready(pod), "asked": answer is not None,
                "commit": (answer or {}).get("commit"), "reason": (answer or {}).get("reason"),
                "golden_items": golden.get("items"), "golden_drift": golden.get("drift")}
        self._found.replicas[:] = [*(one for one in self._found.replicas if one["pod"] != name), line]


def _runs(pod: Object) -> bool:
    return any((container.get("state") or {}).get("running") is not None
               for container in (pod.get("status") or {}).get("containerStatuses") or [])


def _pods(cluster: Cluster, place: Place, deployment: Object) -> list[Object]:
    found = cluster.listed("Pod", place.namespace, deployment["spec"]["selector"]["matchLabels"])
    # A pod that was evicted or has ended is a record, and no replica.
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]
            and (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded")]


def _new_pods(view: View, pods: Sequence[Object]) -> list[Object]:
    names = {replica.pod for replica in view.replicas if not replica.ready}
    return [pod for pod in pods if pod["metadata"]["name"] in names]
