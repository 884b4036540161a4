"""Does the cluster enforce NetworkPolicy? Concluded from what runs on its nodes. Pure: facts in, verdict out.

Every API server takes NetworkPolicies; only an agent of the network plugin on each node makes them hold. Where none is
found the verdict is "not enforced", unless something that we do not know looks like a network plugin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["enforced", "not enforced", "unknown"]


@dataclass(frozen=True)
class Agent:
    """A DaemonSet. `arguments` are those of all containers; `installs_cni`: it mounts the node's CNI folders."""

    namespace: str
    name: str
    images: Sequence[str]
    arguments: Sequence[str]
    wanted: int
    ready: int
    installs_cni: bool

    @property
    def place(self) -> str:
        """Its namespace and name, and how many of its pods are ready."""
        return f"DaemonSet {self.namespace}/{self.name}, {self.ready} of {self.wanted} ready"


@dataclass(frozen=True)
class NetworkFacts:
    """`configs`: data of the ConfigMaps that switch a known plugin's enforcement on or off, by name.

    `agents` None: the DaemonSets may not be listed. `kubelets`: the versions that nodes report; `node_labels`: the keys
    of all labels of the nodes.
    """

    agents: Sequence[Agent] | None
    configs: Mapping[str, Mapping[str, str]]
    kubelets: frozenset[str] = frozenset()
    node_labels: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Enforcement:
    """The verdict and what it stands on."""

    state: State
    evidence: str


# Names of DaemonSets whose agent always enforces -> what it is called.
_ALWAYS = {
    "calico-node": "Calico", "canal": "Canal (Calico's policies)", "rke2-canal": "Canal (Calico's policies)",
    "antrea-agent": "Antrea", "anetd": "GKE Dataplane V2", "azure-npm": "Azure NPM", "weave-net": "Weave Net",
    "ovnkube-node": "OVN-Kubernetes", "kube-network-policies": "kube-network-policies", "kube-ovn-cni": "Kube-OVN",
    "romana-agent": "Romana", "contiv-netplugin": "Contiv"}
# Plugins that are known to ignore policies, unless an agent beside them enforces.
_NEVER = {"kube-flannel-ds": "Flannel", "kube-flannel": "Flannel"}
CILIUM_CONFIG, VPC_CNI_CONFIG = "cilium-config", "amazon-vpc-cni"
CONFIGS = (CILIUM_CONFIG, VPC_CNI_CONFIG)
_AWS_AGENT = "network-policy-agent"


def conclude(facts: NetworkFacts) -> Enforcement:
    """Return whether NetworkPolicies hold in the cluster, with the evidence."""
    if facts.agents is None:
        return Enforcement("unknown", "the cluster's DaemonSets may not be listed")
    found = [verdict for agent in facts.agents if (verdict := _of_agent(agent, facts)) is not None]
    for state in ("enforced", "unknown", "not enforced"):
        fitting = next((verdict for verdict in found if verdict.state == state), None)
        if fitting is not None:
            return fitting
    if "eks.amazonaws.com/compute-type" in facts.node_labels:
        on = _is_on(facts.configs.get(VPC_CNI_CONFIG, {}).get("enable-network-policy-controller"))
        return Enforcement("enforced" if on else "not enforced", "EKS Auto Mode, whose ConfigMap amazon-vpc-cni says "
                           f"enable-network-policy-controller: {str(on).lower()}")
    if any("+k3s" in version for version in facts.kubelets):
        return Enforcement("unknown", "k3s enforces inside its own process, unless --disable-network-policy was given")
    strangers = [agent for agent in facts.agents if agent.installs_cni]
    if strangers:
        return Enforcement("unknown", f"{strangers[0].place}, installs a network plugin that is not known here")
    return Enforcement("not enforced", f"none of {len(facts.agents)} DaemonSets is the agent of a network plugin that "
                                       "enforces them, and there is no other sign of one")


def _of_agent(agent: Agent, facts: NetworkFacts) -> Enforcement | None:
    """Return what one DaemonSet says, None when it has no say in it."""
    if agent.name in _ALWAYS:
        return _running(agent, _ALWAYS[agent.name])
    if agent.name == "cilium" or any("cilium/cilium" in image for image in agent.images):
        mode = facts.configs.get(CILIUM_CONFIG, {}).get("enable-policy", "default")
        if mode == "never":
            return Enforcement("not enforced", f"Cilium with enable-policy: never ({agent.place})")
        return _running(agent, f"Cilium, enable-policy: {mode}")
    if "kube-router" in agent.name:
        if "--run-firewall=false" in agent.arguments:
            return Enforcement("not enforced", f"kube-router with --run-firewall=false ({agent.place})")
        return _running(agent, "kube-router")
    if agent.name == "aws-node":
        return _aws_node(agent)
    if agent.name in _NEVER:
        return Enforcement("not enforced", f"{_NEVER[agent.name]} ignores them ({agent.place})")
    return None


def _aws_node(agent: Agent) -> Enforcement:
    has_agent = any(_AWS_AGENT in image for image in agent.images)
    on = next((_is_on(text.partition("=")[2] or "true") for text in agent.arguments
               if text.lstrip("-").startswith("enable-network-policy")), False)
    if has_agent and on:
        return _running(agent, "aws-node with its network policy agent")
    return Enforcement("not enforced", f"aws-node {'with its network policy agent off' if has_agent else 'alone'} "
                                       f"({agent.place})")


def _running(agent: Agent, what: str) -> Enforcement:
    if agent.ready == 0:
        return Enforcement("unknown", f"{what}, but none of its pods is ready ({agent.place})")
    return Enforcement("enforced", f"{what} ({agent.place})")


def _is_on(text: str | None) -> bool:
    return (text or "").strip().lower() in ("true", "1", "yes", "on", "enabled")
