"""The hashes of a manifest, taken of bytes in a stream or of a file on disk."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from .failures import Stopped
from .manifest import File

READ_BYTES = 1 << 20


class Hasher:
    """All hashes that a manifest gives for one file, in one pass over its bytes."""

    def __init__(self, file: File) -> None:
        self._file = file
        # usedforsecurity: a FIPS system refuses SHA-1 otherwise, and git's blob hash is what the Hub gives.
        self._sha1 = (
            None if file.blob_sha1 is None else hashlib.new("sha1", b"blob %d\0" % file.size, usedforsecurity=False)
        )
        self._sha256 = None if file.sha256 is None else hashlib.sha256()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        if self._sha1 is not None:
            self._sha1.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)

    def agrees(self) -> bool:
        """Return whether every hash that the manifest gives is the one of the bytes so far."""
        return (self._sha1 is None or self._sha1.hexdigest() == self._file.blob_sha1) and (
            self._sha256 is None or self._sha256.hexdigest() == self._file.sha256
        )


def file_agrees(path: Path, file: File, stop: threading.Event | None = None) -> bool:
    """Return whether the bytes at `path` are those of the manifest, without keeping them in the page cache."""
    hasher = Hasher(file)
    total = 0
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while True:
            chunk = os.read(fd, READ_BYTES)
            if not chunk:
                break
            if stop is not None and stop.is_set():
                raise Stopped
            hasher.update(chunk)
            # Verifying must not push the weights of a serving pod out of memory.
            os.posix_fadvise(fd, total, len(chunk), os.POSIX_FADV_DONTNEED)
            total += len(chunk)
    finally:
        os.close(fd)
    return total == file.size and hasher.agrees()
