"""Find the disks that a selection means, examine them, and keep them held until the caller is done."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..result import NodeError
from ..shell import run
from ..systemd import SYSTEMD_RUNS, UNIT_FOLDER, is_installed, unit_text
from .facts import Content, Disk, Host, Mount, MountPoint, Record, Units, Volume, Wanted
from .probe import Hold, probe, read_signatures
from .record import read_record
from .sysfs import System, devno_of, read_text
from .unit import BOOT_UNIT, INSTALL_PATH, unit_name

# Neither disks nor arrays: memory, optical and floppy drives, device mapper (seen as holders), unused network disks.
_NO_DISKS = ("ram", "zram", "sr", "fd", "dm-", "nbd")

# For those who have a disk for a moment: a `judge-node disks status` beside us, a container that starts with a copy of
# all mounts, mdadm's and LVM's own looks. Who has it for longer is its owner.
_HELD_WAIT_SECONDS = 3


@dataclass
class Found:
    """The facts, and the holds on the examined disks by kernel name."""

    host: Host
    holds: dict[str, Hold] = field(default_factory=dict)

    def release(self, *disks: Disk) -> None:
        """Let the disks go: what comes next opens them itself."""
        for disk in disks:
            hold = self.holds.pop(disk.name, None)
            if hold is not None:
                hold.close()


@contextlib.contextmanager
def discover(
    wanted: Wanted, system: System | None = None, *, all_disks: bool = False, to_change: bool = False
) -> Iterator[Found]:
    """Read the node for what `wanted` selects. Every free candidate stays claimed until the block ends.

    `all_disks` reads the signatures of the disks that are not candidates, too. `to_change` waits a little for a disk
    that somebody has for a moment.
    Raises NodeError (wrong usage) when --device names something that is not a whole disk.
    """
    system = system or System()
    mounts = system.mounts()
    holds: dict[str, Hold] = {}
    deadline = time.monotonic() + _HELD_WAIT_SECONDS if to_change else None
    try:
        record = read_record()
        selected, arrays, others = _sorted_out(wanted, system, mounts)
        disks = tuple(_examine(disk, holds, wanted, record, deadline) for disk in selected)
        ours = {disk.name for disk in disks}
        local = [array for array in arrays if array.members and ours.issuperset(array.members)]
        built = tuple(_examine(array, holds, wanted, record, deadline) for array in local)
        volumes: tuple[Volume, ...] = ()
        busy = False
        if wanted.owner != "judge" and disks:
            from .adopt import find_volumes, nodeadm_is_busy

            volumes, busy = find_volumes(wanted, system, mounts, ours), nodeadm_is_busy()
        yield Found(
            Host(
                disks=disks,
                arrays=built,
                mount_point=read_mount_point(wanted.mount_path, mounts),
                others=tuple(_signatures_of(disk) if all_disks else disk for disk in others),
                volumes=volumes,
                record=record,
                units=read_units(wanted),
                nodeadm_busy=busy,
            ),
            holds,
        )
    finally:
        for hold in holds.values():
            hold.close()


def wait_for_disks(wanted: Wanted, system: System | None = None) -> None:
    """Wait until as many disks are there as the last run had (or one), for at most `wanted.wait_seconds`.

    At boot a disk may be slow to appear, and nodeadm to mount what it builds. What is not there in the end is judged
    as not there.
    """
    system = system or System()
    deadline = time.monotonic() + wanted.wait_seconds
    expected = 1 if wanted.device else max(1, read_record().disks)
    if wanted.wait_seconds and SYSTEMD_RUNS.is_dir():
        run(["udevadm", "settle", f"--timeout={min(wanted.wait_seconds, 30):.0f}"])
    while time.monotonic() < deadline:
        names = {disk.name for disk in _sorted_out(wanted, system, ())[0]}
        if len(names) >= expected:
            if wanted.owner != "nodeadm":
                return
            from .adopt import find_volumes

            if find_volumes(wanted, system, system.mounts(), names):
                return
        time.sleep(0.5)


def read_units(wanted: Wanted) -> Units:
    """Return how systemd and our units are; one that is not enabled does nothing at boot and counts as missing."""
    name = unit_name(wanted.mount_path)
    if not SYSTEMD_RUNS.is_dir():
        return Units(mount_name=name)
    state = run(["systemctl", "show", "--property=ActiveState", "--value", BOOT_UNIT]).stdout.strip()
    links = ["multi-user.target.wants", *(f"{gate}.requires" for gate in wanted.gates)]
    enabled = all((UNIT_FOLDER / link / BOOT_UNIT).is_symlink() for link in links)
    return Units(
        systemd=True,
        mount_name=name,
        mount_text=_text_of(name),
        boot_text=_text_of(BOOT_UNIT) if enabled else None,
        boot_state=state,
        installed=is_installed(Path(INSTALL_PATH)),
    )


def _text_of(name: str) -> str | None:
    return unit_text(UNIT_FOLDER / name)


def _sorted_out(wanted: Wanted, system: System, mounts: tuple[Mount, ...]) -> tuple[list[Disk], list[Disk], list[Disk]]:
    """Return the candidates, the arrays of md, and the other disks."""
    root_names = {
        name for mount in (*mounts, *system.init_mounts()) if mount.path == "/" for name in system.backing(mount.devno)
    }
    chosen, node = _named_device(wanted.device, system) if wanted.device is not None else (None, None)
    selected: list[Disk] = []
    arrays: list[Disk] = []
    others: list[Disk] = []
    for name in system.block_names():
        base = system.sys_root / "block" / name
        if read_text(base / "hidden") == "1":  # paths of a multipath NVMe namespace
            continue
        if name != chosen and name.startswith(_NO_DISKS):
            continue
        disk = system.disk(name, mounts, root_names, node if name == chosen else None)
        if disk is None:
            continue
        if name == chosen if wanted.device is not None else disk.model in wanted.models:
            selected.append(disk)
        elif disk.level is not None:
            arrays.append(disk)
        elif disk.size_bytes > 0:
            others.append(disk)
    return selected, arrays, others


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


def _examine(disk: Disk, holds: dict[str, Hold], wanted: Wanted, record: Record, deadline: float | None) -> Disk:
    if disk.node is None or disk.root or disk.partitions or disk.swap or disk.size_bytes == 0:
        return disk  # settled without opening it
    if disk.holders:
        return _signatures_of(disk)  # whose array it is part of
    hold = holds[disk.name] = Hold(disk.node)
    try:
        if deadline is None:
            hold.acquire_to_read()
        else:
            hold.acquire(0 if disk.mounts else deadline - time.monotonic())
    except OSError as error:
        return replace(disk, content=Content(error=f"it cannot be opened: {error.strerror}"))
    mounted_at = next((mount.path for mount in disk.mounts if mount.root == "/"), None)
    held = hold.busy
    content = probe(hold, disk, mounted_at, complete=wanted.read_all, record=record)
    return replace(disk, held=held, content=content)


def _signatures_of(disk: Disk) -> Disk:
    if disk.node is None or disk.size_bytes == 0:
        return disk
    return replace(disk, content=read_signatures(disk.node))


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
    found = MountPoint(path, mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid)
    if here:
        return replace(found, mount=here[-1])
    return replace(found, entries=len(os.listdir(path)), sealed=found.mode == 0 or is_immutable(path))  # noqa: PTH208


def is_immutable(path: str) -> bool:
    """Return whether the directory has the attribute +i; False where the filesystem has no attributes."""
    done = run(["lsattr", "-d", path])
    return done.returncode == 0 and "i" in done.stdout.split(" ", 1)[0]
