"""What `preflight` concludes from what the cluster says. Pure: facts in, checks out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from judge_bootstrap.core.checks import Check, Status
from judge_bootstrap.core.kube_rights import Right, table
from judge_bootstrap.core.network_enforcement import Enforcement

# Minor versions of Kubernetes 1 that the objects are checked against (docs/DESIGN.md).
OLDEST_MINOR, NEWEST_MINOR = 32, 37
_LEVELS = ("restricted", "baseline", "privileged")
_SHOWN = 8


@dataclass(frozen=True)
class NamespaceFacts:
    """A namespace. `there` None: we may not look. `level`: what it enforces, None where it says nothing.

    `needs`: the strictest Pod Security level that takes our pods; `refusal`: what a dry run of such a pod answered,
    None where it was taken or not tried; `variable`: the role variable that names the namespace.
    """

    name: str
    what: str
    variable: str
    needs: str
    there: bool | None
    ours: bool = False
    level: str | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class GpuNode:
    """A node that the selector matches. `used`: GPUs that pods of others ask for (None: pods may not be listed).

    `models`: commits that its labels call ready; `waits`: it carries the taint of a node without its model.
    """

    name: str
    ready: bool
    schedulable: bool
    gpus: int
    used: int | None
    models: tuple[str, ...]
    waits: bool


def check_version(server: str, version: str) -> Check:
    """Check the API server's version."""
    found = re.match(r"v?1\.(\d+)", version)
    inside = found is not None and OLDEST_MINOR <= int(found[1]) <= NEWEST_MINOR
    wanted = f"reachable, 1.{OLDEST_MINOR} to 1.{NEWEST_MINOR}"
    return Check("Kubernetes", "ok" if inside else "warn", f"{version} at {server}", wanted, None if inside else
                 "it may well work; try it with: judge-bootstrap --env ENV plan vllm_k8s")


def check_unreachable(message: str, reason: str | None, hint: str | None) -> Check:
    """Return the check of a cluster that gives no answer."""
    return Check("Kubernetes", "fail", message, "reachable", hint or "kubectl cluster-info", reason or
                 "CLUSTER_UNREACHABLE")


def check_rights(missing: Sequence[Right] | None, asked: int) -> Check:
    """Check the rights; `missing` None: the API server would not say."""
    wanted = "every right that a run uses"
    if missing is None:
        return Check("rights", "warn", "the API server does not say which rights there are", wanted,
                     "kubectl auth can-i --list", "CLUSTER_DENIED")
    if not missing:
        return Check("rights", "ok", f"all of {asked} rights that a run may use", wanted)
    rows = [f"{verbs} {kind} in {place}" for place, kind, verbs in table(missing)]
    return Check("rights", "fail", f"{len(missing)} of {asked} missing: {_some(rows)}", wanted,
                 "have them granted (on EKS: aws eks associate-access-policy ... AmazonEKSClusterAdminPolicy), then "
                 "kubectl auth can-i --list", "CLUSTER_DENIED")


def check_namespace(facts: NamespaceFacts) -> Check:
    """Check one namespace, and whether it would take our pods."""
    name = f"namespace {facts.name}"
    wanted = f"one that takes the {facts.what}'s pods (Pod Security {facts.needs})"
    if facts.there is None:
        return Check(name, "warn", "may not be looked at", wanted, f"kubectl auth can-i get namespace/{facts.name}",
                     "CLUSTER_DENIED")
    if not facts.there:
        return Check(name, "ok", f"is not there yet; a run makes it, enforcing {facts.needs}", wanted)
    enforces = f"enforces {facts.level}" if facts.level else "enforces what the cluster's default is"
    if facts.refusal is not None:
        return _refused(name, wanted, facts, f"{enforces}; a pod of the {facts.what} was refused: {facts.refusal}")
    # The role sets the level of a namespace that it has made.
    if not facts.ours and facts.level in _LEVELS and _LEVELS.index(facts.level) < _LEVELS.index(facts.needs):
        found = f"{enforces}, was made by others, and the {facts.what} needs {facts.needs}"
        return _refused(name, wanted, facts, found)
    if facts.needs == "restricted" and facts.level != "restricted" and not facts.ours:
        return Check(name, "warn", f"{enforces}, and was made by others",
                     "Pod Security restricted, so that nothing with more rights runs beside the judge",
                     f"kubectl label namespace {facts.name} pod-security.kubernetes.io/enforce=restricted")
    return Check(name, "ok", f"is there, {enforces}", wanted)


def _refused(name: str, wanted: str, facts: NamespaceFacts, found: str) -> Check:
    relabel = f"kubectl label namespace {facts.name} pod-security.kubernetes.io/enforce={facts.needs} --overwrite"
    return Check(name, "fail", found, wanted, f"{relabel}, or an exemption in the policy that refuses it, or "
                 f"-e {facts.variable}=ANOTHER", "POD_FORBIDDEN")


def check_gpus(nodes: Sequence[GpuNode] | None, selector: str, replicas: int | None, gpus_each: int) -> list[Check]:
    """Check the GPU nodes, whether their models are there, and whether the replicas fit.

    `nodes` None: may not look; `replicas` None: whoever scales says how many, so one has to fit.
    """
    wanted = "every node ready, with allocatable nvidia.com/gpu"
    if nodes is None:
        return [Check("GPU nodes", "warn", "nodes may not be listed", wanted, "kubectl auth can-i list nodes",
                      "CLUSTER_DENIED")]
    hint = f"kubectl get nodes -l {selector}; see that the NVIDIA device plugin runs on them"
    if not nodes:
        return [Check("GPU nodes", "warn", f"0 nodes with label {selector}", wanted, hint, "GPU_NONE")]
    usable = [node for node in nodes if node.ready and node.gpus > 0]
    without = [f"{node.name} ({'no GPU' if node.ready else 'not ready'})" for node in nodes if node not in usable]
    found = f"{len(usable)} ready with nvidia.com/gpu, of {len(nodes)} with label {selector}"
    found += f"; without: {_some(without)}" if without else ""
    counted = Check("GPU nodes", "warn" if without else "ok", found, wanted, hint if without else None,
                    "GPU_NONE" if not usable else None)
    return [counted, _check_models(nodes), _check_capacity(usable, replicas, gpus_each)]


def _check_models(nodes: Sequence[GpuNode]) -> Check:
    warm = [node for node in nodes if node.models and not node.waits]
    cold = [node.name + (" (tainted)" if node.waits else "") for node in nodes if node not in warm]
    found = f"{len(warm)} of {len(nodes)} nodes have a verified model"
    return Check("models on nodes", "ok", found + (f"; not yet: {_some(cold)}" if cold else ""),
                 "nothing: a run, or the loader, brings it")


def _check_capacity(usable: Sequence[GpuNode], wanted_replicas: int | None, gpus_each: int) -> Check:
    replicas = 1 if wanted_replicas is None else wanted_replicas
    open_nodes = [node for node in usable if node.schedulable]
    each = max(1, gpus_each)
    room = sum(node.gpus // each for node in open_nodes)
    free = sum(max(0, node.gpus - (node.used or 0)) // each for node in open_nodes)
    total = sum(node.gpus for node in open_nodes)
    wanted = f"room for {replicas} replicas with {gpus_each} GPU each"
    wanted += "; vllm_k8s_replicas is null: whoever scales says how many" if wanted_replicas is None else ""
    found = f"{total} GPUs on {len(open_nodes)} schedulable nodes, room for {room} replicas"
    if all(node.used is not None for node in open_nodes):
        found += f", {free} of them not taken by pods of others"
        short = free < replicas
    else:
        short = room < replicas
    closed = len(usable) - len(open_nodes)
    found += f"; {closed} nodes are cordoned" if closed else ""
    # Not a failure where an autoscaler may bring more nodes; but what is asked for is not there now.
    status: Status = "warn" if short else "ok"
    return Check("GPU capacity", status, found, wanted, "kubectl describe nodes, or -e vllm_k8s_replicas=N"
                 if short else None, "GPU_NONE" if short else None)


def check_local_volume(refusal: str | None, tried: bool) -> Check:
    """Check local PersistentVolumes: what a dry run of one answered. `tried` False: it may not be tried."""
    wanted = "local PersistentVolumes, or vllm_k8s_store_volume=hostPath"
    if not tried:
        return Check("local volumes", "warn", "may not be tried", wanted, "kubectl auth can-i create persistentvolumes",
                     "CLUSTER_DENIED")
    if refusal is None:
        return Check("local volumes", "ok", "the API server takes one (dry run); no StorageClass is needed", wanted)
    return Check("local volumes", "fail", f"the API server refuses one: {refusal}", wanted,
                 "-e vllm_k8s_store_volume=hostPath, with a namespace that allows it", "CLUSTER_REFUSED")


def check_policies(verdict: Enforcement, *, wanted: bool, proven: bool) -> Check:
    """Check whether NetworkPolicies hold. `proven`: it was tried with two pods, not concluded."""
    found = f"{verdict.state}{', tried with two pods' if proven else ''}: {verdict.evidence}"
    aim = "a network plugin that enforces them"
    if verdict.state == "enforced":
        return Check("NetworkPolicy", "ok", found, aim)
    if not wanted:
        return Check("NetworkPolicy", "ok", f"{found}; none are made (vllm_k8s_network_policy is false)", aim)
    prove = "" if proven else "judge-bootstrap --env ENV preflight --prove-network-policy; "
    return Check(
        "NetworkPolicy", "warn", found, aim,
        f"{prove}on EKS the vpc-cni add-on with enableNetworkPolicy=true, else Calico or Cilium; until then every pod "
        "of the cluster reaches the judge, and only its API key is between",
        "NETWORK_POLICY_UNENFORCED" if verdict.state == "not enforced" else None)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
