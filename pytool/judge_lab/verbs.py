"""What a drill does to one node: `stop`, `start`, `reboot`, `add`, `kill`, `cut`."""

from __future__ import annotations

import time

from judge_lab import LabError, disks, network, process, services, vm_node
from judge_lab import node as nodes
from judge_lab.build import Builder, Report, found_for, gpu_part
from judge_lab.layout import MAX_NODES, node_name
from judge_lab.state import NodeState, State

NAMES = ("stop", "start", "reboot", "add", "kill", "cut")


def apply(state: State, verb: str, name: str, report: Report) -> None:
    """Do `verb` to the node `name` of a lab that runs; the caller holds the lock. Raises LabError (see site.node)."""
    if verb == "add":
        _add(state, name, report)
        return
    known = state.nodes.get(name)
    if known is None:
        raise LabError(f"no node {name!r}, the lab has {', '.join(state.nodes)}", hint="judge-bootstrap lab status")
    {"stop": _stop, "start": _start, "reboot": _reboot, "kill": _kill, "cut": _cut}[verb](state, known, report)


def condition(node: NodeState) -> str:
    """Return running | cut | stopped | killed | dead (it should run and does not)."""
    if node.wanted != "running":
        return node.wanted
    if not node.running():
        return "dead"
    return "running" if node.plugged else "cut"


def _add(state: State, name: str, report: Report) -> None:
    if name in state.nodes:
        raise LabError(f"{name} exists already", hint="judge-bootstrap lab status")
    index = next((index for index in range(1, MAX_NODES + 1) if node_name(index) == name), None)
    if index is None:
        free = next(node_name(index) for index in range(1, MAX_NODES + 1) if node_name(index) not in state.nodes)
        raise LabError(
            f"a node cannot be called {name!r}, wanted node-1 to node-{MAX_NODES}",
            hint=f"judge-bootstrap lab node add {free}",
        )
    state.nodes[name] = NodeState(index, state.kind)
    Builder(state, found_for(state, report), report).build()


def _stop(state: State, node: NodeState, report: Report) -> None:
    _need_running(node)
    report(f"Stopping {node.name}: its instance store is lost, as on EC2")
    services.set_instance_state(node, "stop")
    if node.kind == "vm" and node.plugged:
        vm_node.shut_down(state.layout, node)
    _take_down(state, node, "stopped")
    if node.kind == "vm":
        vm_node.replace_disks(state.layout, node)
    else:
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
    if node.kind == "vm":
        vm_node.halt(state.layout, node)
    else:
        nodes.halt(state.layout, node)
    node.plugged = True
    state.save()


def _cut(state: State, node: NodeState, report: Report) -> None:
    _need_running(node)
    report(f"Unplugging the network of {node.name}")
    node.plugged = False
    state.save()
    network.unplug(node.name)


def _start(state: State, node: NodeState, report: Report) -> None:
    if node.wanted == "stopped":
        services.set_instance_state(node, "start")
    node.wanted = "running"
    if not node.plugged:
        node.plugged = True
        if node.running():
            network.plug(node.name)
    state.save()
    builder = Builder(state, found_for(state, report), report)
    builder.boot(node)
    if state.kubernetes:
        nodes.import_images(state.layout, node, builder.images)
    builder.wait_ready(node)


def _reboot(state: State, node: NodeState, report: Report) -> None:
    _need_running(node)
    if not node.plugged:
        raise LabError(
            f"{node.name} is cut off, wanted it reachable", hint=f"judge-bootstrap lab node start {node.name}"
        )
    report(f"Rebooting {node.name}")
    if node.kind == "vm":
        node.booted = time.time()
        vm_node.reboot(state.layout, node)
        state.save()
    else:
        # Namespaces have nothing that shuts down: their reboot is their end, and a start with the same disk.
        _take_down(state, node, "running")
        _start(state, node, report)


def _need_running(node: NodeState) -> None:
    if not node.running():
        raise LabError(
            f"{node.name} is {condition(node)}, wanted it running", hint=f"judge-bootstrap lab node start {node.name}"
        )
