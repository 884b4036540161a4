"""Run judge-node on a node through Kubernetes: a privileged pod that enters the host's namespaces, and its answer.

For a node that ssh does not reach. What is needed is a kubelet that reports, and an API server that reaches it for the
pod's log. The pod is bound by name, so neither taints nor a scheduler have a say, and it uses the host's network, so
neither has a CNI plugin. Nothing comes from the image but `sh` and `nsenter` (util-linux): python3, mkfs, mdadm, mount
and systemctl are the host's own.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from judge_bootstrap.adapters.kube import server_message
from judge_bootstrap.core.errors import BootstrapError, Refusal
from judge_bootstrap.core.problems import one_line

MANAGED_BY = {"app.kubernetes.io/name": "judge-node", "app.kubernetes.io/managed-by": "judge-bootstrap"}
RUN_ANNOTATION = "judge-bootstrap.io/run"
POLL_SECONDS = 0.5
# Another run reads its pod's log and removes it at once; what lies longer was left by one that was killed.
LEFTOVER_SECONDS = 20.0
# How long a pod may take to go: its grace period, and kubelet's clean-up.
GRACE_SECONDS = 30
REMOVAL_SECONDS = GRACE_SECONDS + 20.0
# The log may lack its last line for a moment after the container has ended.
LOG_READS = 4
# Nothing of the image's environment (LD_LIBRARY_PATH!) may reach the host's programs.
HOST_ENVIRONMENT = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root"
# The file is opened in the pod, before its view of files is left: a descriptor is not bound to a namespace.
ENTER = ("exec nsenter --target 1 --mount --uts --ipc --net -- "
         f"env -i {HOST_ENVIRONMENT} python3 -I - </judge-node/program.py")
# Reasons of a waiting container that waiting longer does not cure.
HOPELESS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
            "CreateContainerError", "RunContainerError")
# What containerd calls a container whose command the image does not have.
NO_COMMAND = "StartError"


class AlreadyThere(Exception):
    """The API server has an object of this name."""


class Cluster(Protocol):
    """What is asked of the API server, in one namespace; every answer is the object's JSON form.

    Each call raises BootstrapError when the API server cannot be asked or says no.
    """

    def nodes(self) -> list[Mapping[str, Any]]: ...

    def create_pod(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]: ...  # AlreadyThere

    def create_config_map(self, manifest: Mapping[str, Any]) -> None: ...

    def pod(self, name: str) -> Mapping[str, Any] | None: ...

    def delete_pod(self, name: str, uid: str) -> None: ...

    def delete_config_map(self, name: str) -> None: ...

    def last_warning(self, name: str) -> str | None: ...

    def log(self, name: str) -> str: ...


@dataclass(frozen=True)
class Request:
    """What is to run, and where.

    `host` is the inventory's name of the node (the instance id), `address` its IP for clusters without cloud provider;
    `program` is a Python script that prints one JSON object. `start_seconds`: until the container runs, image pull
    included; `deadline_seconds`: how long it may run. `run` tells this run's pod from another's.
    """

    host: str
    address: str | None
    namespace: str
    image: str
    program: str
    start_seconds: int
    deadline_seconds: int
    run: str
    by: str


@dataclass(frozen=True)
class Ended:
    """How the program ended on the node, and all that it wrote."""

    node: str
    status: int
    output: str


def run(cluster: Cluster, request: Request, *, warn: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> Ended:
    """Run the program in a pod on the node and return what it wrote; the pod and its ConfigMap are gone afterwards.

    Raises BootstrapError: NODE_NOT_JOINED, NODE_UNREACHABLE (kubelet is silent), LOCKED (another run's pod is there),
    POD_PENDING (it cannot start), TOOL_MISSING (no nsenter in the image, no python3 on the host).
    """
    node = find_node(cluster.nodes(), request.host, request.address)
    check_kubelet(node, request.host)
    name = object_name(node["metadata"]["name"])
    try:
        uid = _claim(cluster, request, node["metadata"]["name"], clock, sleep)
        cluster.create_config_map(config_map(request, name, uid))
        pod = _wait_until_ended(cluster, request, name, clock, sleep)
        ended = _ended(cluster, request, node["metadata"]["name"], pod, sleep)
    except BaseException:
        # Also when we are told to stop, and then there are ten seconds: enough to ask, not to see the pod go.
        _remove(cluster, request, name, warn)
        raise
    if _remove(cluster, request, name, warn):
        _wait_until_gone(cluster, name, uid, clock() + REMOVAL_SECONDS, clock, sleep)
    return ended


def find_node(nodes: Sequence[Mapping[str, Any]], host: str, address: str | None) -> Mapping[str, Any]:
    """Return the Node of an inventory host: by instance id (the end of providerID), else by address.

    Raises BootstrapError NODE_NOT_JOINED.
    """
    by_id = [node for node in nodes if str(node["spec"].get("providerID") or "").rpartition("/")[2] == host]
    by_address = [node for node in nodes if address and any(
        found["type"] == "InternalIP" and found["address"] == address
        for found in (node.get("status") or {}).get("addresses") or [])]
    for found in (by_id, by_address):
        if len(found) == 1:
            return found[0]
    raise BootstrapError(
        f"none of the cluster's {len(nodes)} nodes is {host} (looked for that instance id at the end of providerID, "
        f"and for the address {address or 'of the inventory, which has none'})", reason="NODE_NOT_JOINED",
        hint="kubectl get nodes -o custom-columns=NAME:.metadata.name,ID:.spec.providerID   # the right cluster? "
             "vllm_k8s_kubeconfig, vllm_k8s_context")


def check_kubelet(node: Mapping[str, Any], host: str) -> None:
    """Raise BootstrapError NODE_UNREACHABLE when no pod can run on the node because its kubelet or runtime is down.

    A node that is not ready for want of a CNI plugin will do: the pod uses the host's network.
    """
    name = node["metadata"]["name"]
    conditions = (node.get("status") or {}).get("conditions") or []
    ready: Mapping[str, Any] = next((item for item in conditions if item["type"] == "Ready"), {})
    status, message = ready.get("status", "Unknown"), str(ready.get("message") or "its kubelet has never reported")
    if status == "True" or (status == "False" and "NetworkPluginNotReady" in message):
        return
    since = ready.get("lastTransitionTime")
    raise BootstrapError(
        f"no pod can run on node {name}: Ready is {status}{f' since {since}' if since else ''} ({one_line(message)})",
        reason="NODE_UNREACHABLE",
        hint=f"kubectl describe node {name}   # without kubelet only the console is left, or a replacement of {host}")


def object_name(node: str) -> str:
    """Return the name of a node's pod: one for each node, so that two runs cannot work on one at a time."""
    readable = re.sub(r"[^a-z0-9]+", "-", node.lower()).strip("-")[:40].rstrip("-")
    return f"judge-node-{readable}-{hashlib.sha256(node.encode()).hexdigest()[:8]}"


def config_map_name(request: Request, name: str) -> str:
    """Return the name of this run's ConfigMap: never that of an earlier one, which may be on its way out."""
    return f"{name}-{request.run[:8]}"


def pod_manifest(request: Request, node: str) -> dict[str, Any]:
    """Return the pod. It asks for no CPU or memory: a full node would turn it away."""
    name = object_name(node)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": request.namespace, "labels": dict(MANAGED_BY),
            "annotations": {RUN_ANNOTATION: request.run, "judge-bootstrap.io/by": request.by},
        },
        "spec": {
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            # kubelet turns all other pods away from a node whose root disk is full, as it is when models went there
            # because the local disk was not mounted.
            "priorityClassName": "system-node-critical",
            "restartPolicy": "Never",
            # Counted from the moment kubelet takes the pod, so the image's pull is in it.
            "activeDeadlineSeconds": request.start_seconds + request.deadline_seconds,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "hostPID": True,
            "hostNetwork": True,
            "dnsPolicy": "Default",
            "containers": [{
                "name": "judge-node",
                "image": request.image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", ENTER],
                "workingDir": "/",
                "securityContext": {"privileged": True, "runAsUser": 0, "runAsGroup": 0},
                "volumeMounts": [{"name": "judge-node", "mountPath": "/judge-node", "readOnly": True}],
            }],
            "volumes": [{"name": "judge-node",
                         "configMap": {"name": config_map_name(request, name), "defaultMode": 0o400}}],
        },
    }


def config_map(request: Request, name: str, pod_uid: str) -> dict[str, Any]:
    """Return the ConfigMap with the program. It belongs to the pod, so that it goes with it whoever removes that."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_map_name(request, name), "namespace": request.namespace, "labels": dict(MANAGED_BY),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod_uid}],
        },
        "immutable": True,
        "data": {"program.py": request.program},
    }


def answers(output: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a pod's log, one a line: what mkfs and others write to stderr is in it too."""
    found = []
    for line in output.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _claim(cluster: Cluster, request: Request, node: str, clock: Callable[[], float],
           sleep: Callable[[float], None]) -> str:
    """Create the pod and return its uid; what an earlier run has left goes first. Raises Refusal LOCKED."""
    manifest, name = pod_manifest(request, node), object_name(node)
    seen_since: dict[str, float] = {}
    give_up = clock() + LEFTOVER_SECONDS + REMOVAL_SECONDS
    while True:
        try:
            return str(cluster.create_pod(manifest)["metadata"]["uid"])
        except AlreadyThere:
            there = cluster.pod(name)
        if there is not None:
            leaving = there["metadata"].get("deletionTimestamp")
            ours = there["metadata"].get("labels", {}).items() >= MANAGED_BY.items()
            if clock() >= give_up or not ours or not (leaving or _phase(there) in ("Succeeded", "Failed")):
                raise _locked(request, node, name, there)
            since = seen_since.setdefault(there["metadata"]["uid"], clock())
            if not leaving and clock() - since >= LEFTOVER_SECONDS:
                cluster.delete_pod(name, there["metadata"]["uid"])
        sleep(POLL_SECONDS)


def _locked(request: Request, node: str, name: str, pod: Mapping[str, Any]) -> Refusal:
    meta = pod["metadata"]
    by = meta.get("annotations", {}).get("judge-bootstrap.io/by", "somebody else")
    return Refusal(
        f"pod {request.namespace}/{name} of {by} works on node {node} since {meta.get('creationTimestamp')} "
        f"(phase {_phase(pod)}); one at a time", reason="LOCKED",
        hint=f"kubectl -n {request.namespace} logs -f {name}   # wait for it; if nobody does: "
             f"kubectl -n {request.namespace} delete pod {name}")


def _wait_until_ended(cluster: Cluster, request: Request, name: str, clock: Callable[[], float],
                      sleep: Callable[[float], None]) -> Mapping[str, Any]:
    """Return the pod when its container has ended. Raises BootstrapError when it cannot start, or never ends."""
    started = clock()
    running_since: float | None = None
    while True:
        pod = cluster.pod(name)
        if pod is None or pod["metadata"].get("annotations", {}).get(RUN_ANNOTATION) != request.run:
            raise BootstrapError(f"pod {request.namespace}/{name} was removed by somebody else before it had ended",
                                 hint="run the same command again: it does only what is left")
        if _phase(pod) in ("Succeeded", "Failed"):
            return pod
        state = _container_state(pod)
        if "running" in state:
            running_since = running_since if running_since is not None else clock()
            # kubelet ends it at the deadline; a kubelet that is gone does not.
            patience = request.start_seconds + request.deadline_seconds + REMOVAL_SECONDS
            if clock() - running_since >= patience:
                raise BootstrapError(
                    f"pod {name} still runs {patience:g} s after its start, though its deadline has passed: the node's "
                    "kubelet does not report any more", reason="NODE_UNREACHABLE",
                    hint=f"kubectl describe node {pod['spec']['nodeName']}")
        else:
            hopeless = (state.get("waiting") or {}).get("reason") in HOPELESS
            if hopeless or clock() - started >= request.start_seconds:
                raise _not_started(cluster, request, pod, None if hopeless else request.start_seconds)
        sleep(POLL_SECONDS)


def _not_started(cluster: Cluster, request: Request, pod: Mapping[str, Any], waited: int | None) -> BootstrapError:
    """Return the error of a pod whose container does not run: what kubelet says of it, and the next command."""
    name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    state, status = _container_state(pod), pod.get("status") or {}
    waiting = state.get("waiting") or state.get("terminated") or {}
    reason = str(waiting.get("reason") or status.get("reason") or "")
    found = waiting.get("message") or status.get("message") or cluster.last_warning(name) or "no event says why"
    hint = f"kubectl describe node {node}; kubectl -n {request.namespace} get events"
    if "Image" in reason or reason == NO_COMMAND:
        hint = (f"kubectl get node {node} -o jsonpath='{{.status.images[*].names}}'   # then -e nvme_pod_image=IMAGE, "
                "one that is there; it needs sh and nsenter")
    elif waited is not None:
        hint = f"kubectl describe node {node}   # or, for a slow pull, -e nvme_pod_start_seconds=N"
    after = f" after {waited} s" if waited is not None else ""
    return BootstrapError(f"the pod on node {node} (image {request.image}) has not started{after}: "
                          f"{f'{reason}: ' if reason else ''}{one_line(found)}", reason="POD_PENDING", hint=hint)


def _ended(cluster: Cluster, request: Request, node: str, pod: Mapping[str, Any],
           sleep: Callable[[float], None]) -> Ended:
    """Return the container's exit status and log. Raises BootstrapError when it never ran, or ran too long."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    terminated = _container_state(pod).get("terminated")
    if status.get("reason") == "DeadlineExceeded":
        raise BootstrapError(
            f"judge-node on {node} was stopped after {_deadline(pod)} s; what it had done stands",
            hint="run the same command again, with more time: -e nvme_pod_deadline_seconds=N")
    if terminated is None or terminated.get("reason") == NO_COMMAND:
        # Without a container kubelet turned the pod away (OutOfpods, Evicted, ...).
        raise _not_started(cluster, request, pod, None)
    code = int(terminated.get("exitCode", -1))
    output = cluster.log(name)
    for _ in range(LOG_READS - 1):
        if answers(output) or code > 1:
            break
        sleep(POLL_SECONDS)
        output = cluster.log(name)
    if code == 127 and not answers(output):
        raise _tool_missing(request, node, output)
    return Ended(node, code, output)


def _tool_missing(request: Request, node: str, output: str) -> BootstrapError:
    said = one_line(output or "nothing")
    if "python3" in output:
        return BootstrapError(f"node {node} has no python3, wanted 3.9 or newer on the host itself (it said: {said})",
                              reason="TOOL_MISSING", hint="replace the node by one of an AL2023 node group")
    return BootstrapError(
        f"image {request.image} cannot enter the host, wanted sh and nsenter in it (it said: {said})",
        reason="TOOL_MISSING", hint="-e nvme_pod_image=IMAGE, one with util-linux")


def _remove(cluster: Cluster, request: Request, name: str, warn: Callable[[str], None]) -> bool:
    """Remove this run's pod, if it is there, and its ConfigMap; what cannot be removed is said, and raises nothing."""
    try:
        pod = cluster.pod(name)
        ours = pod is not None and pod["metadata"].get("annotations", {}).get(RUN_ANNOTATION) == request.run
        if pod is not None and ours:
            cluster.delete_pod(name, pod["metadata"]["uid"])
            cluster.delete_config_map(config_map_name(request, name))
        return ours
    except BootstrapError as error:
        warn(f"pod {request.namespace}/{name} may be left: {error.message}. "
             f"Next: kubectl -n {request.namespace} delete pod {name}   # its ConfigMap goes with it")
        return False


def _wait_until_gone(cluster: Cluster, name: str, uid: str, give_up: float, clock: Callable[[], float],
                     sleep: Callable[[float], None]) -> None:
    """Wait for kubelet to let go of the pod, so that the next run finds its name free; no longer than needed."""
    try:
        while clock() < give_up and (pod := cluster.pod(name)) is not None and pod["metadata"]["uid"] == uid:
            sleep(POLL_SECONDS)
    except BootstrapError:
        return  # it was told to go, and the answer is here: not worth failing for


def _deadline(pod: Mapping[str, Any]) -> int:
    return int(pod["spec"]["activeDeadlineSeconds"])


def _phase(pod: Mapping[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase") or "unknown")


def _container_state(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
    state: Mapping[str, Any] = statuses[0].get("state") or {}
    return state


class KubernetesCluster:
    """The real one, over the Kubernetes client."""

    def __init__(self, api_client: Any, namespace: str) -> None:
        from kubernetes import client

        self._api_client, self._namespace, self._core = api_client, namespace, client.CoreV1Api(api_client)

    def nodes(self) -> list[Mapping[str, Any]]:
        found = self._ask("list the nodes", lambda: self._core.list_node(_request_timeout=_TIMEOUTS))
        return [self._json(node) for node in found.items]

    def create_pod(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._json(self._ask("create the pod", lambda: self._core.create_namespaced_pod(
            self._namespace, manifest, _request_timeout=_TIMEOUTS)))

    def create_config_map(self, manifest: Mapping[str, Any]) -> None:
        self._ask("create the ConfigMap", lambda: self._core.create_namespaced_config_map(
            self._namespace, manifest, _request_timeout=_TIMEOUTS))

    def pod(self, name: str) -> Mapping[str, Any] | None:
        found = self._ask("read the pod", lambda: self._core.read_namespaced_pod(
            name, self._namespace, _request_timeout=_TIMEOUTS), absent_is_none=True)
        return None if found is None else self._json(found)

    def delete_pod(self, name: str, uid: str) -> None:
        self._ask("delete the pod", lambda: self._core.delete_namespaced_pod(
            name, self._namespace, body={"preconditions": {"uid": uid}}, _request_timeout=_TIMEOUTS),
            absent_is_none=True)

    def delete_config_map(self, name: str) -> None:
        self._ask("delete the ConfigMap", lambda: self._core.delete_namespaced_config_map(
            name, self._namespace, _request_timeout=_TIMEOUTS), absent_is_none=True)

    def last_warning(self, name: str) -> str | None:
        fields = f"involvedObject.kind=Pod,involvedObject.name={name},type=Warning"
        found = self._ask("read the pod's events", lambda: self._core.list_namespaced_event(
            self._namespace, field_selector=fields, _request_timeout=_TIMEOUTS))
        events = [self._json(event) for event in found.items]
        events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return f"{events[-1].get('reason')}: {events[-1].get('message')}" if events else None

    def log(self, name: str) -> str:
        # Raw, because the client turns the text into the repr of bytes.
        answer = self._ask("read the pod's log, which the API server fetches from kubelet (port 10250)",
                           lambda: self._core.read_namespaced_pod_log(
                               name, self._namespace, _preload_content=False, _request_timeout=_TIMEOUTS))
        return str(answer.data.decode("utf-8", "replace"))

    def _json(self, item: Any) -> Mapping[str, Any]:
        plain: Mapping[str, Any] = self._api_client.sanitize_for_serialization(item)
        return plain

    def _ask(self, what: str, call: Callable[[], Any], *, absent_is_none: bool = False) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call()
        except ApiException as error:
            if error.status == 404 and absent_is_none:
                return None
            said = server_message(error)
            if error.status == 409 and "already exists" in said:
                raise AlreadyThere(said) from error
            raise refused(what, self._namespace, error.status, said) from error
        except (HTTPError, OSError) as error:
            raise BootstrapError(f"cannot {what}: the API server does not answer ({one_line(error)})",
                                 hint="kubectl cluster-info   # vllm_k8s_kubeconfig, vllm_k8s_context") from error


# Seconds to connect and to wait for an answer.
_TIMEOUTS = (5, 30)


def refused(what: str, namespace: str, status: int | None, said: str) -> BootstrapError:
    """Return the error for a call that the API server turned down, with the next command."""
    reason = "POD_PENDING" if what == "create the pod" else None
    hint = f"kubectl -n {namespace} get events"
    if "violates PodSecurity" in said:
        hint = (f"-e nvme_pod_namespace=NAMESPACE, one that admits privileged pods (as kube-system does), or "
                f"kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged --overwrite")
    elif status == 404 and "namespaces" in said:
        hint = f"kubectl create namespace {namespace}, or -e nvme_pod_namespace=kube-system"
    elif status in (401, 403):
        hint = f"kubectl -n {namespace} auth can-i --list   # wanted: nodes, pods, pods/log, configmaps (README)"
    return BootstrapError(f"cannot {what} in namespace {namespace}: {status} {said}", reason=reason, hint=hint)
