"""What was found out about a node's disks, as values. Everything that plan_layout() needs is here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LABEL = "judge-nvme"  # XFS allows 12 characters, ext4 16
ARRAY_NAME = "judge-nvme"
MARKER_NAME = ".judge-bootstrap.json"
MARKER_MOST_BYTES = 65_536
INSTANCE_STORE_MODEL = "Amazon EC2 NVMe Instance Storage"
FILESYSTEMS = ("xfs", "ext4")
STRATEGIES = ("RAID0", "RAID10", "Mount")
OWNERS = ("auto", "nodeadm", "judge")
RAID_MEMBER = "linux_raid_member"
ADOPTED_FOLDER = "judge-bootstrap"  # ours in a filesystem that somebody else made

# What the marker of a filesystem with our label says.
MARKER_VALID = "valid"
MARKER_EMPTY = "empty"  # no marker, and no other file: a run that was cut between mkfs and marker
MARKER_MISSING = "missing"  # no marker, but files: not ours to finish
MARKER_MISMATCH = "mismatch"  # written for another filesystem or disk
MARKER_UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo: where, which device ("major:minor"), which folder of it, type, source and options."""

    path: str
    devno: str
    root: str
    fstype: str
    source: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Raid:
    """What the md superblock of an array's member says. `uuid` in hexadecimal without separators."""

    uuid: str
    name: str
    level: str
    devices: int


@dataclass(frozen=True)
class Content:
    """What reading the disk showed. `error` is set when anything could not be read: then the rest proves nothing.

    `nonzero_at` is the offset in bytes of the first place read that is not zero; `unfinished` says that every such
    place is as the mkfs that the last run noted leaves it when it is cut off. `sampled_bytes` is 0 when no block was
    read because a signature settled it before.
    """

    signatures: tuple[str, ...] = ()
    fstype: str | None = None
    label: str | None = None
    fs_uuid: str | None = None
    raid: Raid | None = None
    nonzero_at: int | None = None
    unfinished: bool = False
    sampled_bytes: int = 0
    marker: str | None = None
    marker_mount_path: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Disk:
    """One block device. `held`: an exclusive open failed (True), this process has it (False), not tried (None).

    An array of md is one as well, with `members`; `level`, `active` and `degraded` (members missing) say how it is.
    """

    name: str
    devno: str
    node: str | None
    size_bytes: int
    model: str | None = None
    serial: str | None = None
    controller: str | None = None
    read_only: bool = False
    partitions: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    membership: tuple[str, ...] = ()  # what the holders are: "md127 (raid0)", "dm-0 (LVM)"
    members: tuple[str, ...] = ()  # what it is composed of (RAID, device mapper)
    mounts: tuple[Mount, ...] = ()
    swap: tuple[str, ...] = ()
    root: bool = False
    held: bool | None = None
    content: Content | None = None
    level: str | None = None
    active: bool = True
    degraded: int = 0

    def summary(self) -> str:
        """Return the disk in a few words for messages: name, size, model and serial."""
        about = ", ".join(filter(None, (self.level, self.model, f"serial {self.serial}" if self.serial else None)))
        return f"/dev/{self.name} ({format_size(self.size_bytes)}{', ' + about if about else ''})"


@dataclass(frozen=True)
class MountPoint:
    """The directory to mount on: what is mounted exactly there now and, when nothing is, how many files it has."""

    path: str
    kind: str = "directory"  # directory | missing | other
    mount: Mount | None = None
    entries: int = 0
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    sealed: bool = False


@dataclass(frozen=True)
class Volume:
    """A filesystem on local disks that somebody else made and mounted, and what our folder in it is.

    `folder`: missing | empty | valid | other. `shares` are the system's own directories on it, `evicts_below_bytes` the
    free space under which kubelet evicts pods when it shares it.
    """

    path: str
    devno: str
    device: str
    fstype: str
    made_by: str
    folder: str = "missing"
    shares: tuple[str, ...] = ()
    free_bytes: int = 0
    evicts_below_bytes: int = 0


@dataclass(frozen=True)
class Record:
    """What the last run noted on the root disk: what it was about to make, and how many disks it had.

    `array_uuid`, or `fs_uuid` and `fstype`, are set while an array or a filesystem is being made; the UUIDs are random
    and ours alone.
    """

    array_uuid: str | None = None
    fs_uuid: str | None = None
    fstype: str | None = None
    serials: tuple[str, ...] = ()
    disks: int = 0


@dataclass(frozen=True)
class Units:
    """systemd as far as it concerns us: whether it runs, our units as they are now (None: not there or not enabled)."""

    systemd: bool = False
    mount_name: str = ""
    mount_text: str | None = None
    boot_text: str | None = None
    boot_state: str = "active"  # ActiveState of the boot unit
    installed: bool = True  # this very program is where the boot unit starts it


@dataclass(frozen=True)
class Host:
    """One node: the disks that the selection could mean, the arrays, the mount point, and what else plays a part."""

    disks: tuple[Disk, ...]
    mount_point: MountPoint
    arrays: tuple[Disk, ...] = ()
    others: tuple[Disk, ...] = ()  # every other whole disk, for messages and for `plan`
    volumes: tuple[Volume, ...] = ()
    record: Record = field(default_factory=Record)
    units: Units = field(default_factory=Units)
    nodeadm_busy: bool = False


@dataclass(frozen=True)
class Wanted:
    """What was asked for. `gates` are the systemd units that must not start at boot before the disk is ready."""

    mount_path: str
    fstype: str = "xfs"
    device: str | None = None
    models: tuple[str, ...] = (INSTANCE_STORE_MODEL,)
    strategy: str = "RAID0"
    owner: str = "auto"
    nodeadm_path: str = "/mnt/k8s-disks"
    read_all: bool = False
    group: str | None = None
    gid: int = 0
    gates: tuple[str, ...] = ()
    wait_seconds: float = 0

    @property
    def mode(self) -> int:
        """The permissions of the mounted root: nobody but root writes, or root and the given group."""
        return 0o755 if self.group is None else 0o775


def format_size(size_bytes: int) -> str:
    """Return a size for people, in binary units."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def disk_as_dict(disk: Disk) -> dict[str, Any]:
    """Return the disk's evidence for the JSON result."""
    content = disk.content
    return {
        "name": disk.name,
        "node": disk.node,
        "devno": disk.devno,
        "size_bytes": disk.size_bytes,
        "model": disk.model,
        "serial": disk.serial,
        "controller": disk.controller,
        "mounts": [mount.path for mount in disk.mounts],
        "swap": list(disk.swap),
        "partitions": list(disk.partitions),
        "holders": list(disk.holders),
        "membership": list(disk.membership),
        "held": disk.held,
        "signatures": list(content.signatures) if content else None,
        "fstype": content.fstype if content else None,
        "fs_uuid": content.fs_uuid if content else None,
        "sampled_bytes": content.sampled_bytes if content else 0,
    }
