"""The lab's network: one bridge on the host, and one cable for each node, into its namespace or its virtual machine."""

from __future__ import annotations

import json
import time
from pathlib import Path

from judge_lab import LabError
from judge_lab.layout import (
    BRIDGE,
    HOST_ADDRESS,
    LINK_PREFIX,
    MAX_NODES,
    NAMESPACE_PREFIX,
    NETWORK_BITS,
    node_address,
    pod_subnet,
)
from judge_lab.process import run
from judge_lab.state import NodeState


def namespace(name: str) -> str:
    return NAMESPACE_PREFIX + name


def cable(name: str) -> str:
    return LINK_PREFIX + name


def ensure_bridge(owner: Path) -> None:
    """Make the bridge with the host's address, marked with the lab directory that owns it.

    Raises LabError if a lab in another directory has it.
    """
    found = bridge_owner()
    if found is not None and found != str(owner):
        raise LabError(
            f"{BRIDGE} belongs to the lab in {found or 'an unknown directory'}, wanted {owner}",
            hint=f"JUDGE_LAB_DIR={found} judge-bootstrap lab down" if found else f"ip link del {BRIDGE}",
        )
    if found is None:
        run("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
        run("ip", "link", "set", BRIDGE, "alias", str(owner))
    run("ip", "addr", "replace", f"{HOST_ADDRESS}/{NETWORK_BITS}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")


def bridge_owner() -> str | None:
    """Return the directory of the lab that owns the bridge, "" if it does not say, None if there is no bridge."""
    for link in _links():
        if link["ifname"] == BRIDGE:
            return str(link.get("ifalias", ""))
    return None


def connect(node: NodeState) -> None:
    """Give the node a new network namespace and cable, and both sides their routes to the pods."""
    disconnect(node.name)
    inside, link = namespace(node.name), cable(node.name)
    run("ip", "netns", "add", inside)
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", inside)
    run("ip", "link", "set", link, "master", BRIDGE)
    if node.plugged:
        plug(node.name)
    # Every node that may ever exist is routed at once, so that adding one changes nothing on the others.
    routes = [
        f"route replace {pod_subnet(other)} via {node_address(other)}"
        for other in range(1, MAX_NODES + 1)
        if other != node.index
    ]
    run(
        "ip",
        "-n",
        inside,
        "-batch",
        "-",
        stdin="\n".join(
            [
                "link set lo up",
                "link set eth0 up",
                f"addr add {node.address}/{NETWORK_BITS} dev eth0",
                f"route add default via {HOST_ADDRESS}",
                *routes,
                "",
            ]
        ).encode(),
    )
    run("ip", "route", "replace", pod_subnet(node.index), "via", node.address)


def connect_vm(node: NodeState) -> None:
    """Make the node's cable as a tap device, which its QEMU opens. The guest sets its own address."""
    disconnect(node.name)
    link = cable(node.name)
    run("ip", "tuntap", "add", "dev", link, "mode", "tap")
    run("ip", "link", "set", link, "master", BRIDGE)
    if node.plugged:
        plug(node.name)


def disconnect(name: str) -> None:
    """Remove the node's namespace and cable, if there are any, and wait until the kernel has let go of them."""
    if namespace(name) in namespaces():
        run("ip", "netns", "del", namespace(name))
    run("ip", "link", "del", cable(name), check=False)  # it dies with the namespace, but sometimes a moment later
    deadline = time.monotonic() + 120
    while any(link["ifname"] == cable(name) for link in _links()):
        if time.monotonic() > deadline:
            raise LabError(
                f"link {cable(name)} is still there 120 s after its deletion", hint=f"ip link del {cable(name)}"
            )
        time.sleep(0.05)


def plug(name: str) -> None:
    run("ip", "link", "set", cable(name), "up")


def unplug(name: str) -> None:
    """Cut the node off: nothing reaches it and it reaches nothing, but it runs on."""
    run("ip", "link", "set", cable(name), "down")


def remove_bridge() -> None:
    run("ip", "link", "del", BRIDGE, check=False)


def namespaces() -> list[str]:
    """Return the lab's network namespaces."""
    folder = Path("/run/netns")
    return sorted(entry.name for entry in folder.glob(NAMESPACE_PREFIX + "*")) if folder.is_dir() else []


def links() -> list[str]:
    """Return the lab's links on the host: the bridge and the cables."""
    return [link["ifname"] for link in _links() if link["ifname"] == BRIDGE or link["ifname"].startswith(LINK_PREFIX)]


def _links() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run("ip", "-json", "link", "show").stdout or "[]")
    return found
