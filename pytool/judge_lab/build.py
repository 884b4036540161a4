"""Brings the parts of the lab up, in an order in which slow ones start while others are prepared."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from judge_lab import (
    LabError,
    binaries,
    images,
    kube,
    network,
    pki,
    podless,
    process,
    runtime,
    services,
    ssh,
    vm_image,
    vm_node,
)
from judge_lab import node as nodes
from judge_lab.layout import API_PORT, HOST_ADDRESS
from judge_lab.state import NodeState, State

Report = Callable[[str], None]


class Builder:
    """Brings one lab up; what runs already is left alone.

    `binaries` are the paths that binaries.find() gave; None brings up a lab without Kubernetes, as one of virtual
    machines always is.
    """

    def __init__(self, state: State, found: dict[str, Path] | None, report: Report) -> None:
        self.state, self.binaries, self.report = state, found, report
        self.layout, self.vm = state.layout, state.kind == "vm"
        if self.vm:
            vm_image.ensure(report)
        else:
            self.images = images.ensure(report)
        self.layout.root.mkdir(parents=True, exist_ok=True)

    def build(self) -> None:
        """Start what does not run, and return when all of it is ready; raises LabError with the part that is not."""
        layout, state = self.layout, self.state
        network.ensure_bridge(layout.root)
        services.fill_hub(layout)
        if self.binaries:
            pki.ensure(layout.kube)
        elif not self.vm:
            images.unpack_root(self.images[0], layout.image)
        ssh.ensure_operator_key(layout)
        for name in services.PORTS:
            if self._start_service(name) and name == "aws":
                self._wait("aws", lambda: kube.listens(HOST_ADDRESS, services.PORTS["aws"]))
                services.fix_random_ids()
            if name == "aws" and self.binaries:
                self._start_control("etcd")
                self._start_control("kube-apiserver")
        self._seed()
        wanted = [node for node in state.nodes.values() if node.wanted == "running"]
        for node in wanted:
            self.boot(node)
        ssh.write_known_hosts(layout, state.nodes.values())
        if self.binaries:
            self._complete_cluster(wanted)
        elif not self.vm:
            podless.ensure_api_key(layout)
            self._start(podless.PART, [*services.python(), "-m", "judge_lab.podless"])
        for name, port in services.PORTS.items():
            self._wait(name, lambda port=port: kube.listens(HOST_ADDRESS, port))  # type: ignore[misc]
        for node in wanted:
            self.wait_ready(node)

    def _complete_cluster(self, wanted: list[NodeState]) -> None:
        with ThreadPoolExecutor(len(wanted) or 1) as pool:
            imports = [pool.submit(nodes.import_images, self.layout, node, self.images) for node in wanted]
            self._wait("kube-apiserver", kube.Api(self.layout).ready)
            kube.allow_coredns(kube.Api(self.layout))
            for part in kube.PARTS[2:]:
                self._start_control(part)
            for done in imports:
                done.result()
        self._wait("kube-controller-manager", kube.Api(self.layout).admits_pods)

    def boot(self, node: NodeState) -> None:
        """Start a node that does not run, and its GPU stand-in if that does not (podless.py is its own)."""
        if not node.running():
            self.report(f"Starting {node.name} ({node.instance_id}, {node.address})")
            if self.vm:
                vm_node.halt(self.layout, node)  # what a crash left of it
                vm_node.prepare(self.layout, node)
                vm_node.boot(self.layout, node, self.report, vm_disks=self.state.vm_disks)
            else:
                nodes.halt(self.layout, node)
                nodes.prepare(self.layout, node, with_kubernetes=bool(self.binaries))
                kubelet = self.binaries["kubelet"].parent if self.binaries else None
                nodes.boot(self.layout, node, binaries=kubelet, vllm=runtime.folder())
            self.state.save()
        if not self.binaries:
            return
        folder = self.layout.node(node.name) / "fs" / "var" / "lib" / "kubelet" / "device-plugins"
        self._start(
            gpu_part(node),
            [*services.python(), "-m", "judge_lab.gpu", "--folder", str(folder), "--vllm", nodes.NODE_VLLM_DIR],
        )

    def wait_ready(self, node: NodeState) -> None:
        """Wait until the node is reached by ssh, and Ready in Kubernetes where that is."""
        if not node.plugged:
            return
        if self.vm:
            vm_node.wait_ready(self.layout, node)
            return
        log = f"tail {self.layout.node(node.name)}/fs/var/log/*.log"
        kube.wait_until(f"{node.name} accepts ssh", lambda: kube.listens(node.address, 22), seconds=180, hint=log)
        if not self.binaries:
            return
        api = kube.Api(self.layout)
        kube.wait_until(
            f"{node.name} is Ready with its GPU", lambda: api.node_ready(node.name, node.booted), seconds=600, hint=log
        )

    def _seed(self) -> None:
        before = {node.name: node.instance_id for node in self.state.nodes.values()}
        services.seed_instances(self.state.nodes.values())
        self.state.save()
        for node in self.state.nodes.values():
            if self.binaries and before[node.name] not in ("", node.instance_id) and node.running():
                # moto forgot the instances: the Node that named the old one has to join anew.
                nodes.prepare(self.layout, node, with_kubernetes=True)
                kube.Api(self.layout).delete_node(node.name)
                nodes.restart_kubelet(node)

    def _start_service(self, name: str) -> bool:
        return self._start(name, services.command(name, self.layout), port=services.PORTS[name])

    def _start_control(self, part: str) -> bool:
        assert self.binaries
        return self._start(
            part,
            kube.command(part, self.binaries[part], self.layout),
            port=API_PORT if part == "kube-apiserver" else None,
        )

    def _start(self, name: str, argv: list[str], *, port: int | None = None) -> bool:
        """Start a process on the host unless it runs; say whether it was started."""
        running = self.state.processes.get(name)
        if running is not None and running.alive():
            return False
        if port and kube.listens(HOST_ADDRESS, port):
            raise LabError(f"{HOST_ADDRESS}:{port} is taken, wanted it for {name}", hint=f"ss -ltnp 'sport = {port}'")
        if not name.startswith("gpu"):
            self.report(f"Starting {name}")
        self.state.processes[name] = process.spawn(
            argv,
            log=self.layout.logs / f"{name}.log",
            mark=self.layout.root,
            env={**services.import_path(), "JUDGE_LAB_DIR": str(self.layout.root)},
        )
        self.state.save()
        return True

    def _wait(self, name: str, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Wait for a part of ours; its death ends the waiting at once."""
        log = self.layout.logs / f"{name}.log"

        def holds() -> bool:
            if condition():
                return True
            if not self.state.processes[name].alive():
                raise LabError(f"{name} ended while it started: {_tail(log)}", hint=f"less {log}")
            return False

        kube.wait_until(f"{name} answers", holds, seconds=seconds, hint=f"less {log}")


def found_for(state: State, report: Report) -> dict[str, Path] | None:
    """Return the Kubernetes binaries of a lab that has Kubernetes, else None; raises LabError (see binaries.find)."""
    return binaries.find(report) if state.kubernetes else None


def gpu_part(node: NodeState) -> str:
    """Return the name of the node's GPU stand-in among the lab's processes."""
    return f"gpu-{node.name}"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return " | ".join(lines[-3:])[-600:] or "it said nothing"
