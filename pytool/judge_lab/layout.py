"""Where everything of the lab lies: addresses, ports, names and directories. Reads the environment, writes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "jlab0"
NAMESPACE_PREFIX = "jlab-"  # network namespaces: jlab-node-1
LINK_PREFIX = "jlv-"  # host ends of the nodes' cables: jlv-node-1 (a link's name has 15 characters at most)
CGROUP = "judge-lab"  # every pod's cgroup lies below /judge-lab/NODE

HOST_ADDRESS = "10.77.0.1"
NETWORK_BITS = 24
SERVICE_CIDR = "10.96.0.0/16"
SERVICE_FIRST_ADDRESS = "10.96.0.1"
POD_CIDR = "10.78.0.0/16"
CLUSTER_DOMAIN = "cluster.local"
MAX_NODES = 32

API_PORT = 6443
DNS_PORT = 53
ETCD_PORT, ETCD_PEER_PORT = 12379, 12380
AWS_PORT, APPCONFIG_PORT, HUB_PORT = 5000, 5001, 8080
REGION = "us-east-1"


DEFAULT_LAB_DIR = Path("/var/lib/judge-bootstrap/lab")


def node_name(index: int) -> str:
    """Return the name of node `index` (1 or more): host name, Kubernetes Node and `lab node` argument."""
    return f"node-{index}"


def node_address(index: int) -> str:
    """Return the node's address on the bridge."""
    return f"10.77.0.{10 + index}"


def node_mac(index: int) -> str:
    """Return the network card's address of a node that is a virtual machine (locally administered)."""
    return f"02:6a:6c:00:00:{index:02x}"


def pod_subnet(index: int) -> str:
    """Return the /24 from which the node's CNI gives pods their addresses."""
    return f"10.78.{index}.0/24"


def lab_dir() -> Path:
    """Return the directory of all the lab's state: JUDGE_LAB_DIR, or DEFAULT_LAB_DIR."""
    return Path(os.environ.get("JUDGE_LAB_DIR") or DEFAULT_LAB_DIR).absolute()


def cache_dir() -> Path:
    """Return the directory of what is kept between labs: JUDGE_BOOTSTRAP_CACHE, or ~/.cache/judge-bootstrap."""
    configured = os.environ.get("JUDGE_BOOTSTRAP_CACHE")
    return Path(configured).absolute() if configured else Path.home() / ".cache" / "judge-bootstrap"


@dataclass(frozen=True)
class Layout:
    """Paths below one lab directory."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def ssh(self) -> Path:
        return self.root / "ssh"

    @property
    def kube(self) -> Path:
        return self.root / "kube"

    @property
    def etcd(self) -> Path:
        return self.root / "etcd"

    @property
    def hub(self) -> Path:
        return self.root / "hub"

    @property
    def appconfig(self) -> Path:
        """The document that AppConfig's stand-in deploys; it writes the lab's default there if it is missing."""
        return self.root / "appconfig.json"

    @property
    def kubeconfig(self) -> Path:
        return self.kube / "admin.kubeconfig"

    @property
    def manifests(self) -> Path:
        """Where the manifests are rendered to when there is no Kubernetes."""
        return self.root / "manifests"

    @property
    def image(self) -> Path:
        """The server's image, unpacked, when there is no containerd to take it."""
        return self.root / "image"

    @property
    def pods(self) -> Path:
        """What runs of the manifests' pods when there is no Kubernetes."""
        return self.root / "pods.json"

    @property
    def api_key(self) -> Path:
        """The judge's API key when there is no Kubernetes to keep a Secret."""
        return self.root / "api-key"

    def node(self, name: str) -> Path:
        return self.root / "nodes" / name

    def disk(self, name: str) -> Path:
        return self.root / "disks" / f"{name}-instance-store-1.img"


def current() -> Layout:
    """Return the layout of the lab that the environment names."""
    return Layout(lab_dir())
