"""A file on its way: which bytes are written, which are to be asked for, and what a next process can go on from."""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path

from ..result import NodeError
from . import journal
from .manifest import File

CHUNK_BYTES = 16 << 20  # one request; smaller ones cost round trips, larger ones memory
PIECE_BYTES = 1 << 20  # also the most that a kill -9 loses of each connection


class Partial:
    """One file on its way, and what is there of it; the lock of its Fetch guards it."""

    def __init__(self, file: File, blob: Path, partial: Path, lock: threading.RLock) -> None:
        self.file, self.blob, self.partial = file, blob, partial
        # Told when bytes came, or will not come. Of its own: a piece must not wake who waits for another file.
        self.arrived = threading.Condition(lock)
        self.fd = -1
        self.log: journal.Journal | None = None
        self.written = journal.Ranges()
        self.queue: deque[tuple[int, int]] = deque()
        # Written, and still in memory for the hash: where it starts -> (buffer, bytes in it).
        self.pieces: dict[int, tuple[memoryview, int]] = {}
        self.in_flight = 0
        self.source = 0
        self.refused: list[NodeError] = []
        # Its bytes are not all of one attempt from one source.
        self.mixed = False
        # Its source knows no ranges: one connection brings all of it.
        self.streamed = False
        self.failure: BaseException | None = None
        self.unsaved_bytes = 0

    def open(self, boot: str) -> int:
        """Open the partial file and queue what is missing; return the bytes that an earlier process left."""
        self.fd = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        size = self.file.size
        if size > PIECE_BYTES:
            path = journal_path(self.partial)
            if os.fstat(self.fd).st_size != size:
                path.unlink(missing_ok=True)
            self.log = journal.Journal(path, size, boot)
            self.written = self.log.ranges
        os.ftruncate(self.fd, size)
        self.mixed = self.written.total > 0
        self.queue.extend(self.written.missing(size))
        return self.written.total

    def forget(self) -> None:
        """Start over from the first byte. No connection may be at work on it."""
        self.written = journal.Ranges()
        if self.log is not None:
            self.log.forget()
        self.mixed = self.streamed = False
        self.queue.clear()
        self.queue.append((0, self.file.size))

    def next_range(self) -> tuple[int, int] | None:
        """Take the next range to ask for."""
        if not self.queue or self.failure is not None or (self.streamed and self.in_flight):
            return None
        if self.streamed:
            start, end = min(self.queue)[0], self.file.size
            self.queue.clear()
        else:
            start, end = self.queue.popleft()
            if end - start > CHUNK_BYTES:
                self.queue.appendleft((start + CHUNK_BYTES, end))
                end = start + CHUNK_BYTES
        self.in_flight += 1
        return start, end

    def give_back(self, start: int, end: int) -> None:
        """Queue again what was not brought of a range."""
        self.in_flight -= 1
        if self.streamed and not self.in_flight:
            self.queue.clear()
            self.queue.extend(self.written.missing(self.file.size))
        elif start < end:
            self.queue.appendleft((start, end))

    def close(self) -> None:
        """Close what is open."""
        if self.log is not None:
            self.log.close()
        if self.fd >= 0:
            os.close(self.fd)
        self.log, self.fd = None, -1


def journal_path(partial: Path) -> Path:
    """Return where the journal of a partial file is."""
    return partial.with_name(partial.name + ".journal")


def kept_bytes(partial: Path, file: File, boot: str) -> int:
    """Return how many bytes of a file an earlier run left, by its journal."""
    try:
        if file.size <= PIECE_BYTES or partial.lstat().st_size != file.size:
            return 0
    except OSError:
        return 0
    return journal.read(journal_path(partial), file.size, boot).total
