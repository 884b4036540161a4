"""The pods' cgroups, which the nodes make in the host's hierarchies and leave behind when they are killed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from judge_lab import LabError
from judge_lab.layout import CGROUP

_MOUNT = Path("/sys/fs/cgroup")


def found() -> list[Path]:
    """Return the lab's directory in each hierarchy that has one (one on cgroup v2, one a controller on v1)."""
    return sorted(folder for folder in [_MOUNT / CGROUP, *_MOUNT.glob(f"*/{CGROUP}")] if folder.is_dir())


def remove(seconds: float = 10) -> None:
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
