"""Decide what to do with a node's disks. Pure: the same facts give the same plan, and nothing is read or written.

The one rule behind all others: only what is proven blank may be formatted, and what is not known counts as data.
judge.py says what a disk is, this file what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..reasons import repair
from ..result import NodeError
from .facts import (
    ADOPTED_FOLDER,
    LABEL,
    MARKER_EMPTY,
    Disk,
    Host,
    Mount,
    MountPoint,
    Volume,
    Wanted,
    format_size,
)
from .judge import ABSENT, ADOPTED, BLANK, DEGRADED, FOREIGN, OURS, Judgement, Set, judge, our_sets
from .unit import bind_text, boot_text, mount_text

__all__ = ["ABSENT", "ADOPTED", "BLANK", "DEGRADED", "FOREIGN", "OURS", "Plan", "Step", "judge", "plan_layout"]

# Steps, in the order in which they are applied.
ERASE, ASSEMBLE, ADD, CREATE, FORMAT = "erase", "assemble", "add", "create", "format"
SEAL, INSTALL, PERSIST, MOUNT = "seal", "install", "persist", "mount"
MARK, RESTRICT, START = "mark", "restrict", "start"
_ORDER = (ERASE, ASSEMBLE, ADD, CREATE, FORMAT, SEAL, INSTALL, PERSIST, MOUNT, MARK, RESTRICT, START)
# After these the disks are another thing: they are read anew, and the rest is planned from what is seen then.
LOOK_AGAIN = frozenset((ERASE, ASSEMBLE, ADD, CREATE))

LEAST_BYTES = 300 << 20  # mkfs.xfs refuses less
LEAST_FOR_RAID10 = 4


@dataclass(frozen=True)
class Step:
    """One change, for apply() by its name and for people by its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Plan:
    """What to do to make the wanted state true. No steps: it is true already.

    `target` is the disk or array with the filesystem, or None as long as an array has yet to be made of `members`; an
    adopted filesystem is a `volume`. `spares` are blank disks for the array's missing places, `erase` what of ours is
    half-made. `before` and `after` are the change in words, `notes` what a person should know.
    """

    state: str
    owner: str
    members: tuple[Disk, ...]
    steps: tuple[Step, ...]
    before: str
    after: str
    target: Disk | None = None
    volume: Volume | None = None
    spares: tuple[Disk, ...] = ()
    erase: tuple[Disk, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The disk, array or adopted filesystem in a few words."""
        if self.volume is not None:
            return f"{self.volume.path}/{ADOPTED_FOLDER} (on /dev/{self.volume.device}, made by {self.volume.made_by})"
        if self.target is not None:
            return self.target.summary()
        return " and ".join(disk.summary() for disk in self.members)


def plan_layout(host: Host, wanted: Wanted) -> Plan:
    """Return the steps from what is to what is wanted.

    Ours comes first, then what nodeadm or cloud-init built, then blank disks. Raises NodeError when it may not or
    cannot be done; then nothing is to be changed.
    """
    if not host.disks:
        seen = ", ".join(d.summary() for d in host.others if not d.name.startswith("loop")) or "no other disk"
        looked_for = f"device {wanted.device}" if wanted.device else f"model {' or '.join(map(repr, wanted.models))}"
        raise NodeError(f"no disk matches {looked_for}; this node has {seen}", reason="DISK_NONE", state=ABSENT)
    ours = _choose_ours(host)
    if ours is not None and wanted.owner != "nodeadm":
        return _plan_ours(ours, host, wanted)
    if wanted.owner != "judge":
        volume = _choose_volume(host, wanted)
        if volume is not None:
            return _plan_adopted(volume, host, wanted)
    return _plan_blank(host, wanted)


# --- ours -------------------------------------------------------------------------------------------------------------


def _choose_ours(host: Host) -> Set | None:
    """Return the array or disk of ours; of several the one that is mounted, or whose marker names, the mount path.

    Raises NodeError when several could be it, or when an array of ours has lost what it needs.
    """
    found = our_sets(host)
    if len(found) > 1:
        here = host.mount_point.mount
        mounted = [s for s in found if s.target is not None and here is not None and s.target.devno == here.devno]
        named = [s for s in found if s.marker_mount_path == host.mount_point.path]
        found = mounted or named or found
    if len(found) > 1:
        names = "; ".join(" and ".join(disk.summary() for disk in s.members) for s in found)
        raise NodeError(f"several disks or arrays are ours: {names}", reason="DISK_AMBIGUOUS", state=FOREIGN)
    if not found:
        return None
    ours = found[0]
    if ours.judgement.state not in (OURS, BLANK):
        disk = ours.members[0]
        raise NodeError(
            f"{' and '.join(d.summary() for d in ours.members)}: {ours.judgement.why}",
            reason=ours.judgement.reason,
            state=ours.judgement.state,
            repair=repair(ours.judgement.reason or "DISK_UNKNOWN", DISK=f"/dev/{disk.name}", SERIAL=disk.serial or "-"),
        )
    return ours


def _plan_ours(ours: Set, host: Host, wanted: Wanted) -> Plan:
    if ours.target is None:
        text = f"start our array {' and '.join(disk.summary() for disk in ours.members)} is part of"
        if not ours.complete:
            return _erase(ours.members, ours.members, host, wanted)
        return _finish(OURS, ours.members, (Step(ASSEMBLE, text), *_mounting(host, wanted, None, None)), host, wanted)
    target, content = ours.target, ours.target.content
    if ours.judgement.state == BLANK:  # our array, and the run that made it was cut before mkfs
        return _plan_format(target, ours.members, ours.judgement, (), host, wanted)
    assert content is not None and content.fs_uuid is not None
    if content.fstype != wanted.fstype:
        raise NodeError(
            f"{target.summary()} is ours and has {content.fstype}, but {wanted.fstype} was asked for",
            reason="FS_MISMATCH",
            state=OURS,
        )
    elsewhere = [mount.path for mount in target.mounts if mount.root == "/" and mount.path != wanted.mount_path]
    if host.mount_point.mount is None and elsewhere:
        raise NodeError(
            f"{target.summary()} is ours and mounted at {elsewhere[0]}, wanted at {wanted.mount_path}",
            reason="MOUNT_ELSEWHERE",
            state=OURS,
            repair=f"umount {elsewhere[0]}   # when nothing uses it any more; then run again",
        )
    spares, notes = _spares(target, host)
    steps = [Step(ADD, f"add {disk.summary()} to {target.summary()}, which misses a disk") for disk in spares]
    steps += _mounting(host, wanted, target, mount_text(wanted.mount_path, content.fs_uuid, wanted.fstype))
    if content.marker == MARKER_EMPTY:
        steps.append(Step(MARK, "write the marker file that proves it is ours"))
    return _finish(OURS, ours.members, tuple(steps), host, wanted, target=target, spares=spares, notes=notes)


def _spares(array: Disk, host: Host) -> tuple[tuple[Disk, ...], tuple[str, ...]]:
    if not array.degraded:
        return (), ()
    judged = [(disk, judge(disk, host.record)) for disk in _by_serial(host)]
    blank = [disk for disk, judgement in judged if judgement.state == BLANK and not judgement.erase]
    missing = array.degraded - len(blank)
    note = f"{array.summary()} works without {missing} of its disks: its data is not redundant"
    return tuple(blank[: array.degraded]), (note,) if missing > 0 else ()


# --- somebody else's --------------------------------------------------------------------------------------------------


def _choose_volume(host: Host, wanted: Wanted) -> Volume | None:
    """Return the filesystem to adopt: the one in use already, else the first by path.

    Raises NodeError when nodeadm is to build one, or may be about to.
    """
    here = host.mount_point.mount
    usable = [volume for volume in host.volumes if volume.folder != "other"]
    if here is not None:
        usable = [volume for volume in usable if volume.devno == here.devno] or usable
    if usable:
        return usable[0]
    if host.volumes:
        raise NodeError(
            f"{host.volumes[0].path}/{ADOPTED_FOLDER} exists and is not ours",
            reason="MOUNT_POINT_IN_USE",
            state=FOREIGN,
            repair=f"ls -la {host.volumes[0].path}/{ADOPTED_FOLDER}   # move it away, then run again",
        )
    if wanted.owner == "nodeadm" or host.nodeadm_busy:
        why = "nodeadm is at work and may be about to take" if host.nodeadm_busy else "nodeadm is to build on"
        raise NodeError(
            f"nothing is mounted below {wanted.nodeadm_path}, and {why} the local disks",
            reason="OWNER_NOT_READY",
            state=ABSENT,
        )
    return None


def _plan_adopted(volume: Volume, host: Host, wanted: Wanted) -> Plan:
    steps = _mounting(host, wanted, volume, bind_text(wanted.mount_path, volume))
    if volume.folder != "valid":
        steps.append(Step(MARK, "write the marker file that proves it is ours"))
    notes: tuple[str, ...] = ()
    if volume.shares:
        notes = (
            f"on the same filesystem as {' and '.join(volume.shares)}: kubelet evicts pods when less than "
            f"{format_size(volume.evicts_below_bytes)} of it is free; {format_size(volume.free_bytes)} is free now",
        )
    members = tuple(disk for disk in host.disks if disk.mounts or disk.holders)
    return _finish(ADOPTED, members, tuple(steps), host, wanted, volume=volume, notes=notes)


# --- blank ------------------------------------------------------------------------------------------------------------


def _by_serial(host: Host) -> list[Disk]:
    return sorted(host.disks, key=lambda disk: (disk.serial or "", disk.name))


def _plan_blank(host: Host, wanted: Wanted) -> Plan:
    judged = [(disk, judge(disk, host.record)) for disk in _by_serial(host)]
    blank = [(disk, judgement) for disk, judgement in judged if judgement.state == BLANK]
    rest = [f"{disk.summary()}: {judgement.why}" for disk, judgement in judged if judgement.state != BLANK]
    if not blank:
        disk, judgement = judged[0]
        reason = judgement.reason or "DISK_UNKNOWN"
        raise NodeError(
            f"{disk.summary()} is not touched: {judgement.why}" + "".join(f"; {text}" for text in rest[1:]),
            reason=reason,
            state=judgement.state,
            repair=repair(reason, DISK=f"/dev/{disk.name}", SERIAL=disk.serial or "-"),
        )
    if wanted.strategy == "RAID10" and len(blank) < LEAST_FOR_RAID10:
        raise NodeError(
            f"RAID10 needs {LEAST_FOR_RAID10} blank disks, this node has {len(blank)}"
            + "".join(f"; {text}" for text in rest),
            reason="DISK_TOO_FEW",
            state=BLANK,
        )
    if wanted.strategy == "Mount":
        rest += [f"{disk.summary()}: the strategy Mount takes one disk" for disk, _ in blank[1:]]
        blank = blank[:1]
    for disk, _ in blank:
        if disk.size_bytes < LEAST_BYTES:
            raise NodeError(
                f"{disk.summary()} is too small, wanted at least {format_size(LEAST_BYTES)}",
                reason="DISK_TOO_SMALL",
                state=BLANK,
            )
    _check_free(host.mount_point, f"{blank[0][0].summary()}", BLANK)
    notes = tuple(f"left out: {text}" for text in rest)
    members = tuple(disk for disk, _ in blank)
    if any(judgement.erase for _, judgement in blank):
        unfinished = tuple(disk for disk, judgement in blank if judgement.erase)
        return _erase(unfinished, members, host, wanted, notes)
    if len(members) == 1:
        return _plan_format(members[0], members, blank[0][1], notes, host, wanted)
    level = wanted.strategy
    names = " and ".join(disk.summary() for disk in members)
    steps = (
        Step(CREATE, f"make one {level} array of {names}"),
        Step(FORMAT, f"make {wanted.fstype} with label {LABEL} on it"),
        *_mounting(host, wanted, None, None),
        Step(MARK, "write the marker file that proves it is ours"),
    )
    return _finish(BLANK, members, steps, host, wanted, notes=notes)


def _erase(
    disks: tuple[Disk, ...], members: tuple[Disk, ...], host: Host, wanted: Wanted, notes: tuple[str, ...] = ()
) -> Plan:
    names = " and ".join(disk.summary() for disk in disks)
    step = Step(ERASE, f"remove what a run of ours, cut off, has left half-made on {names}, then begin again")
    return _finish(BLANK, members, (step,), host, wanted, erase=disks, notes=notes)


def _plan_format(
    target: Disk, members: tuple[Disk, ...], judgement: Judgement, notes: tuple[str, ...], host: Host, wanted: Wanted
) -> Plan:
    if judgement.erase:
        return _erase((target,), members, host, wanted, notes)
    steps = (
        Step(FORMAT, f"make {wanted.fstype} with label {LABEL} on {target.summary()}"),
        *_mounting(host, wanted, None, None),
        Step(MARK, "write the marker file that proves it is ours"),
    )
    return _finish(BLANK, members, steps, host, wanted, target=target, notes=notes)


# --- the mount --------------------------------------------------------------------------------------------------------


def _check_free(point: MountPoint, what: str, state: str) -> None:
    """Raise NodeError when something else is mounted at the mount path, or is in the way there."""
    if point.mount is not None:
        raise NodeError(
            f"{point.path} has {point.mount.source} ({point.mount.fstype}) mounted, wanted {what}",
            reason="MOUNT_WRONG_DEVICE",
            state=state,
            repair=f"findmnt {point.path}   # unmount it, or choose another mount path",
        )
    if point.kind == "other" or point.entries:
        found = "is not a directory"
        if point.entries:
            found = f"is not mounted but holds {point.entries} entries, which a mount would hide"
        raise NodeError(
            f"{point.path} {found}",
            reason="MOUNT_POINT_IN_USE",
            repair=f"ls -la {point.path}   # move it away, then run again",
        )


def _mounting(host: Host, wanted: Wanted, target: Disk | Volume | None, unit: str | None) -> list[Step]:
    """Return the steps that bring `target` to the mount path and keep it there; None is a filesystem yet to be made.

    Raises NodeError when something else is mounted, or in the way, there.
    """
    point, steps = host.mount_point, []
    if target is None or not _is_mounted(point.mount, target):
        what = target.summary() if isinstance(target, Disk) else target.path if target else "the local disk"
        _check_free(point, what, OURS)
        if not point.sealed:
            steps.append(
                Step(SEAL, f"make the empty directory {point.path} unwritable, so that nothing fills the root disk")
            )
        how = "show it" if isinstance(target, Volume) else "mount it"
        steps.append(Step(MOUNT, f"{how} at {point.path} with noatime"))
    elif (point.mode, point.uid, point.gid) != (wanted.mode, 0, wanted.gid):
        group = f" and group {wanted.group}" if wanted.group else ""
        steps.append(
            Step(RESTRICT, f"give {point.path} to root{group} with mode {wanted.mode:04o} (it has {point.mode:04o})")
        )
    units = host.units
    if units.systemd:
        owner = "nodeadm" if isinstance(target, Volume) and target.made_by == "nodeadm" else _owner(wanted, target)
        if not units.installed:
            steps.append(Step(INSTALL, "install judge-node, which the boot unit starts"))
        if unit is None or units.mount_text != unit or units.boot_text != boot_text(wanted, owner):
            steps.append(Step(PERSIST, "write and enable the units that check and mount it at every boot, by UUID"))
        if units.boot_state in ("failed", "inactive"):
            steps.append(Step(START, "start the boot unit, so that what waits for the disk may start"))
    return steps


def _owner(wanted: Wanted, target: Disk | Volume | None) -> str:
    """Return who owns the disks from now on: what is decided once is not decided anew at every boot."""
    return "auto" if isinstance(target, Volume) else "judge" if wanted.owner == "auto" else wanted.owner


def _is_mounted(mount: Mount | None, target: Disk | Volume) -> bool:
    root = f"/{ADOPTED_FOLDER}" if isinstance(target, Volume) else "/"
    return mount is not None and mount.devno == target.devno and mount.root == root


# --- the plan in words ------------------------------------------------------------------------------------------------


def _finish(
    state: str, members: tuple[Disk, ...], steps: tuple[Step, ...], host: Host, wanted: Wanted, **more: object
) -> Plan:
    """Return the plan with its diff. The evidence stands in it: it is what a person approves."""
    volume = more.get("volume")
    owner = volume.made_by if isinstance(volume, Volume) else "judge"
    lines = [f"{disk.summary()}: {_evidence(disk, state)}\n" for disk in members]
    mounted = "mounted" if host.mount_point.mount is not None else "not mounted"
    before = "".join(lines) + f"{wanted.mount_path}: {mounted}\n"
    after = before
    if steps:
        done = f"adopted from {owner}" if state == ADOPTED else f"ours, {wanted.fstype} with label {LABEL}"
        if len(members) > 1 and state != ADOPTED:
            done = f"ours, in one {wanted.strategy} array with {wanted.fstype}, label {LABEL}"
        after = "".join(f"{disk.summary()}: {done}\n" for disk in members) + f"{wanted.mount_path}: mounted\n"
    steps = tuple(sorted(steps, key=lambda step: _ORDER.index(step.name)))
    build: Callable[..., Plan] = Plan
    return build(state=state, owner=owner, members=members, steps=steps, before=before, after=after, **more)


def _evidence(disk: Disk, state: str) -> str:
    content = disk.content
    if state == BLANK and content is not None and content.sampled_bytes and content.nonzero_at is None:
        return f"blank (no signature, no table, no holder; {format_size(content.sampled_bytes)} read, all zero)"
    if state == ADOPTED:
        return f"in use ({', '.join(disk.membership) or ', '.join(m.path for m in disk.mounts)})"
    return "unfinished, of ours" if state == BLANK else "ours"
