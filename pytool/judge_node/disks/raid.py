"""Arrays of md: made, started, mended and taken apart by mdadm, which is never called with a force flag."""

from __future__ import annotations

import contextlib
import glob
import time
from collections.abc import Iterator
from pathlib import Path

from ..reasons import repair
from ..result import NodeError
from ..shell import checked, run
from .discover import Found
from .facts import ARRAY_NAME, FILESYSTEMS, Disk, Host
from .judge import DEGRADED
from .probe import Hold, read_signatures

DEVICE = f"/dev/md/{ARRAY_NAME}"
_START_SECONDS = 10


def create(members: tuple[Disk, ...], strategy: str, found: Found) -> None:
    """Make one array of the held, blank disks. What is noted as being made gives its UUID.

    mdadm takes the exclusive claim on each disk itself, so ours go right before; the locks (flock) stay. Each disk is
    looked at once more then, and mdadm asks before it takes one with something on it: the answer that waits is no. But
    mdadm knows partition tables, ext and md only, so that what another program writes in the milliseconds between can
    be damaged; it ends the run before mkfs all the same. No bitmap: with the array the data is gone. RAID10 needs no
    first resync, since all its disks are blank, and so equal.
    """
    level = strategy.lower()
    uuid = found.host.record.array_uuid or ""
    holds = [found.holds.get(disk.name) for disk in members]
    for disk, hold in zip(members, holds):
        if hold is None or not hold.exclusive:
            raise NodeError(f"{disk.summary()} is not held any more", reason="DISK_BUSY")
    nodes = [disk.node or "" for disk in members]
    options = ["--assume-clean", "--bitmap=none"] if level == "raid10" else []
    argv = ["mdadm", "--create", DEVICE, f"--level={level}", f"--raid-devices={len(members)}", "--metadata=1.2",
            f"--name={ARRAY_NAME}", "--homehost=any", f"--uuid={_colons(uuid)}", *options]  # fmt: skip
    for disk, node in zip(members, nodes):
        now = read_signatures(node)
        if now.signatures or now.error:
            why = now.error or f"it carries {', '.join(now.signatures)} now"
            raise NodeError(f"{disk.summary()} changed: {why}", reason="DISK_FOREIGN_DATA")
    for hold in holds:
        assert hold is not None
        hold.release_exclusive()
    checked([*argv, *nodes], given="n\n" * 9, reason="ARRAY_FAILED")
    found.release(*members)  # udev waits for the locks, and we for udev
    _wait_until_active(members[0])


def assemble(members: tuple[Disk, ...], host: Host) -> None:
    """Start our array of these members, whatever mdadm.conf says; an inactive rest of an earlier try is stopped first.

    --run starts a RAID10 of which a disk is missing; what cannot work the kernel refuses all the same.
    """
    _stop_inactive(members, host)
    raid = members[0].content.raid if members[0].content is not None else None
    assert raid is not None
    argv = ["mdadm", "--assemble", "--config=none", "--run", DEVICE, f"--uuid={_colons(raid.uuid)}"]
    done = run([*argv, *(disk.node or "" for disk in members)])
    if done.returncode != 0:
        lost = len(members) < raid.devices  # such as both halves of one mirror
        said = " ".join(done.stderr.split())[:300]
        raise NodeError(
            f"{len(members)} of the {raid.devices} disks of our {raid.level} array are here, and mdadm says: {said}",
            reason="ARRAY_INCOMPLETE" if lost else "ARRAY_FAILED",
            state=DEGRADED if lost else None,
            repair=repair("ARRAY_INCOMPLETE", DISK=f"/dev/{members[0].name}", SERIAL=members[0].serial or "-")
            if lost
            else None,
        )
    _wait_until_active(members[0])


def add(array: Disk, spares: tuple[Disk, ...]) -> None:
    """Give a RAID10 that misses disks these blank ones; the kernel copies the data to them."""
    nodes = [disk.node or "" for disk in spares]
    checked(["mdadm", "--manage", array.node or "", "--add", *nodes], reason="ARRAY_FAILED")


def erase(disks: tuple[Disk, ...], host: Host) -> None:
    """Remove the signatures that a run of ours left half-made; what they name was random and noted beforehand."""
    with locked_against_udev(disks):
        _stop_inactive(disks, host)
        for disk in disks:
            node = disk.node or ""
            if disk.content is not None and disk.content.raid is not None:
                checked(["mdadm", "--zero-superblock", node], reason="ARRAY_FAILED")
            else:
                checked(["wipefs", "--all", "--types", ",".join(FILESYSTEMS), node])


@contextlib.contextmanager
def locked_against_udev(disks: tuple[Disk, ...]) -> Iterator[None]:
    """Hold the lock (flock) of each disk: else udev, told by `mdadm --stop`, starts the array again at once."""
    with contextlib.ExitStack() as stack:
        for disk in disks:
            hold = Hold(disk.node or "")
            stack.callback(hold.close)
            hold.acquire()
            hold.release_exclusive()
        yield


def _stop_inactive(disks: tuple[Disk, ...], host: Host) -> None:
    names = {holder for disk in disks for holder in disk.holders}
    for array in host.arrays:
        if array.name in names and not array.active:
            checked(["mdadm", "--stop", f"/dev/{array.name}"], reason="ARRAY_FAILED")


def _wait_until_active(member: Disk) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        for holder in glob.glob(f"/sys/block/{member.name}/holders/md*"):  # noqa: PTH207
            name = Path(holder).name
            if (Path("/sys/block", name, "size")).read_text().strip() != "0" and Path("/dev", name).exists():
                run(["udevadm", "settle", "--timeout=10"])
                return
        time.sleep(0.1)
    raise NodeError(f"the array of {member.summary()} did not start", reason="ARRAY_FAILED")


def _colons(uuid: str) -> str:
    return ":".join(uuid[start : start + 8] for start in range(0, 32, 8))
