"""What was found out about a node's disks, as values. Everything that plan_layout() needs is here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LABEL = "judge-nvme"  # XFS allows 12 characters, ext4 16
MARKER_NAME = ".judge-bootstrap.json"
MARKER_MOST_BYTES = 65_536
INSTANCE_STORE_MODEL = "Amazon EC2 NVMe Instance Storage"
FILESYSTEMS = ("xfs", "ext4")

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
class Content:
    """What reading the disk showed. `error` is set when anything could not be read: then the rest proves nothing.

    `nonzero_at` is the offset in bytes of the first sampled block that is not zero; `sampled_bytes` is 0 when no
    block was read because a signature settled it before.
    """

    signatures: tuple[str, ...] = ()
    fstype: str | None = None
    label: str | None = None
    fs_uuid: str | None = None
    nonzero_at: int | None = None
    sampled_bytes: int = 0
    marker: str | None = None
    marker_mount_path: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Disk:
    """One block device. `held`: an exclusive open failed (True), this process has it (False), not tried (None)."""

    name: str
    devno: str
    node: str | None
    size_bytes: int
    model: str | None = None
    serial: str | None = None
    read_only: bool = False
    whole: bool = True
    partitions: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    members: tuple[str, ...] = ()  # what it is composed of (RAID, device mapper)
    mounts: tuple[Mount, ...] = ()
    swap: tuple[str, ...] = ()
    root: bool = False
    held: bool | None = None
    content: Content | None = None

    def summary(self) -> str:
        """Return the disk in a few words for messages: name, size, model and serial."""
        about = ", ".join(filter(None, (self.model, f"serial {self.serial}" if self.serial else None)))
        return f"/dev/{self.name} ({format_size(self.size_bytes)}{', ' + about if about else ''})"


@dataclass(frozen=True)
class MountPoint:
    """The directory to mount on: what is mounted exactly there now and, when nothing is, how many files it has."""

    path: str
    kind: str = "directory"  # directory | missing | other
    mount: Mount | None = None
    entries: int = 0
    mode: int = 0o755
    owner_is_root: bool = True
    sealed: bool = False


@dataclass(frozen=True)
class Host:
    """One node: the disks that the selection could mean, the mount point, and whether systemd runs here."""

    disks: tuple[Disk, ...]
    mount_point: MountPoint
    systemd: bool = False
    unit_name: str = ""
    unit_text: str | None = None  # the mount unit as it is on the node now
    other_disks: tuple[str, ...] = ()  # names of what was seen and not selected, for messages


@dataclass(frozen=True)
class Wanted:
    """What was asked for."""

    mount_path: str
    fstype: str = "xfs"
    device: str | None = None
    models: tuple[str, ...] = field(default=(INSTANCE_STORE_MODEL,))


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
        "mounts": [mount.path for mount in disk.mounts],
        "partitions": list(disk.partitions),
        "holders": list(disk.holders),
        "held": disk.held,
        "signatures": list(content.signatures) if content else None,
        "fstype": content.fstype if content else None,
        "fs_uuid": content.fs_uuid if content else None,
        "sampled_bytes": content.sampled_bytes if content else 0,
    }
