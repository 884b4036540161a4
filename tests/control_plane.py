"""A control plane without nodes: etcd, the API server and the controllers, for tests of what controllers do.

It binds to 127.0.0.1 alone, with certificates of its own; a test that wants pods to become ready writes their status
itself, as kubelet would. It needs no root, and starts in some seconds.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from judge_lab import binaries
from ports import kept_port

START_SECONDS = 300.0  # some ten seconds on an idle machine


@contextmanager
def control_plane(folder: Path, controllers: Sequence[str]) -> Iterator[Path]:
    """Yield the kubeconfig of a cluster that runs these controllers, until the block ends.

    Raises LabError when Kubernetes' binaries are not to be had, TimeoutError when it does not become ready.
    """
    programs = binaries.find(lambda _: None)
    with kept_port() as etcd, kept_port() as peer, kept_port() as port, kept_port() as manager:
        yield from _run(folder, programs, controllers, etcd=etcd, peer=peer, port=port, manager=manager)


def _run(folder: Path, programs: Mapping[str, Path], controllers: Sequence[str], *, etcd: int, peer: int, port: int,
         manager: int) -> Iterator[Path]:
    key = folder / "service-account.key"
    key.write_bytes(rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    for name, made in (("server", authority.issue_cert("127.0.0.1")),
                       # Without a name of its own the certificate has an extension that Go refuses.
                       ("admin", authority.issue_cert("admin.internal", common_name="admin",
                                                      organization_name="system:masters"))):
        made.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
        made.private_key_pem.write_to_path(folder / f"{name}.key")
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "it", "users": [{"name": "it", "user": {
            "client-certificate": str(folder / "admin.crt"), "client-key": str(folder / "admin.key")}}],
        "clusters": [{"name": "it", "cluster": {"server": f"https://127.0.0.1:{port}",
                                                "certificate-authority": str(folder / "ca.crt")}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}]}))
    commands = {
        "etcd": [f"--data-dir={folder / 'etcd'}", f"--listen-client-urls=http://127.0.0.1:{etcd}",
                 f"--advertise-client-urls=http://127.0.0.1:{etcd}", f"--listen-peer-urls=http://127.0.0.1:{peer}",
                 "--unsafe-no-fsync", "--log-level=error"],
        "kube-apiserver": [f"--etcd-servers=http://127.0.0.1:{etcd}", "--bind-address=127.0.0.1",
                           f"--secure-port={port}", f"--tls-cert-file={folder / 'server.crt'}",
                           f"--tls-private-key-file={folder / 'server.key'}", f"--client-ca-file={folder / 'ca.crt'}",
                           "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount",
                           f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
                           "--service-account-issuer=https://kubernetes.default.svc",
                           "--service-cluster-ip-range=10.96.0.0/16"],
        "kube-controller-manager": [f"--kubeconfig={kubeconfig}", "--bind-address=127.0.0.1",
                                    f"--secure-port={manager}", "--leader-elect=false",
                                    f"--cert-dir={folder / 'manager'}", f"--controllers={','.join(controllers)}"],
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, options in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                started.append(subprocess.Popen([programs[name], *options], stdout=log, stderr=log))
            if name == "kube-apiserver":
                _wait_until_ready(port, folder)
        yield kubeconfig
    finally:
        # What they know is thrown away, and the API server takes a minute to end by itself.
        for process in reversed(started):
            process.kill()
        for process in started:
            process.wait()


def _wait_until_ready(port: int, folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with suppress(OSError), opener.open(f"https://127.0.0.1:{port}/readyz", timeout=2):
            return
        time.sleep(0.2)
    said = (folder / "kube-apiserver.log").read_text(errors="replace")[-2000:]
    raise TimeoutError(f"the API server is not ready after {START_SECONDS:g} s:\n{said}")
