"""What can go wrong on the way of a byte, and which of it is worth another attempt."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ..result import NodeError


class Stopped(Exception):
    """Another file failed or the process was told to stop; what is fetched so far stays for the next run."""


class Transient(Exception):
    """Worth another attempt.

    `wait_seconds` is what the source asked for, if it did; `reason` is what to report when no attempt helps; `attempts`
    is how many are worth it at most.
    """

    def __init__(
        self,
        message: str,
        *,
        wait_seconds: float | None = None,
        reason: str = "SOURCE_UNREACHABLE",
        attempts: int | None = None,
    ) -> None:
        super().__init__(message)
        self.wait_seconds, self.reason, self.attempts = wait_seconds, reason, attempts


@dataclass
class Retry:
    """How often and how long. An attempt that brought bytes starts the count again."""

    attempts: int = 6
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    # Without a byte for this long a connection is given up.
    timeout_seconds: float = 30.0
    # A connection that brings less than `stall_bytes` in `stall_seconds` is given up, too: a source that drips could
    # hold a run for ever.
    stall_seconds: float = 30.0
    stall_bytes: int = 64 << 10
    stop: threading.Event = field(default_factory=threading.Event)
    random: Callable[[], float] = random.random

    def seconds(self, failures: int, asked_seconds: float | None) -> float:
        """Return how long to wait after so many failures in a row (1 is the first)."""
        if asked_seconds is not None:
            return asked_seconds * (1 + self.random() * 0.1)
        backoff: float = min(self.first_wait_seconds * 2 ** (failures - 1), self.longest_wait_seconds)
        # Jitter: the nodes of a fleet start together and would otherwise come back together.
        return backoff * (0.5 + self.random() / 2)

    def after(self, problem: Transient, failures: int) -> float:
        """Return how long to wait after so many failures without progress. Raises NodeError when there were enough."""
        asked = problem.wait_seconds
        most = min(self.attempts, problem.attempts or self.attempts)
        if failures < most and (asked or 0.0) <= self.longest_wait_seconds:
            return self.seconds(failures, asked)
        waits = f"; it asks to wait {asked:.0f} seconds" if asked else ""
        raise NodeError(f"{problem}, after {failures} attempts without progress{waits}", reason=problem.reason)

    def wait(self, seconds: float) -> None:
        """Sleep; raises Stopped when told to stop meanwhile."""
        if self.stop.wait(seconds):
            raise Stopped


def of_os_error(error: OSError, what: str) -> NodeError:
    """Return the typed failure of a write or read on the local disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NodeError(f"{what}: the disk is full; what was fetched is kept", reason="SPACE_SHORT")
    if error.errno in (errno.EIO, errno.EROFS):
        return NodeError(f"{what}: {error.strerror}", reason="DISK_FAILED")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NodeError(f"{error.filename or what}: {error.strerror}", repair="run it as root")
    return NodeError(f"{error.filename or what}: {error.strerror or error}", reason="DISK_FAILED")
