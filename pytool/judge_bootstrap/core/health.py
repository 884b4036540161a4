"""The chain as the cluster shows it: from its objects and the pods' answers to findings, link by link. Pure.

A link fails when what is wanted of the judge does not hold because of it; what is broken beside that (one node of many,
while every pod serves) is a warning. The first link that fails is the one to repair: those after it follow from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from judge_bootstrap.core.health_nodes import NodeState, node_state
from judge_bootstrap.core.health_pods import Names, PodState, pod_state
from judge_bootstrap.core.kube_objects import condition, many, name_of
from judge_bootstrap.core.model_roll import COMMIT

Status = Literal["ok", "warn", "fail"]
# So many broken nodes or pods are named one by one; of the others only the number.
MOST_NAMED = 10


@dataclass(frozen=True)
class Answer:
    """What a pod said through a port-forward. `reason` None: it is the right model, and its golden answers hold.

    `ready` is the body of /health/ready; `metrics` holds vLLM's own figures (core/vllm_metrics.py); `verdict` is what
    it judged, where it was asked. `asked` is False where time ran out before its turn; `keyless` True where it wanted a
    key and we had none.
    """

    reason: str | None = None
    message: str = ""
    ready: Mapping[str, Any] = field(default_factory=dict)
    gateway: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None
    asked: bool = True
    keyless: bool = False


@dataclass(frozen=True)
class Found:
    """What the API server has, each object in its JSON form, None where there is none.

    `events`: last warning by NAMESPACE/POD; `logs`: the end of the log of a container that failed, by pod;
    `unread`: why a part could not be read (no right), by its name: nodes, loader, events, budget, key.
    """

    nodes: Sequence[Mapping[str, Any]] = ()
    deployment: Mapping[str, Any] | None = None
    pods: Sequence[Mapping[str, Any]] = ()
    loader: Mapping[str, Any] | None = None
    loader_pods: Sequence[Mapping[str, Any]] = ()
    service: Mapping[str, Any] | None = None
    endpoint_slices: Sequence[Mapping[str, Any]] = ()
    budget: Mapping[str, Any] | None = None
    has_key: bool | None = None
    events: Mapping[str, str] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Broken:
    """One node or pod that does not hold."""

    name: str
    state: str
    reason: str | None
    message: str
    repair: str | None


@dataclass(frozen=True)
class Link:
    """One link of the chain: what was found, and where it does not hold the reason code and the next command."""

    name: str
    status: Status
    found: str
    reason: str | None = None
    repair: str | None = None
    broken: Sequence[Broken] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form."""
        return {"name": self.name, "status": self.status, "found": self.found, "reason": self.reason,
                "repair": self.repair}


@dataclass(frozen=True)
class Health:
    """The chain, its nodes and its pods."""

    links: Sequence[Link]
    nodes: Sequence[NodeState]
    pods: Sequence[PodState]
    loader_pods: Sequence[PodState]
    commit: str | None
    model: str | None
    wanted: int
    ready: int

    @property
    def first_broken(self) -> Link | None:
        """The link to repair first."""
        return next((link for link in self.links if link.status == "fail"), None)


def assess(found: Found, names: Names, now: datetime) -> Health:
    """Return the chain's findings."""
    commit = commit_of(found.deployment)
    nodes = [node_state(node, names, commit) for node in found.nodes]
    pods = [pod_state(pod, names, found, now) for pod in found.pods]
    loader_pods = [pod_state(pod, names, found, now, loader=True) for pod in found.loader_pods]
    wanted = replicas(found.deployment)
    ready = sum(pod.state == "ready" for pod in pods)
    # Nodes are to blame only where pods are wanted that were never started, and there is no usable node for them.
    usable = sum(node.gpus // max(1, names.gpus_per_pod) for node in nodes if node.usable)
    carried = sum(pod.placed for pod in pods) >= wanted or usable >= wanted
    links = [
        _nodes(found, nodes, names, wanted, carried),
        _loader(found, loader_pods, names, ready >= wanted),
        _models(nodes, names, carried, found.unread.get("nodes")),
        _deployment(found, names, wanted),
        _pods(pods, names, wanted),
        _answers(found, pods, names),
        _service(found, names, ready, wanted),
    ]
    return Health(links=[link for link in links if link is not None], nodes=nodes, pods=pods, loader_pods=loader_pods,
                  commit=commit, model=model_of(found.deployment), wanted=wanted, ready=ready)


def commit_of(owner: Mapping[str, Any] | None) -> str | None:
    """Return the model's commit that a Deployment's pods, or a pod, are for: the annotation, else the model's path."""
    if owner is None:
        return None
    template = owner["spec"].get("template") or owner
    annotation = (template.get("metadata", {}).get("annotations") or {}).get(COMMIT)
    if annotation:
        return str(annotation)
    for word in _arguments(template):
        head, found, tail = word.partition("/snapshots/")
        if found and head:
            return tail.strip("/")
    return None


def model_of(deployment: Mapping[str, Any] | None) -> str | None:
    """Return the model's name on the Hub, as the Deployment says it."""
    annotations = (deployment or {}).get("metadata", {}).get("annotations") or {}
    found = annotations.get("judge-bootstrap.io/model")
    return str(found) if found else None


def served_names(owner: Mapping[str, Any] | None) -> list[str]:
    """Return the names by which the server answers, first the one it calls itself: out of its arguments."""
    words = _arguments(owner["spec"].get("template") or owner) if owner else []
    found: list[str] = []
    taking = False
    for word in words:
        if word.startswith("--"):
            name, given, value = word.partition("=")
            taking = name == "--served-model-name"
            found += [value] if taking and given else []
        elif taking:
            found.append(word)
    return found


def _arguments(template: Mapping[str, Any]) -> list[str]:
    containers = template["spec"].get("containers") or []
    server = next((one for one in containers if one.get("name") == "vllm"), containers[0] if containers else {})
    return [str(word) for word in [*(server.get("command") or []), *(server.get("args") or [])]]


def replicas(deployment: Mapping[str, Any] | None) -> int:
    """Return how many pods are wanted."""
    return int(deployment["spec"].get("replicas", 1)) if deployment else 0


# --- link by link -----------------------------------------------------------------------------------------------------


def _nodes(found: Found, nodes: Sequence[NodeState], names: Names, wanted: int, carried: bool) -> Link:
    title = "GPU nodes"
    if "nodes" in found.unread:
        return Link(title, "warn", f"not looked at: {found.unread['nodes']}", "CLUSTER_DENIED",
                    f"judge-bootstrap --env {names.env} preflight")
    if not nodes:
        # Without pods nobody needs a node: scaled to zero, an autoscaler takes them all away.
        idle = found.deployment is not None and wanted == 0
        return Link(title, "ok" if idle else "fail", f"none with label {names.selector}",
                    None if idle else "GPU_NONE",
                    None if idle else f"kubectl get nodes --show-labels   # then judge-bootstrap --env {names.env}")
    bad = [Broken(node.name, node.state, node.reason, node.message, node.repair) for node in nodes if node.machine_bad]
    gpus = sum(node.gpus for node in nodes)
    text = f"{len(nodes)} with label {names.selector}, {many(gpus, 'GPU')}: {_counted(node.machine for node in nodes)}"
    return _with_broken(title, text, bad, fails=not carried)


def _models(nodes: Sequence[NodeState], names: Names, carried: bool, unread: str | None) -> Link | None:
    if unread is not None or not nodes:
        return None
    there = [node for node in nodes if not node.machine_bad]
    bad = [Broken(node.name, node.state, node.reason, node.message, node.repair)
           for node in there if node.reason is not None]
    return _with_broken("model on the nodes", _counted(node.state for node in there) or "no node to look at", bad,
                        fails=not carried)


def _loader(found: Found, pods: Sequence[PodState], names: Names, serving: bool) -> Link | None:
    title = "loader"
    if "loader" in found.unread:
        return Link(title, "warn", f"not looked at: {found.unread['loader']}", "CLUSTER_DENIED",
                    f"judge-bootstrap --env {names.env} preflight")
    if not names.loader:
        return None
    run = f"judge-bootstrap --env {names.env} run vllm_k8s"
    if found.loader is None:
        return Link(title, "warn" if serving and found.deployment else "fail",
                    f"no DaemonSet judge-loader in namespace {names.loader_namespace}: a node that joins gets no model",
                    "LOADER_FAILING", run)
    status = found.loader.get("status") or {}
    wanted, ready = int(status.get("desiredNumberScheduled", 0)), int(status.get("numberReady", 0))
    text = f"{ready} of {wanted} pods ready, {int(status.get('updatedNumberScheduled', 0))} of the newest form"
    bad = [Broken(pod.name, pod.state, pod.reason or "LOADER_FAILING", pod.message, pod.repair)
           for pod in pods if pod.state not in ("ready", "terminating")]
    link = _with_broken(title, text, bad, fails=ready == 0 and wanted > 0 and not serving)
    if link.status == "ok" and ready < wanted:
        # Its controller may not make any: Pod Security, or a quota.
        return Link(title, "warn" if serving or ready else "fail", f"{text}; there are only {many(len(pods), 'pod')}",
                    "LOADER_FAILING", f"kubectl -n {names.loader_namespace} describe daemonset judge-loader")
    return link


def _deployment(found: Found, names: Names, wanted: int) -> Link:
    title, deployment = "Deployment", found.deployment
    run = f"judge-bootstrap --env {names.env} run vllm_k8s"
    if deployment is None:
        return Link(title, "fail", f"no Deployment {names.service} in namespace {names.namespace}", "POD_PENDING", run)
    status, name = deployment.get("status") or {}, name_of(deployment)
    updated, available = int(status.get("updatedReplicas", 0)), int(status.get("availableReplicas", 0))
    commit = (commit_of(deployment) or "of no known commit")[:12]
    text = f"{available} of {wanted} pods available, model {model_of(deployment) or 'unknown'} {commit}"
    if wanted == 0:
        return Link(title, "warn", f"scaled to zero, model {model_of(deployment) or 'unknown'} {commit}", None,
                    f"kubectl -n {names.namespace} scale deployment {name} --replicas=N   # when it is to serve again")
    failure = condition(deployment, "ReplicaFailure")
    if failure and failure.get("status") == "True":
        said = str(failure.get("message") or failure.get("reason"))
        code = "POD_FORBIDDEN" if "forbidden" in said else "POD_PENDING"
        return Link(title, "fail", f"{text}; its pods cannot be made: {said}", code,
                    f"kubectl -n {names.namespace} describe replicaset -l app.kubernetes.io/instance={names.service}")
    if int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 0)):
        return Link(title, "warn", f"{text}; its newest form was not seen by the controller yet", None,
                    f"judge-bootstrap --env {names.env} health   # in a few seconds")
    if updated < wanted:
        late = (condition(deployment, "Progressing") or {}).get("reason") == "ProgressDeadlineExceeded"
        went = "stopped, it took too long" if late else "goes on"
        return Link(title, "fail", f"{text}; {updated} of {wanted} are of its newest form, the rollout {went}",
                    "PROBE_FAILING" if late else "POD_PENDING",
                    f"judge-bootstrap --env {names.env} logs --server" if late
                    else f"kubectl -n {names.namespace} rollout status deployment {name}")
    return Link(title, "ok", text)


def _pods(pods: Sequence[PodState], names: Names, wanted: int) -> Link | None:
    if not pods and wanted == 0:
        return None
    states = _counted(pod.state for pod in pods) or "none"
    ready = sum(pod.state == "ready" for pod in pods)
    bad = [Broken(pod.name, pod.state, pod.reason, pod.message, pod.repair) for pod in pods if pod.reason]
    # What is furthest from ready says most about why the others are not.
    bad.sort(key=lambda pod: _ORDER.get(pod.state, 0))
    text = f"{ready} of {wanted} ready: {states}"
    if not bad and ready < wanted:
        return Link("pods", "fail", text, "POD_PENDING",
                    f"kubectl -n {names.namespace} get pods,events   # fewer pods than wanted")
    return _with_broken("pods", text, bad, fails=ready < wanted)


_ORDER = {"failing": 0, "pending": 1, "checking": 2, "not ready": 3, "starting": 4, "ended": 5, "terminating": 6,
          "ready": 7}


def _answers(found: Found, pods: Sequence[PodState], names: Names) -> Link | None:
    ready = [pod for pod in pods if pod.state == "ready"]
    if not ready:
        return None
    bad, unasked, right = [], 0, 0
    for pod in ready:
        answer = found.answers.get(pod.name, Answer(asked=False))
        if not answer.asked:
            unasked += 1
        elif answer.reason:
            bad.append(Broken(pod.name, "wrong", answer.reason, answer.message,
                              _repair_of_answer(answer.reason, pod, names)))
        else:
            right += 1
    text = f"{right} of {len(ready)} ready pods serve the right model"
    drifts = [answer.ready["golden"]["drift"] for answer in found.answers.values()
              if isinstance(answer.ready.get("golden"), Mapping)
              and isinstance(answer.ready["golden"].get("drift"), (int, float))]
    if drifts:
        text += f", golden drift at most {max(drifts):g}"
    if unasked:
        text += f"; {unasked} were not asked, time ran out"
    link = _with_broken("answers", text, bad, fails=bool(bad))
    without = sum(not found.answers[pod.name].gateway for pod in ready if pod.name in found.answers)
    keyless = sum(found.answers[pod.name].keyless for pod in ready if pod.name in found.answers)
    if link.status == "ok" and keyless:
        return Link("answers", "warn", f"{text}; {keyless} were not asked for their model: there is no key to ask with",
                    None, f"judge-bootstrap --env {names.env} preflight")
    if link.status == "ok" and (unasked or without):
        said = f"; {without} have no gateway, so golden answers and key were not checked" if without else ""
        return Link("answers", "warn", text + said, None, f"judge-bootstrap --env {names.env} run vllm_k8s")
    return link


def _repair_of_answer(reason: str, pod: PodState, names: Names) -> str:
    if reason == "GOLDEN_DRIFT":
        return f"judge-bootstrap --env {names.env} models rollback   # or accept the new answers as the baseline"
    if reason == "WRONG_MODEL_SERVED":
        return f"judge-bootstrap --env {names.env} run vllm_k8s"
    return f"judge-bootstrap --env {names.env} logs --pod {pod.name}"


def _service(found: Found, names: Names, ready: int, wanted: int) -> Link:
    title, name = "Service", f"{names.namespace}/{names.service}"
    run = f"judge-bootstrap --env {names.env} run vllm_k8s"
    if found.service is None:
        return Link(title, "fail", f"no Service {name}", "SERVICE_EMPTY", run)
    behind = {str((endpoint.get("targetRef") or {}).get("name"))
              for part in found.endpoint_slices for endpoint in part.get("endpoints") or []
              if (endpoint.get("conditions") or {}).get("ready") is not False}
    text = f"{name}: {many(len(behind), 'ready pod')} behind it"
    if not behind:
        if wanted == 0:
            return Link(title, "warn", text, None, None)
        why = "; its selector matches none of the ready pods" if ready else ""
        return Link(title, "fail", text + why, "SERVICE_EMPTY", run)
    if len(behind) < ready:
        return Link(title, "warn", f"{text} of {ready}", None, f"kubectl -n {names.namespace} get endpointslices")
    return Link(title, "ok", text)


def _with_broken(title: str, text: str, broken: Sequence[Broken], *, fails: bool) -> Link:
    if not broken:
        return Link(title, "ok", text)
    first = broken[0]
    return Link(title, "fail" if fails else "warn", f"{text}; {first.name}: {first.message or first.state}",
                first.reason, first.repair, broken)


def _counted(states: Any) -> str:
    return ", ".join(f"{number} {state}" for state, number in Counter(states).most_common())

