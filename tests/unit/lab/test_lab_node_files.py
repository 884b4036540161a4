"""What a node's services read: kubelet, containerd, CNI and sshd configuration, and the cluster's certificates."""

from __future__ import annotations

import datetime
import json
import ssl
import tomllib
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID
from judge_lab import LabError, kube, node, pki, ssh
from judge_lab.layout import MAX_NODES, Layout, node_address, node_name, pod_subnet
from judge_lab.network import cable
from judge_lab.state import NodeState


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A lab directory in which node-2 (i-0abc) is prepared."""
    found = Layout(tmp_path_factory.mktemp("lab"))
    ssh.ensure_operator_key(found)
    pki.ensure(found.kube)
    node.prepare(found, NodeState(2, instance_id="i-0abc"), with_kubernetes=True)
    return found


def read(layout: Layout, name: str) -> str:
    return (layout.node("node-2") / "etc" / name).read_text()


def test_the_model_s_taint_is_the_one_that_the_role_s_loader_removes() -> None:
    defaults = Path(__file__).resolve().parents[3] / "roles/vllm_k8s/defaults/main.yml"
    assert yaml.safe_load(defaults.read_text())["vllm_k8s_node_taint"] == node.MODEL_TAINT["key"]


def test_a_node_joins_tainted_and_names_its_instance(layout: Layout) -> None:
    kubelet = json.loads(read(layout, "kubelet.yaml"))
    assert kubelet["registerWithTaints"] == [
        {"key": "sku", "value": "gpu", "effect": "NoSchedule"},
        {"key": "judge-bootstrap.io/model-not-ready", "effect": "NoSchedule"},
    ]
    assert kubelet["providerID"] == "aws:///us-east-1a/i-0abc"
    arguments = read(layout, "kubelet.args").splitlines()
    assert "--node-labels=role=ai-gpu,judge-bootstrap.io/instance-id=i-0abc" in arguments
    assert "--node-ip=10.77.0.12" in arguments


def test_containerd_reads_its_configuration_and_knows_the_pause_image(layout: Layout) -> None:
    cri = tomllib.loads(read(layout, "containerd.toml"))["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == "judge-bootstrap.io/lab/pause:1"
    assert cri["restrict_oom_score_adj"] is True


def test_pods_of_a_node_get_addresses_of_its_own_subnet(layout: Layout) -> None:
    path = layout.node("node-2") / "fs/etc/cni/net.d/10-judge-lab.conflist"
    bridge = json.loads(path.read_text())["plugins"][0]
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.78.2.0/24"}]]
    assert bridge["hairpinMode"] is True


def test_sshd_takes_the_labs_key_and_no_password(layout: Layout) -> None:
    options = dict(
        line.split(maxsplit=1) for line in read(layout, "sshd_config").splitlines() if not line.startswith("#")
    )
    assert (options["PasswordAuthentication"], options["PermitRootLogin"]) == ("no", "prohibit-password")
    assert read(layout, "authorized_keys") == (layout.ssh / "id_ed25519.pub").read_text()


def test_known_hosts_names_the_node_by_address_with_its_own_key(layout: Layout) -> None:
    ssh.write_known_hosts(layout, [NodeState(2)])
    address, kind, key = (layout.ssh / "known_hosts").read_text().split()
    assert address == "10.77.0.12,node-2"
    assert [kind, key] == read(layout, "ssh_host_ed25519_key.pub").split()[:2]


def test_a_nodes_certificate_makes_it_that_node_to_kubernetes(layout: Layout) -> None:
    certificate = x509.load_pem_x509_certificate((layout.kube / "pki" / "node-2.crt").read_bytes())
    names = {oid: certificate.subject.get_attributes_for_oid(oid)[0].value for oid in
             (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)}  # fmt: skip
    assert names == {NameOID.COMMON_NAME: "system:node:node-2", NameOID.ORGANIZATION_NAME: "system:nodes"}
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert len(alternative.value) == 1, "Go refuses a certificate whose critical list of names is empty"


def test_every_key_belongs_to_its_certificate(layout: Layout) -> None:
    for certificate in (layout.kube / "pki").glob("*.crt"):
        if certificate.stem != "ca":
            ssl.create_default_context().load_cert_chain(certificate, certificate.with_suffix(".key"))


def test_certificates_are_made_once(layout: Layout) -> None:
    before = layout.kubeconfig.read_text()
    pki.ensure(layout.kube)
    assert layout.kubeconfig.read_text() == before
    assert layout.kubeconfig.stat().st_mode & 0o077 == 0


def test_the_api_server_runs_with_real_authorization_and_admission(layout: Layout) -> None:
    words = kube.command("kube-apiserver", Path("/cache/kube-apiserver"), layout)
    assert {"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"} <= set(words)


@pytest.mark.parametrize(
    ("heartbeat", "ready", "gpus", "up"),
    [
        ("2026-11-24T15:00:05Z", "True", "1", True),
        ("2026-11-24T15:00:04Z", "True", "1", False),  # what the node said before it was killed
        ("2026-11-24T15:00:06Z", "False", "1", False),
        ("2026-11-24T15:00:06Z", "True", "0", False),
    ],
)
def test_a_node_is_up_when_it_says_so_after_its_start(heartbeat: str, ready: str, gpus: str, up: bool) -> None:
    boot = datetime.datetime(2026, 11, 24, 15, 0, 5, 900_000, tzinfo=datetime.UTC)
    conditions = [{"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat}]
    reported = {"status": {"conditions": conditions, "allocatable": {"nvidia.com/gpu": gpus}}}
    assert kube.offers_gpu_since(reported, boot) is up


def test_what_is_waited_for_in_vain_is_told_with_its_hint() -> None:
    with pytest.raises(LabError, match="waited 0 s in vain until node-1 is Ready") as caught:
        kube.wait_until("node-1 is Ready", lambda: False, seconds=0, hint="less log", poll_seconds=0)
    assert caught.value.hint == "less log"


def test_names_and_addresses_of_all_possible_nodes_are_valid_and_their_own() -> None:
    indices = range(1, MAX_NODES + 1)
    assert max(len(cable(node_name(index))) for index in indices) <= 15, "the kernel's limit for a link's name"
    assert len({node_address(index) for index in indices} | {pod_subnet(index) for index in indices}) == 2 * MAX_NODES
