"""What `doctor` concludes from the facts that adapters read. Pure: facts in, checks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "fail"]

# AWS refuses requests whose clock is more than 5 minutes off.
CLOCK_WARN_SECONDS = 60
CLOCK_FAIL_SECONDS = 300
FREE_WARN_BYTES = 1 << 30
FREE_FAIL_BYTES = 100 << 20


@dataclass(frozen=True)
class Check:
    """One prerequisite: what was found, what is wanted, and the next command where it does not hold.

    `reason`: a code of judge_node/reasons.py, where one says what is wrong.
    """

    name: str
    status: Status
    found: str
    wanted: str
    hint: str | None = None
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the check for --json."""
        return asdict(self)


@dataclass(frozen=True)
class Tools:
    """What is installed here; a version is None where the thing is missing.

    `wanted_collections` are the versions that requirements.yml names, `install_collections` is the command that brings
    them. `free_bytes` is None where it cannot be told.
    """

    python: str
    programs: Mapping[str, str | None]
    collections: Mapping[str, str | None]
    wanted_collections: Mapping[str, str]
    work_dir: str
    free_bytes: int | None
    install_collections: str


@dataclass(frozen=True)
class Identity:
    """Who AWS says we are, and how far our clock is from AWS's (None: it did not say)."""

    arn: str
    clock_offset_seconds: float | None


@dataclass(frozen=True)
class ClusterNode:
    """One Kubernetes node. `gpus` is allocatable nvidia.com/gpu; `provider_id` ends in the EC2 instance id."""

    name: str
    provider_id: str | None
    address: str | None
    gpus: int
    ready: bool


@dataclass(frozen=True)
class Cluster:
    """The cluster as the judge needs it.

    `nodes` are those that match the role's node selector. `secret` holds the loader's Hub token, None where it uses
    none; `has_secret` is None where we may not look.
    """

    server: str
    version: str
    namespace: str
    has_namespace: bool
    secret: str | None
    secret_namespace: str
    has_secret: bool | None
    selector: str
    nodes: Sequence[ClusterNode]


def check_tools(tools: Tools) -> list[Check]:
    """Check programs, collections and local disk space."""
    checks = [Check("python", "ok", tools.python, "3.11 or newer")]
    for name, version in tools.programs.items():
        if version is None:
            package = "apt-get install openssh-client" if name == "ssh" else "pip install ansible-core"
            checks.append(Check(name, "fail", "not installed", "installed", package))
        else:
            checks.append(Check(name, "ok", version, "installed"))
    for name, wanted in tools.wanted_collections.items():
        version = tools.collections.get(name)
        status: Status = "fail" if version is None else "ok" if version == wanted else "warn"
        checks.append(Check(f"collection {name}", status, version or "not installed", wanted, None if status == "ok"
                            else tools.install_collections))
    if tools.free_bytes is not None:
        status = _graded(-tools.free_bytes, -FREE_WARN_BYTES, -FREE_FAIL_BYTES)
        checks.append(Check("disk space", status, f"{tools.free_bytes / (1 << 30):.1f} GiB free in {tools.work_dir}",
                            "1 GiB free", None if status == "ok" else f"df -h {tools.work_dir}"))
    return checks


def check_identity(identity: Identity) -> list[Check]:
    """Check who we are to AWS, and the clock that signs requests."""
    checks = [Check("AWS identity", "ok", identity.arn, "an identity")]
    offset = identity.clock_offset_seconds
    if offset is not None:
        status = _graded(abs(offset), CLOCK_WARN_SECONDS, CLOCK_FAIL_SECONDS)
        checks.append(Check("clock", status, f"{abs(offset):.0f} s from AWS's clock", f"at most {CLOCK_WARN_SECONDS} s",
                            None if status == "ok" else "timedatectl set-ntp true"))
    return checks


def _graded(value: float, warn: float, fail: float) -> Status:
    return "fail" if value > fail else "warn" if value > warn else "ok"


def check_cluster(cluster: Cluster, hosts: Mapping[str, str | None] | None, env: str) -> list[Check]:
    """Check cluster, names and GPU nodes; `hosts` is the inventory (name to address), None where unreadable."""
    checks = [Check("Kubernetes", "ok", f"{cluster.version} at {cluster.server}", "reachable")]
    there = "is there" if cluster.has_namespace else "is not there yet; a run makes it"
    checks.append(Check("namespace", "ok", f"{cluster.namespace} {there}", "nothing: a run makes it"))
    checks.append(_secret(cluster, env))
    checks.append(_gpu_nodes(cluster))
    if hosts is not None:
        checks.append(_compared(cluster, hosts))
    return checks


def _secret(cluster: Cluster, env: str) -> Check:
    if cluster.secret is None:
        return Check("Hub token", "ok", "none is wanted: the loader fetches without one", "nothing")
    name = f"{cluster.secret_namespace}/{cluster.secret}"
    wanted = f"Secret {name}, as vllm_k8s_loader_gated_model says"
    if cluster.has_secret:
        return Check("Hub token", "ok", f"Secret {name} is there", wanted)
    found = f"no Secret {name}" if cluster.has_secret is False else f"not allowed to look for Secret {name}"
    return Check("Hub token", "warn", found, wanted, f"judge-bootstrap --env {env} secrets apply")


def _gpu_nodes(cluster: Cluster) -> Check:
    with_gpu = [node for node in cluster.nodes if node.gpus > 0 and node.ready]
    found = f"{len(with_gpu)} ready with nvidia.com/gpu, of {len(cluster.nodes)} with label {cluster.selector}"
    without = [f"{node.name} ({'no GPU' if node.ready else 'not ready'})" for node in cluster.nodes
               if node not in with_gpu]
    if without:
        found += f"; without: {_some(without)}"
    status: Status = "fail" if not with_gpu else "warn" if without else "ok"
    return Check("GPU nodes", status, found, "every node ready, with allocatable nvidia.com/gpu", None if status == "ok"
                 else f"kubectl describe nodes -l {cluster.selector}, and see that the NVIDIA device plugin runs")


def _compared(cluster: Cluster, hosts: Mapping[str, str | None]) -> Check:
    """Compare inventory and cluster by instance id (the end of providerID), else by address: tags alone lie."""
    joined = set()
    strangers = []
    for node in cluster.nodes:
        instance = (node.provider_id or "").rpartition("/")[2]
        match = instance if instance in hosts else next(
            (name for name, address in hosts.items() if address is not None and address == node.address), None)
        if match is None:
            strangers.append(node.name)
        else:
            joined.add(match)
    missing = sorted(set(hosts) - joined)
    found = f"{len(joined)} of {len(hosts)} inventory hosts are nodes"
    if missing:
        found += f"; not joined: {_some(missing)}"
    if strangers:
        found += f"; nodes outside the inventory: {_some(sorted(strangers))}"
    status: Status = "fail" if missing else "warn" if strangers else "ok"
    return Check("inventory and cluster", status, found, "the same machines", None if status == "ok"
                 else "compare kubectl get nodes -o wide with the tags that the inventory filters by")


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
