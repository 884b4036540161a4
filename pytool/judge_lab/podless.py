"""A stand-in for Kubernetes where its binaries cannot be had: runs the pods of the rendered manifests, and no more.

    python -m judge_lab.podless

It watches the directory that the manifests are written to. A Deployment's containers run with exactly their commands,
arguments, environment, user and volumes, on the image's own root, inside the namespaces of a lab node: the init
containers first, each to its end, then the one that stays; a new manifest replaces it, and when it ends it is started
again. What a cluster would add is not there: no Service, no probes, no limits of memory and CPU, no seccomp profile, no
network of the pod's own (it listens on the node's address), no loader. The Secret with the API key is the lab's own
file. A manifest that asks for more than is done here is not run at all, and the log says why.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from judge_lab import LabError, gpu, process
from judge_lab import node as nodes
from judge_lab.images import CONTAINER_VLLM_DIR
from judge_lab.layout import Layout, current
from judge_lab.pod_manifests import Container, Files, Mount, Pod, left_out, pods, read_objects
from judge_lab.process import Process
from judge_lab.state import NodeState, load

PART = "podless"
# The one Secret that a serving pod mounts holds this file.
API_KEY = "api-key"
# As kubelet does it, so that what looks for a pod's files looks there; the node's own directory lies below it.
_PODS = "/var/lib/kubelet/pods"
_POLL_SECONDS = 0.3
_LONGEST_BACKOFF_SECONDS = 20.0
_RESTARTED_AT_ONCE_AFTER_SECONDS = 60.0
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


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
        elif pod.container.gpus > 1:
            waiting.append(f"{pod.name} waits: it asks for {pod.container.gpus} GPUs, a node has 1")
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
    """Return the shell script that runs the init containers and becomes the container; `address` is the node's.

    It runs as root in new mount, uts, ipc and pid namespaces inside the node's own, so all it mounts ends with the pod.
    """
    lines = ["set -eu", f"hostname {_q(pod.name)}"]
    for container in pod.init:
        inner = "\n".join(["set -eu", *_container_lines(pod, container, address)])
        alone = shlex.join(["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", inner])
        failed = _q(f"the init container {container.name} ended with ")
        lines.append(f"{alone} || {{ echo {failed}$? >&2; exit 1; }}")
    return "\n".join([*lines, *_container_lines(pod, pod.container, address)]) + "\n"


def _container_lines(pod: Pod, container: Container, address: str) -> list[str]:
    """Return the lines that make a container's root and become its process."""
    base = f"/run/judge-lab/pods/{pod.name}"
    root = f"{base}/root"
    layers = _q(f"upperdir={base}/upper,workdir={base}/work")
    # The image stays as it is; what has to be there to be mounted on lies in memory, as a runtime's own layer would.
    lines = [
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
    for mount in sorted(container.mounts, key=lambda mount: len(PurePosixPath(mount.path).parts)):
        lines += _mount_lines(pod, container, mount, root)
    if container.gpus:
        lines += [
            f"mkdir -p {_q(root)}{CONTAINER_VLLM_DIR}",
            f"mount --bind -o ro {nodes.NODE_VLLM_DIR} {_q(root)}{CONTAINER_VLLM_DIR}",
        ]
    if container.read_only_root:
        lines.append(f"mount -o remount,bind,ro {_q(root)}")
    groups = "" if container.extra_group is None else str(container.extra_group)
    # The change of user takes root's capabilities away, and no-new-privs keeps it so.
    lines.append(shlex.join([
        "exec", "setpriv", "--no-new-privs", "chroot", f"--userspec={container.user}:{container.group}",
        f"--groups={groups}", root, "/usr/bin/env", "-i", f"--chdir={container.working_dir}",
        *_variables(pod, container), *container.command,
    ]))
    return lines


def _mount_lines(pod: Pod, container: Container, mount: Mount, root: str) -> list[str]:
    target = _q(root + mount.path)
    lines = [f"mkdir -p {target}"]
    if mount.memory:
        size = f",size={mount.size}" if mount.size else ""
        return [*lines, f"mount -t tmpfs -o mode=1777{size} tmpfs {target}"]
    source = mount.source if mount.source is not None else f"{_own(pod)}/{mount.name}"
    # As kubelet does it where the pod has an fsGroup; a folder that is there keeps what it is.
    owned = f"chgrp {container.extra_group} {{0}} && chmod 2775 {{0}}" if container.extra_group else "chmod 0777 {0}"
    if mount.source is None:
        if mount.name not in {one.volume for one in pod.files}:
            lines += [f"mkdir -p {_q(source)}", f"chmod 0777 {_q(source)}"]
    elif mount.make:
        # In a cluster this is the loader's work. Without -p: the disk has to be there.
        lines.append(f"test -d {_q(source)} || {{ mkdir {_q(source)} && {owned.format(_q(source))}; }}")
    else:
        # As for a local volume: a folder that is not there is never made.
        lines.append(f"test -d {_q(source)} || {{ echo {_q(source)} is not on this node >&2; exit 1; }}")
    if mount.sub_path:
        source = f"{source}/{mount.sub_path}"
        lines.append(f"test -d {_q(source)} || {{ mkdir -p {_q(source)} && {owned.format(_q(source))}; }}")
    lines.append(f"mount --bind {_q(source)} {target}")
    if mount.read_only:
        lines.append(f"mount -o remount,bind,ro {target}")
    return lines


def _own(pod: Pod) -> str:
    """Return the node's folder with the volumes that are the pod's own."""
    return f"{_PODS}/{pod.digest}/volumes"


def write_files(folder: Path, files: Files, group: int | None, api_key: str) -> None:
    """Write a volume of ConfigMap or Secret into the new directory `folder`, readable by `group` as kubelet does it."""
    folder.mkdir(parents=True)
    content = [(API_KEY, api_key.encode())] if files.secret else [
        (name, base64.b64decode(text)) for name, text in files.content
    ]  # fmt: skip
    for name, raw in content:
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(raw)
            if group is not None:
                os.fchown(stream.fileno(), 0, group)
            os.fchmod(stream.fileno(), files.mode)


def ensure_api_key(layout: Layout) -> str:
    """Return the key that stands for the Secret's, made and kept in the lab's directory if it is not there."""
    if not layout.api_key.exists():
        layout.root.mkdir(parents=True, exist_ok=True)
        staging = layout.api_key.with_suffix(".new")
        staging.unlink(missing_ok=True)
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
        staging.replace(layout.api_key)
    return layout.api_key.read_text().strip()


_STREAMS = ("stdin", "stdout", "stderr")


def _variables(pod: Pod, container: Container) -> list[str]:
    """Return the container's environment: what a runtime and the GPU bring, and over it what the manifest says."""
    brought = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": pod.name,
        **(gpu.ENVIRONMENT if container.gpus else {}),
    }
    return [f"{name}={value}" for name, value in {**brought, **dict(container.environment)}.items()]


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
    said: dict[str, str] = field(default_factory=dict)
    read: tuple[object, list[dict[str, Any]]] = (None, [])

    def turn(self) -> None:
        """Look once at manifests, nodes and processes, and do what is to be done."""
        state = load(self.layout)
        usable = usable_nodes(state.nodes.values()) if state is not None else []
        try:
            objects = self._objects()
            asked = pods(objects)
            wanted, waiting = place(asked, usable)
            notes = [*left_out(objects), *dict.fromkeys(note for pod in asked for note in pod.notes)]
            self._say("left out", "; ".join(notes))
        except LabError as err:
            wanted, waiting = {}, [err.message]
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            wanted, waiting = {}, [f"the manifests have a shape that was not expected: {err!r}"]
        self._say("waiting", "; ".join(waiting))
        for name, running in list(self.running.items()):
            if wanted.get(name) != running.pod:
                self._end(running)
                del self.running[name]
        by_name = {node.name: node for node in usable}
        for name, pod in wanted.items():
            self._keep_running(by_name[name], pod)

    def _objects(self) -> list[dict[str, Any]]:
        """Return the manifests' objects; they are big, so they are only read again when a file has changed."""
        seen = [(path.name, *_version(path)) for path in sorted(self.layout.manifests.glob("*.yaml"))]
        if self.read[0] != seen:
            self.read = (seen, read_objects(self.layout.manifests))
        return self.read[1]

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
                said = last_line(self._log_of(node, pod))
                _log(f"{pod.name} on {node.name} ended after {lasted:.0f} s, again in {running.backoff:.0f} s: {said}")
            elif now >= running.due:
                running.process, running.started, running.due = self._start(node, pod), now, 0.0
        else:
            return
        self._record()

    def _start(self, node: NodeState, pod: Pod) -> Process:
        _log(f"starting {pod.name} ({pod.digest}) on {node.name}")
        own = self.layout.node(node.name) / f"fs{_own(pod)}"
        for files in pod.files:
            shutil.rmtree(own / files.volume, ignore_errors=True)
            write_files(own / files.volume, files, pod.container.extra_group, ensure_api_key(self.layout))
        return process.spawn(command(node, pod), log=self._log_of(node, pod), mark=self.layout.root)

    def _log_of(self, node: NodeState, pod: Pod) -> Path:
        return self.layout.node(node.name) / "fs/var/log/pods" / f"{pod.name}.log"

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

    def _say(self, about: str, text: str) -> None:
        if text and text != self.said.get(about):
            _log(text)
        self.said[about] = text


def tree(top: Process) -> list[Process]:
    """Return a process and all that descend from it, the oldest first."""
    found, left = [], [top]
    while left:
        one = left.pop(0)
        found.append(one)
        left += process.children(one)
    return found


def _version(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file does; zeros for one that is being replaced."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


def last_line(log: Path) -> str:
    """Return the last line of a pod's log, or "nothing"."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


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
