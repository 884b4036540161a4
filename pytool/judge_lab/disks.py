"""The nodes' instance-store disks: sparse files behind loop devices. Nothing here reads or writes what is on them."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

from judge_lab import LabError
from judge_lab.process import run

DISK_BYTES = 2 * 1024**3  # mkfs.xfs refuses less than 300 MiB; sparse, so it costs what is written
STABLE_NAME = "lab-instance-store-1"


def replace_by_blank(image: Path) -> None:
    """Make `image` a new disk that holds only zeros; the old one, if any, is gone as at an EC2 stop and start."""
    image.parent.mkdir(parents=True, exist_ok=True)
    image.unlink(missing_ok=True)
    with image.open("wb") as disk:
        disk.truncate(DISK_BYTES)


def attach(image: Path) -> str:
    """Return the loop device of `image`, attached if it was not yet."""
    for device, backing in attached().items():
        if backing == str(image):
            return device
    return run("losetup", "--find", "--show", image).stdout.strip()


def detach(image: Path) -> None:
    """Detach every loop device of `image`, also if the file was deleted meanwhile; raises LabError if one stays."""
    for device in _of(image):
        run("losetup", "--detach", device)
    # A device that is still mounted goes with its last mount, which may end a moment after the node.
    deadline = time.monotonic() + 120
    while left := _of(image):
        if time.monotonic() > deadline:
            raise LabError(f"{', '.join(left)} of {image} is still in use", hint=f"losetup --detach {left[0]}")
        time.sleep(0.05)


def _of(image: Path) -> list[str]:
    return [device for device, backing in attached().items() if backing.removesuffix(" (deleted)") == str(image)]


def attached() -> dict[str, str]:
    """Return all loop devices in use on this machine, each with its backing file."""
    found = json.loads(run("losetup", "--json", "--list", "--output", "NAME,BACK-FILE").stdout or '{"loopdevices": []}')
    return {entry["name"]: entry["back-file"] or "" for entry in found["loopdevices"]}


def minor(device: str) -> int:
    """Return the minor number by which a node makes its own device file of a loop device."""
    status = Path(device).stat()
    assert stat.S_ISBLK(status.st_mode), device
    return status.st_rdev & 0xFF | (status.st_rdev >> 12) & ~0xFF
