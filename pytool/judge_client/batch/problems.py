"""Why a batch ended before its end, and the writing that keeps what it has: the same command goes on with it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path


class BatchStopped(Exception):
    """A batch that could not go on. `reason` is a code (judge-node reasons), `hint` the next command."""

    def __init__(self, message: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.reason, self.hint = message, reason, hint


def unwritable(path: Path, error: OSError) -> BatchStopped:
    """Return what a file that cannot be written stops a batch with."""
    look = f"mkdir -p {path.parent}" if error.errno == errno.ENOENT else f"df -h {path.parent}; ls -ld {path.parent}"
    return BatchStopped(f"{path} cannot be written: {error.strerror or error}", reason="OUTPUT_UNWRITABLE",
                        hint=f"{look}   # then the same command again: it goes on")


def append(path: Path, fd: int, data: bytes, end: int) -> None:
    """Append `data` to a file of `end` bytes, all of it or nothing. Raises BatchStopped.

    What is torn would be dropped by the next run, but its space is needed now.
    """
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(fd, left):]
    except OSError as error:
        with suppress(OSError):
            os.ftruncate(fd, end)
            os.lseek(fd, end, os.SEEK_SET)
        raise unwritable(path, error) from None
