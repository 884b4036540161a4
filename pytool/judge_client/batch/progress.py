"""How far a batch is, for whoever watches it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# The rate is that of so many last seconds: what is said of the rest follows the server as it is now.
_RATE_SECONDS = 20.0


@dataclass(frozen=True)
class Progress:
    """How far a batch is. `rate` is in items per second, None before there is one.

    `in_flight` requests are with the server, of at most `limit` now and `ceiling` at best. `resumed` items were there
    before. `gone_seconds`: the server has been gone for so long. `warning` says what will fail the batch.
    """

    done: int
    total: int
    scored: int
    unscored: int
    errored: int
    suspects: int
    resumed: int
    rate: float | None
    remaining_seconds: float | None
    in_flight: int
    limit: int
    ceiling: int
    gone_seconds: float | None = None
    warning: str | None = None


class Pace:
    """Reckons the rate from how many items were done when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, done: int) -> float | None:
        """Note how many items are done now, and return the items per second of the last while."""
        now = self._clock()
        self._seen.append((now, done))
        while self._seen[0][0] < now - _RATE_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        return (done - before) / (now - since) if now - since >= 1.0 else None
