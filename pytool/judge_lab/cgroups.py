"""The pods' cgroups, which the nodes make in the host's hierarchies and leave behind when they are killed."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from judge_lab import LabError
from judge_lab.layout import CGROUP

_MOUNT = Path("/sys/fs/cgroup")


def make(node_name: str) -> None:
    """Make the cgroup below which a node's pods will be, in every hierarchy; kubelet wants to find it."""
    if (_MOUNT / "cgroup.controllers").exists():  # cgroup v2: one hierarchy
        (_MOUNT / CGROUP / node_name).mkdir(parents=True, exist_ok=True)
        for folder in (_MOUNT, _MOUNT / CGROUP, _MOUNT / CGROUP / node_name):
            _delegate(folder)
        return
    for hierarchy in _MOUNT.iterdir():
        if (hierarchy / "cgroup.procs").exists() and not hierarchy.is_symlink():
            (hierarchy / CGROUP / node_name).mkdir(parents=True, exist_ok=True)
            if hierarchy.name == "cpuset":
                _inherit_cpus(hierarchy, node_name)


def _delegate(folder: Path) -> None:
    """Let a cgroup's children use all controllers it has itself (cgroup v2)."""
    for controller in (folder / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # the kernel refuses some on some machines
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _inherit_cpus(hierarchy: Path, node_name: str) -> None:
    """Give new cpusets the CPUs and memory nodes of the whole machine: on cgroup v1 they begin with none."""
    for folder in (hierarchy / CGROUP, hierarchy / CGROUP / node_name):
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (folder / setting).exists():
                (folder / setting).write_text((hierarchy / setting).read_text())


def found() -> list[Path]:
    """Return the lab's directory in each hierarchy that has one (one on cgroup v2, one a controller on v1)."""
    return sorted(folder for folder in [_MOUNT / CGROUP, *_MOUNT.glob(f"*/{CGROUP}")] if folder.is_dir())


def remove(seconds: float = 120) -> None:
    """Remove them, deepest first. A cgroup is busy for a moment after its last process has ended.

    Raises LabError if one still is after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while left := found():
        problem: OSError | None = None
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    Path(folder).rmdir()
                except OSError as err:
                    problem = err
        if problem and time.monotonic() > deadline:
            raise LabError(f"cannot remove cgroups of the lab: {problem}", hint="judge-bootstrap lab down")
        if problem:
            time.sleep(0.1)
