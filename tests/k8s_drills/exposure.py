"""R10: what of a served pod can be reached without the key, and which of the namespace's pods need an exemption.

Asked of a real pod that the role applied, straight at its address, as anything in the cluster could where no network
policy is enforced.
"""

from __future__ import annotations

import copy
import ipaddress
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gateway_routes
from gateway_routes import Answer
from judge_bootstrap.adapters.objects import request
from kubernetes import client, stream
from kubernetes.client.exceptions import ApiException

# How a request is turned away: no answer at all, a line that is no HTTP, no key, no such route.
REFUSALS = {0, 400, 401, 404}
# A websocket that is refused before it begins is answered with 403 by the server itself.
WEBSOCKET_REFUSALS = REFUSALS | {403}
_LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.")


@dataclass(frozen=True)
class Pod:
    """One pod of the server, ready."""

    namespace: str
    name: str
    address: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"


def served_pod(api_client: Any, namespace: str) -> Pod:
    """Return a ready pod of the server. Raises LookupError when there is none."""
    items = request(api_client, "GET", f"/api/v1/namespaces/{namespace}/pods",
                    query=[("labelSelector", "app.kubernetes.io/name=judge-inference")])["items"]
    for item in items:
        if any(entry["type"] == "Ready" and entry["status"] == "True" for entry in item["status"]["conditions"]):
            (container,) = [entry for entry in item["spec"]["containers"] if entry["name"] == "vllm"]
            return Pod(namespace, item["metadata"]["name"], item["status"]["podIP"],
                       container["ports"][0]["containerPort"])
    raise LookupError(f"no pod of the server is ready in namespace {namespace}")


def routes(api_client: Any, pod: Pod) -> dict[str, tuple[str, ...]]:
    """Return the routes that this pod's vLLM said it has when it started."""
    log = client.CoreV1Api(api_client).read_namespaced_pod_log(
        pod.name, pod.namespace, container="vllm", limit_bytes=1 << 20, _preload_content=False).data.decode()
    return gateway_routes.routes(log)


def answered(found: Mapping[str, tuple[str, ...]], requests: Iterable[tuple[str, str]], url: str) -> list[Answer]:
    """Send the requests and one websocket for each route, without a key; return what was not turned away."""
    told = [answer for answer in gateway_routes.probe(url, requests)
            if answer.status not in REFUSALS and not gateway_routes.is_open(answer.method, answer.path)]
    sockets = [Answer("WEBSOCKET", path, gateway_routes.websocket(url, path)) for path in found]
    return told + [answer for answer in sockets if answer.status not in WEBSOCKET_REFUSALS]


def listening(api_client: Any, pod: Pod) -> set[str]:
    """Return what listens in the pod's network namespace beyond loopback, as proto:port."""
    said = stream.stream(
        client.CoreV1Api(api_client).connect_get_namespaced_pod_exec, pod.name, pod.namespace, container="vllm",
        command=["cat", "/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"],
        stdout=True, stderr=True, stdin=False, tty=False)
    return sockets(said)


def sockets(tables: str) -> set[str]:
    """Return proto:port of the listening sockets beyond loopback in tables of /proc/net, one after the other."""
    found, protocols = set(), iter(("tcp", "tcp", "udp", "udp"))
    protocol = ""
    for line in tables.splitlines():
        fields = line.split()
        if "local_address" in line:
            protocol = next(protocols)
        elif len(fields) > 3 and fields[3] == {"tcp": "0A", "udp": "07"}[protocol]:
            address, _, port = fields[1].partition(":")
            if not _LOOPBACK.match(_address(address)):
                found.add(f"{protocol}:{int(port, 16)}")
    return found


def _address(text: str) -> str:
    """Return an address as people write it; the kernel prints it in words of the machine's byte order."""
    words = [bytes.fromhex(text[at:at + 8])[::-1] for at in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def pod_templates(api_client: Any, namespace: str) -> dict[str, dict[str, Any]]:
    """Return the pod template of every workload of a namespace, by Kind/name."""
    kinds = (("apps/v1", "deployments", "Deployment"), ("apps/v1", "daemonsets", "DaemonSet"),
             ("apps/v1", "statefulsets", "StatefulSet"), ("batch/v1", "jobs", "Job"))
    return {f"{kind}/{item['metadata']['name']}": item["spec"]["template"] for version, plural, kind in kinds
            for item in request(api_client, "GET", f"/apis/{version}/namespaces/{namespace}/{plural}")["items"]}


@contextmanager
def restricted_namespace(api_client: Any) -> Iterator[str]:
    """Have a namespace that enforces `restricted` at its latest, for dry runs; yield its name."""
    name = f"drill-restricted-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted",
              "pod-security.kubernetes.io/enforce-version": "latest"}
    request(api_client, "POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}},
            content_type="application/json")
    try:
        _wait_for_account(api_client, name)
        yield name
    finally:
        request(api_client, "DELETE", f"/api/v1/namespaces/{name}", {}, content_type="application/json")


def _wait_for_account(api_client: Any, namespace: str, seconds: float = 300) -> None:
    """Wait for the default service account, without which every pod is refused, whatever is in it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            request(api_client, "GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
            return
        except ApiException as error:
            if error.status != 404:
                raise
        time.sleep(0.1)
    raise TimeoutError(f"waited {seconds:g} s for the default service account of {namespace}")


def refused(api_client: Any, namespace: str, template: Mapping[str, Any]) -> str:
    """Return why this namespace would refuse a pod of the template; empty when it takes it."""
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(dict(template))}
    pod["metadata"] = {"generateName": "drill-", "labels": pod["metadata"].get("labels") or {}}
    pod["spec"].pop("serviceAccountName", None)  # this namespace has no such account, and the level knows none
    pod["spec"].pop("serviceAccount", None)
    try:
        request(api_client, "POST", f"/api/v1/namespaces/{namespace}/pods", pod, content_type="application/json",
                query=[("dryRun", "All")])
    except ApiException as error:
        if error.status != 403:
            raise
        return str(error.body)
    return ""


def enforced(api_client: Any, namespace: str) -> str:
    """Return the Pod Security level that a namespace enforces; empty for none."""
    labels = request(api_client, "GET", f"/api/v1/namespaces/{namespace}")["metadata"].get("labels") or {}
    return str(labels.get("pod-security.kubernetes.io/enforce", ""))
