"""Writing that survives a power cut: a file is complete under its name, or not there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def fsync_directory(path: Path) -> None:
    """Make renames and new names in `path` durable; without it a rename may be lost although the data is not."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Create `path` and what is missing above it, each durable in its parent."""
    if path.is_dir():
        return
    make_directory(path.parent, mode)
    path.mkdir(mode=mode, exist_ok=True)
    fsync_directory(path.parent)


def staging_name(name: str) -> str:
    """Return the name under which write_file() keeps a file until it is complete; a kill can leave it behind."""
    return f".{name}.tmp"


def read_file(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a regular file.

    Raises OSError for anything else: a link leads elsewhere, a pipe would hold the reader for ever, and a file of more
    than `most_bytes` is not what it should be.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `path` by a durable temporary file beside it and one rename."""
    temporary = path.with_name(staging_name(path.name))
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    fsync_directory(path.parent)
