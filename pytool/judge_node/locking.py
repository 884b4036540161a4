"""One writer at a time: flock on a file of the target, with a bounded wait. It ends with the process that has it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from .result import NodeError

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def locked(path: Path, *, wait_seconds: float) -> Iterator[int]:
    """Hold the exclusive lock `path` (made if missing, its folder must exist) and yield its descriptor.

    Raises NodeError LOCKED when another process still has it after `wait_seconds`.
    """
    # The file is never removed: unlinking a lock file lets two holders lock two different inodes.
    odd = NodeError(f"the lock {path} is no regular file", repair=f"ls -l {path}   # then move it away")
    try:
        # No link: what it points to would be emptied.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise odd from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise odd
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise NodeError(
                        f"another judge-node holds {path} (process {_holder(fd)}); waited {wait_seconds:.0f} seconds",
                        reason="LOCKED",
                    ) from None
                time.sleep(_POLL_SECONDS)
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield fd
    finally:
        os.close(fd)


def _holder(fd: int) -> str:
    text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return text if text.isdigit() else "unknown"
