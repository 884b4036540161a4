"""Carry out a plan. With raid.py the only code of this package that writes to a disk."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import uuid
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from .. import __version__
from ..files import make_directory, write_file
from ..result import NodeError
from ..shell import checked, environment, find, run, signals_deferred
from ..systemd import UNIT_FOLDER, install
from . import raid
from .discover import Found
from .facts import ADOPTED_FOLDER, LABEL, MARKER_NAME, Disk, Record, Volume, Wanted
from .plan import ADD, ASSEMBLE, CREATE, ERASE, FORMAT, INSTALL, MARK, MOUNT, PERSIST, RESTRICT, SEAL, Plan
from .probe import Hold, read_signatures
from .record import write_record
from .sysfs import System
from .unit import BOOT_UNIT, INSTALL_PATH, MOUNT_OPTIONS, bind_text, boot_text, mount_text


def need_tools(plan: Plan, wanted: Wanted) -> None:
    """Raise NodeError TOOL_MISSING when a program that the plan needs is not installed; nothing is touched by then."""
    names = {step.name for step in plan.steps}
    mkfs = f"mkfs.{wanted.fstype}"
    for step, tool in (
        (FORMAT, mkfs),
        (CREATE, "mdadm"),
        (ASSEMBLE, "mdadm"),
        (ADD, "mdadm"),
        (SEAL, "chattr"),
    ):
        if step in names:
            find(tool)


def apply(plan: Plan, found: Found, wanted: Wanted, lock_fd: int) -> None:
    """Do the plan's steps in order, up to the first after which the disks have to be read anew.

    `lock_fd` is the lock of this run; mkfs keeps it, so that after a kill -9 the next run waits for what is left of it.
    Raises NodeError when a step fails; the next run takes up what was done.
    """
    names = {step.name for step in plan.steps}
    if ERASE in names:
        found.release(*plan.erase)
        raid.erase(plan.erase, found.host)
    elif ASSEMBLE in names:
        found.release(*plan.members)
        raid.assemble(plan.members, found.host)
    elif ADD in names:
        assert plan.target is not None
        found.release(*plan.spares)
        raid.add(plan.target, plan.spares)
    elif CREATE in names:
        _note(found, plan, replace(_record(plan), array_uuid=uuid.uuid4().hex))
        raid.create(plan.members, wanted.strategy, found)
    else:
        _mount_and_keep(plan, found, wanted, names, lock_fd)


def _record(plan: Plan) -> Record:
    return Record(serials=tuple(d.serial for d in plan.members if d.serial), disks=len(plan.members))


def _note(found: Found, plan: Plan, record: Record) -> None:
    """Note what is being made, before the first byte of it; and that it is made, when nothing can be taken for it."""
    if record != found.host.record:
        write_record(record)
    found.host = replace(found.host, record=record)


def _mount_and_keep(plan: Plan, found: Found, wanted: Wanted, names: set[str], lock_fd: int) -> None:
    target, path = plan.target, Path(wanted.mount_path)
    if target is not None:
        if FORMAT in names:
            fs_uuid = str(uuid.uuid4())
            _note(found, plan, replace(_record(plan), fs_uuid=fs_uuid, fstype=wanted.fstype))
            _format(found.holds.get(target.name), target, wanted.fstype, fs_uuid, lock_fd)
        else:
            assert target.content is not None
            fs_uuid = target.content.fs_uuid or ""
        # udev names a filesystem only when nobody holds its disk, and the mount unit waits for that name.
        found.release(target)
        unit = mount_text(str(path), fs_uuid, wanted.fstype)
    else:
        assert plan.volume is not None
        from .adopt import make_folder

        fs_uuid, unit = "", bind_text(str(path), plan.volume)
        make_folder(plan.volume, wanted.mode, wanted.gid)
    if SEAL in names:
        _seal(path)
    if INSTALL in names:
        _install()
    if PERSIST in names:
        _write_units(found, wanted, unit, "nodeadm" if plan.owner == "nodeadm" else _boot_owner(plan))
    if MOUNT in names:
        _mount(found, target or plan.volume, fs_uuid, wanted)
        _check_mounted(target or plan.volume, wanted.mount_path)
    # Before the marker: a note that outlives it would make a filesystem full of data, whose marker cannot be read, look
    # half-made. Cut off in between, the filesystem is ours and empty, and the marker is all that is left to do.
    _note(found, plan, _record(plan))
    if MARK in names:
        _mark(path, plan, fs_uuid, wanted)
    if names & {MARK, RESTRICT}:
        os.chown(path, 0, wanted.gid)
        path.chmod(wanted.mode)


def _boot_owner(plan: Plan) -> str:
    return "judge" if plan.volume is None else "auto"


def mkfs_command(fstype: str, node: str, fs_uuid: str) -> list[str]:
    """Return the mkfs command: never -f or -F, so that mkfs's own refusal stays on.

    No TRIM (-K, nodiscard): AWS delivers instance store trimmed, and trimming takes minutes on a big disk. A log of
    64 MiB: by default it grows with the disk, up to 2 GiB, all of it written, and a few large files need none of that.
    ext4 gets few inodes and no lazy initialisation, or the kernel writes gigabytes of inode tables while the model
    downloads.
    """
    if fstype == "xfs":
        return ["mkfs.xfs", "-q", "-K", "-l", "size=64m", "-L", LABEL, "-m", f"uuid={fs_uuid}", node]
    quick = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
    return ["mkfs.ext4", "-L", LABEL, "-U", fs_uuid, "-T", "largefile4", "-J", "size=64", "-m", "0", "-E", quick, node]


def _format(hold: Hold | None, disk: Disk, fstype: str, fs_uuid: str, lock_fd: int) -> None:
    """Make the filesystem on the held disk.

    The hand-over. Both mkfs.xfs and mkfs.ext4 open the device O_EXCL themselves and fail with "Device or resource busy"
    while we hold it (tried on loop devices), and the kernel lets two processes share no claim. So ours is let go
    immediately before mkfs starts. What guards the milliseconds in between: our flock stays, which udev, other
    judge-nodes and tools with --lock respect; mkfs takes the exclusive claim; and mkfs looks for a filesystem or a
    partition table once more and refuses. mkfs.ext4 does that only on a terminal (on a pipe it overwrites silently), so
    it gets one, with the answer "n" waiting. Signals wait until mkfs is through.
    """
    if hold is None or not hold.exclusive:
        raise NodeError(f"{disk.summary()} is not held any more", reason="DISK_BUSY")
    with signals_deferred():
        hold.release_exclusive()
        code, output = _run_mkfs(mkfs_command(fstype, hold.node, fs_uuid), lock_fd)
    if code != 0:
        raise NodeError(
            f"mkfs.{fstype} on {hold.node} ended with {code}: {' '.join(output.split())[-300:]}",
            reason="FS_CREATE_FAILED",
        )
    made = read_signatures(hold.node)
    if made.fs_uuid != fs_uuid or made.label != LABEL:
        raise NodeError(
            f"after mkfs, {hold.node} shows filesystem {made.fs_uuid}, wanted {fs_uuid}", reason="FS_CREATE_FAILED"
        )


def _run_mkfs(argv: list[str], lock_fd: int) -> tuple[int, str]:
    """Run mkfs on a terminal of its own, in a session of its own; return its exit status and what it said."""
    argv = [find(argv[0]), *argv[1:]]
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        raise NodeError(f"no pseudo terminal for {argv[0]} ({error.strerror})", reason="TOOL_MISSING") from None
    output = bytearray()
    try:
        os.write(ours, b"n\n")
        try:
            process = subprocess.Popen(
                argv,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment(),
                start_new_session=True,
                pass_fds=(lock_fd,),
            )
        finally:
            os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: mkfs has closed its side
            while True:
                output += os.read(ours, 4096)
    finally:
        os.close(ours)
    return process.wait(), output.decode(errors="replace")


def _seal(path: Path) -> None:
    """Make the empty mount point unwritable, also for root where the filesystem has attributes (overlayfs has none)."""
    make_directory(path)
    if run(["chattr", "+i", str(path)]).returncode != 0:
        path.chmod(0)


def _mount(found: Found, target: Disk | Volume | None, fs_uuid: str, wanted: Wanted) -> None:
    """Mount through the unit where systemd runs; else with mount(8), in the mount namespace of the caller.

    mount(8) gets the device whose UUID was just read, not UUID=...: in a node's private /dev no by-uuid link exists,
    and names can change only between boots. The unit looks by UUID.
    """
    units = found.host.units
    if units.systemd:
        if isinstance(target, Disk):  # the by-uuid link appears through udev, which may have looked before mkfs
            run(["udevadm", "trigger", "--action=change", f"/sys/class/block/{target.name}"])
            run(["udevadm", "settle", "--timeout=20"])
        checked(["systemctl", "restart", units.mount_name])
    elif isinstance(target, Volume):
        source = f"{target.path}/{ADOPTED_FOLDER}"
        checked(["mount", "--bind", source, wanted.mount_path])
        checked(["mount", "-o", f"remount,bind,{MOUNT_OPTIONS}", wanted.mount_path])
    else:
        assert target is not None and target.node is not None
        now = read_signatures(target.node)
        if now.fs_uuid != fs_uuid:
            raise NodeError(f"{target.node} shows filesystem {now.fs_uuid}, wanted {fs_uuid}", reason="FS_STALE")
        checked(["mount", "-t", wanted.fstype, "-o", MOUNT_OPTIONS, target.node, wanted.mount_path])


def _check_mounted(target: Disk | Volume | None, mount_path: str) -> None:
    """mount(8) can end with 0 and mount nothing (`nofail` in fstab), so the kernel is asked."""
    here = [mount for mount in System().mounts() if mount.path == mount_path]
    assert target is not None
    if not here or here[-1].devno != target.devno:
        found = here[-1].source if here else "nothing"
        name = target.summary() if isinstance(target, Disk) else target.path
        raise NodeError(f"after the mount, {mount_path} has {found}, wanted {name}", reason="FS_CREATE_FAILED")


def _mark(path: Path, plan: Plan, fs_uuid: str, wanted: Wanted) -> None:
    single = plan.members[0] if len(plan.members) == 1 and plan.volume is None else None
    marker = {
        "schema": 1,
        "fs_uuid": fs_uuid or None,
        "serial": single.serial if single else None,
        "serials": [disk.serial for disk in plan.members],
        "model": plan.members[0].model if plan.members else None,
        "size_bytes": plan.target.size_bytes if plan.target else None,
        "adopted_from": plan.volume.path if plan.volume else None,
        "mount_path": wanted.mount_path,
        "made_by": f"judge-node {__version__}",
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    write_file(path / MARKER_NAME, (json.dumps(marker, indent=2, sort_keys=True) + "\n").encode(), 0o444)


def _install() -> None:
    """Put this program where the boot unit starts it."""
    install(Path(INSTALL_PATH))


def _write_units(found: Found, wanted: Wanted, mount: str, owner: str) -> None:
    write_file(UNIT_FOLDER / found.host.units.mount_name, mount.encode())
    write_file(UNIT_FOLDER / BOOT_UNIT, boot_text(wanted, owner).encode())
    checked(["systemctl", "daemon-reload"])
    checked(["systemctl", "reenable", BOOT_UNIT])  # anew: the gates may be others than before


def start_boot_unit(wanted: Wanted, was_failed: bool) -> None:
    """Start the boot unit, and after a boot on which it had failed also what it had held back."""
    checked(["systemctl", "start", BOOT_UNIT], timeout_seconds=wanted.wait_seconds + 600)
    for gate in wanted.gates if was_failed else ():
        run(["systemctl", "start", "--no-block", gate])
