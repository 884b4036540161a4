"""The site in a box: brings all its parts up, says how they are, changes nodes, and leaves nothing behind at the end.

One lab a machine. Every change holds the lab's lock and is recorded before the next one begins, so that a command which
is cut, or a machine that restarts, leaves nothing that the next command cannot take up or clear away.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from judge_lab import LabError, binaries, cgroups, disks, kube, network, pki, prerequisites, process, runtime, services, ssh
from judge_lab import node as nodes_
from judge_lab.layout import API_PORT, HOST_ADDRESS, MAX_NODES, REGION, Layout, current, node_name
from judge_lab.state import LOCK_FILE, NodeState, State, load, lock

Report = Callable[[str], None]
VERBS = ("stop", "start", "add", "kill", "cut")


def _silent(line: str) -> None:
    """Report nothing."""


def up(nodes: int = 2, report: Report = _silent) -> None:
    """Bring the lab up with at least `nodes` nodes, or complete what runs already; returns when everything is ready.

    A part that died is started again. A node that a verb stopped, killed or cut off is left so. What is left of a lab
    that died (a crash, a restart of the machine) is cleared away first.
    Raises LabError: every missing prerequisite at once, or the part that does not come up with the end of its log.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise LabError(f"{nodes} nodes asked for, wanted 1 to {MAX_NODES}")
    prerequisites.check()
    layout = current()
    with lock():
        state = load(layout)
        _refuse_other_lab(layout)
        if state is None or not state.of_this_boot() or not _anything_runs(state):
            if remains():
                report("Clearing away what is left of an earlier lab")
                _clear(layout)
            state = State(layout)
        found = binaries.find(report)
        runtime.ensure(report)
        for index in range(1, nodes + 1):
            state.nodes.setdefault(node_name(index), NodeState(index))
        _Builder(state, found, report).build()


def _anything_runs(state: State) -> bool:
    return any(part.alive() for part in state.processes.values()) or any(node.running() for node in state.nodes.values())


def _refuse_other_lab(layout: Layout) -> None:
    owner = network.bridge_owner()
    if owner and owner != str(layout.root):
        raise LabError(f"a lab runs on this machine already, in {owner}; wanted one in {layout.root}",
                       hint=f"JUDGE_LAB_DIR={owner} judge-bootstrap lab down")


class _Builder:
    """Brings the parts of one lab up, in an order in which slow ones start while others are prepared."""

    def __init__(self, state: State, found: dict[str, Path], report: Report) -> None:
        self.state, self.binaries, self.report = state, found, report
        self.layout = state.layout
        self.layout.root.mkdir(parents=True, exist_ok=True)

    def build(self) -> None:
        layout, state = self.layout, self.state
        network.ensure_bridge(layout.root)
        services.fill_hub(layout)
        pki.ensure(layout.kube)
        ssh.ensure_operator_key(layout)
        for name in services.PORTS:
            if self._start_service(name) and name == "aws":
                self._wait("aws", lambda: kube.listens(HOST_ADDRESS, services.PORTS["aws"]))
                services.fix_random_ids()
            if name == "aws":
                self._start_control("etcd")
                self._start_control("kube-apiserver")
        self._seed()
        wanted = [node for node in state.nodes.values() if node.wanted == "running"]
        for node in wanted:
            self.boot(node)
        ssh.write_known_hosts(layout, state.nodes.values())
        with ThreadPoolExecutor(len(wanted) or 1) as pool:
            imports = [pool.submit(nodes_.import_images, layout, node) for node in wanted]
            self._wait("kube-apiserver", kube.Api(layout).ready)
            kube.allow_coredns(kube.Api(layout))
            for part in kube.PARTS[2:]:
                self._start_control(part)
            for done in imports:
                done.result()
        for name, port in services.PORTS.items():
            self._wait(name, lambda port=port: kube.listens(HOST_ADDRESS, port))          # type: ignore[misc]
        for node in wanted:
            self.wait_ready(node)

    def boot(self, node: NodeState) -> None:
        """Start a node that does not run, and its GPU stand-in if that does not."""
        if not node.running():
            self.report(f"Starting {node.name} ({node.instance_id}, {node.address})")
            nodes_.halt(self.layout, node)                 # what a crash left of it
            nodes_.prepare(self.layout, node, with_kubernetes=True)
            nodes_.boot(self.layout, node, binaries=self.binaries["kubelet"].parent, vllm=runtime.folder())
            self.state.save()
        folder = self.layout.node(node.name) / "fs" / "var" / "lib" / "kubelet" / "device-plugins"
        self._start(gpu_part(node), [*services.python(), "-m", "judge_lab.gpu", "--folder", str(folder),
                                     "--vllm", nodes_.NODE_VLLM_DIR])

    def wait_ready(self, node: NodeState) -> None:
        """Wait until the node is reached by ssh and Ready in Kubernetes."""
        if not node.plugged:
            return
        log = f"tail {self.layout.node(node.name)}/fs/var/log/*.log"
        kube.wait_until(f"{node.name} accepts ssh", lambda: kube.listens(node.address, 22), seconds=30, hint=log)
        api = kube.Api(self.layout)
        kube.wait_until(f"{node.name} is Ready with its GPU", lambda: api.node_ready(node.name, node.booted), seconds=90, hint=log)

    def _seed(self) -> None:
        before = {node.name: node.instance_id for node in self.state.nodes.values()}
        services.seed_instances(self.state.nodes.values())
        self.state.save()
        for node in self.state.nodes.values():
            if before[node.name] not in ("", node.instance_id) and node.running():
                # moto forgot the instances: the Node that named the old one has to join anew.
                nodes_.prepare(self.layout, node, with_kubernetes=True)
                kube.Api(self.layout).delete_node(node.name)
                nodes_.restart_kubelet(node)

    def _start_service(self, name: str) -> bool:
        return self._start(name, services.command(name, self.layout), port=services.PORTS[name])

    def _start_control(self, part: str) -> bool:
        return self._start(part, kube.command(part, self.binaries[part], self.layout),
                           port=API_PORT if part == "kube-apiserver" else None)

    def _start(self, name: str, argv: list[str], *, port: int | None = None) -> bool:
        """Start a process on the host unless it runs; say whether it was started."""
        running = self.state.processes.get(name)
        if running is not None and running.alive():
            return False
        if port and kube.listens(HOST_ADDRESS, port):
            raise LabError(f"{HOST_ADDRESS}:{port} is taken, wanted it for {name}", hint=f"ss -ltnp 'sport = {port}'")
        if not name.startswith("gpu"):
            self.report(f"Starting {name}")
        self.state.processes[name] = process.spawn(argv, log=self.layout.logs / f"{name}.log", mark=self.layout.root,
                                                   env=services.import_path())
        self.state.save()
        return True

    def _wait(self, name: str, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for a part of ours; its death ends the waiting at once."""
        log = self.layout.logs / f"{name}.log"

        def holds() -> bool:
            if condition():
                return True
            if not self.state.processes[name].alive():
                raise LabError(f"{name} ended while it started: {_tail(log)}", hint=f"less {log}")
            return False

        kube.wait_until(f"{name} answers", holds, seconds=seconds, hint=f"less {log}")


def gpu_part(node: NodeState) -> str:
    return f"gpu-{node.name}"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return " | ".join(lines[-3:])[-600:] or "it said nothing"


def down(report: Report = _silent) -> None:
    """End the lab and remove everything it made, whole or in pieces; only the caches stay.

    Raises LabError, naming it, if something cannot be removed.
    """
    layout = current()
    with lock():
        owner = network.bridge_owner()
        if owner and owner != str(layout.root):
            raise LabError(f"the lab on this machine lies in {owner}, wanted the one in {layout.root}",
                           hint=f"JUDGE_LAB_DIR={owner} judge-bootstrap lab down")
        if found := remains():
            report(f"Removing {len(found)} parts of the lab")
            _clear(layout)
        if left := remains():
            raise LabError(f"still there after `lab down`: {'; '.join(left)}", hint="judge-bootstrap lab down")
        LOCK_FILE.unlink(missing_ok=True)


def _clear(layout: Layout) -> None:
    """End and remove everything that remains() finds. Works without a state file, too."""
    state = load(layout)
    known = []
    if state is not None and state.of_this_boot():
        known = [node.process for node in state.nodes.values() if node.process] + list(state.processes.values())
    # All at once and without a TERM: the data is thrown away, and the API server would wait a minute for its watchers.
    process.end([*known, *process.marked(layout.root)])
    process.end(process.marked(layout.root))              # what one of them started meanwhile
    for name in network.namespaces():
        network.disconnect(name.removeprefix(network.namespace("")))
    for link in network.links():
        process.run("ip", "link", "del", link, check=False)
    for point in reversed(_mounts_below(layout.root)):
        process.run("umount", point)
    for backing in set(disks.attached().values()):
        if Path(backing).is_relative_to(layout.root):
            disks.detach(Path(backing.removesuffix(" (deleted)")))
    cgroups.remove()
    if layout.root.exists():
        # An empty mount point may have been made immutable, so that nothing is written under a missing disk.
        process.run("chattr", "-R", "-f", "-i", *layout.root.glob("nodes/*/fs/mnt"), check=False)
        shutil.rmtree(layout.root)
    if layout.root == Path("/var/lib/judge-bootstrap/lab") and not any(layout.root.parent.iterdir()):
        layout.root.parent.rmdir()


def _mounts_below(root: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if Path(point).is_relative_to(root)]


def remains() -> list[str]:
    """Return, in words, everything of the lab that is on this machine now; empty after `lab down`."""
    root = current().root
    found = [f"process {one.pid}: {process.command(one)}" for one in process.marked(root)]
    found += [f"network namespace {name}" for name in network.namespaces()]
    found += [f"link {name}" for name in network.links()]
    found += [f"mount {point}" for point in _mounts_below(root)]
    found += [f"loop device {device}" for device, file in disks.attached().items() if Path(file).is_relative_to(root)]
    found += [f"cgroup {folder}" for folder in cgroups.found()]
    return found + ([f"directory {root}"] if root.exists() else [])


def status() -> dict[str, Any]:
    """Return how the lab is: `running` (everything that should run does), `parts`, `nodes`, `directory`, `stand_ins`."""
    layout = current()
    state = load(layout)
    if state is None or not state.of_this_boot():
        return {"running": False, "directory": str(layout.root), "parts": {}, "nodes": {}, "stand_ins": stand_ins()}
    ready = kube.Api(layout).node_conditions() if layout.kubeconfig.exists() else {}
    parts = {name: "running" if part.alive() else "dead" for name, part in state.processes.items()}
    nodes = {node.name: {
        "state": _node_state(node), "instance_id": node.instance_id, "address": node.address, "kind": node.kind,
        "ready": ready.get(node.name, False), "disk": node.loop,
    } for node in state.nodes.values()}
    expected = {*kube.PARTS, *services.PORTS, *(gpu_part(node) for node in state.nodes.values() if node.wanted == "running")}
    runs = all(parts.get(name) == "running" for name in expected) and all(
        node.running() for node in state.nodes.values() if node.wanted == "running")
    return {"running": runs, "directory": str(layout.root), "parts": parts, "nodes": nodes, "stand_ins": stand_ins()}


def _node_state(node: NodeState) -> str:
    """Return running | cut | stopped | killed | dead (it should run and does not)."""
    if node.wanted != "running":
        return node.wanted
    if not node.running():
        return "dead"
    return "running" if node.plugged else "cut"


def environment() -> dict[str, str]:
    """Return the environment variables by which AWS, hub and cluster clients find the lab."""
    layout = current()
    return {
        "AWS_ENDPOINT_URL": services.AWS_URL, "AWS_ENDPOINT_URL_APPCONFIGDATA": services.APPCONFIG_URL,
        # moto takes any; a developer's own must never be sent to it. Output masks the secret, so it is no word of its own.
        "AWS_ACCESS_KEY_ID": "judge-lab", "AWS_SECRET_ACCESS_KEY": "moto-takes-any-secret",
        "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
        "KUBECONFIG": str(layout.kubeconfig), "JUDGE_LAB_DIR": str(layout.root), "HF_ENDPOINT": services.HUB_URL,
    }


def node(verb: str, name: str, report: Report = _silent) -> None:
    """Change one node: `stop` (EC2 stop: comes back with a blank disk), `start` (also after kill and cut), `add` (a new
    node joins), `kill` (power cut; the disk keeps its data), `cut` (its network is unplugged).

    Raises LabError for an unknown verb or name, or when the node is not in a state for the verb.
    """
    if verb not in VERBS:
        raise LabError(f"unknown verb {verb!r}, wanted one of {', '.join(VERBS)}", hint="judge-bootstrap lab node --help")
    with lock():
        layout = current()
        state = load(layout)
        if state is None or not state.of_this_boot() or not _anything_runs(state):
            raise LabError("the lab does not run", hint="judge-bootstrap lab up")
        if verb == "add":
            _add(state, name, report)
            return
        known = state.nodes.get(name)
        if known is None:
            raise LabError(f"no node {name!r}, the lab has {', '.join(state.nodes)}", hint="judge-bootstrap lab status")
        {"stop": _stop, "start": _start_node, "kill": _kill, "cut": _cut}[verb](state, known, report)


def _add(state: State, name: str, report: Report) -> None:
    if name in state.nodes:
        raise LabError(f"{name} exists already", hint="judge-bootstrap lab status")
    index = next((index for index in range(1, MAX_NODES + 1) if node_name(index) == name), None)
    if index is None:
        free = next(node_name(index) for index in range(1, MAX_NODES + 1) if node_name(index) not in state.nodes)
        raise LabError(f"a node cannot be called {name!r}, wanted node-1 to node-{MAX_NODES}", hint=f"judge-bootstrap lab node add {free}")
    state.nodes[name] = NodeState(index)
    _Builder(state, binaries.find(report), report).build()


def _stop(state: State, node: NodeState, report: Report) -> None:
    _need_running(node)
    report(f"Stopping {node.name}: its instance store is lost, as on EC2")
    services.set_instance_state(node, "stop")
    _take_down(state, node, "stopped")
    disks.replace_by_blank(state.layout.disk(node.name))


def _kill(state: State, node: NodeState, report: Report) -> None:
    _need_running(node)
    report(f"Killing {node.name}")
    _take_down(state, node, "killed")


def _take_down(state: State, node: NodeState, wanted: str) -> None:
    node.wanted = wanted
    state.save()
    plugin = state.processes.pop(gpu_part(node), None)
    if plugin is not None:
        process.end([plugin])
    nodes_.halt(state.layout, node)
    node.plugged = True
    state.save()


def _cut(state: State, node: NodeState, report: Report) -> None:
    _need_running(node)
    report(f"Unplugging the network of {node.name}")
    node.plugged = False
    state.save()
    network.unplug(node.name)


def _start_node(state: State, node: NodeState, report: Report) -> None:
    if node.wanted == "stopped":
        services.set_instance_state(node, "start")
    node.wanted = "running"
    if not node.plugged:
        node.plugged = True
        if node.running():
            network.plug(node.name)
    state.save()
    builder = _Builder(state, binaries.find(report), report)
    builder.boot(node)
    nodes_.import_images(state.layout, node)
    builder.wait_ready(node)


def _need_running(node: NodeState) -> None:
    if not node.running():
        raise LabError(f"{node.name} is {_node_state(node)}, wanted it running", hint=f"judge-bootstrap lab node start {node.name}")


def stand_ins() -> list[str]:
    """Return a sentence for each thing that is not the real one here."""
    return [
        "AWS is a moto server with an instance for each node; AppConfig's data service is a small server of its protocol.",
        "The Hugging Face Hub is a small server of the documented endpoints with a tiny judge model.",
        "A node is a set of namespaces on this kernel: real sshd, containerd, runc, kubelet and kube-proxy, no kernel or systemd of its own.",
        "An instance-store disk is a loop device, the only disk that its node can see.",
        "The GPU is a device plugin that advertises nvidia.com/gpu and mounts the CPU build of vLLM into the containers that ask for it.",
        "The image vllm/vllm-openai is a small Debian root with the same entrypoint, which adds --enforce-eager: there are no CUDA graphs on a CPU.",
        "NetworkPolicy objects are accepted and not enforced.",
    ]
