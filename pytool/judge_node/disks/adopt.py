"""Filesystems on local disks that nodeadm or cloud-init built before us: found and used, not fought over."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..files import make_directory
from ..shell import run
from .facts import ADOPTED_FOLDER, FILESYSTEMS, MARKER_NAME, Mount, Volume, Wanted
from .sysfs import System, read_text

FSTAB = Path("/etc/fstab")
NODEADM = Path("/usr/bin/nodeadm")
KUBELET_CONFIGS = (Path("/etc/kubernetes/kubelet/config.json"), Path("/var/lib/kubelet/config.json"))
# What kubelet evicts pods for when it is on the same filesystem; its own defaults where its configuration is silent.
_SYSTEM_FOLDERS = ("/var/lib/kubelet", "/var/lib/containerd")
_EVICTION = {"nodefs.available": "10%", "imagefs.available": "15%"}
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def nodeadm_is_busy() -> bool:
    """Return whether nodeadm is at work now, and so may be about to take the disks."""
    if not NODEADM.exists():
        return False
    done = run(["systemctl", "show", "--property=ActiveState", "--value", "nodeadm-run.service"])
    return done.stdout.strip() == "activating"


def find_volumes(wanted: Wanted, system: System, mounts: tuple[Mount, ...], local: set[str]) -> tuple[Volume, ...]:
    """Return the writable filesystems, mounted by nodeadm or cloud-init, that lie on nothing but the disks `local`."""
    found = []
    for mount in mounts:
        maker = _maker(mount, wanted)
        if maker is None or mount.root != "/" or mount.fstype not in FILESYSTEMS or "ro" in mount.options:
            continue
        backing = {name for name in system.backing(mount.devno) if system.level_of(name) is None}
        if not backing or not backing <= local:
            continue
        shares = tuple(path for path in _SYSTEM_FOLDERS if _devno_of_path(path) == mount.devno)
        space = os.statvfs(mount.path)
        size, free = space.f_frsize * space.f_blocks, space.f_frsize * space.f_bavail
        found.append(
            Volume(
                path=mount.path,
                devno=mount.devno,
                device=system.name_of(mount.devno) or mount.source,
                fstype=mount.fstype,
                made_by=maker,
                folder=_folder_state(Path(mount.path, ADOPTED_FOLDER)),
                shares=shares,
                free_bytes=free,
                evicts_below_bytes=_evicts_below(size) if shares else 0,
            )
        )
    return tuple(sorted(found, key=lambda volume: volume.path))


def _maker(mount: Mount, wanted: Wanted) -> str | None:
    if mount.path.startswith(wanted.nodeadm_path.rstrip("/") + "/"):
        return "nodeadm"
    for line in (read_text(FSTAB) or "").splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == mount.path and "comment=cloudconfig" in fields[3].split(","):
            return "cloud-init"
    return None


def _devno_of_path(path: str) -> str | None:
    try:
        device = os.stat(path).st_dev  # noqa: PTH116
    except OSError:
        return None
    return f"{os.major(device)}:{os.minor(device)}"


def _folder_state(folder: Path) -> str:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return "other"
    if not folder.exists():
        return "missing"
    names = set(os.listdir(folder))  # noqa: PTH208
    return "valid" if MARKER_NAME in names else "other" if names else "empty"


def make_folder(volume: Volume, mode: int, gid: int) -> None:
    """Make our own directory in an adopted filesystem."""
    folder = Path(volume.path, ADOPTED_FOLDER)
    make_directory(folder)
    os.chown(folder, 0, gid)
    folder.chmod(mode)


def _evicts_below(size_bytes: int) -> int:
    """Return the free bytes under which kubelet begins to evict pods from a filesystem that is nodefs and imagefs."""
    thresholds = dict(_EVICTION)
    for path in KUBELET_CONFIGS:
        try:
            said: Any = json.loads(path.read_text())["evictionHard"]
            thresholds.update({key: str(said[key]) for key in thresholds if key in said})
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return max(_quantity(value, size_bytes) for value in thresholds.values())


def _quantity(text: str, size_bytes: int) -> int:
    try:
        if text.endswith("%"):
            return int(size_bytes * float(text[:-1]) / 100)
        if text[-2:] in _UNITS:
            return int(float(text[:-2]) * _UNITS[text[-2:]])
        return int(text)
    except ValueError:
        return 0
