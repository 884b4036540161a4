"""A stand-in for Kubernetes where its binaries cannot be had: runs the pods of the rendered manifests, and no more.

    python -m judge_lab.podless

It watches the directory that the manifests are written to. A Deployment's container runs with exactly its command,
arguments, environment, user and volumes, on the image's own root, inside the namespaces of a lab node; a new manifest
replaces it, and when it ends it is started again. What a cluster would add is not there: no Service, no probes, no
limits of memory and CPU, no seccomp profile, no network of the pod's own (it listens on the node's address). A manifest
that asks for more than is done here is not run at all, and the log says why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import yaml

from judge_lab import LabError, gpu, process
from judge_lab import node as nodes
from judge_lab.images import CONTAINER_VLLM_DIR
from judge_lab.layout import Layout, current
from judge_lab.process import Process
from judge_lab.state import NodeState, load

PART = "podless"
# As kubelet does it, so that what looks for a pod's files looks there; the node's own directory lies below it.
_PODS = "/var/lib/kubelet/pods"
_POLL_SECONDS = 0.3
_LONGEST_BACKOFF_SECONDS = 20.0
_RESTARTED_AT_ONCE_AFTER_SECONDS = 60.0
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True)
class Mount:
    """One volume in the container. `source` is a path of the node, or None for an emptyDir.

    `memory` says that the emptyDir is memory, of `size` (tmpfs syntax; "" for no limit).
    """

    path: str
    source: str | None
    read_only: bool
    name: str = ""
    memory: bool = False
    size: str = ""


@dataclass(frozen=True)
class Pod:
    """One container to run: exactly what its manifest says, as plain values."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    user: int
    group: int
    working_dir: str
    read_only_root: bool
    gpus: int
    node_selector: tuple[tuple[str, str], ...]
    tolerates_gpu_taint: bool

    @property
    def digest(self) -> str:
        """Names this pod and no other: a pod whose manifest changes is another pod."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]


def read_objects(folder: Path) -> list[dict[str, Any]]:
    """Return the objects of the directory's files; none when it is not there. Raises LabError for a broken file."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            found += [item for item in yaml.safe_load_all(path.read_text()) if isinstance(item, dict)]
        except FileNotFoundError:
            continue  # being replaced
        except (OSError, ValueError, yaml.YAMLError) as err:
            raise LabError(f"cannot read {path}: {err}") from err
    return found


def pods(objects: Sequence[Mapping[str, Any]]) -> list[Pod]:
    """Return the pods that the Deployments among the objects ask for, one for each replica.

    Raises LabError, naming the field, for one that this stand-in cannot give what its manifest asks for.
    """
    found = []
    for item in objects:
        if item.get("kind") == "Deployment":
            for replica in range(item["spec"].get("replicas", 1)):
                found.append(_pod(item, replica, objects))
    return found


def _pod(deployment: Mapping[str, Any], replica: int, objects: Sequence[Mapping[str, Any]]) -> Pod:
    namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
    spec = deployment["spec"]["template"]["spec"]
    where = f"Deployment/{name}"
    containers = spec["containers"]
    if len(containers) != 1 or spec.get("initContainers"):
        raise LabError(f"{where} has more than one container, which runs in a cluster only")
    container = containers[0]
    if not container.get("command"):
        raise LabError(f"{where} names no command, wanted it in the manifest: the image is not asked here")
    if container.get("envFrom") or any("valueFrom" in entry for entry in container.get("env", [])):
        raise LabError(f"{where} takes environment from other objects (valueFrom), which runs in a cluster only")
    security = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
    user = security.get("runAsUser", 0)
    if security.get("runAsNonRoot") and not user:
        raise LabError(f"{where} says runAsNonRoot and no runAsUser")
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    limits = container.get("resources", {}).get("limits", {})
    return Pod(
        name=f"{name}-{replica}",
        command=(*container["command"], *container.get("args", [])),
        environment=tuple((entry["name"], str(entry.get("value", ""))) for entry in container.get("env", [])),
        mounts=tuple(
            _mount(mount, volumes[mount["name"]], namespace, objects, where)
            for mount in container.get("volumeMounts", [])
        ),
        user=user,
        group=security.get("runAsGroup", 0),
        working_dir=container.get("workingDir", "/"),
        read_only_root=bool(security.get("readOnlyRootFilesystem")),
        gpus=int(limits.get(gpu.RESOURCE, 0)),
        node_selector=tuple(sorted(spec.get("nodeSelector", {}).items())),
        tolerates_gpu_taint=any(_tolerates(entry) for entry in spec.get("tolerations", [])),
    )


def _mount(
    mount: Mapping[str, Any],
    volume: Mapping[str, Any],
    namespace: str,
    objects: Sequence[Mapping[str, Any]],
    where: str,
) -> Mount:
    if "subPath" in mount or "subPathExpr" in mount:
        raise LabError(f"{where} mounts a subPath at {mount['mountPath']}, which runs in a cluster only")
    if "emptyDir" in volume:
        wanted = volume["emptyDir"] or {}
        return Mount(
            mount["mountPath"],
            None,
            bool(mount.get("readOnly")),
            volume["name"],
            wanted.get("medium") == "Memory",
            tmpfs_size(str(wanted.get("sizeLimit", ""))),
        )
    if "persistentVolumeClaim" in volume:
        claim = volume["persistentVolumeClaim"]
        path = _claimed_path(claim["claimName"], namespace, objects, where)
        return Mount(mount["mountPath"], path, bool(mount.get("readOnly") or claim.get("readOnly")), volume["name"])
    kind = next((key for key in volume if key != "name"), "nothing")
    raise LabError(f"{where} has the volume {volume['name']} of {kind}, wanted emptyDir or a claim on a local volume")


def _claimed_path(claim: str, namespace: str, objects: Sequence[Mapping[str, Any]], where: str) -> str:
    """Return the node's path behind a claim: its own volume must be bound to it, by name, from both sides."""
    for item in objects:
        if item.get("kind") == "PersistentVolumeClaim" and item["metadata"]["name"] == claim:
            wanted = item["spec"].get("volumeName")
            for volume in objects:
                reference = volume.get("spec", {}).get("claimRef", {})
                if (
                    volume.get("kind") == "PersistentVolume"
                    and volume["metadata"]["name"] == wanted
                    and (reference.get("namespace"), reference.get("name")) == (namespace, claim)
                    and "local" in volume["spec"]
                ):
                    return str(volume["spec"]["local"]["path"])
    raise LabError(f"{where} claims {namespace}/{claim}, and no local PersistentVolume is bound to that")


def _tolerates(toleration: Mapping[str, Any]) -> bool:
    taint = nodes.TAINT
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return (toleration.get("key"), toleration.get("value")) == (taint["key"], taint["value"])


def tmpfs_size(quantity: str) -> str:
    """Return a Kubernetes quantity of bytes (`256Mi`, `1G`, `1024`) as tmpfs takes it; "" stays ""."""
    binary = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
    decimal = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    for suffix, factor in {**binary, **decimal}.items():
        if quantity.endswith(suffix):
            return str(int(float(quantity.removesuffix(suffix)) * factor))
    return quantity


def place(wanted: Sequence[Pod], usable: Sequence[NodeState]) -> tuple[dict[str, Pod], list[str]]:
    """Give each pod a node of its own, in the nodes' order: one GPU each.

    Returns {node name: pod}, and a sentence for each pod that has to wait.
    """
    placed: dict[str, Pod] = {}
    waiting = []
    for pod in wanted:
        fitting = [node for node in usable if set(pod.node_selector) <= _labels(node).items()]
        if not pod.tolerates_gpu_taint:
            waiting.append(f"{pod.name} waits: it does not tolerate {nodes.TAINT['key']}={nodes.TAINT['value']}")
        elif not fitting:
            waiting.append(f"{pod.name} waits: no running node has the labels {dict(pod.node_selector)}")
        elif pod.gpus > 1:
            waiting.append(f"{pod.name} waits: it asks for {pod.gpus} GPUs, a node has 1")
        elif free := next((node.name for node in fitting if node.name not in placed), None):
            placed[free] = pod
        else:
            waiting.append(f"{pod.name} waits: every node's GPU is taken")
    return placed, waiting


def _labels(node: NodeState) -> dict[str, str]:
    return {**nodes.NODE_LABELS, nodes.INSTANCE_LABEL: node.instance_id, "kubernetes.io/hostname": node.name}


def usable_nodes(states: Iterable[NodeState]) -> list[NodeState]:
    """Return the nodes that a pod can run on and be reached on, in the order in which they are filled."""
    return [node for node in states if node.wanted == "running" and node.plugged and node.running()]


def script(pod: Pod, address: str) -> str:
    """Return the shell script that makes the container's root and becomes its process; `address` is the node's.

    It runs as root in new mount, uts, ipc and pid namespaces inside the node's own, so all it mounts ends with the pod.
    """
    base = f"/run/judge-lab/pods/{pod.name}"
    root = f"{base}/root"
    layers = _q(f"upperdir={base}/upper,workdir={base}/work")
    own = f"{_PODS}/{pod.digest}/volumes"
    # The image stays as it is; what has to be there to be mounted on lies in memory, as a runtime's own layer would.
    lines = [
        "set -eu",
        f"hostname {_q(pod.name)}",
        f"mkdir -p {_q(base)}",
        f"mount -t tmpfs -o mode=755 tmpfs {_q(base)}",
        f"mkdir {_q(base)}/upper {_q(base)}/work {_q(root)}",
        f"mount -t overlay -o lowerdir={nodes.NODE_IMAGE_DIR},{layers} overlay {_q(root)}",
        f"mount -t proc -o nosuid,nodev,noexec proc {_q(root)}/proc",
        f"mount --bind -o ro /sys {_q(root)}/sys",
        f"mount -t tmpfs -o mode=755,size=1m tmpfs {_q(root)}/dev",
        f"mkdir {_q(root)}/dev/shm",
        f"printf '%s\\n' '127.0.0.1 localhost' {_q(f'{address} {pod.name}')} >{_q(root)}/etc/hosts",
    ]
    for device in _DEVICES:
        lines.append(f"touch {_q(root)}/dev/{device} && mount --bind /dev/{device} {_q(root)}/dev/{device}")
    lines += [f"ln -s /proc/self/fd/{number} {_q(root)}/dev/{name}" for number, name in enumerate(_STREAMS)]
    lines.append(f"ln -s /proc/self/fd {_q(root)}/dev/fd")
    # Outer paths first: a mount at /a would cover one at /a/b.
    for mount in sorted(pod.mounts, key=lambda mount: len(PurePosixPath(mount.path).parts)):
        target = _q(root + mount.path)
        lines.append(f"mkdir -p {target}")
        if mount.memory:
            size = f",size={mount.size}" if mount.size else ""
            lines.append(f"mount -t tmpfs -o mode=1777{size} tmpfs {target}")
            continue
        source = _q(mount.source if mount.source is not None else f"{own}/{mount.name}")
        if mount.source is None:
            lines += [f"mkdir -p {source}", f"chmod 0777 {source}"]
        else:
            # As for a local volume: a folder that is not there is never made.
            lines.append(f"test -d {source} || {{ echo {_q(mount.source)} is not on this node >&2; exit 1; }}")
        lines.append(f"mount --bind {source} {target}")
        if mount.read_only:
            lines.append(f"mount -o remount,bind,ro {target}")
    if pod.gpus:
        lines += [
            f"mkdir -p {_q(root)}{CONTAINER_VLLM_DIR}",
            f"mount --bind -o ro {nodes.NODE_VLLM_DIR} {_q(root)}{CONTAINER_VLLM_DIR}",
        ]
    if pod.read_only_root:
        lines.append(f"mount -o remount,bind,ro {_q(root)}")
    # The change of user takes root's capabilities away, and no-new-privs keeps it so.
    lines.append(shlex.join([
        "exec", "setpriv", "--no-new-privs", "chroot", f"--userspec={pod.user}:{pod.group}", "--groups=", root,
        "/usr/bin/env", "-i", f"--chdir={pod.working_dir}", *_variables(pod), *pod.command,
    ]))
    return "\n".join(lines) + "\n"


_STREAMS = ("stdin", "stdout", "stderr")


def _variables(pod: Pod) -> list[str]:
    """Return the container's environment: what a runtime and the GPU bring, and over it what the manifest says."""
    brought = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": pod.name,
        **(gpu.ENVIRONMENT if pod.gpus else {}),
    }
    return [f"{name}={value}" for name, value in {**brought, **dict(pod.environment)}.items()]


def _q(text: str) -> str:
    return shlex.quote(text)


def command(node: NodeState, pod: Pod) -> list[str]:
    """Return the command line that runs the pod in the node. The end of its first process ends all of it."""
    return [
        *nodes.enter(node),
        # nsenter waits outside for its child; without this the child would outlive it.
        "setpriv", "--pdeathsig", "KILL",
        "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "/bin/sh", "-c",
        script(pod, node.address),
    ]


@dataclass
class Running:
    """A pod as it was started last: on which node, when (monotonic seconds), and how long to wait if it ends."""

    pod: Pod
    node: str
    process: Process
    started: float
    backoff: float = 0.0
    due: float = 0.0


@dataclass
class Runner:
    """Holds what runs to what the manifests want; one `turn` after the other."""

    layout: Layout
    running: dict[str, Running] = field(default_factory=dict)
    said: str = ""

    def turn(self) -> None:
        """Look once at manifests, nodes and processes, and do what is to be done."""
        state = load(self.layout)
        usable = usable_nodes(state.nodes.values()) if state is not None else []
        try:
            wanted, waiting = place(pods(read_objects(self.layout.manifests)), usable)
        except LabError as err:
            wanted, waiting = {}, [err.message]
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            wanted, waiting = {}, [f"the manifests have a shape that was not expected: {err!r}"]
        self._say("; ".join(waiting))
        for name, running in list(self.running.items()):
            if wanted.get(name) != running.pod:
                self._end(running)
                del self.running[name]
        by_name = {node.name: node for node in usable}
        for name, pod in wanted.items():
            self._keep_running(by_name[name], pod)

    def _keep_running(self, node: NodeState, pod: Pod) -> None:
        running, now = self.running.get(node.name), time.monotonic()
        if running is None:
            self.running[node.name] = Running(pod, node.name, self._start(node, pod), now)
        elif not running.process.alive():
            if not running.due:
                lasted = now - running.started
                longer = min(max(1.0, running.backoff * 2), _LONGEST_BACKOFF_SECONDS)
                running.backoff = 1.0 if lasted > _RESTARTED_AT_ONCE_AFTER_SECONDS else longer
                running.due = now + running.backoff
                _log(f"{pod.name} on {node.name} ended after {lasted:.0f} s, again in {running.backoff:.0f} s")
            elif now >= running.due:
                running.process, running.started, running.due = self._start(node, pod), now, 0.0
        else:
            return
        self._record()

    def _start(self, node: NodeState, pod: Pod) -> Process:
        _log(f"starting {pod.name} ({pod.digest}) on {node.name}")
        log = self.layout.node(node.name) / "fs/var/log/pods" / f"{pod.name}.log"
        return process.spawn(command(node, pod), log=log, mark=self.layout.root)

    def _end(self, running: Running) -> None:
        _log(f"ending {running.pod.name} ({running.pod.digest}) on {running.node}")
        process.end(tree(running.process))
        shutil.rmtree(
            self.layout.node(running.node) / f"fs{_PODS}" / running.pod.digest, ignore_errors=True
        )  # its emptyDirs
        self._record(without=running)

    def _record(self, without: Running | None = None) -> None:
        """Write down what runs, for the next of us: this process may be killed, and its pods live on."""
        content = [asdict(one.process) for one in self.running.values() if one is not without]
        staging = self.layout.pods.with_suffix(".new")
        staging.write_text(json.dumps(content))
        staging.replace(self.layout.pods)

    def end_earlier(self) -> None:
        """End the pods that a process before this one left."""
        if self.layout.pods.exists():
            left = [Process(**one) for one in json.loads(self.layout.pods.read_text())]
            process.end([each for one in left if one.alive() for each in tree(one)])

    def _say(self, text: str) -> None:
        if text and text != self.said:
            _log(text)
        self.said = text


def tree(top: Process) -> list[Process]:
    """Return a process and all that descend from it, the oldest first."""
    found, left = [], [top]
    while left:
        one = left.pop(0)
        found.append(one)
        left += process.children(one)
    return found


def _log(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the pods of the lab that JUDGE_LAB_DIR names, until it is killed."""
    argparse.ArgumentParser(
        prog="python -m judge_lab.podless", description="Runs the manifests' pods where there is no Kubernetes."
    ).parse_args(argv)
    runner = Runner(current())
    runner.end_earlier()
    while True:
        runner.turn()
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    main()
