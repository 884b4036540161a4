"""How fast bytes may come, and what the time goes into that they take."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from .failures import Retry


class Limiter:
    """Lets so many bytes a second pass, over all connections."""

    def __init__(self, bytes_per_second: int) -> None:
        self.rate = bytes_per_second
        self._mutex = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, count: int, retry: Retry) -> float:
        """Wait until `count` bytes may have come; return the seconds waited."""
        with self._mutex:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self.rate
            seconds = self._free_at - now - 0.2  # a burst of so many seconds
        if seconds > 0:
            retry.wait(seconds)
        return max(0.0, seconds)


@dataclass
class Spent:
    """The seconds that one thread spent on each thing, and the bytes that came to it."""

    network: float = 0.0
    disk: float = 0.0
    hash: float = 0.0
    limit: float = 0.0
    fetched_bytes: int = 0


def limited_by(before: Spent, now: Spent, *, waiting_hash: bool) -> str | None:
    """Return what the time since `before` was spent waiting for."""
    network, disk, limit = now.network - before.network, now.disk - before.disk, now.limit - before.limit
    if limit > max(network, disk):
        return "rate limit"
    if waiting_hash and now.hash - before.hash > disk:
        return "hash"
    if max(network, disk) <= 0:
        return None
    return "disk" if disk > network else "network"
