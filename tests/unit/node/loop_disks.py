"""Loop devices as disks, and judge-node as a program, for the tests that need root."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PYTOOL = Path(__file__).parents[3] / "pytool"
SIZE = 320 << 20  # above the 300 MiB that mkfs.xfs wants


def node(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """Run judge-node and return its exit code and its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "judge_node", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PYTOOL), "PATH": os.environ["PATH"]},
    )
    assert done.stdout.count("\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout)


def sh(*argv: str | Path) -> str:
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout.strip()


class Disk:
    """A loop device under a by-id style link, and the mount path that a test uses for it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.image = folder / f"disk{number}.img"
        self.link = folder / "by-id" / f"lab-instance-store-{number}"
        self.mount_path = folder / f"mnt{number}"
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        self.loop = sh("losetup", "--find", "--show", self.image)
        self.link.parent.mkdir(exist_ok=True)
        self.link.symlink_to(self.loop)

    @property
    def selection(self) -> tuple[str | Path, ...]:
        return "--mount-path", self.mount_path, "--device", self.link

    def ensure(self, *more: str) -> tuple[int, dict[str, Any]]:
        return node("disks", "ensure", *self.selection, *more)

    def status(self) -> tuple[int, dict[str, Any]]:
        return node("disks", "status", *self.selection)

    def digest(self) -> str:
        """Hash the image's blocks that are not zero, with their place; the holes of 320 MiB would only cost time."""
        found = hashlib.sha256()
        with self.image.open("rb") as file, contextlib.suppress(OSError):  # ENXIO: no data behind this offset
            offset = 0
            while True:
                start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
                offset = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                for place in range(start // 4096 * 4096, offset, 4096):
                    block = os.pread(file.fileno(), 4096, place)
                    if block.count(0) != len(block):
                        found.update(b"%d:" % place + block)
        return found.hexdigest()

    def write(self, data: bytes, offset: int) -> None:
        with open(self.loop, "r+b", buffering=0) as device:  # noqa: PTH123
            device.seek(offset)
            device.write(data)
            os.fsync(device.fileno())

    def traces(self) -> list[str]:
        """What a second run could change: the mount (its number), the filesystem, the marker's inode and time."""
        return [
            sh("findmnt", "-n", "-o", "ID,OPTIONS", self.mount_path),
            sh("blkid", "-p", "-s", "UUID", "-o", "value", self.loop),
            sh("stat", "-c", "%i %z", self.mount_path / ".judge-bootstrap.json", self.mount_path),
        ]

    def mounted(self) -> bool:
        return subprocess.run(["mountpoint", "-q", str(self.mount_path)]).returncode == 0

    def clean(self) -> None:
        while self.mounted():
            subprocess.run(["umount", str(self.mount_path)], check=True)
        if self.mount_path.exists():
            subprocess.run(["chattr", "-i", str(self.mount_path)], check=False, capture_output=True)
            self.mount_path.chmod(0o755)
        backing = Path(f"/sys/block/{Path(self.loop).name}/loop/backing_file")
        # A test that failed between two loop devices may name one that somebody else has by now.
        if backing.exists() and backing.read_text().strip() == str(self.image):
            subprocess.run(["losetup", "--detach", self.loop], check=True)
