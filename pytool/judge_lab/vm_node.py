"""A node as a virtual machine on the lab's bridge: systemd, NVMe devices with EC2's names, reboot; no Kubernetes.

Beside node.py, with the same verbs. What a virtual machine is, and that a test can have one alone, is vm.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from judge_lab import network, ssh
from judge_lab.layout import HOST_ADDRESS, NETWORK_BITS, Layout, node_mac
from judge_lab.state import NodeState
from judge_lab.vm import BOOT_SECONDS, EBS, GIB, Machine, Tap

DISK_BYTES = GIB


def machine(layout: Layout, node: NodeState, report: Callable[[str], None] = lambda line: None) -> Machine:
    """Return the node's machine, as it was last left."""
    return Machine(
        layout.node(node.name) / "vm",
        name=node.name,
        tap=Tap(network.cable(node.name), node.address, NETWORK_BITS, HOST_ADDRESS, node_mac(node.index)),
        key=layout.ssh / "id_ed25519",
        host_key=layout.node(node.name) / "etc" / "ssh_host_ed25519_key",
        mark=layout.root,
        report=report,
    )


def prepare(layout: Layout, node: NodeState) -> None:
    """Write the keys that the node is known by."""
    ssh.prepare_node(layout, node)


def boot(layout: Layout, node: NodeState, report: Callable[[str], None], *, vm_disks: int) -> None:
    """Switch the node on with the disks it has; a new one gets a volume and `vm_disks` instance stores, all blank.

    Sets `process` and `booted` of the node; the caller saves the state, and waits with wait_ready().
    """
    network.connect_vm(node)
    one = machine(layout, node, report)
    disks = one.disks
    if not disks:
        one.folder.mkdir(parents=True, exist_ok=True)
        stores = [one.new_disk(size_bytes=DISK_BYTES) for _ in range(vm_disks)]
        disks = [one.root, one.new_disk(model=EBS, size_bytes=DISK_BYTES), *stores]
    node.booted = time.time()
    one.start(disks, wait_seconds=None)
    node.process = one.process


def wait_ready(layout: Layout, node: NodeState) -> None:
    """Wait until the node is reached by ssh, and make sure that it sees its disks; raises LabError."""
    one = machine(layout, node)
    one.wait_ssh(BOOT_SECONDS)
    one.check_disks()


def halt(layout: Layout, node: NodeState) -> None:
    """End the node at once, as a power cut does, and take its cable away. Its disks stay."""
    machine(layout, node).kill()
    node.process = None
    network.disconnect(node.name)


def shut_down(layout: Layout, node: NodeState) -> None:
    """Shut the node down, or end it when that takes too long. Its disks stay."""
    machine(layout, node).poweroff()


def replace_disks(layout: Layout, node: NodeState) -> None:
    """Put blank disks in the place of the instance stores of a node that does not run, as an EC2 stop does."""
    machine(layout, node).stop()


def reboot(layout: Layout, node: NodeState) -> None:
    """Reboot the guest, and wait until its next boot is reached by ssh."""
    node.booted = time.time()
    machine(layout, node).reboot()


def disks(layout: Layout, node: NodeState) -> str:
    """Return the serials of the node's instance stores, for people to read."""
    return ", ".join(disk.serial for disk in machine(layout, node).disks if disk.model != EBS)
