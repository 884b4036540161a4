"""What the lab remembers between commands (`state.json`), and the lock that lets one at a time change it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from judge_lab import LabError
from judge_lab.layout import Layout, node_address, node_name
from judge_lab.process import Process, boot_id

# One bridge, one set of addresses: so one lab a machine, wherever its directory lies, and one lock.
LOCK_FILE = Path("/run/judge-lab.lock")


# How a node is made: namespaces on this kernel (node.py), or a virtual machine (vm_node.py). A lab's nodes are alike.
Kind = Literal["namespace", "vm"]


@dataclass
class NodeState:
    """A node as it was last left. `wanted` is running | stopped | killed: what the operator's verbs asked for.

    `booted` is the Unix time of its last start. `kind` is how the node is made, `process` its first one on the host
    (QEMU of a virtual machine), and `loop` its disk's device unless it is a virtual machine.
    """

    index: int
    kind: Kind = "namespace"
    wanted: str = "running"
    plugged: bool = True
    instance_id: str = ""
    booted: float = 0.0
    loop: str | None = None
    process: Process | None = None

    @property
    def name(self) -> str:
        return node_name(self.index)

    @property
    def address(self) -> str:
        return node_address(self.index)

    def running(self) -> bool:
        return self.process is not None and self.process.alive()


@dataclass
class State:
    """Everything needed to find the lab's processes and devices again."""

    layout: Layout
    boot: str = field(default_factory=boot_id)
    processes: dict[str, Process] = field(default_factory=dict)
    nodes: dict[str, NodeState] = field(default_factory=dict)
    # False where its binaries could not be had: then podless.py runs the pods. A lab of virtual machines never has it.
    kubernetes: bool = True
    kind: Kind = "namespace"
    vm_disks: int = 2  # how many instance-store disks a virtual machine is made with

    def save(self) -> None:
        """Write the state in one step, so that a crash leaves the old one or the new one."""
        content = {
            "boot": self.boot,
            "kubernetes": self.kubernetes,
            "kind": self.kind,
            "vm_disks": self.vm_disks,
            "processes": {name: asdict(process) for name, process in self.processes.items()},
            "nodes": {name: asdict(node) for name, node in self.nodes.items()},
        }
        self.layout.root.mkdir(parents=True, exist_ok=True)
        staging = self.layout.state.with_suffix(".new")
        staging.write_text(json.dumps(content, indent=1))
        staging.replace(self.layout.state)

    def of_this_boot(self) -> bool:
        return self.boot == boot_id()


def load(layout: Layout) -> State | None:
    """Return the recorded state, or None when there is no lab. A file that cannot be read counts as no record."""
    try:
        content: dict[str, Any] = json.loads(layout.state.read_text())
        return State(
            layout,
            content["boot"],
            {name: Process(**process) for name, process in content["processes"].items()},
            {name: _node(node) for name, node in content["nodes"].items()},
            content.get("kubernetes", True),
            content.get("kind", "namespace"),
            content.get("vm_disks", 2),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _node(content: dict[str, Any]) -> NodeState:
    process = content.pop("process")
    return NodeState(**content, process=Process(**process) if process else None)


@contextlib.contextmanager
def lock(*, wait: bool = True) -> Iterator[None]:
    """Hold the machine's lab lock; a second command waits for the first.

    Raises LabError at once if it is held and `wait` is False, and to a user who may not change the lab at all.
    """
    while True:
        try:
            handle = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:
            raise LabError("the lab can only be changed by root", hint="run it as root (sudo -E)") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_same(handle):
                break
        except BlockingIOError:
            os.close(handle)
            raise LabError("another command is changing the lab", hint="wait for it, then try again") from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was removed by a `lab down` that we waited for
    try:
        yield
    finally:
        os.close(handle)


def _is_same(handle: int) -> bool:
    try:
        return LOCK_FILE.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
