"""Say what a disk is, from its facts alone; what was not found out counts against it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .facts import (
    ARRAY_NAME,
    FILESYSTEMS,
    LABEL,
    MARKER_EMPTY,
    MARKER_UNREADABLE,
    MARKER_VALID,
    RAID_MEMBER,
    Disk,
    Host,
    Record,
)

ABSENT, BLANK, OURS, ADOPTED, FOREIGN, DEGRADED = "absent", "blank", "ours", "adopted", "foreign", "degraded"

EBS_MODEL = "Amazon Elastic Block Store"


@dataclass(frozen=True)
class Judgement:
    """The state of one disk and, unless it is blank or ours, the reason code and the evidence in words.

    `erase`: it is blank but for what our own mkfs or mdadm, cut off, has left on it.
    """

    state: str
    reason: str | None = None
    why: str = ""
    erase: bool = False


@dataclass(frozen=True)
class Set:
    """What is ours: a disk, or the members of an array. `target` has the filesystem; None: the array does not run."""

    members: tuple[Disk, ...]
    judgement: Judgement
    target: Disk | None = None
    complete: bool = True

    @property
    def marker_mount_path(self) -> str | None:
        """The mount path that its marker names."""
        content = self.target.content if self.target is not None else None
        return content.marker_mount_path if content is not None else None


def judge(disk: Disk, record: Record | None = None, *, serials: tuple[str, ...] | None = None) -> Judgement:
    """Return the state of one disk, or of one array whose members have the given serial numbers.

    `record` is what the last run noted: only by its random UUIDs can a half-made filesystem or array be known as ours.
    """
    record = record or Record()
    if disk.root:
        return Judgement(FOREIGN, "DISK_BUSY", "the running system is on it")
    if disk.model == EBS_MODEL or (disk.serial or "").startswith("vol"):
        return Judgement(FOREIGN, "DISK_NOT_LOCAL", "it is an EBS volume, not a local disk")
    if disk.members and serials is None:
        return Judgement(FOREIGN, "DISK_BUSY", f"it is composed of {', '.join(disk.members)}")
    if disk.swap:
        return Judgement(FOREIGN, "DISK_BUSY", f"it is swap space ({', '.join(disk.swap)})")
    if disk.partitions or disk.holders:
        parts = ", ".join(disk.partitions + (disk.membership or disk.holders))
        return Judgement(FOREIGN, "DISK_BUSY", f"it has partitions or holders ({parts})")
    if disk.node is None:
        return Judgement(DEGRADED, "DISK_UNKNOWN", f"it has no device node here (device number {disk.devno})")
    if disk.read_only:
        return Judgement(DEGRADED, "DISK_UNKNOWN", "the kernel has it read-only")
    content = disk.content
    if content is not None and content.error is None and content.label == LABEL and content.fs_uuid:
        ours = _judge_our_label(disk, record)
        if ours is not None:
            return ours
    if disk.mounts:
        return Judgement(FOREIGN, "DISK_BUSY", f"it is mounted at {', '.join(m.path for m in disk.mounts)}")
    if disk.held:
        return Judgement(FOREIGN, "DISK_BUSY", "another program, or a mount in another namespace, holds it exclusively")
    if content is None:
        return Judgement(DEGRADED, "DISK_UNKNOWN", "it was not examined")
    if content.error is not None:
        return Judgement(DEGRADED, "DISK_UNKNOWN", content.error)
    made_here = disk.serial is not None and disk.serial in record.serials
    if serials is not None:
        made_here = bool(serials) and set(serials) <= set(record.serials)
    if content.signatures:
        if made_here and _is_half_made(disk, record):
            return Judgement(BLANK, erase=True)
        return Judgement(FOREIGN, "DISK_FOREIGN_DATA", f"it carries {', '.join(content.signatures)}")
    if content.nonzero_at is not None and not (made_here and content.unfinished and record.fs_uuid is not None):
        return Judgement(
            FOREIGN, "DISK_FOREIGN_DATA", f"it is not blank: data without a signature at byte {content.nonzero_at}"
        )
    if disk.held is not False or content.sampled_bytes <= 0 or disk.size_bytes <= 0:
        return Judgement(DEGRADED, "DISK_UNKNOWN", "its blocks were not read while it was held")
    return Judgement(BLANK)


def _is_half_made(disk: Disk, record: Record) -> bool:
    """Return whether all that the disk carries is the array or the filesystem that the record says was being made."""
    content = disk.content
    assert content is not None
    if content.raid is not None and record.array_uuid is not None:
        return content.raid.uuid == record.array_uuid and content.signatures == (RAID_MEMBER,)
    if record.fs_uuid is None or content.fs_uuid != record.fs_uuid:
        return False
    return content.fstype in FILESYSTEMS and content.label == LABEL and content.signatures == (content.fstype,)


def _judge_our_label(disk: Disk, record: Record) -> Judgement | None:
    """Judge a disk with our label: a label alone proves nothing, the marker in the filesystem does."""
    content = disk.content
    assert content is not None
    if content.signatures and any(name != content.fstype for name in content.signatures):
        return None
    if content.marker in (MARKER_VALID, MARKER_EMPTY):
        return Judgement(OURS)
    if disk.held and content.marker is None:
        return None
    if content.marker == MARKER_UNREADABLE and not disk.mounts and _is_half_made(disk, record):
        return None  # mkfs was cut off: what is judged next is whether this disk is the one that was being made
    return Judgement(
        FOREIGN,
        "DISK_FOREIGN_DATA",
        f"its filesystem has our label {LABEL!r}, but its marker file is {content.marker or 'not read'}",
    )


def our_sets(host: Host) -> list[Set]:
    """Return what is ours on this node, whole or broken: disks with our filesystem, and arrays with our name."""
    found = []
    groups: dict[str, list[Disk]] = {}
    for disk in host.disks:
        content = disk.content
        if _is_our_member(disk):
            assert content is not None and content.raid is not None
            groups.setdefault(content.raid.uuid, []).append(disk)
        elif judge(disk, host.record).state == OURS:
            found.append(Set((disk,), Judgement(OURS), disk))
    for uuid, members in groups.items():
        found_set = _judge_array(uuid, tuple(members), host)
        if found_set is not None:
            found.append(found_set)
    return found


def _is_our_member(disk: Disk) -> bool:
    """Return whether the disk is part of an array with our name, and of nothing else."""
    content = disk.content
    if content is None or content.error is not None or content.raid is None or content.raid.name != ARRAY_NAME:
        return False
    bare = replace(disk, holders=(), content=None, held=None)
    return content.signatures == (RAID_MEMBER,) and judge(bare).why == "it was not examined"


def _judge_array(uuid: str, members: tuple[Disk, ...], host: Host) -> Set | None:
    """Judge the array of these members. None: a run of ours was cut off while it made it, and the members tell so."""
    names, holders = {disk.name for disk in members}, {holder for disk in members for holder in disk.holders}
    content = members[0].content
    assert content is not None and content.raid is not None
    raid = content.raid
    arrays = [array for array in host.arrays if array.name in holders]
    if len(arrays) == 1 and arrays[0].active and set(arrays[0].members) == names and holders == {arrays[0].name}:
        array = arrays[0]
        serials = tuple(disk.serial for disk in members if disk.serial)
        return Set(members, judge(array, host.record, serials=serials if len(serials) == len(members) else ()), array)
    if holders - {array.name for array in arrays if not array.active}:
        why = f"they are held by {', '.join(sorted(holders))}, which is more than our array"
        return Set(members, Judgement(FOREIGN, "DISK_BUSY", why))
    # As long as the note names the array, no filesystem was begun on it: then one that lacks a disk is made anew.
    noted = host.record.array_uuid == uuid and {disk.serial for disk in members} <= set(host.record.serials)
    redundant = raid.level == "raid10" and not noted
    enough = (raid.devices + 1) // 2 if redundant else raid.devices
    if len(members) >= enough:
        return Set(members, Judgement(OURS))
    if noted:
        return Set(members, Judgement(OURS), complete=False)
    return Set(
        members,
        Judgement(
            DEGRADED,
            "ARRAY_INCOMPLETE",
            f"{len(members)} of the {raid.devices} disks of our {raid.level} array are here, and it cannot do without "
            "the others",
        ),
    )
