"""Carry out a plan. The only code of this package that writes to a disk."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import uuid
from datetime import datetime, timezone
from pathlib import Path

from .. import __version__
from ..files import make_directory, write_file
from ..result import NodeError
from ..shell import environment, run, signals_deferred
from .discover import UNIT_FOLDER
from .facts import LABEL, MARKER_NAME, Disk, Host, Wanted
from .plan import FORMAT, MARK, MOUNT, PERSIST, RESTRICT, SEAL, Plan
from .probe import Hold, read_signatures
from .sysfs import System
from .unit import MOUNT_OPTIONS, unit_text


def apply(plan: Plan, host: Host, wanted: Wanted, hold: Hold | None, lock_fd: int) -> str:
    """Do the plan's steps in order and return the UUID of the mounted filesystem.

    `lock_fd` is the lock of this run; mkfs keeps it, so that after a kill -9 the next run waits for what is left of it.
    Raises NodeError when a step fails; the next run takes up what was done.
    """
    names = {step.name for step in plan.steps}
    disk, path = plan.disk, Path(wanted.mount_path)
    node = disk.node
    assert node is not None
    if FORMAT in names:
        if hold is None or not hold.exclusive:
            raise NodeError(f"{disk.summary()} is not held any more", reason="DISK_BUSY")
        fs_uuid = _format(hold, wanted.fstype, lock_fd)
    else:
        assert disk.content is not None
        fs_uuid = disk.content.fs_uuid or ""
        if hold is not None:
            hold.release_exclusive()
    if SEAL in names:
        _seal(path)
    if PERSIST in names:
        _write_unit(host.unit_name, unit_text(str(path), fs_uuid, wanted.fstype))
    if MOUNT in names:
        _mount(host, node, fs_uuid, wanted)
        _check_mounted(disk, wanted.mount_path)
    if MARK in names:
        _mark(path, disk, fs_uuid, wanted)
    if names & {MARK, RESTRICT}:
        os.chown(path, 0, 0)
        path.chmod(0o755)
    if PERSIST in names and MOUNT not in names:
        _enable(host.unit_name)
    return fs_uuid


def mkfs_command(fstype: str, node: str, fs_uuid: str) -> list[str]:
    """Return the mkfs command: never -f or -F, so that mkfs's own refusal stays on.

    No TRIM (-K, nodiscard): AWS delivers instance store trimmed, and trimming takes minutes on a big disk. ext4 gets
    few inodes and no lazy initialisation, or the kernel writes gigabytes of inode tables while the model downloads.
    """
    if fstype == "xfs":
        return ["mkfs.xfs", "-q", "-K", "-L", LABEL, "-m", f"uuid={fs_uuid}", node]
    return [
        "mkfs.ext4",
        "-L",
        LABEL,
        "-U",
        fs_uuid,
        "-T",
        "largefile4",
        "-m",
        "0",
        "-E",
        "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
        node,
    ]


def _format(hold: Hold, fstype: str, lock_fd: int) -> str:
    """Make the filesystem on the held disk and return its UUID.

    The hand-over. Both mkfs.xfs and mkfs.ext4 open the device O_EXCL themselves and fail with "Device or resource busy"
    while we hold it (tried on loop devices), and the kernel lets two processes share no claim. So ours is let go
    immediately before mkfs starts. What guards the milliseconds in between: our flock stays, which udev, other
    judge-nodes and tools with --lock respect; mkfs takes the exclusive claim; and mkfs looks for a filesystem or a
    partition table once more and refuses. mkfs.ext4 does that only on a terminal (on a pipe it overwrites silently), so
    it gets one, with the answer "n" waiting. Signals wait until mkfs is through: a half-made filesystem is neither
    blank nor ours.
    """
    fs_uuid = str(uuid.uuid4())
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
    return fs_uuid


def _run_mkfs(argv: list[str], lock_fd: int) -> tuple[int, str]:
    """Run mkfs on a terminal of its own, in a session of its own; return its exit status and what it said."""
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
        except FileNotFoundError:
            raise NodeError(
                f"program {argv[0]!r} is not on this node, and it is needed to go on", reason="TOOL_MISSING"
            ) from None
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


def _mount(host: Host, node: str, fs_uuid: str, wanted: Wanted) -> None:
    """Mount through the unit where systemd runs; else with mount(8), in the mount namespace of the caller.

    mount(8) gets the device whose UUID was just read, not UUID=...: in a node's private /dev no by-uuid link exists,
    and names can change only between boots. At boot the unit looks by UUID.
    """
    if host.systemd:
        run(["udevadm", "settle", "--timeout=10"])  # the by-uuid link appears through udev
        _enable(host.unit_name)
        return
    now = read_signatures(node)
    if now.fs_uuid != fs_uuid:
        raise NodeError(f"{node} shows filesystem {now.fs_uuid}, wanted {fs_uuid}", reason="FS_STALE")
    _checked(["mount", "-t", wanted.fstype, "-o", MOUNT_OPTIONS, node, wanted.mount_path])


def _check_mounted(disk: Disk, mount_path: str) -> None:
    """mount(8) can end with 0 and mount nothing (`nofail` in fstab), so the kernel is asked."""
    here = [mount for mount in System().mounts() if mount.path == mount_path]
    if not here or here[-1].devno != disk.devno:
        found = here[-1].source if here else "nothing"
        raise NodeError(
            f"after the mount, {mount_path} has {found}, wanted {disk.summary()}", reason="FS_CREATE_FAILED"
        )


def _mark(path: Path, disk: Disk, fs_uuid: str, wanted: Wanted) -> None:
    marker = {
        "schema": 1,
        "fs_uuid": fs_uuid,
        "serial": disk.serial,
        "model": disk.model,
        "size_bytes": disk.size_bytes,
        "mount_path": wanted.mount_path,
        "made_by": f"judge-node {__version__}",
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    write_file(path / MARKER_NAME, (json.dumps(marker, indent=2, sort_keys=True) + "\n").encode(), 0o444)


def _write_unit(name: str, text: str) -> None:
    write_file(UNIT_FOLDER / name, text.encode())
    _checked(["systemctl", "daemon-reload"])


def _enable(name: str) -> None:
    _checked(["systemctl", "enable", "--now", name])


def _checked(argv: list[str]) -> None:
    done = run(argv)
    if done.returncode != 0:
        raise NodeError(
            f"`{' '.join(argv)}` ended with {done.returncode}: {' '.join((done.stderr or done.stdout).split())[:300]}",
            reason="FS_CREATE_FAILED",
        )
