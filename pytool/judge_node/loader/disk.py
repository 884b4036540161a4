"""Is the store on a mounted local disk, asked from inside a container?

There, the question of `cache sync` (is it another filesystem than /?) is always answered with yes: / is the image. And
the host's folder is a mount of its own even while no disk is mounted on it, so a model would fill the node's root disk.
What tells the two apart is the folder of the filesystem that is mounted (field 4 of mountinfo, proc(5)): "/" for a
disk, the folder's own path for a folder of another filesystem. What `disks ensure` adopts on nodeadm's array is such a
folder as well; it has our marker.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..cache.catalog import marked_mounts
from ..disks.facts import ADOPTED_FOLDER, Mount
from ..disks.sysfs import System


def not_mounted(root: Path, system: System | None = None) -> str | None:
    """Return None when the store at `root` lies on a mounted local disk, else what was found (sync's `guard`)."""
    system = system or System()
    existing = root
    while not existing.exists():
        existing = existing.parent
    mount = _holding(Path(os.path.realpath(existing)), system.mounts())
    if mount is None:
        return "the mounts of this node cannot be read"
    if mount.path == "/":
        return f"{root} is on the root filesystem ({mount.source})"
    if mount.root == "/":
        return None
    if mount.root == f"/{ADOPTED_FOLDER}" and mount.path in dict(marked_mounts(system)):
        return None
    return f"{mount.path} is a folder of another filesystem ({mount.root} of {mount.source}): its disk is not mounted"


def _holding(path: Path, mounts: tuple[Mount, ...]) -> Mount | None:
    """Return the mount that is seen at `path`: of the longest mount path above it the last one, which is on top."""
    found: Mount | None = None
    for mount in mounts:
        above = Path(mount.path)
        if (path == above or above in path.parents) and (found is None or len(mount.path) >= len(found.path)):
            found = mount
    return found
