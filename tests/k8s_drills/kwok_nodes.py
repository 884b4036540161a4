"""Many nodes that exist only in the API server: kwok answers for them, so that numbers can be looked at.

Scheduler, controllers and admission are real; nothing runs in the pods of such a node, which become Ready at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters import objects
from judge_bootstrap.adapters.kube import connect
from judge_lab import LabError, binaries
from judge_lab.layout import cache_dir

VERSION = "0.8.0"
# sha256 of the build in the archive of the lab's binaries; a published release file is another build of the source.
ARCHIVE_SHA256 = "aa000f9fcd9b4a7f0b955c2ea7ca5b81261cd23e69ca4436e30cc5b53c434d9d"
DOWNLOAD = f"https://github.com/kubernetes-sigs/kwok/releases/download/v{VERSION}/kwok-linux-amd64"
MARK = "judge-bootstrap.io/drill"  # label of our nodes, so that those of a drill that was cut are found
_MANAGED = "kwok.x-k8s.io/node"
_POD_CIDR = "10.79.0.0/16"

NODE_READY = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
      - {key: '.status.conditions.[] | select( .type == "Ready" ) | .status', operator: NotIn, values: ["True"]}
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
        - {type: Ready, status: "True", reason: KubeletReady, message: kwok,
           lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ $now | Quote }}}
"""
POD_READY = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
      - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
      - {key: .status.podIP, operator: DoesNotExist}
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
        - {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
        - {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
        - {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
      containerStatuses:
      {{ range .spec.containers }}
        - name: {{ .name | Quote }}
          image: {{ .image | Quote }}
          imageID: ""
          ready: true
          started: true
          restartCount: 0
          state: {running: {startedAt: {{ $now | Quote }}}}
      {{ end }}
      phase: Running
      podIP: {{ PodIPWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" )
                ( or .metadata.name "" ) ( or .metadata.namespace "" ) | Quote }}
      startTime: {{ $now | Quote }}
"""
POD_DELETE = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-delete}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions: [{key: .metadata.deletionTimestamp, operator: Exists}]
  next: {finalizers: {empty: true}, delete: true}
"""


def binary() -> Path:
    """Return kwok: from PATH, the cache, the archive of the lab's binaries, or its release. Raises LabError."""
    if on_path := shutil.which("kwok"):
        return Path(on_path)
    cached = cache_dir() / f"kwok-{VERSION}" / "kwok"
    if cached.exists():
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    if archive := os.environ.get("JUDGE_BOOTSTRAP_KUBE_ARCHIVE"):
        binaries.unpack(Path(archive), cached.parent, {"kwok": ARCHIVE_SHA256})
        return cached
    staging = cached.with_name(f".kwok.{os.getpid()}")
    try:
        with urllib.request.urlopen(DOWNLOAD, timeout=60) as source, staging.open("wb") as target:
            shutil.copyfileobj(source, target)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise LabError(f"no kwok {VERSION}: it is neither on PATH nor in {cached}, and {DOWNLOAD} cannot be had "
                       f"({error})", hint=binaries.HOW_TO_GET) from error
    staging.chmod(staging.stat().st_mode | stat.S_IXUSR)
    staging.replace(cached)
    return cached


def node(name: str, labels: Mapping[str, str], *, gpus: int = 1, taints: Sequence[Mapping[str, str]] = (),
         annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a Node as kubelet would have registered it, with room for 110 pods and `gpus` GPUs."""
    room = {"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "200Gi", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {_MANAGED: "fake", **(annotations or {})},
                     "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
                                "kubernetes.io/arch": "amd64", MARK: "kwok", **labels}},
        "spec": {"taints": list(taints)} if taints else {},
        "status": {"allocatable": room, "capacity": room,
                   "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "kwok",
                                "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                                "kubeProxyVersion": "", "machineID": "", "osImage": "", "systemUUID": ""}},
    }


@contextmanager
def kwok_nodes(kubeconfig: Path, folder: Path, nodes: Sequence[Mapping[str, Any]], *,
               seconds: float = 900) -> Iterator[list[str]]:
    """Have these Nodes in the cluster, Ready, until the block ends; yield their names.

    At the end they go, with the pods on them; so do those of a drill that was cut, at the beginning.
    Raises TimeoutError when they are not Ready after `seconds`, LabError when there is no kwok.
    """
    program, api_client = binary(), connect(str(kubeconfig))
    remove(api_client)
    stages = folder / "kwok-stages.yaml"
    stages.write_text("---".join((NODE_READY, POD_READY, POD_DELETE)))
    names = [str(item["metadata"]["name"]) for item in nodes]
    with (folder / "kwok.log").open("ab") as log:
        process = subprocess.Popen(
            [program, "--kubeconfig", kubeconfig, "--config", stages, "--manage-all-nodes=false",
             f"--manage-nodes-with-annotation-selector={_MANAGED}=fake", "--cidr", _POD_CIDR, "--node-ip", "127.0.0.1",
             "--node-lease-duration-seconds", "40", "-v", "WARN"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        _at_once(lambda item: _add(api_client, item), nodes)
        _wait(lambda: set(names) <= ready_nodes(api_client), seconds,
              lambda: f"{len(names)} kwok nodes to be Ready; kwok said: {(folder / 'kwok.log').read_text()[-600:]}")
        yield names
    finally:
        remove(api_client)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def ready_nodes(api_client: Any) -> set[str]:
    """Return the names of our nodes that are Ready now, and free of the taint that every new node begins with."""
    items = objects.request(api_client, "GET", "/api/v1/nodes", query=[("labelSelector", f"{MARK}=kwok")])["items"]
    return {item["metadata"]["name"] for item in items
            if any(entry["type"] == "Ready" and entry["status"] == "True"
                   for entry in item["status"].get("conditions") or [])
            and not any(taint["key"] == "node.kubernetes.io/not-ready" for taint in item["spec"].get("taints") or [])}


def pods_on(api_client: Any, names: Sequence[str] | set[str]) -> list[dict[str, Any]]:
    """Return all pods on these nodes."""
    wanted = set(names)
    items: list[dict[str, Any]] = objects.request(api_client, "GET", "/api/v1/pods")["items"]
    return [item for item in items if item["spec"].get("nodeName") in wanted]


def remove(api_client: Any) -> None:
    """Remove our nodes and every pod on them, without waiting for a kubelet that is not there."""
    items = objects.request(api_client, "GET", "/api/v1/nodes", query=[("labelSelector", f"{MARK}=kwok")])["items"]
    names = [item["metadata"]["name"] for item in items]
    if not names:
        return
    # First the nodes: otherwise controllers put new pods on them.
    _at_once(lambda name: _delete(api_client, f"/api/v1/nodes/{name}"), names)
    gone = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
    _at_once(lambda pod: _delete(
        api_client, f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}", gone),
        pods_on(api_client, names))


def _add(api_client: Any, item: Mapping[str, Any]) -> None:
    # As a kubelet does it: one POST, with the status.
    objects.request(api_client, "POST", "/api/v1/nodes", item, content_type="application/json")


def _delete(api_client: Any, path: str, body: Mapping[str, Any] | None = None) -> None:
    from kubernetes.client.exceptions import ApiException

    try:
        objects.request(api_client, "DELETE", path, body or {}, content_type="application/json")
    except ApiException as error:
        if error.status not in (404, 409):
            raise


def _at_once(call: Callable[[Any], None], items: Sequence[Any]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, items))


def _wait(done: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds:g} s for {what()}")
        time.sleep(0.3)
