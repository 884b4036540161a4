"""What a batch does while its server is gone: send nothing, ask how it is now and then, give up after a stated time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from judge_client.verdict import Reason

PATIENCE_SECONDS: Final = 900.0
# So many requests in a row without any answer of use, and the server is asked how it is.
_IN_A_ROW: Final = 5
_GONE: Final = frozenset({Reason.SERVER_UNREACHABLE, Reason.SERVER_TIMEOUT})
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 10.0


class Breaker:
    """Open (`gone_since` is set) while the server is gone. `given_up`: it stayed away for longer than the patience."""

    def __init__(self, is_well: Callable[[], Awaitable[bool]], patience_seconds: float = PATIENCE_SECONDS,
                 clock: Callable[[], float] = time.monotonic) -> None:
        if not patience_seconds >= 0:
            raise ValueError(f"patience_seconds is {patience_seconds!r}, wanted 0 or more")
        self.patience_seconds = patience_seconds
        self.gone_since: float | None = None
        self.given_up = False
        # How often the server went away: a conversation that saw one end is asked again.
        self.outages = 0
        self._is_well, self._clock = is_well, clock
        self._in_a_row = 0
        self._probing: asyncio.Task[None] | None = None

    def told(self, outcome: Reason | int) -> None:
        """Note the status of an answer, or the reason why there was none."""
        if outcome not in _GONE and not (isinstance(outcome, int) and 500 <= outcome < 600):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW and self._probing is None and not self.given_up:
            self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def closed(self) -> None:
        """Wait until the server is there, or is given up."""
        while self._probing is not None:
            await asyncio.wait([self._probing])

    async def stop(self) -> None:
        """End the probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])

    async def _probe(self) -> None:
        started, pause = self._clock(), _FIRST_PAUSE_SECONDS
        try:
            while not await self._is_well():
                if self.gone_since is None:
                    self.gone_since = started
                    self.outages += 1
                left = started + self.patience_seconds - self._clock()
                if left <= 0:
                    self.given_up = True
                    return
                await asyncio.sleep(min(pause, left))
                pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
            self.gone_since = None
        finally:
            self._in_a_row = 0
            self._probing = None
