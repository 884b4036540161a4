"""Decide what to do with a node's disks. Pure: the same facts give the same plan, and nothing is read or written.

The one rule behind all others: only what is proven blank may be formatted, and what is not known counts as data.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..reasons import repair
from ..result import NodeError
from .facts import (
    LABEL,
    MARKER_EMPTY,
    MARKER_VALID,
    Disk,
    Host,
    MountPoint,
    Wanted,
    format_size,
)
from .unit import unit_text

ABSENT, BLANK, OURS, FOREIGN, DEGRADED = "absent", "blank", "ours", "foreign", "degraded"

# Steps, in the order in which they are applied.
FORMAT, SEAL, MOUNT, MARK, RESTRICT, PERSIST = "format", "seal", "mount", "mark", "restrict", "persist"


@dataclass(frozen=True)
class Judgement:
    """The state of one disk and, unless it is blank or ours, the reason code and the evidence in words."""

    state: str
    reason: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Step:
    """One change, for apply() by its name and for people by its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Plan:
    """What to do with `disk` to make the wanted state true. No steps: it is true already."""

    state: str
    disk: Disk
    steps: tuple[Step, ...]
    before: str
    after: str


def judge(disk: Disk) -> Judgement:
    """Return the state of one disk from its facts alone; what was not found out counts against it."""
    if disk.root:
        return Judgement(FOREIGN, "DISK_BUSY", "the running system is on it")
    if disk.members:
        return Judgement(FOREIGN, "DISK_BUSY", f"it is composed of {', '.join(disk.members)}")
    if disk.swap:
        return Judgement(FOREIGN, "DISK_BUSY", f"it is swap space ({', '.join(disk.swap)})")
    if disk.partitions or disk.holders:
        parts = ", ".join(disk.partitions + disk.holders)
        return Judgement(FOREIGN, "DISK_BUSY", f"it has partitions or holders ({parts})")
    if disk.node is None:
        return Judgement(DEGRADED, "DISK_UNKNOWN", f"it has no device node here (device number {disk.devno})")
    if disk.read_only:
        return Judgement(DEGRADED, "DISK_UNKNOWN", "the kernel has it read-only")
    content = disk.content
    if content is not None and content.error is None and content.label == LABEL and content.fs_uuid:
        ours = _judge_our_label(disk)
        if ours is not None:
            return ours
    if disk.mounts:
        return Judgement(FOREIGN, "DISK_BUSY", f"it is mounted at {', '.join(m.path for m in disk.mounts)}")
    if disk.held:
        return Judgement(FOREIGN, "DISK_BUSY", "another program, or a mount in another namespace, holds it exclusively")
    if content is None:
        return Judgement(DEGRADED, "DISK_UNKNOWN", "it was not examined")
    if content.signatures:
        return Judgement(FOREIGN, "DISK_FOREIGN_DATA", f"it carries {', '.join(content.signatures)}")
    if content.nonzero_at is not None:
        return Judgement(
            FOREIGN, "DISK_FOREIGN_DATA", f"it is not blank: data without a signature at byte {content.nonzero_at}"
        )
    if content.error is not None:
        return Judgement(DEGRADED, "DISK_UNKNOWN", content.error)
    if disk.held is not False or content.sampled_bytes <= 0 or disk.size_bytes <= 0:
        return Judgement(DEGRADED, "DISK_UNKNOWN", "its blocks were not read while it was held")
    return Judgement(BLANK)


def _judge_our_label(disk: Disk) -> Judgement | None:
    """Judge a disk with our label: a label alone proves nothing, the marker in the filesystem does."""
    content = disk.content
    assert content is not None
    if content.signatures and any(name != content.fstype for name in content.signatures):
        return None
    if content.marker in (MARKER_VALID, MARKER_EMPTY):
        return Judgement(OURS)
    if disk.held and content.marker is None:
        return None
    return Judgement(
        FOREIGN,
        "DISK_FOREIGN_DATA",
        f"its filesystem has our label {LABEL!r}, but its marker file is {content.marker or 'not read'}",
    )


def select(host: Host, wanted: Wanted) -> tuple[Disk, Judgement]:
    """Return the disk to use: ours before blank, and of several blank ones the first by serial number.

    Raises NodeError with the evidence of every candidate when none can be used.
    """
    if not host.disks:
        seen = ", ".join(host.other_disks) or "no other disk"
        looked_for = f"device {wanted.device}" if wanted.device else f"model {' or '.join(map(repr, wanted.models))}"
        raise NodeError(f"no disk matches {looked_for}; this node has {seen}", reason="DISK_NONE", state=ABSENT)
    judged = [(disk, judge(disk)) for disk in sorted(host.disks, key=lambda d: (d.serial or "", d.name))]
    ours = [pair for pair in judged if pair[1].state == OURS]
    if len(ours) > 1:
        ours = _narrow(ours, host.mount_point)
    if len(ours) > 1:
        names = ", ".join(disk.summary() for disk, _ in ours)
        raise NodeError(f"several disks carry our marker: {names}", reason="DISK_AMBIGUOUS", state=FOREIGN)
    if ours:
        return ours[0]
    for pair in judged:
        if pair[1].state == BLANK:
            return pair
    disk, judgement = judged[0]
    others = "".join(f"; {d.summary()}: {j.why}" for d, j in judged[1:])
    reason = judgement.reason or "DISK_UNKNOWN"
    raise NodeError(
        f"{disk.summary()} is not touched: {judgement.why}{others}",
        reason=reason,
        state=judgement.state,
        repair=repair(reason, DISK=f"/dev/{disk.name}"),
    )


def _narrow(ours: list[tuple[Disk, Judgement]], mount_point: MountPoint) -> list[tuple[Disk, Judgement]]:
    mounted = [p for p in ours if mount_point.mount is not None and p[0].devno == mount_point.mount.devno]
    if mounted:
        return mounted
    return [p for p in ours if p[0].content is not None and p[0].content.marker_mount_path == mount_point.path] or ours


def plan_layout(host: Host, wanted: Wanted) -> Plan:
    """Return the steps from what is to what is wanted: one blank disk, formatted, mounted, marked and persistent.

    Raises NodeError when it may not or cannot be done; then nothing is to be changed.
    """
    point = host.mount_point
    disk, judgement = select(host, wanted)
    content = disk.content
    state = judgement.state
    fs_uuid = content.fs_uuid if content is not None and state == OURS else None
    fstype = (content.fstype or wanted.fstype) if content is not None and state == OURS else wanted.fstype
    if point.mount is not None and (state != OURS or point.mount.devno != disk.devno or point.mount.root != "/"):
        raise NodeError(
            f"{point.path} has {point.mount.source} ({point.mount.fstype}) mounted, wanted {disk.summary()}",
            reason="MOUNT_WRONG_DEVICE",
            state=state,
            repair=f"findmnt {point.path}   # unmount it, or choose another mount path",
        )
    if fstype != wanted.fstype:
        raise NodeError(
            f"{disk.summary()} is ours and has {fstype}, but {wanted.fstype} was asked for",
            reason="FS_MISMATCH",
            state=state,
        )
    steps: list[Step] = []
    if state == BLANK:
        steps.append(Step(FORMAT, f"make {wanted.fstype} with label {LABEL} on {disk.summary()}"))
    if point.mount is None:
        _check_mount_point(point)
        if not point.sealed:
            steps.append(
                Step(SEAL, f"make the empty directory {point.path} unwritable, so that nothing fills the root disk")
            )
        steps.append(Step(MOUNT, f"mount it at {point.path} with noatime"))
    if state == BLANK or (content is not None and content.marker == MARKER_EMPTY):
        steps.append(Step(MARK, "write the marker file that proves it is ours"))
    if point.mount is not None and (point.mode != 0o755 or not point.owner_is_root):
        steps.append(Step(RESTRICT, f"give {point.path} to root with mode 0755 (it has {point.mode:04o})"))
    if host.systemd and (fs_uuid is None or host.unit_text != unit_text(point.path, fs_uuid, fstype)):
        steps.append(Step(PERSIST, f"write and enable {host.unit_name}, which mounts it at boot by UUID"))
    return Plan(state, disk, tuple(steps), *_diff(disk, state, point, wanted, bool(steps)))


def _check_mount_point(point: MountPoint) -> None:
    if point.kind == "other":
        raise NodeError(
            f"{point.path} is not a directory",
            reason="MOUNT_POINT_IN_USE",
            repair=f"ls -ld {point.path}   # move it away, then run again",
        )
    if point.entries:
        raise NodeError(
            f"{point.path} is not mounted but holds {point.entries} entries, which a mount would hide",
            reason="MOUNT_POINT_IN_USE",
            repair=f"ls -la {point.path}   # move them away, then run again",
        )


def _diff(disk: Disk, state: str, point: MountPoint, wanted: Wanted, differs: bool) -> tuple[str, str]:
    """Return before and after in words. The evidence for "blank" stands in it: it is what a person approves."""
    ours = f"ours, {wanted.fstype} with label {LABEL}"
    evidence = ours if state == OURS else state
    if state == BLANK and disk.content is not None:
        evidence = (
            f"blank (no signature, no table, no holder; {format_size(disk.content.sampled_bytes)} read, all zero)"
        )
    mounted = "mounted" if point.mount is not None else "not mounted"
    before = f"{disk.summary()}: {evidence}\n{point.path}: {mounted}\n"
    if not differs:
        return before, before
    return before, f"{disk.summary()}: {ours}\n{point.path}: mounted\n"
