"""Which bytes of a file under way are there: kept beside it, so that a killed run or a power cut costs little.

    boot ID            what follows was written by that boot of the machine
    have START END     these bytes are written (END is not one of them)
    safe LENGTH        what the first LENGTH bytes of the journal name is on the disk, not only in memory

A process that is killed loses nothing that it wrote: the page cache has it. A machine without power does, so after
another boot only what stands before the last `safe` counts. The whole file is hashed before it counts for anything, so
a wrong journal costs a fetch and never a wrong byte.
"""

from __future__ import annotations

import bisect
import os
import re
from pathlib import Path

from ..files import read_file

_LINE = re.compile(
    rb"(?:boot (?P<boot>[0-9a-f-]{1,64})"
    rb"|have (?P<start>\d{1,18}) (?P<end>\d{1,18})"
    rb"|safe (?P<length>\d{1,18}))\n"
)
_MOST_BYTES = 64 << 20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Ranges:
    """Disjoint ranges of bytes, in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def total(self) -> int:
        """The number of bytes in all ranges."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` to before `end`."""
        if start >= end:
            return
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def end_of(self, position: int) -> int | None:
        """Return where the range that has `position` ends, or None when no range has it."""
        index = bisect.bisect_right(self._starts, position) - 1
        return self._ends[index] if index >= 0 and position < self._ends[index] else None

    def missing(self, size: int) -> list[tuple[int, int]]:
        """Return the ranges up to `size` that are not here."""
        found, position = [], 0
        for start, end in zip(self._starts, self._ends):
            if start >= size:
                break
            if position < start:
                found.append((position, start))
            position = end
        if position < size:
            found.append((position, size))
        return found


def boot_id() -> str:
    """Return the kernel's name for this boot."""
    return _BOOT_ID.read_text().strip()


def read(path: Path, size: int, boot: str) -> Ranges:
    """Return the bytes of a file of `size` bytes that its journal vouches for in this boot."""
    return _parse(_content(path), size, boot)[0]


def _content(path: Path) -> bytes:
    try:
        return read_file(path, _MOST_BYTES)
    except OSError:
        return b""


def _parse(data: bytes, size: int, boot: str) -> tuple[Ranges, int]:
    """Return what the journal vouches for, and the length of its whole lines: a kill can cut the last one."""
    found = Ranges()
    written_in, position = "", 0
    pending: list[tuple[int, int, int]] = []  # where its line ends in the journal, start, end
    while True:
        line = _LINE.match(data, position)
        if line is None:
            break
        if line["boot"]:
            if line["boot"].decode() != written_in:
                pending = []
            written_in = line["boot"].decode()
        elif line["start"]:
            start, end = int(line["start"]), int(line["end"])
            if not start < end <= size:
                return Ranges(), 0  # of another file
            pending.append((line.end(), start, end))
        else:
            length = int(line["length"])
            for where, start, end in pending:
                if where <= length:
                    found.add(start, end)
            pending = [entry for entry in pending if entry[0] > length]
        position = line.end()
    if written_in == boot:
        for _, start, end in pending:
            found.add(start, end)
    return found, position


class Journal:
    """The journal of one file of `size` bytes, open for more lines; `ranges` is what it had. Calls must not overlap."""

    def __init__(self, path: Path, size: int, boot: str) -> None:
        self._boot = boot
        self.ranges, self.length = _parse(_content(path), size, boot)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._fd, self.length)
        self._write(f"boot {boot}\n")

    def _write(self, text: str) -> None:
        data = text.encode()
        self.length += os.pwrite(self._fd, data, self.length)

    def have(self, start: int, end: int) -> None:
        """Note bytes that were written to the file."""
        self._write(f"have {start} {end}\n")

    def safe(self, length: int) -> None:
        """Note that what the first `length` bytes of the journal name is durable; the caller makes the note so."""
        self._write(f"safe {length}\n")

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def forget(self) -> None:
        """Start over: nothing is there."""
        os.ftruncate(self._fd, 0)
        self.length = 0
        self._write(f"boot {self._boot}\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
