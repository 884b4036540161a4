"""The cluster's certificates and kubeconfigs: one CA, and a client certificate for each part."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from judge_lab.layout import API_PORT, HOST_ADDRESS, SERVICE_FIRST_ADDRESS, Layout, node_address

API_URL = f"https://{HOST_ADDRESS}:{API_PORT}"

# Common name and organisation are user and group to Kubernetes; the system: ones have built-in roles.
_CLIENTS = {
    "admin": ("judge-lab-admin", "system:masters"),
    "apiserver-kubelet": ("kube-apiserver", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", "judge-lab"),
    "scheduler": ("system:kube-scheduler", "judge-lab"),
    "proxy": ("system:kube-proxy", "judge-lab"),
    "coredns": ("judge-lab:coredns", "judge-lab"),
}


def ensure(folder: Path) -> None:
    """Make the cluster's keys, certificates and kubeconfigs below `folder`, unless a whole set is there."""
    complete = folder / "pki" / ".complete"
    if complete.exists():
        return
    (folder / "pki").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    authority = trustme.CA(organization_name="judge-lab")
    authority.cert_pem.write_to_path(folder / "pki" / "ca.crt")
    authority.private_key_pem.write_to_path(folder / "pki" / "ca.key")
    _write(
        folder,
        "apiserver",
        authority.issue_cert(
            "127.0.0.1", HOST_ADDRESS, SERVICE_FIRST_ADDRESS, "localhost", "kubernetes", "kubernetes.default.svc"
        ),
    )
    for name, (user, group) in _CLIENTS.items():
        _write(folder, name, _client(authority, user, group))
        _kubeconfig(folder, name, folder / f"{name}.kubeconfig")
    _service_account_key(folder / "pki")
    complete.touch()


def ensure_node(layout: Layout, name: str, index: int) -> None:
    """Give a node its identity: a client certificate as system:node:NAME and a certificate for its own server."""
    folder = layout.node(name) / "etc"
    if (folder / "kubelet.kubeconfig").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    pki = layout.kube / "pki"
    authority = trustme.CA.from_pem((pki / "ca.crt").read_bytes(), (pki / "ca.key").read_bytes())
    server = authority.issue_cert(name, node_address(index), common_name=name)
    server.cert_chain_pems[0].write_to_path(folder / "kubelet-server.crt")
    server.private_key_pem.write_to_path(folder / "kubelet-server.key")
    (folder / "ca.crt").write_bytes((pki / "ca.crt").read_bytes())
    (folder / "proxy.kubeconfig").write_bytes((layout.kube / "proxy.kubeconfig").read_bytes())
    _write(layout.kube, name, _client(authority, f"system:node:{name}", "system:nodes"))
    _kubeconfig(layout.kube, name, folder / "kubelet.kubeconfig")


def _client(authority: trustme.CA, user: str, group: str) -> trustme.LeafCert:
    # With no name at all trustme writes an empty critical extension, which Go refuses.
    return authority.issue_cert("client.judge-lab.internal", common_name=user, organization_name=group)


def _write(folder: Path, name: str, certificate: trustme.LeafCert) -> None:
    certificate.cert_chain_pems[0].write_to_path(folder / "pki" / f"{name}.crt")
    key = folder / "pki" / f"{name}.key"
    certificate.private_key_pem.write_to_path(key)
    key.chmod(0o600)


def _kubeconfig(folder: Path, name: str, target: Path) -> None:
    """Write a kubeconfig that holds everything itself, so that it works wherever it is read (JSON is YAML)."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "judge-lab",
        "clusters": [
            {
                "name": "judge-lab",
                "cluster": {"server": API_URL, "certificate-authority-data": _base64(folder / "pki" / "ca.crt")},
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": _base64(folder / "pki" / f"{name}.crt"),
                    "client-key-data": _base64(folder / "pki" / f"{name}.key"),
                },
            }
        ],
        "contexts": [{"name": "judge-lab", "context": {"cluster": "judge-lab", "user": name}}],
    }
    target.touch(mode=0o600)
    target.write_text(json.dumps(config, indent=1))


def _service_account_key(folder: Path) -> None:
    """Write the key pair with which the cluster signs service accounts' tokens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = folder / "service-account.key"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "service-account.pub").write_bytes(public)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
