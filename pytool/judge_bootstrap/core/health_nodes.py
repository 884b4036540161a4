"""One GPU node of the cluster: is the machine well, and is the model on it? Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from judge_bootstrap.core.kube_objects import condition, name_of
from judge_bootstrap.core.problems import one_line

if TYPE_CHECKING:
    from judge_bootstrap.core.health_pods import Names

PREFIX = "judge-bootstrap.io/"
MODEL_LABEL = f"{PREFIX}model-"
STATE_ANNOTATION = f"{PREFIX}model-state"
_PRESSURES = ("DiskPressure", "MemoryPressure", "PIDPressure")


@dataclass(frozen=True)
class NodeState:
    """What is known of a node. `machine`: ready, not ready, without GPU, cordoned, under pressure; `state`: that of the
    model on it (warm, syncing, corrupt, ...), or of the machine where that is not well.

    `usable`: a serving pod could start on it. `checked_at`: when the loader last reported, as it wrote it.
    """

    name: str
    machine: str
    state: str
    gpus: int
    usable: bool
    reason: str | None
    message: str
    repair: str | None
    checked_at: str | None
    percent: int | None
    gpu: str | None

    @property
    def machine_bad(self) -> bool:
        """True when the machine itself cannot take a pod."""
        return self.machine != "ready"


def node_state(node: Mapping[str, Any], names: Names, commit: str | None) -> NodeState:
    """Return the state of a node for pods of that commit (None: of any)."""
    labels = node["metadata"].get("labels") or {}
    report = report_of(node)
    gpu = labels.get("nvidia.com/gpu.product") or labels.get("node.kubernetes.io/instance-type")
    gpus = _whole((node.get("status") or {}).get("allocatable", {}).get("nvidia.com/gpu"))
    machine = _machine(node, gpus)
    if machine is not None:
        state, reason, message, repair = machine
        word = state
    else:
        word, (state, reason, message, repair) = "ready", _model(node, labels, report, names, commit)
    percent = report.get("percent")
    return NodeState(name=name_of(node), machine=word, state=state, gpus=gpus, usable=state == "warm", reason=reason,
                     message=message, repair=repair, checked_at=report.get("at"),
                     percent=percent if isinstance(percent, int) else None, gpu=gpu)


def report_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the loader last wrote about the node's model; empty where it wrote nothing that can be read."""
    text = (node["metadata"].get("annotations") or {}).get(STATE_ANNOTATION)
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


_Finding = tuple[str, str | None, str, str | None]


def _machine(node: Mapping[str, Any], gpus: int) -> _Finding | None:
    name = name_of(node)
    look = f"kubectl describe node {name}"
    ready = condition(node, "Ready") or {}
    if ready.get("status") != "True":
        since = f" since {ready['lastTransitionTime']}" if ready.get("lastTransitionTime") else ""
        said = one_line(ready.get("message") or "its kubelet has never reported")
        return "not ready", "NODE_UNREACHABLE", f"Ready is {ready.get('status', 'Unknown')}{since}: {said}", look
    pressed = [kind for kind in _PRESSURES if (condition(node, kind) or {}).get("status") == "True"]
    if pressed:
        return "under pressure", "SPACE_SHORT", f"{', '.join(pressed)}: it takes no new pods", look
    if node["spec"].get("unschedulable"):
        # Somebody did that on purpose, so it has no code.
        return "cordoned", None, "cordoned, so it takes no new pods", f"kubectl uncordon {name}"
    if gpus == 0:
        return ("without GPU", "GPU_NONE", "it offers no nvidia.com/gpu",
                f"{look}   # does the NVIDIA device plugin run there?")
    return None


def _model(node: Mapping[str, Any], labels: Mapping[str, str], report: Mapping[str, Any], names: Names,
           commit: str | None) -> _Finding:
    name = name_of(node)
    held = [key.removeprefix(MODEL_LABEL) for key, value in labels.items()
            if key.startswith(MODEL_LABEL) and value == "ready"]
    vouched = commit in held if commit else bool(held)
    tainted = any(taint.get("key") == names.taint for taint in node["spec"].get("taints") or [])
    if vouched and not tainted:
        return "warm", None, "", None
    bring = f"judge-bootstrap --env {names.env} models preload {name}"
    state, code = str(report.get("state") or ""), report.get("reason")
    said = one_line(report["message"]) if report.get("message") else ""
    if state == "syncing":
        percent = report.get("percent")
        how_far = f" ({percent} %)" if isinstance(percent, int) else ""
        return ("syncing", str(code or "MODEL_INCOMPLETE"), f"the model is being fetched{how_far}"
                f"{': ' + said if said else ''}", f"judge-bootstrap --env {names.env} logs --loader -f")
    if state in ("failed", "corrupt", "incomplete"):
        reason = str(code or ("INTEGRITY_MISMATCH" if state == "corrupt" else "MODEL_INCOMPLETE"))
        return state, reason, said or f"the loader says {state}", repair_of_model(reason, name, names.env)
    if vouched:
        return ("tainted", "MODEL_INCOMPLETE", f"has the model, and still the taint {names.taint}",
                bring if names.loader else f"kubectl taint node {name} {names.taint}-")
    if held:
        return ("other commit", "MODEL_STALE", f"has {', '.join(one[:12] for one in sorted(held))}, wanted "
                f"{str(commit)[:12]}", bring)
    if not tainted:
        # No taint keeps other pods away: only the label's absence keeps ours from it.
        return "without model", "MODEL_INCOMPLETE", "nothing vouches for a model on it", bring
    return "waiting", "MODEL_INCOMPLETE", "nobody has reported on its model yet", bring


def repair_of_model(reason: str, name: str, environment: str) -> str:
    """Return the command that repairs the model of a node; `reason` is what the loader says of it, `name` the Node."""
    env = f"judge-bootstrap --env {environment}"
    if reason in ("SOURCE_DENIED", "TOKEN_UNAVAILABLE"):
        return f"{env} secrets apply   # then: {env} models preload {name}"
    if reason == "SPACE_SHORT":
        return f"{env} models prune --keep-free 20% --check   # then: {env} models preload {name}"
    if reason.startswith(("DISK_", "FS_", "MOUNT_")):
        return f"{env} run nvme   # the disk of {name}; where ssh does not reach it: {env} run nvme_pod"
    return f"{env} models preload {name}"


def _whole(text: Any) -> int:
    return int(text) if str(text).isdigit() else 0
