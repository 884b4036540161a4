"""`judge-node disks release`: wipe one disk on purpose, so that it is blank again. The serial number is the consent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from ..files import make_directory
from ..locking import locked
from ..reasons import repair
from ..result import NodeError, Result
from ..shell import checked
from .commands import LOCK, need_root
from .discover import Found, discover
from .facts import Disk, Wanted, disk_as_dict, format_size
from .judge import BLANK, judge
from .places import SLICE_BYTES
from .probe import Hold, read_blocks, read_signatures
from .raid import locked_against_udev

# linux/fs.h: _IO(0x12, 119) and _IO(0x12, 127), each with a range of two 64-bit numbers; _IO(0x12, 95) without.
_BLKDISCARD, _BLKZEROOUT, _BLKRRPART = 0x1277, 0x127F, 0x125F
_STRIDE_BYTES = 1 << 30
Report = Callable[[str], None]


def release(device: str, *, serial: str | None, check: bool, lock_wait_seconds: float, report: Report) -> Result:
    """Make the disk blank: every byte of it is lost. Without `serial` a person at a terminal is asked for it.

    Raises NodeError for the root disk, an EBS volume, a disk in use, a wrong serial number, and a write error.
    """
    need_root()
    make_directory(LOCK.parent)
    wanted = Wanted(mount_path="/", device=device, owner="judge")
    with locked(LOCK, wait_seconds=lock_wait_seconds):
        with discover(wanted, to_change=True) as found:
            disk = _releasable(found, device)
            _check_serial(disk, serial)
            held_by = [array for array in found.host.arrays if array.name in disk.holders]
            found.release(disk)
        before = f"{disk.summary()}: {_carries(disk)}\n"
        if not check:
            with locked_against_udev((disk,)):
                for array in held_by:
                    checked(["mdadm", "--stop", array.node or f"/dev/{array.name}"], reason="DISK_BUSY")
                _wipe(disk, report)
    did = "would be blank, and all that is on it lost" if check else "is blank"
    return Result(
        command="disks release",
        changed=True,
        state=judge(disk).state if check else BLANK,
        message=f"{disk.summary()} {did}",
        repair=None if check else "judge-node disks ensure --mount-path PATH",
        before=before,
        after=f"{disk.summary()}: blank\n",
        facts={"disk": disk_as_dict(disk)},
    )


def _releasable(found: Found, device: str) -> Disk:
    if not found.host.disks:
        raise NodeError(f"there is no disk {device} on this node", reason="DISK_NONE")
    disk = found.host.disks[0]
    stoppable = {array.name for array in found.host.arrays if not array.mounts and not array.holders and not array.swap}
    in_use = [holder for holder in disk.holders if holder not in stoppable]
    judgement = judge(disk)
    if disk.root or disk.members or disk.mounts or disk.swap or in_use or judgement.reason == "DISK_NOT_LOCAL":
        why = f"it is mounted at {disk.mounts[0].path}" if disk.mounts and not disk.root else judgement.why
        reason = judgement.reason or "DISK_BUSY"
        raise NodeError(
            f"{disk.summary()} is not released: {why}",
            reason=reason,
            repair=repair(reason, DISK=f"/dev/{disk.name}"),
        )
    return disk


def _check_serial(disk: Disk, serial: str | None) -> None:
    """Ask for what nobody types by mistake, and what follows the disk when its name changes."""
    expected = disk.serial or disk.name
    if serial is None and sys.stdin.isatty():
        sys.stderr.write(f"All data on {disk.summary()} will be lost. Type its serial number to go on: ")
        sys.stderr.flush()
        serial = sys.stdin.readline().strip()
    if serial != expected:
        given = f"--serial {serial}" if serial else "no serial number"
        raise NodeError(
            f"{disk.summary()} is not released: found {given}, wanted that of the disk",
            reason="SERIAL_MISMATCH",
            repair=f"judge-node disks release /dev/{disk.name} --serial {expected}   # this loses all that is on it",
        )


def _carries(disk: Disk) -> str:
    content = disk.content
    if content is not None and content.signatures:
        return "carries " + ", ".join(content.signatures)
    return "data" if content is None or content.nonzero_at is not None else "blank"


def _wipe(disk: Disk, report: Report) -> None:
    hold = Hold(disk.node or "")
    try:
        hold.acquire()
        if hold.busy:
            raise NodeError(f"{disk.summary()} is not released: another program holds it", reason="DISK_BUSY")
        fd = os.open(hold.node, os.O_RDWR | os.O_CLOEXEC)
        try:
            # The signatures first: cut off after this, the disk names no filesystem any more.
            for offset in (0, max(0, disk.size_bytes - SLICE_BYTES)):
                os.pwrite(fd, bytes(min(SLICE_BYTES, disk.size_bytes)), offset)
            os.fsync(fd)
            with contextlib.suppress(OSError):  # the disk has no discard
                _over_all(fd, disk, _BLKDISCARD, "discarded", report)
            if not _is_blank(hold, disk):
                _over_all(fd, disk, _BLKZEROOUT, "written with zeros", report)
        finally:
            os.close(fd)
        if not _is_blank(hold, disk):
            raise NodeError(f"{disk.summary()} still holds something after it was wiped", reason="DISK_FAILED")
        with contextlib.suppress(OSError):  # it has no partitions, or udev was faster
            fcntl.ioctl(hold.fd, _BLKRRPART)
    finally:
        hold.close()


def _is_blank(hold: Hold, disk: Disk) -> bool:
    blocks = read_blocks(hold.fd, disk.size_bytes, complete=False)
    signatures = read_signatures(hold.node)
    return blocks.nonzero_at is None and not signatures.signatures and signatures.error is None


def _over_all(fd: int, disk: Disk, request: int, done: str, report: Report) -> None:
    for offset in range(0, disk.size_bytes, _STRIDE_BYTES):
        length = min(_STRIDE_BYTES, disk.size_bytes - offset)
        fcntl.ioctl(fd, request, struct.pack("QQ", offset, length))
        report(f"{disk.summary()}: {format_size(offset + length)} of {format_size(disk.size_bytes)} {done}")
    os.fsync(fd)


def by_name(path: str) -> str:
    """Return the path of a disk that was given by its kernel name (nvme1n1) or as a path."""
    return path if "/" in path else str(Path("/dev", path))
