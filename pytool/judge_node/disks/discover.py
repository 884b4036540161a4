"""Find the disks that a selection means, examine them, and keep them held until the caller is done."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..result import NodeError
from ..shell import run
from .facts import Content, Disk, Host, Mount, MountPoint, Wanted, format_size
from .probe import Hold, probe
from .sysfs import System, devno_of, read_text
from .unit import unit_name

UNIT_FOLDER = Path("/etc/systemd/system")
SYSTEMD_RUNS = Path("/run/systemd/system")  # sd_booted(3)


@dataclass
class Found:
    """The facts, and the holds on the examined disks by kernel name."""

    host: Host
    holds: dict[str, Hold] = field(default_factory=dict)


@contextlib.contextmanager
def discover(wanted: Wanted, system: System | None = None) -> Iterator[Found]:
    """Read the node for what `wanted` selects. Every free candidate stays claimed until the block ends.

    Raises NodeError (wrong usage) when --device names something that is not a whole disk.
    """
    system = system or System()
    mounts = system.mounts()
    holds: dict[str, Hold] = {}
    try:
        selected, others = _candidates(wanted, system, mounts)
        disks = tuple(_examine(disk, holds) for disk in selected)
        systemd, name = SYSTEMD_RUNS.is_dir(), unit_name(wanted.mount_path)
        yield Found(
            Host(
                disks=disks,
                mount_point=read_mount_point(wanted.mount_path, mounts),
                systemd=systemd,
                unit_name=name,
                unit_text=_unit_now(name) if systemd else None,
                other_disks=others,
            ),
            holds,
        )
    finally:
        for hold in holds.values():
            hold.close()


def _unit_now(name: str) -> str | None:
    """Return the mount unit's text if it is enabled; one that is not does nothing at boot and counts as missing."""
    try:
        if not (UNIT_FOLDER / "multi-user.target.wants" / name).is_symlink():
            return None
        return (UNIT_FOLDER / name).read_text()
    except OSError:
        return None


def _candidates(wanted: Wanted, system: System, mounts: tuple[Mount, ...]) -> tuple[list[Disk], tuple[str, ...]]:
    root_names = {
        name for mount in (*mounts, *system.init_mounts()) if mount.path == "/" for name in system.backing(mount.devno)
    }
    chosen, node = None, None
    if wanted.device is not None:
        chosen, node = _named_device(wanted.device, system)
        if chosen is None:
            return [], _seen(system)
    selected, others = [], []
    for name in system.block_names():
        hidden = read_text(system.sys_root / "block" / name / "hidden") == "1"  # paths of a multipath NVMe namespace
        is_candidate = (
            name == chosen
            if wanted.device is not None
            else (not hidden and read_text(system.sys_root / "block" / name / "device/model") in wanted.models)
        )
        disk = system.disk(name, mounts, root_names, node if name == chosen else None)
        if disk is None:
            continue
        if is_candidate:
            selected.append(disk)
        else:
            others.append(disk)
    return selected, _seen(system)


def _seen(system: System) -> tuple[str, ...]:
    """Name the disks of the node for the message that none was found; empty loop and RAM devices are noise."""
    seen = []
    for name in system.block_names():
        disk = system.disk(name, (), set())
        if disk is not None and disk.size_bytes > 0 and not name.startswith(("loop", "ram", "zram")):
            seen.append(f"{name} ({format_size(disk.size_bytes)}, {disk.model or 'no model'})")
    return tuple(seen)


def _named_device(device: str, system: System) -> tuple[str | None, str]:
    """Resolve --device to a kernel name by its number: its link may point anywhere, and /dev may be a private one."""
    node = str(Path(device).resolve())
    devno = devno_of(node)
    if devno is None:
        if Path(device).exists():
            raise NodeError(
                f"--device {device} is not a block device", repair="lsblk -o NAME,MODEL,SERIAL,SIZE   # and name a disk"
            )
        return None, node
    name = system.name_of(devno)
    if name is None:
        return None, node
    parent = system.parent_of(name)
    if parent is not None:
        raise NodeError(
            f"--device {device} is a partition of {parent}, wanted a whole disk",
            repair=f"use /dev/{parent}, if it is blank",
        )
    return name, node


def _examine(disk: Disk, holds: dict[str, Hold]) -> Disk:
    if (
        disk.node is None
        or disk.root
        or disk.partitions
        or disk.holders
        or disk.members
        or disk.swap
        or disk.size_bytes == 0
    ):
        return disk  # settled without opening it
    hold = holds[disk.name] = Hold(disk.node)
    try:
        hold.acquire()
    except OSError as error:
        return replace(disk, content=Content(error=f"it cannot be opened: {error.strerror}"))
    mounted_at = next((mount.path for mount in disk.mounts if mount.root == "/"), None)
    held = hold.busy
    content = probe(hold, disk.size_bytes, disk.serial, mounted_at)
    return replace(disk, held=held, content=content)


def read_mount_point(path: str, mounts: tuple[Mount, ...]) -> MountPoint:
    """Return the facts of the directory to mount on."""
    here = [mount for mount in mounts if mount.path == path]
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return MountPoint(path, kind="missing")
    except NotADirectoryError:
        return MountPoint(path, kind="other")
    if not stat.S_ISDIR(status.st_mode):
        return MountPoint(path, kind="other")
    mode = stat.S_IMODE(status.st_mode)
    root_owned = status.st_uid == 0 and status.st_gid == 0
    if here:
        return MountPoint(path, mount=here[-1], mode=mode, owner_is_root=root_owned)
    entries = len(list(Path(path).iterdir()))
    sealed = mode == 0 or is_immutable(path)
    return MountPoint(path, entries=entries, mode=mode, owner_is_root=root_owned, sealed=sealed)


def is_immutable(path: str) -> bool:
    """Return whether the directory has the attribute +i; False where the filesystem has no attributes."""
    done = run(["lsattr", "-d", path])
    return done.returncode == 0 and "i" in done.stdout.split(" ", 1)[0]
