"""What there is of the lab on this machine, and how all of it is removed: whole, or in the pieces a crash left."""

from __future__ import annotations

import shutil
from pathlib import Path

from judge_lab import cgroups, disks, network, process
from judge_lab.layout import DEFAULT_LAB_DIR, Layout, current
from judge_lab.state import load


def found() -> list[str]:
    """Return, in words, everything of the lab that is on this machine now; empty after `lab down`."""
    root = current().root
    parts = [f"process {one.pid}: {process.command(one)}" for one in process.marked(root)]
    parts += [f"network namespace {name}" for name in network.namespaces()]
    parts += [f"link {name}" for name in network.links()]
    parts += [f"mount {point}" for point in _mounts_below(root)]
    parts += [f"loop device {device}" for device, file in disks.attached().items() if Path(file).is_relative_to(root)]
    parts += [f"cgroup {folder}" for folder in cgroups.found()]
    return parts + ([f"directory {root}"] if root.exists() else [])


def clear(layout: Layout) -> None:
    """End and remove everything that found() returns. Works without a state file, too."""
    state = load(layout)
    known = []
    if state is not None and state.of_this_boot():
        known = [node.process for node in state.nodes.values() if node.process] + list(state.processes.values())
    # All at once and without a TERM: the data is thrown away, and the API server would wait a minute for its watchers.
    process.end([*known, *process.marked(layout.root)])
    process.end(process.marked(layout.root))  # what one of them started meanwhile
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
    if layout.root == DEFAULT_LAB_DIR and not any(layout.root.parent.iterdir()):
        layout.root.parent.rmdir()


def _mounts_below(root: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if Path(point).is_relative_to(root)]
