"""The cluster's control plane as processes on the host, and the few API calls that the lab itself makes."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from judge_lab import LabError
from judge_lab.layout import (
    API_PORT,
    CLUSTER_DOMAIN,
    DNS_PORT,
    ETCD_PEER_PORT,
    ETCD_PORT,
    HOST_ADDRESS,
    SERVICE_CIDR,
    Layout,
)
from judge_lab.pki import API_URL

# In the order of starting; they are ended in the opposite one.
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")


def command(part: str, binary: Path, layout: Layout) -> list[str]:
    """Return the command line of one part of the control plane."""
    pki, config = layout.kube / "pki", layout.kube
    etcd, peers = f"http://127.0.0.1:{ETCD_PORT}", f"http://127.0.0.1:{ETCD_PEER_PORT}"
    options: dict[str, dict[str, object]] = {
        "etcd": {
            "name": "lab",
            "data-dir": layout.etcd,
            "listen-client-urls": etcd,
            "advertise-client-urls": etcd,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"lab={peers}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        },
        "kube-apiserver": {
            "etcd-servers": etcd,
            "bind-address": HOST_ADDRESS,
            "secure-port": API_PORT,
            "advertise-address": HOST_ADDRESS,
            "tls-cert-file": pki / "apiserver.crt",
            "tls-private-key-file": pki / "apiserver.key",
            "client-ca-file": pki / "ca.crt",
            "service-account-key-file": pki / "service-account.pub",
            "service-account-signing-key-file": pki / "service-account.key",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-cluster-ip-range": SERVICE_CIDR,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "kubelet-client-certificate": pki / "apiserver-kubelet.crt",
            "kubelet-client-key": pki / "apiserver-kubelet.key",
            "kubelet-certificate-authority": pki / "ca.crt",
            # Node names are in no DNS: without this, logs, exec and proxy fail.
            "kubelet-preferred-address-types": "InternalIP",
        },
        "kube-controller-manager": {
            "kubeconfig": config / "controller-manager.kubeconfig",
            "bind-address": "127.0.0.1",
            "leader-elect": "false",
            "service-account-private-key-file": pki / "service-account.key",
            "root-ca-file": pki / "ca.crt",
            "use-service-account-credentials": "true",
        },
        "kube-scheduler": {
            "kubeconfig": config / "scheduler.kubeconfig",
            "bind-address": "127.0.0.1",
            "leader-elect": "false",
        },
    }
    if part == "coredns":
        return [str(binary), "-conf", str(write_corefile(layout)), "-dns.port", str(DNS_PORT)]
    return [str(binary), *(f"--{name}={value}" for name, value in options[part].items())]


def write_corefile(layout: Layout) -> Path:
    """Write coredns' configuration: the cluster's names, nothing forwarded to the world outside."""
    pki, path = layout.kube / "pki", layout.kube / "Corefile"
    path.write_text(f"""\
.:{DNS_PORT} {{
    bind {HOST_ADDRESS}
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        endpoint {API_URL}
        tls {pki}/coredns.crt {pki}/coredns.key {pki}/ca.crt
        pods insecure
    }}
}}
""")
    return path


class Api:
    """The API server, spoken to as the cluster's admin."""

    def __init__(self, layout: Layout) -> None:
        pki = layout.kube / "pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        # The operator's proxy cannot reach the lab's bridge.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Make one call and return the answer's JSON; raises OSError (HTTPError is one) if it fails."""
        request = urllib.request.Request(
            API_URL + path,
            method=method,
            headers={"Content-Type": content_type},
            data=json.dumps(body).encode() if body is not None else None,
        )
        try:
            with self._opener.open(request, timeout=30) as answer:
                content = answer.read()
        except urllib.error.HTTPError as err:
            err.close()  # it holds the connection, and callers only look at its code
            raise
        parsed: dict[str, Any] = json.loads(content) if content[:1] == b"{" else {"text": content.decode()}
        return parsed

    def apply(self, path: str, body: Mapping[str, object]) -> None:
        """Create or update one object by server-side apply."""
        self.call(
            "PATCH", f"{path}?fieldManager=judge-lab&force=true", body, content_type="application/apply-patch+yaml"
        )

    def ready(self) -> bool:
        try:
            return bool(self.call("GET", "/readyz")["text"] == "ok")
        except (OSError, ValueError):
            return False

    def node_conditions(self) -> dict[str, bool]:
        """Return {node: is it Ready} of all Nodes; empty if the API server does not answer."""
        try:
            nodes = self.call("GET", "/api/v1/nodes")["items"]
        except (OSError, ValueError):
            return {}
        return {node["metadata"]["name"]: _is_ready(node) for node in nodes}

    def node_ready(self, name: str, since: float) -> bool:
        """Say whether the Node is Ready and offers its GPU, by a report of its kubelet made after `since` (Unix time).

        What a node that was killed reported last stays for a while, so older reports do not count.
        """
        lease_path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
        try:
            node = self.call("GET", f"/api/v1/nodes/{name}")
            boot = datetime.datetime.fromtimestamp(since, datetime.UTC)
            if not offers_gpu_since(node, boot):
                return False
            # A node that has just joined has nothing old, and its lease may come seconds later. Any other may have been
            # up again within the second that its last report names; the lease counts microseconds.
            if _time(node["metadata"]["creationTimestamp"]) >= boot.replace(microsecond=0):
                return True
            return _time(self.call("GET", lease_path)["spec"]["renewTime"]) > boot
        except (OSError, ValueError):
            return False

    def admits_pods(self) -> bool:
        """Say whether the controller manager made the default service account: without it every bare pod is refused."""
        try:
            self.call("GET", "/api/v1/namespaces/default/serviceaccounts/default")
        except (OSError, ValueError):
            return False
        return True

    def delete_node(self, name: str) -> None:
        try:
            self.call("DELETE", f"/api/v1/nodes/{name}")
        except urllib.error.HTTPError as err:
            if err.code != 404:
                raise


def offers_gpu_since(node: Mapping[str, Any], boot: datetime.datetime) -> bool:
    """Say whether a Node is Ready and offers one GPU, as reported not before `boot` (to the second)."""
    status = node["status"]
    reports = [_time(entry["lastHeartbeatTime"]) for entry in status.get("conditions", []) if entry["type"] == "Ready"]
    fresh = bool(reports) and min(reports) >= boot.replace(microsecond=0)
    return fresh and _is_ready(node) and status.get("allocatable", {}).get("nvidia.com/gpu") == "1"


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _is_ready(node: Mapping[str, Any]) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in node["status"].get("conditions", [])
    )


def allow_coredns(api: Api) -> None:
    """Let coredns' certificate read what it answers from: it runs outside, so it has no service account."""
    role = "/apis/rbac.authorization.k8s.io/v1"
    api.apply(
        f"{role}/clusterroles/judge-lab:coredns",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "judge-lab:coredns"},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["services", "namespaces", "pods", "endpoints"],
                    "verbs": ["list", "watch"],
                },
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
    )
    api.apply(
        f"{role}/clusterrolebindings/judge-lab:coredns",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "judge-lab:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "judge-lab:coredns"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "judge-lab:coredns"}],
        },
    )


def wait_until(
    what: str, condition: Callable[[], bool], *, seconds: float, hint: str, poll_seconds: float = 0.2
) -> None:
    """Wait until `condition` holds; raises LabError, naming `what` was waited for, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds:.0f} s in vain until {what}", hint=hint)
        time.sleep(poll_seconds)


def listens(address: str, port: int) -> bool:
    """Say whether something accepts TCP connections there."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False
