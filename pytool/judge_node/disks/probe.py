"""Examine one disk without changing it: an exclusive hold, the signatures, samples of its blocks, and our marker."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from dataclasses import replace
from pathlib import Path

from ..files import read_file, staging_name
from ..result import NodeError
from ..shell import run
from .facts import (
    FILESYSTEMS,
    LABEL,
    MARKER_EMPTY,
    MARKER_MISMATCH,
    MARKER_MISSING,
    MARKER_MOST_BYTES,
    MARKER_NAME,
    MARKER_UNREADABLE,
    MARKER_VALID,
    RAID_MEMBER,
    Content,
    Disk,
    Raid,
    Record,
)
from .places import SLICE_BYTES, ranges
from .unfinished import left_by_mkfs

_ZERO = bytes(SLICE_BYTES)
# What a filesystem may have in it and still be empty: mkfs.ext4's own folder, and a marker whose writing was killed.
NOTHING = ("lost+found", staging_name(MARKER_NAME))


class Hold:
    """An exclusive claim on a block device, from the first look until mkfs.

    Two descriptors. `O_EXCL` keeps out mounts, mkfs, mdadm and everything else that claims the device. The flock on the
    second one outlives the hand-over to mkfs (see apply.py): udev, other judge-nodes and `--lock` tools respect it.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self.busy = False
        self._exclusive: int | None = None
        self._lock: int | None = None

    def acquire(self, wait_seconds: float = 0) -> None:
        """Claim the device to change it; sets `busy` when somebody else has it for longer.

        Raises OSError on other failures.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            late = time.monotonic() >= deadline
            # udev has the flock for a moment after every change event: waited for, but not demanded. O_EXCL decides.
            if (self._locked(fcntl.LOCK_EX) or late) and self._claimed():
                return
            if late:
                self.busy = True
                return
            time.sleep(0.1)

    def acquire_to_read(self) -> None:
        """Claim the device; `busy` as well when somebody has the flock, who is about to change it."""
        self.busy = not (self._locked(fcntl.LOCK_SH) and self._claimed())

    def _locked(self, kind: int) -> bool:
        if self._lock is None:
            self._lock = os.open(self.node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _claimed(self) -> bool:
        try:
            self._exclusive = os.open(self.node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        return self._exclusive is not None

    @property
    def fd(self) -> int:
        """The descriptor to read from."""
        fd = self._exclusive if self._exclusive is not None else self._lock
        assert fd is not None
        return fd

    @property
    def exclusive(self) -> bool:
        """Whether this process has the exclusive claim now."""
        return self._exclusive is not None

    def release_exclusive(self) -> None:
        """Give up the exclusive claim and keep the flock."""
        if self._exclusive is not None:
            os.close(self._exclusive)
            self._exclusive = None

    def close(self) -> None:
        """Give up both."""
        self.release_exclusive()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def read_blocks(fd: int, size_bytes: int, *, complete: bool, record: Record | None = None) -> Content:
    """Read the places that prove a disk blank (places.py); stop at the first that is not zero.

    What the mkfs that `record` notes can have left does not end the reading, only something else does.
    Raises OSError on a read error and on a short read: neither is a zero.
    """
    first, unfinished, read_bytes = None, True, 0
    for offset, length in ranges(size_bytes, complete=complete):
        block = os.pread(fd, length, offset)
        if len(block) != length:
            raise OSError(errno.EIO, f"short read at byte {offset}: {len(block)} of {length}")
        read_bytes += length
        # Compared with memcmp: no copy of the block, and no interpreter loop over its bytes.
        if block != (_ZERO if length == SLICE_BYTES else _ZERO[:length]):
            first = offset if first is None else first
            unfinished = record is not None and left_by_mkfs(record, size_bytes, offset, block)
            if not unfinished:
                break
    # What was read would push useful pages out of memory on a small node.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return Content(nonzero_at=first, unfinished=first is not None and unfinished, sampled_bytes=read_bytes)


def read_signatures(node: str) -> Content:
    """Ask blkid and wipefs, each of which knows signatures that the other does not, what is on the disk.

    Neither is believed alone, and lsblk never: without a udev database it shows an empty FSTYPE for a full disk.
    """
    blkid = run(["blkid", "-p", "-o", "export", node])
    found = dict(line.split("=", 1) for line in blkid.stdout.splitlines() if "=" in line)
    names = {found[key] for key in ("TYPE", "PTTYPE") if key in found}
    if blkid.returncode == 8:
        names.add("several conflicting signatures")
    elif blkid.returncode not in (0, 2):
        return Content(error=f"blkid -p {node} ended with {blkid.returncode}: {blkid.stderr.strip()[:200]}")
    elif blkid.returncode == 0 and not names:
        names.add("something that blkid knows (" + ", ".join(sorted(found)) + ")")
    wipefs = run(["wipefs", "--no-act", "--parsable", node])
    if wipefs.returncode != 0:
        return Content(error=f"wipefs -n {node} ended with {wipefs.returncode}: {wipefs.stderr.strip()[:200]}")
    rows = [line for line in wipefs.stdout.splitlines() if line and not line.startswith("#")]
    names |= {row.rsplit(",", 1)[-1] for row in rows}
    return Content(
        signatures=tuple(sorted(names)),
        fstype=found.get("TYPE"),
        label=found.get("LABEL"),
        fs_uuid=found.get("UUID"),
        raid=read_raid(node) if found.get("TYPE") == RAID_MEMBER else None,
    )


def read_raid(node: str) -> Raid | None:
    """Return what the md superblock says, or None when it cannot be had: then it is nobody's that we know."""
    try:
        done = run(["mdadm", "--examine", "--export", node])
    except NodeError:  # no mdadm here: then we never made an array here either
        return None
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    uuid, devices = said.get("MD_UUID", "").replace(":", ""), said.get("MD_DEVICES", "")
    if done.returncode != 0 or len(uuid) != 32 or not devices.isdigit():
        return None
    # mdadm puts the home host in front: "any:judge-nvme".
    return Raid(uuid, said.get("MD_NAME", "").rsplit(":", 1)[-1], said.get("MD_LEVEL", ""), int(devices))


def probe(
    hold: Hold, disk: Disk, mounted_at: str | None, *, complete: bool = False, record: Record | None = None
) -> Content:
    """Return all that reading the held disk shows. `mounted_at` is where its root is mounted in this namespace."""
    serial = disk.serial
    try:
        content = read_signatures(hold.node)
        if content.error is not None:
            return content
        if content.label == LABEL and content.fstype in FILESYSTEMS and content.fs_uuid:
            if mounted_at is not None:
                return _with_marker(content, *_marker_of_mounted(Path(mounted_at)), serial)
            if hold.exclusive:
                # A mount claims the device as well, so ours is let go. Nothing is formatted that has a signature.
                hold.release_exclusive()
                return _with_marker(content, *_marker_of_unmounted(hold.node, content.fstype), serial)
        if content.signatures or not hold.exclusive:
            return content
        return read_blocks(hold.fd, disk.size_bytes, complete=complete, record=record)
    except OSError as error:
        return Content(error=f"it cannot be read: {error.strerror or error}")


def _marker_of_mounted(root: Path) -> tuple[bytes | None, list[str]]:
    try:
        names = [path.name for path in root.iterdir() if path.name not in NOTHING]
        marker = read_file(root / MARKER_NAME, MARKER_MOST_BYTES) if MARKER_NAME in names else None
    except OSError:
        return None, ["?"]
    return marker, names


# Runs in a mount namespace of its own: the mount is never seen outside and ends with the process, even by kill -9.
# norecovery and noload: without them even a read-only mount replays the journal, which is a write.
_READ_MARKER = """
mount -n -t "$1" -o "ro,nodev,nosuid,noexec,$2" -- "$3" "$4" || exit 3
cd -- "$4" || exit 3
if [ -f "$5" ] && [ ! -L "$5" ]; then head -c 65536 -- "$5"; exit 0; fi
for name in * .[!.]* ..?*; do
  if [ "$name" != lost+found ] && [ "$name" != "$6" ] && { [ -e "$name" ] || [ -L "$name" ]; }; then exit 4; fi
done
exit 5
"""


def _marker_of_unmounted(node: str, fstype: str) -> tuple[bytes | None, list[str]]:
    journal = "norecovery" if fstype == "xfs" else "noload"
    cover = "/mnt" if Path("/mnt").is_dir() else "/run"
    done = run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _READ_MARKER,
            "sh",
            fstype,
            journal,
            node,
            cover,
            MARKER_NAME,
            staging_name(MARKER_NAME),
        ]
    )
    if done.returncode == 0:
        return done.stdout.encode(), [MARKER_NAME]
    return None, {4: ["other files"], 5: []}.get(done.returncode, ["?"])


def _with_marker(content: Content, marker: bytes | None, names: list[str], serial: str | None) -> Content:
    mount_path = None
    if marker is None:
        state = MARKER_EMPTY if not names else MARKER_UNREADABLE if names == ["?"] else MARKER_MISSING
    else:
        state, mount_path = judge_marker(marker, content.fs_uuid, serial)
    return replace(content, marker=state, marker_mount_path=mount_path)


def judge_marker(marker: bytes, fs_uuid: str | None, serial: str | None) -> tuple[str, str | None]:
    """Return the state of a marker and the mount path it names; one of another filesystem or disk is a mismatch."""
    try:
        said = json.loads(marker)
    except (ValueError, RecursionError):
        return MARKER_UNREADABLE, None
    if not isinstance(said, dict):
        return MARKER_UNREADABLE, None
    if said.get("fs_uuid") != fs_uuid or (
        said.get("serial") is not None and serial is not None and said["serial"] != serial
    ):
        return MARKER_MISMATCH, None
    path = said.get("mount_path")
    return MARKER_VALID, path if isinstance(path, str) else None
