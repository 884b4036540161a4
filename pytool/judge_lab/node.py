"""A node as a set of namespaces on this kernel: what its services read, and how it starts and ends.

sshd, containerd, kubelet and kube-proxy of a node share its namespaces, so the host that Ansible reaches and the Node
of Kubernetes are one thing. node-init.sh is its first process. A second kind of node (a virtual machine with NVMe
devices) would be a module beside this one with the same functions.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from judge_lab import LabError, cgroups, disks, kube, network, pki, process, ssh
from judge_lab.images import PAUSE_REFERENCE, Image
from judge_lab.layout import (
    CGROUP,
    CLUSTER_DOMAIN,
    HOST_ADDRESS,
    NAMESPACE_PREFIX,
    POD_CIDR,
    REGION,
    Layout,
    pod_subnet,
)
from judge_lab.ssh import NODE_ETC
from judge_lab.state import NodeState

INIT = Path(__file__).parent / "node-init.sh"
# As the node sees it; the device plugin mounts it into the containers that ask for a GPU.
NODE_VLLM_DIR = "/run/judge-lab/vllm"
# The server's image, unpacked, on a node without containerd.
NODE_IMAGE_DIR = "/run/judge-lab/image"
INSTANCE_LABEL = "judge-bootstrap.io/instance-id"
NODE_LABELS = {"role": "ai-gpu"}
TAINT = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
# As production's kubelets register (registerWithTaints): no serving pod comes before the loader has the model.
MODEL_TAINT = {"key": "judge-bootstrap.io/model-not-ready", "effect": "NoSchedule"}
# Directories that a node covers with its own and that a host may lack. Empty ones are left behind on purpose: they
# belong to the packages (containerd, CNI), and another kubelet may use them by now.
_COVERED = (
    "/var/lib/judge-node",
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/cni",
    "/etc/cni",
    "/etc/systemd/system",
)


def prepare(layout: Layout, node: NodeState, *, with_kubernetes: bool) -> None:
    """Write everything that the node's services read."""
    ssh.prepare_node(layout, node)
    folder = layout.node(node.name) / "etc"
    if with_kubernetes:
        pki.ensure_node(layout, node.name, node.index)
        (folder / "containerd.toml").write_text(_CONTAINERD)
        (folder / "kubelet.yaml").write_text(json.dumps(_kubelet(node), indent=1))
        (folder / "kube-proxy.yaml").write_text(json.dumps(_kube_proxy(node), indent=1))
        (folder / "resolv.conf").write_text(f"nameserver {HOST_ADDRESS}\n")
        write_kubelet_args(layout, node)
        cni = layout.node(node.name) / "fs" / "etc" / "cni" / "net.d"
        cni.mkdir(parents=True, exist_ok=True)
        (cni / "10-judge-lab.conflist").write_text(json.dumps(_cni(node), indent=1))


def write_kubelet_args(layout: Layout, node: NodeState) -> None:
    """Write kubelet's options, one a line: the ones that no configuration file takes."""
    labels = ",".join(f"{key}={value}" for key, value in {**NODE_LABELS, INSTANCE_LABEL: node.instance_id}.items())
    (layout.node(node.name) / "etc" / "kubelet.args").write_text(f"""\
--config={NODE_ETC}/kubelet.yaml
--kubeconfig={NODE_ETC}/kubelet.kubeconfig
--hostname-override={node.name}
--node-ip={node.address}
--node-labels={labels}
""")


def boot(layout: Layout, node: NodeState, *, binaries: Path | None, vllm: Path | None) -> None:
    """Start the node with the disk it has; `binaries` None means a node without Kubernetes, which sees the image.

    Sets `process`, `loop` and `booted` of the node; the caller saves the state.
    """
    cgroups.make(node.name)
    for covered in _COVERED:
        Path(covered).mkdir(parents=True, exist_ok=True)
    network.connect(node)
    disk = layout.disk(node.name)
    if not disk.exists():
        disks.replace_by_blank(disk)
    node.loop = disks.attach(disk)
    minor = str(disks.minor(node.loop))
    node.booted = time.time()
    node.process = process.spawn(
        # Not `ip netns exec`: it mounts a fresh /sys, in which the cgroups are missing.
        [
            "nsenter",
            f"--net=/run/netns/{NAMESPACE_PREFIX}{node.name}",
            "unshare",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "/bin/bash",
            INIT,
            node.name,
            layout.node(node.name),
            binaries or "-",
            vllm or "-",
            minor,
            disks.STABLE_NAME,
            "-" if binaries else layout.image,
        ],
        log=layout.logs / f"{node.name}.log",
        mark=layout.root,
    )


def halt(layout: Layout, node: NodeState) -> None:
    """End every process of the node at once, as a power cut does, and take its cable and disk away. Its files stay."""
    if node.process is not None:
        # unshare ignores TERM; its death takes the node's first process and with it all others.
        process.end([node.process])
    node.process = None
    network.disconnect(node.name)
    # The mounts go with the last process of the namespace, a moment after it: only then is the device free.
    disks.detach(layout.disk(node.name))
    node.loop = None


def import_images(layout: Layout, node: NodeState, wanted: list[Image]) -> None:
    """Give the node's containerd the images, unless it has them."""
    wait_for_log = f"tail {layout.node(node.name)}/fs/var/log/containerd.log"
    kube.wait_until(
        f"containerd of {node.name} answers",
        lambda: _ctr(node, "version").returncode == 0,
        seconds=300,
        hint=wait_for_log,
    )
    # An image that was built anew has the old one's name: what was imported is noted beside the node's own files.
    note = layout.node(node.name) / "imported-images"
    if note.exists() and note.read_text() == _archives(wanted):
        return
    for image in wanted:
        done = _ctr(node, "--namespace", "k8s.io", "images", "import", "-", stdin=image.archive.read_bytes())
        if done.returncode != 0:
            raise LabError(
                f"{node.name} did not take {image.reference}: {done.stderr.strip()[-300:]}", hint=wait_for_log
            )
    note.write_text(_archives(wanted))


def _archives(wanted: list[Image]) -> str:
    return "\n".join(image.archive.name for image in wanted)


def _ctr(node: NodeState, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    return process.run(*enter(node), "ctr", *arguments, stdin=stdin, check=False)


def enter(node: NodeState) -> list[str]:
    """Return the command prefix that runs a command inside the node, as its root."""
    first = first_process(node)
    return ["nsenter", "--target", str(first), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]


def first_process(node: NodeState) -> int:
    """Return the host's pid of the node's first process; raises LabError if the node does not run."""
    deadline = time.monotonic() + 60
    while node.process is not None and node.process.alive():
        pid = node.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)  # just started: nsenter and unshare have not come to their fork yet
    raise LabError(f"{node.name} does not run", hint=f"judge-bootstrap lab node start {node.name}")


def restart_kubelet(node: NodeState) -> None:
    """End the node's kubelet; the node starts it again within a second."""
    inside = Path(f"/proc/{first_process(node)}/ns/pid").readlink()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if (entry / "comm").read_bytes() == b"kubelet\n" and (entry / "ns" / "pid").readlink() == inside:
                os.kill(int(entry.name), signal.SIGTERM)


_CONTAINERD = f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
# Without CAP_SYS_RESOURCE (containers, some virtual machines) a negative OOM score is refused and runc dies with a
# misleading message; hence restrict_oom_score_adj.
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_REFERENCE}"
  restrict_oom_score_adj = true
  # Its profile would be loaded into the host's kernel, where `lab down` could not tell it from another runtime's.
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def _kubelet(node: NodeState) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{NODE_ETC}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{NODE_ETC}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{NODE_ETC}/kubelet-server.key",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "clusterDNS": [HOST_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": f"{NODE_ETC}/resolv.conf",
        "registerWithTaints": [TAINT, MODEL_TAINT],
        # How often kubelet looks for changes to report, such as a GPU that appeared; 10 s by default.
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "1m",
        "providerID": f"aws:///{REGION}a/{node.instance_id}",
        # The nodes share the host's cgroups, whatever their version and whoever owns the root.
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}/{node.name}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        # The disk that is nearly full may be the host's own.
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "logging": {"verbosity": 1},
    }


def _kube_proxy(node: NodeState) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{NODE_ETC}/proxy.kubeconfig"},
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": node.name,
        "conntrack": {"maxPerCore": 0},
    }


def _cni(node: NodeState) -> dict[str, object]:
    return {
        "cniVersion": "0.4.0",
        "name": "judge-lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,  # a pod that calls its own Service
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": pod_subnet(node.index)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/run/cni/ipam",
                },  # leases end with the node, as its pods do
            }
        ],
    }
