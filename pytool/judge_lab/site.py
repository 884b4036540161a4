"""The site in a box: brings all its parts up, says how they are, changes nodes, and leaves nothing behind at the end.

One lab a machine. Every change holds the lab's lock and is recorded before the next one begins, so that a command which
is cut, or a machine that restarts, leaves nothing that the next command cannot take up or clear away.
"""

from __future__ import annotations

import os
from typing import Any

from judge_lab import (
    LabError,
    binaries,
    clearing,
    disks,
    hub,
    kube,
    network,
    plain_model,
    podless,
    prerequisites,
    runtime,
    services,
    verbs,
    vm_node,
)
from judge_lab.build import Builder, Report, found_for, gpu_part
from judge_lab.layout import MAX_NODES, REGION, Layout, current, node_address, node_name
from judge_lab.state import LOCK_FILE, Kind, NodeState, State, load, lock

DEFAULT_NODES: dict[Kind, int] = {"namespace": 2, "vm": 1}
KIND_WORDS: dict[Kind, str] = {"namespace": "nodes of namespaces", "vm": "virtual machines"}
MAX_VM_DISKS = 8


def _silent(line: str) -> None:
    """Report nothing."""


def up(
    nodes: int | None = None, report: Report = _silent, *, vm: bool | None = None, vm_disks: int | None = None
) -> None:
    """Bring the lab up with at least `nodes` nodes, or complete what runs already; returns when everything is ready.

    `vm` makes its nodes virtual machines without Kubernetes, each with `vm_disks` instance stores; None is what runs
    already, or namespaces. The default number of nodes is 2 of namespaces, or 1 virtual machine with 2 disks.
    A part that died is started again. A node that a verb stopped, killed or cut off is left so. What is left of a lab
    that died (a crash, a restart of the machine) is cleared away first.
    Raises LabError: every missing prerequisite at once, or the part that does not come up with the end of its log.
    """
    if nodes is not None and not 1 <= nodes <= MAX_NODES:
        raise LabError(f"{nodes} nodes asked for, wanted 1 to {MAX_NODES}")
    if vm_disks is not None and not 1 <= vm_disks <= MAX_VM_DISKS:
        raise LabError(f"{vm_disks} instance-store disks asked for, wanted 1 to {MAX_VM_DISKS}")
    layout = current()
    # Before the lock, which only root can take: who may not run a lab is told all that is missing.
    (prerequisites.check_vm if _kind(load(layout), vm) == "vm" else prerequisites.check)()
    with lock():
        state = load(layout)
        _refuse_other_lab(layout)
        kind = _kind(state, vm)
        if state is None or not state.of_this_boot() or not _anything_runs(state):
            if clearing.found():
                report("Clearing away what is left of an earlier lab")
                clearing.clear(layout)
            state = State(layout, kind=kind)
            state.kubernetes = kind == "namespace" and _can_have_kubernetes(report)
        elif (
            kind == "namespace"
            and not state.kubernetes
            and (binaries.at_hand() or _in_ci())
            and _can_have_kubernetes(report)
        ):
            report("Kubernetes can be had now: beginning anew, with blank disks")
            clearing.clear(layout)
            state = State(layout)
        found = found_for(state, report)
        if kind == "vm":
            state.vm_disks = vm_disks or state.vm_disks
        else:
            runtime.ensure(report)
        for index in range(1, (nodes or DEFAULT_NODES[kind]) + 1):
            state.nodes.setdefault(node_name(index), NodeState(index, kind))
        Builder(state, found, report).build()


def _kind(state: State | None, vm: bool | None) -> Kind:
    """Return how the nodes are to be made. Raises LabError if a lab runs whose nodes are made in the other way."""
    asked: Kind | None = None if vm is None else "vm" if vm else "namespace"
    if state is None or not state.of_this_boot() or not _anything_runs(state):
        return asked or "namespace"
    if asked not in (None, state.kind):
        raise LabError(
            f"the lab that runs has {KIND_WORDS[state.kind]}, wanted {KIND_WORDS[asked or 'namespace']}: all its nodes "
            "are of one kind",
            hint="judge-bootstrap lab down",
        )
    return state.kind


def _can_have_kubernetes(report: Report) -> bool:
    """Say whether the cluster's binaries are here or can be fetched; in CI it is an error if not (raises LabError)."""
    try:
        binaries.find(report)
    except binaries.Unavailable as err:
        if _in_ci():
            raise LabError(
                f"{err.message}; in CI (the variable CI is set) nothing may stand in for them", hint=err.hint
            ) from err
        report(f"{err.message}. Going on without a cluster. To have one: {err.hint}; then judge-bootstrap lab up")
        return False
    return True


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def _anything_runs(state: State) -> bool:
    return any(part.alive() for part in state.processes.values()) or any(
        node.running() for node in state.nodes.values()
    )


def _refuse_other_lab(layout: Layout) -> None:
    owner = network.bridge_owner()
    if owner and owner != str(layout.root):
        raise LabError(
            f"a lab runs on this machine already, in {owner}; wanted one in {layout.root}",
            hint=f"JUDGE_LAB_DIR={owner} judge-bootstrap lab down",
        )


def down(report: Report = _silent) -> None:
    """End the lab and remove everything it made, whole or in pieces; only the caches stay.

    Raises LabError, naming it, if something cannot be removed.
    """
    layout = current()
    with lock():
        owner = network.bridge_owner()
        if owner and owner != str(layout.root):
            raise LabError(
                f"the lab on this machine lies in {owner}, wanted the one in {layout.root}",
                hint=f"JUDGE_LAB_DIR={owner} judge-bootstrap lab down",
            )
        if parts := clearing.found():
            report(f"Removing {len(parts)} parts of the lab")
            clearing.clear(layout)
        if left := clearing.found():
            raise LabError(f"still there after `lab down`: {'; '.join(left)}", hint="judge-bootstrap lab down")
        LOCK_FILE.unlink(missing_ok=True)


def remains() -> list[str]:
    """Return, in words, everything of the lab that is on this machine now; empty after `lab down`."""
    return clearing.found()


def status() -> dict[str, Any]:
    """Return how the lab is: `running` (all that should run does), `parts`, `nodes`, `directory`, `stand_ins`."""
    layout = current()
    state = load(layout)
    if state is None or not state.of_this_boot():
        return {"running": False, "directory": str(layout.root), "parts": {}, "nodes": {}, "stand_ins": stand_ins()}
    ready = kube.Api(layout).node_conditions() if layout.kubeconfig.exists() else {}
    parts = {name: "running" if part.alive() else "dead" for name, part in state.processes.items()}
    nodes = {
        node.name: {
            "state": verbs.condition(node),
            "instance_id": node.instance_id,
            "address": node.address,
            "kind": node.kind,
            "ready": ready.get(node.name, False) if state.kubernetes else verbs.condition(node) == "running",
            "disk": vm_node.disks(layout, node) if node.kind == "vm" else node.loop,
        }
        for node in state.nodes.values()
    }
    if state.kubernetes:
        plugins = (gpu_part(node) for node in state.nodes.values() if node.wanted == "running")
        expected = {*services.PORTS, *kube.PARTS, *plugins}
    else:
        expected = {*services.PORTS} if state.kind == "vm" else {*services.PORTS, podless.PART}
    runs = all(parts.get(name) == "running" for name in expected) and all(
        node.running() for node in state.nodes.values() if node.wanted == "running"
    )
    return {
        "running": runs,
        "kubernetes": state.kubernetes,
        "kind": state.kind,
        "directory": str(layout.root),
        "parts": parts,
        "nodes": nodes,
        "stand_ins": stand_ins(),
    }


def environment() -> dict[str, str]:
    """Return the environment variables by which AWS, hub and cluster clients find the lab.

    JUDGE_LAB_RENDER_DIR and JUDGE_LAB_ENDPOINT_URL are empty but in a lab without Kubernetes: where manifests are to be
    written, and the address (without a port) at which the first of their pods answers. JUDGE_LAB_NVME_DEVICE is empty
    on virtual machines, whose disks are found by their model.
    """
    layout = current()
    state = load(layout)
    manifests = endpoint = ""
    vm = state is not None and state.kind == "vm"
    if state is not None and not state.kubernetes and not vm:
        usable = podless.usable_nodes(state.nodes.values())
        manifests = str(layout.manifests)
        endpoint = f"http://{usable[0].address if usable else node_address(1)}"
    return {
        "AWS_ENDPOINT_URL": services.AWS_URL,
        "AWS_ENDPOINT_URL_APPCONFIGDATA": services.APPCONFIG_URL,
        # moto takes any; a developer's own must never be sent to it. Output masks the secret: it is no common word.
        "AWS_ACCESS_KEY_ID": "judge-lab",
        "AWS_SECRET_ACCESS_KEY": "moto-takes-any-secret",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "KUBECONFIG": str(layout.kubeconfig),
        "JUDGE_LAB_DIR": str(layout.root),
        "HF_ENDPOINT": services.HUB_URL,
        # Given even if empty: a shell may have them from another day.
        "JUDGE_LAB_RENDER_DIR": manifests,
        "JUDGE_LAB_ENDPOINT_URL": endpoint,
        "JUDGE_LAB_NVME_DEVICE": "" if vm else f"/dev/disk/by-id/{disks.STABLE_NAME}",
    }


def node(verb: str, name: str, report: Report = _silent) -> None:
    """Change one node: `stop` (EC2 stop: comes back with a blank disk), `start` (also after kill and cut), `reboot`,
    `add` (a new node joins), `kill` (power cut; its disk keeps its data), `cut` (its network is unplugged).

    Raises LabError for an unknown verb or name, or when the node is not in a state for the verb.
    """
    if verb not in verbs.NAMES:
        raise LabError(
            f"unknown verb {verb!r}, wanted one of {', '.join(verbs.NAMES)}", hint="judge-bootstrap lab node --help"
        )
    with lock():
        layout = current()
        state = load(layout)
        if state is None or not state.of_this_boot() or not _anything_runs(state):
            raise LabError("the lab does not run", hint="judge-bootstrap lab up")
        verbs.apply(state, verb, name, report)


_IMAGE_STAND_IN = (
    "the image vllm/vllm-openai is a small Debian root whose `vllm` adds --enforce-eager (no CUDA graphs here)"
)


def stand_ins() -> list[str]:
    """Return a sentence for each thing that is not the real one here."""
    state = load(current())
    both = [
        "AWS is a moto server with an instance for each node, AppConfig's data service a small server of its protocol",
        f"the Hugging Face Hub is a small server of the documented endpoints with a tiny judge model, as AWQ "
        f"({hub.TINY_JUDGE}) and plain ({plain_model.PLAIN_JUDGE})",
    ]
    if state is not None and state.kind == "vm":
        return [
            *both,
            "a node is a virtual machine on an emulated CPU (systemd, sshd and the kernel are a plain Debian's)",
            "an instance-store disk or a volume is an NVMe device of QEMU that bears EC2's model and serial (its PCI "
            "ids are QEMU's)",
            "there is no Kubernetes and no GPU, as kubelet is too slow on an emulated CPU: `run nvme` and `run "
            "model_cache` work, a whole run ends at vllm_k8s",
        ]
    both += [
        "an instance-store disk is a loop device, and the only disk that its node can open",
    ]
    if state is not None and not state.kubernetes:
        return [
            *both,
            "a node is a set of namespaces on this kernel (sshd is real; no systemd)",
            "no Kubernetes: the manifests are rendered and their fields checked, and the pod's commands (the init "
            "container's first) run in the node's namespaces, with their arguments, environment, user and volumes, on "
            "the node's own address; no Service, probes, loader or limits. To have a cluster: "
            f"{binaries.HOW_TO_GET}; then judge-bootstrap lab up",
            f"the Secret with the judge's API key is the file {state.layout.api_key}",
            "the GPU is the CPU build of vLLM, mounted where the pod asks for nvidia.com/gpu",
            _IMAGE_STAND_IN,
        ]
    return [
        *both,
        "a node is a set of namespaces on this kernel (sshd, containerd, kubelet and kube-proxy are real; no systemd)",
        "the GPU is a device plugin that mounts the CPU build of vLLM into containers that ask for nvidia.com/gpu",
        _IMAGE_STAND_IN,
        "NetworkPolicy objects are accepted and not enforced",
    ]
