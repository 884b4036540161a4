"""The cluster as `preflight` sees it, before a run: read, and asked by dry runs. Nothing is changed.

Lists come page by page, so that a cluster of many nodes and pods is no burden. What may not be looked at is None.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from judge_bootstrap.adapters.bounded import within
from judge_bootstrap.adapters.kube import TRIES_AGAIN, ask
from judge_bootstrap.adapters.objects import FIELD_MANAGER, MANAGED_BY, apply, read, refusal_of_pod, request
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.kube_checks import GpuNode, NamespaceFacts
from judge_bootstrap.core.kube_rights import Right
from judge_bootstrap.core.network_enforcement import CONFIGS, Agent, NetworkFacts

PAGE = 500
# The first question, all tries together: a program in the kubeconfig (`aws eks get-token`) has no limit of its own.
FIRST_SECONDS = 45.0
_AT_ONCE = 8
_PAUSE_SECONDS = 0.3
_ENFORCE = "pod-security.kubernetes.io/enforce"
_MODEL = re.compile(r"judge-bootstrap\.io/model-([0-9a-f]{40})")
_CNI_FOLDERS = ("/opt/cni/bin", "/etc/cni", "/etc/cni/net.d", "/home/kubernetes/bin", "/var/lib/cni")
_GPU = "nvidia.com/gpu"


def read_version(api_client: Any) -> str:
    """Return the API server's version, as v1.36.3. Raises BootstrapError when it gives no answer in time."""
    try:
        answer = within(FIRST_SECONDS, lambda: ask("ask for the cluster's version",
                                                   lambda: request(api_client, "GET", "/version")))
    except TimeoutError as error:
        where = api_client.configuration.host
        raise BootstrapError(f"the API server at {where} gives no answer in {FIRST_SECONDS:g} s",
                             reason="CLUSTER_UNREACHABLE", hint="kubectl cluster-info") from error
    return str(answer.get("gitVersion"))


def pages(api_client: Any, path: str, query: Sequence[tuple[str, str]] = ()) -> Iterator[dict[str, Any]]:
    """Yield the items of a list, page by page. Raises BootstrapError."""
    more = ""
    while True:
        asked = [("limit", str(PAGE)), *query, *([("continue", more)] if more else [])]

        def call(asked: Sequence[tuple[str, str]] = tuple(asked)) -> dict[str, Any]:
            return request(api_client, "GET", path, query=asked)

        page = ask(f"list {path.rpartition('/')[2]}", call)
        yield from page.get("items") or []
        more = (page.get("metadata") or {}).get("continue") or ""
        if not more:
            return


def missing_rights(api_client: Any, rights: Sequence[Right]) -> list[Right] | None:
    """Return those of the rights that we do not have; None when the API server does not say."""
    everything = Right("", "*", "*", "*")
    try:
        if _has(api_client, everything):
            return []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(pool.map(lambda right: _has(api_client, right), rights))
    except BootstrapError as error:
        if error.reason == "CLUSTER_UNREACHABLE":
            raise
        return None
    return [right for right, has in zip(rights, answers, strict=True) if not has]


def _has(api_client: Any, right: Right) -> bool:
    resource, _, sub = right.resource.partition("/")
    attributes = {"verb": right.verb, "resource": resource, "group": right.group, "namespace": right.namespace}
    if sub:
        attributes["subresource"] = sub
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes}}

    def call() -> dict[str, Any]:
        return request(api_client, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body,
                       content_type="application/json")

    answer = _again(lambda: ask("ask for its rights", call))
    return bool((answer.get("status") or {}).get("allowed"))


def _again(call: Any) -> Any:
    """Ask once more what is no change: `connect` never repeats a POST."""
    for left in reversed(range(TRIES_AGAIN)):
        try:
            return call()
        except BootstrapError as error:
            if error.reason != "CLUSTER_UNREACHABLE" or left == 0:
                raise
            time.sleep(_PAUSE_SECONDS)
    raise AssertionError("unreachable: the last try raises")


def read_namespace(api_client: Any, name: str, *, what: str, variable: str, needs: str,
                   pod: Mapping[str, Any]) -> NamespaceFacts:
    """Return what a namespace enforces, and what it answers to a dry run of `pod` (an object with spec.template)."""
    facts = NamespaceFacts(name=name, what=what, variable=variable, needs=needs, there=None)
    try:
        found = read(api_client, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    except BootstrapError as error:
        if error.reason == "CLUSTER_UNREACHABLE":
            raise
        return facts
    if found is None:
        return replace(facts, there=False)
    labels = found["metadata"].get("labels") or {}
    refusal = refusal_of_pod(api_client, pod)
    # Who may not make pods is no fault of the namespace: the Deployment's controller makes them.
    if refusal is not None and re.search(r"cannot (create|get) ", refusal):
        refusal = None
    ours = labels.get(MANAGED_BY) == FIELD_MANAGER
    # The role sets the level of a namespace that it made; what else has something against the pod stays.
    if ours and refusal is not None and "violates PodSecurity" in refusal:
        refusal = None
    return replace(facts, there=True, level=labels.get(_ENFORCE), ours=ours, refusal=refusal)


def serving_pod(namespace: str, image: str, store: str, *, host_path: bool) -> dict[str, Any]:
    """Return what a serving pod asks of a namespace, as the owner of one."""
    volumes = [{"name": "models", "hostPath": {"path": store, "type": "Directory"}}] if host_path else []
    mounts = [{"name": "models", "mountPath": "/models", "readOnly": True}] if host_path else []
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    return _owner(namespace, image, "judge-preflight-serving", security, volumes, mounts)


def loader_pod(namespace: str, image: str, disk: str) -> dict[str, Any]:
    """Return what a loader's pod asks of a namespace, as the owner of one; `disk` is the folder on the node."""
    return _owner(namespace, image, "judge-preflight-loader",
                  {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
                  [{"name": "disk", "hostPath": {"path": disk, "type": "Directory"}}],
                  [{"name": "disk", "mountPath": disk}])


def _owner(namespace: str, image: str, name: str, security: Mapping[str, Any], volumes: list[Any],
           mounts: list[Any]) -> dict[str, Any]:
    container = {"name": "try", "image": image, "command": ["python3", "-V"], "volumeMounts": mounts,
                 "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
                 "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                     "capabilities": {"drop": ["ALL"]}}}
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "securityContext": dict(security),
            "containers": [container], "volumes": volumes}
    return {"kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {"template": {"metadata": {"labels": {MANAGED_BY: FIELD_MANAGER}}, "spec": spec}}}


def read_gpu_nodes(api_client: Any, selector: str, taint: str, ours: Mapping[str, str]) -> list[GpuNode] | None:
    """Return the nodes that match the selector; None when nodes may not be listed. `ours`: labels of our own pods."""
    try:
        nodes = list(pages(api_client, "/api/v1/nodes", [("labelSelector", selector)] if selector else []))
    except BootstrapError as error:
        _unless_unreachable(error)
        return None
    used = _used_gpus(api_client, {node["metadata"]["name"] for node in nodes}, ours) if nodes else {}
    return [_gpu_node(node, taint, used) for node in nodes]


def _gpu_node(node: Mapping[str, Any], taint: str, used: Mapping[str, int] | None) -> GpuNode:
    name, spec, status = node["metadata"]["name"], node.get("spec") or {}, node.get("status") or {}
    labels = node["metadata"].get("labels") or {}
    models = sorted(found[1] for key, value in labels.items() if value == "ready" and (found := _MODEL.fullmatch(key)))
    return GpuNode(
        name=name, ready=any(item["type"] == "Ready" and item["status"] == "True"
                             for item in status.get("conditions") or []),
        schedulable=not spec.get("unschedulable"), gpus=_count((status.get("allocatable") or {}).get(_GPU)),
        used=None if used is None else used.get(name, 0), models=tuple(models),
        waits=any(item.get("key") == taint for item in spec.get("taints") or []))


def _used_gpus(api_client: Any, names: set[str], ours: Mapping[str, str]) -> dict[str, int] | None:
    """Return by node the GPUs that pods of others hold; None when pods may not be listed in all namespaces."""
    running = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="
    found: dict[str, int] = {}
    try:
        for pod in pages(api_client, "/api/v1/pods", [("fieldSelector", running)]):
            node = (pod.get("spec") or {}).get("nodeName")
            is_ours = (pod["metadata"].get("labels") or {}).items() >= ours.items()
            if node not in names or is_ours:
                continue
            wanted = sum(_count((((item.get("resources") or {}).get("limits")) or {}).get(_GPU))
                         for item in pod["spec"].get("containers") or [])
            if wanted:
                found[node] = found.get(node, 0) + wanted
    except BootstrapError as error:
        _unless_unreachable(error)
        return None
    return found


def _unless_unreachable(error: BootstrapError) -> None:
    """Swallow a "no" of the API server; raise anything else."""
    if error.reason not in ("CLUSTER_DENIED", "CLUSTER_REFUSED"):
        raise error


def _count(text: Any) -> int:
    return int(text) if str(text).isdigit() else 0


def try_local_volume(api_client: Any, store: str, selector: Mapping[str, str]) -> tuple[bool, str | None]:
    """Return whether a local volume could be tried by a dry run, and what the API server has against it."""
    terms = [{"key": key, "operator": "In", "values": [value]} for key, value in selector.items()] or \
        [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "judge-preflight"},
              "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "storageClassName": "",
                       "persistentVolumeReclaimPolicy": "Retain", "local": {"path": store},
                       "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": terms}]}}}}
    try:
        apply(api_client, [volume], check=True)
    except BootstrapError as error:
        if error.reason == "CLUSTER_DENIED":
            return False, None
        if error.reason == "CLUSTER_UNREACHABLE":
            raise
        return True, error.message.partition(": ")[2] or error.message
    return True, None


def read_network(api_client: Any) -> NetworkFacts:
    """Return what the cluster shows of its network plugin."""
    try:
        agents = [_agent(item) for item in pages(api_client, "/apis/apps/v1/daemonsets")]
    except BootstrapError as error:
        _unless_unreachable(error)
        return NetworkFacts(None, {})
    configs = {name: data for name in CONFIGS if (data := _config(api_client, name)) is not None}
    try:
        # One page is enough: all nodes of a cluster have the same kind of kubelet.
        nodes: Iterable[dict[str, Any]] = ask("list the nodes", lambda: request(
            api_client, "GET", "/api/v1/nodes", query=[("limit", str(PAGE))])).get("items") or []
    except BootstrapError as error:
        _unless_unreachable(error)
        nodes = []
    nodes = list(nodes)
    kubelets = {str(((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion")) for node in nodes}
    labels = {key for node in nodes for key in node["metadata"].get("labels") or {}}
    return NetworkFacts(agents, configs, frozenset(kubelets), frozenset(labels))


def _config(api_client: Any, name: str) -> Mapping[str, str] | None:
    try:
        found = read(api_client, {"apiVersion": "v1", "kind": "ConfigMap",
                                  "metadata": {"name": name, "namespace": "kube-system"}})
    except BootstrapError as error:
        _unless_unreachable(error)
        return None
    return None if found is None else found.get("data") or {}


def _agent(item: Mapping[str, Any]) -> Agent:
    spec = ((item.get("spec") or {}).get("template") or {}).get("spec") or {}
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    paths = {str((volume.get("hostPath") or {}).get("path") or "").rstrip("/") for volume in spec.get("volumes") or []}
    status = item.get("status") or {}
    return Agent(
        namespace=item["metadata"].get("namespace", ""), name=item["metadata"]["name"],
        images=[str(container.get("image")) for container in containers],
        arguments=[text for container in containers
                   for text in [*(container.get("command") or []), *(container.get("args") or [])]],
        wanted=int(status.get("desiredNumberScheduled") or 0), ready=int(status.get("numberReady") or 0),
        installs_cni=bool(paths & set(_CNI_FOLDERS)))
