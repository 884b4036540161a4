"""Read block devices, mounts and swap from /sys and /proc, or from recorded trees in their place."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from .facts import Disk, Mount

_SECTOR_BYTES = 512  # /sys/.../size counts these, whatever the disk's own sector size is
_OCTAL = re.compile(r"\\([0-7]{3})")


def read_text(path: Path) -> str | None:
    """Return a file's text without surrounding blanks, or None when it cannot be read or is empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Parse /proc/PID/mountinfo (proc(5)); lines of another shape are left out."""
    mounts = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 10 or "-" not in fields[6:]:
            continue
        after = fields.index("-", 6) + 1
        if len(fields) < after + 2:
            continue
        mounts.append(
            Mount(
                path=_unescape(fields[4]),
                devno=fields[2],
                root=_unescape(fields[3]),
                fstype=fields[after],
                source=_unescape(fields[after + 1]),
                options=tuple(fields[5].split(",")),
            )
        )
    return tuple(mounts)


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), text)


@dataclass
class System:
    """One node's /sys, /proc and /dev."""

    sys_root: Path = field(default_factory=lambda: Path("/sys"))
    proc_root: Path = field(default_factory=lambda: Path("/proc"))
    dev_root: Path = field(default_factory=lambda: Path("/dev"))

    def mounts(self) -> tuple[Mount, ...]:
        """Return the mounts of this process's mount namespace."""
        return parse_mountinfo(read_text(self.proc_root / "self/mountinfo") or "")

    def init_mounts(self) -> tuple[Mount, ...]:
        """Return the mounts that process 1 sees, as far as they can be read."""
        return parse_mountinfo(read_text(self.proc_root / "1/mountinfo") or "")

    def swap_devnos(self) -> dict[str, str]:
        """Return {"major:minor": path} of the swap devices in use."""
        found = {}
        for line in (read_text(self.proc_root / "swaps") or "").splitlines()[1:]:
            path = _unescape(line.split()[0]) if line.split() else ""
            devno = devno_of(path)
            if devno is not None:
                found[devno] = path
        return found

    def block_names(self) -> list[str]:
        """Return the kernel names of all whole block devices, as /sys/block lists them."""
        try:
            return sorted(path.name for path in (self.sys_root / "block").iterdir())
        except OSError:
            return []

    def name_of(self, devno: str) -> str | None:
        """Return the kernel name of a device number, partitions included, or None when there is no such device."""
        target = self.sys_root / "dev/block" / devno
        return target.resolve().name if target.exists() else None

    def parent_of(self, name: str) -> str | None:
        """Return the whole disk that the partition `name` is part of, or None when it is no partition."""
        for disk in self.block_names():
            if (self.sys_root / "block" / disk / name / "partition").exists():
                return disk
        return None

    def backing(self, devno: str) -> set[str]:
        """Return the names of all whole disks below a device: through partitions, RAID and device mapper."""
        name = self.name_of(devno)
        found: set[str] = set()
        waiting = [name] if name else []
        while waiting:
            current = waiting.pop()
            whole = self.parent_of(current) or current
            if whole in found:
                continue
            found.add(whole)
            waiting += self._children(whole, "slaves") + self._children(current, "slaves")
        return found

    def _children(self, name: str, folder: str) -> list[str]:
        try:
            return sorted(path.name for path in (self.sys_root / "class/block" / name / folder).iterdir())
        except OSError:
            return []

    def node_of(self, name: str, devno: str) -> str | None:
        """Return the device node's path, checked by its number: a container's /dev may lack it or hold another."""
        path = self.dev_root / name.replace("!", "/")
        return str(path) if devno_of(str(path)) == devno else None

    def disk(self, name: str, mounts: tuple[Mount, ...], root_names: set[str], node: str | None = None) -> Disk | None:
        """Return the facts of one whole disk or array that need no open of it, or None when it vanished."""
        base = self.sys_root / "block" / name
        devno, sectors = read_text(base / "dev"), read_text(base / "size")
        if devno is None or sectors is None or not sectors.isdigit():
            return None
        partitions = {}
        with contextlib.suppress(OSError):
            partitions = {p.name: read_text(p / "dev") for p in sorted(base.iterdir()) if (p / "partition").exists()}
        devnos = {devno, *filter(None, partitions.values())}
        holders = self._children(name, "holders") + [h for part in partitions for h in self._children(part, "holders")]
        swap = self.swap_devnos()
        degraded = read_text(base / "md/degraded") or "0"
        return Disk(
            name=name,
            devno=devno,
            node=node or self.node_of(name, devno),
            size_bytes=int(sectors) * _SECTOR_BYTES,
            model=read_text(base / "device/model"),
            serial=read_text(base / "device/serial"),
            controller=(base / "device").resolve().name if (base / "device").exists() else None,
            read_only=read_text(base / "ro") != "0",
            partitions=tuple(partitions),
            holders=tuple(holders),
            membership=tuple(self.describe_holder(holder) for holder in holders),
            members=tuple(self._children(name, "slaves")),
            mounts=tuple(m for m in mounts if m.devno in devnos),
            swap=tuple(swap[d] for d in sorted(devnos) if d in swap),
            root=name in root_names,
            level=self.level_of(name),
            active=read_text(base / "md/array_state") not in ("inactive", "clear", "broken"),
            degraded=int(degraded) if degraded.isdigit() else 0,
        )

    def level_of(self, name: str) -> str | None:
        """Return the RAID level of an array of md ("inactive" while it has none), or None for what is no array."""
        base = self.sys_root / "block" / name / "md"
        return read_text(base / "level") or ("inactive" if base.is_dir() else None)

    def describe_holder(self, name: str) -> str:
        """Return what a device that holds another one is: md with its level, or device mapper with its subsystem."""
        base = self.sys_root / "block" / name
        kind = self.level_of(name) or (read_text(base / "dm/uuid") or "").split("-", 1)[0]
        known = {"CRYPT": "LUKS", "mpath": "multipath"}
        return f"{name} ({known.get(kind, kind)})" if kind else name


def devno_of(path: str) -> str | None:
    """Return "major:minor" of the block device node at `path` (links followed), or None when it is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - takes "" and odd strings from /proc without raising ValueError later
    except (OSError, ValueError):
        return None
    if not stat.S_ISBLK(status.st_mode):
        return None
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
