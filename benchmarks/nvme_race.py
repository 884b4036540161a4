"""A writer puts a signature on the disk between the check and mkfs: is it ever lost? Needs root and loop devices.

`ensure` itself, in this process, on a loop device, with the real mkfs; the writer is a process of its own. It acts at a
random moment of the check, or in the hand-over, when our claim is let go and mkfs has not been started yet. Two clocks
are compared: when the writer's data was on the disk, and when mkfs was started. What comes later than that is mkfs's
own to keep out, and is told apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from judge_node.disks import apply, commands, discover, record
from judge_node.disks.facts import Wanted
from judge_node.result import NodeError
from judge_node.shell import environment

SIZE = 320 << 20
BETWEEN = "between check and mkfs"
_BLKDISCARD = 0x1277
# How long a writer takes at most to come, and how far that may grow where the machine is busy and writers come late.
_GAP_SECONDS, _LONGEST_GAP_SECONDS = 0.006, 0.2
# Refusals of a blank disk before mkfs: somebody else on this machine had opened it at that moment. Nothing is lost.
_MOST_REFUSALS = 10
# Reads one order a line: what to write where, after how many seconds, and whether to claim the disk for it.
_WRITER = r"""
import json, os, subprocess, sys, time
for line in sys.stdin:
    order = json.loads(line)
    time.sleep(order["delay"])
    error = None
    if order["argv"]:
        done = subprocess.run(order["argv"], stdin=subprocess.DEVNULL, capture_output=True)
        error = None if done.returncode == 0 else done.returncode
    else:
        try:
            fd = os.open(order["node"], os.O_WRONLY | (os.O_EXCL if order["exclusive"] else 0))
            os.pwrite(fd, bytes.fromhex(order["data"]), order["offset"])
            os.fsync(fd)
            written = time.monotonic()
            os.close(fd)
        except OSError as failed:
            error = failed.errno
    at = time.monotonic() if order["argv"] or error else written
    print(json.dumps({"error": error, "at": at}), flush=True)
"""


def _start_of(argv: list[str], image: Path) -> bytes:
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run([*argv, str(image)], check=True, capture_output=True, env=environment())
    with image.open("rb") as file:
        data = file.read(8192)
    image.unlink()
    return data.rstrip(b"\0")


def _lvm_label() -> bytes:
    """Return LVM's label with its checksum (a CRC-32 that starts with a number of its own): mkfs takes no other."""
    rest = (struct.pack("<I8s", 32, b"LVM2 001") + b"x" * 32).ljust(512 - 20, b"\0")
    checksum = ~zlib.crc32(rest, ~0xF597A6CF & 0xFFFFFFFF) & 0xFFFFFFFF
    return b"LABELONE" + struct.pack("<QI", 1, checksum) + rest


def signatures(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return {name: (offset, data)} of what a writer may put on a disk."""
    image = folder / "signature"
    mbr = bytes(446) + struct.pack("<BBBBBBBBII", 0, 1, 1, 0, 0x83, 9, 9, 9, 2048, 9999) + bytes(48) + b"\x55\xaa"
    return {
        "ext4": (0, _start_of(["mkfs.ext4", "-q", "-L", "precious"], image)),
        "xfs": (0, _start_of(["mkfs.xfs", "-q", "-L", "precious"], image)),
        "swap": (0, _start_of(["mkswap", "-L", "precious"], image)),
        "LVM": (512, _lvm_label()),
        "MBR": (0, mbr),
    }


class Race:
    """One loop device, its writer, and what happened so far."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.image, self.mount_path = folder / "disk.img", folder / "mnt"
        self.signatures = signatures(folder)
        self.counted: Counter[str] = Counter()
        self.lost: list[dict[str, Any]] = []
        self.node = ""
        self.check_seconds = 0.3
        self.gap_seconds = _GAP_SECONDS
        self._refusals = 0
        self._order: dict[str, Any] | None = None
        self._started_at: float | None = None
        self._writer: subprocess.Popen[str] | None = None
        self._mkfs = apply._run_mkfs

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Have the loop device and the writer, and let `ensure` keep to our folder; all of it ends with the block."""
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        argv = ["losetup", "--find", "--show", str(self.image)]
        self.node = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        # Detached at once, it stays as long as somebody has it open: nothing is left of it however we end.
        opened = os.open(self.node, os.O_RDWR)
        try:
            subprocess.run(["losetup", "--detach", self.node], check=True)
            self._writer = subprocess.Popen(
                [sys.executable, "-c", _WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                env=environment(), start_new_session=True,
            )  # fmt: skip
            with (
                patch.object(record, "RECORD", self.folder / "record/disks.json"),
                patch.object(record, "RESULT", self.folder / "result/result.json"),
                patch.object(commands, "LOCK", self.folder / "lock/disks.lock"),
                patch.object(discover, "SYSTEMD_RUNS", self.folder / "no-systemd"),
                patch.object(apply, "_run_mkfs", self._late_mkfs),
            ):
                yield
        finally:
            if self._writer is not None:
                self._writer.kill()
                self._writer.communicate()
            self._unmount()
            subprocess.run(["chattr", "-i", str(self.mount_path)], check=False, capture_output=True)
            os.close(opened)

    def _unmount(self) -> None:
        while subprocess.run(["mountpoint", "-q", str(self.mount_path)], check=False).returncode == 0:
            subprocess.run(["umount", str(self.mount_path)], check=True)

    def _send(self) -> None:
        assert self._writer is not None and self._writer.stdin is not None
        self._writer.stdin.write(json.dumps(self._order) + "\n")

    def _late_mkfs(self, argv: list[str], lock_fd: int) -> tuple[int, str]:
        """The hand-over: our claim is let go, and mkfs is about to start."""
        if self._order is not None and self._order["moment"] == "hand-over":
            self._send()
            time.sleep(self.chance.uniform(0, 3 * self.gap_seconds))
        self._started_at = time.monotonic()
        return self._mkfs(argv, lock_fd)

    def attempt(self, fstype: str) -> None:
        """Let the writer and `ensure` meet once, and count how it went."""
        with open(self.node, "r+b", buffering=0) as device:  # noqa: PTH123
            fcntl.ioctl(device, _BLKDISCARD, struct.pack("QQ", 0, SIZE))
        order = self._order = self._next_order()
        self._started_at = None
        wanted = Wanted(str(self.mount_path), fstype=fstype, device=self.node, owner="judge")
        if order["moment"] == "check":
            self._send()
        began = time.monotonic()
        try:
            commands.ensure(wanted, check=False, lock_wait_seconds=60)
            refused = None
        except NodeError as error:
            refused = error.reason
        if order["moment"] == "hand-over" and self._started_at is None:
            self.counted[f"refused before mkfs: {refused}"] += 1
            self._refusals += 1
            if refused != "DISK_BUSY" or self._refusals > _MOST_REFUSALS:
                raise AssertionError(f"a blank disk was refused before mkfs: {refused}, {dict(self.counted)}")
            return
        if self._started_at is not None:
            self.check_seconds = self._started_at - began
        assert self._writer is not None and self._writer.stdout is not None
        wrote = json.loads(self._writer.stdout.readline())
        self._unmount()
        self._count(order, wrote, fstype, refused)

    def _next_order(self) -> dict[str, Any]:
        moment = self.chance.choice(("check", "hand-over", "hand-over"))
        kind = self.chance.choice((*self.signatures, "mkfs.ext4", "mkfs.xfs"))
        longest = self.check_seconds if moment == "check" else self.gap_seconds
        offset, data = self.signatures.get(kind, (0, b""))
        argv = [kind, "-q", "-L", "precious", *(["-F"] if kind == "mkfs.ext4" else []), self.node]
        return {"moment": moment, "kind": kind, "delay": self.chance.uniform(0, longest), "node": self.node,
                "exclusive": self.chance.random() < 0.4, "offset": offset, "data": data.hex(),
                "argv": argv if kind.startswith("mkfs") else None}  # fmt: skip

    def _count(self, order: dict[str, Any], wrote: dict[str, Any], fstype: str, refused: str | None) -> None:
        claims = order["exclusive"] or order["argv"]
        if wrote["error"] is not None and not claims:  # an input/output error: its signature is not on the disk
            self.counted[f"writer failed ({os.strerror(wrote['error'])})"] += 1
            return
        if wrote["error"] is not None:
            self.counted["writer kept out"] += 1
            if refused is not None:  # it had the disk when mkfs wanted it, or looked at it at that moment
                self.counted["both gave up"] += 1
            return
        intact = self._is_intact(order)
        if self._started_at is None:
            where = "seen by the check"
        elif wrote["at"] < self._started_at:
            where = BETWEEN
        else:
            where = f"after mkfs.{fstype} had started, " + ("with O_EXCL" if claims else "without O_EXCL")
        self.counted[where] += 1
        if order["moment"] == "hand-over":
            wider = self.gap_seconds * (0.95 if where == BETWEEN else 1.2)
            self.gap_seconds = min(max(wider, _GAP_SECONDS), _LONGEST_GAP_SECONDS)
        if intact and refused is not None:
            assert refused.startswith(("DISK_", "FS_")), refused
        elif not where.startswith("after"):
            self.counted["lost"] += 1
            self.lost.append({**{key: order[key] for key in ("moment", "kind", "exclusive")}, "fstype": fstype,
                              "where": where, "refused": refused})  # fmt: skip
        elif not intact:
            self.counted[f"{where}: overwritten"] += 1

    def _is_intact(self, order: dict[str, Any]) -> bool:
        if order["argv"]:
            argv = ["blkid", "-p", "-s", "LABEL", "-o", "value", self.node]
            return subprocess.run(argv, capture_output=True, text=True, check=False).stdout == "precious\n"
        data = bytes.fromhex(order["data"])
        fd = os.open(self.node, os.O_RDONLY)
        try:
            return os.pread(fd, len(data), order["offset"]) == data
        finally:
            os.close(fd)


def can_run() -> bool:
    """Whether this machine has what the race needs."""
    return os.geteuid() == 0 and Path("/dev/loop-control").exists()


def _race(count: int, seed: int) -> dict[str, Any]:
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="judge-race.", dir=shm if shm.is_dir() else None) as folder:
        found = Race(Path(folder), random.Random(seed))
        with found.ready():
            attempts = 0
            while found.counted[BETWEEN] < count:
                found.attempt(("xfs", "ext4")[attempts % 2])
                attempts += 1
                if attempts > 50 + 10 * count:
                    raise AssertionError(f"too few of {attempts} attempts came in between: {dict(found.counted)}")
    return {"attempts": attempts, "counted": dict(found.counted), "lost": found.lost}


def race(count: int, seed: int = 1) -> dict[str, Any]:
    """Let writer and `ensure` meet, xfs and ext4 in turn, until `count` writers came in between; return how it went.

    In a process and a mount namespace of its own: a namespace that somebody else makes meanwhile would take our mount
    with it, and hold the disk.
    """
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, __file__, str(count), str(seed)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True,
                          env={**environment(), "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(_race(int(sys.argv[1]), int(sys.argv[2]))))
