"""How many requests a server is sent at a time: as many as it bears, found out from how it answers.

The window opens at its ceiling, because a server that batches is fastest when it is full. It is halved when the server
turns requests away (429, 503, 504 or no answer in time), or when answers take much longer than the best it has shown,
and it grows again step by step. Single refusals are left to the retry of their own request: they are no sign of load.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from judge_client.async_client import Transport
from judge_client.exchange import Answer, Failure, Request
from judge_client.verdict import Reason

_TURNED_AWAY: Final = frozenset({408, 429, 503, 504, 529})
# A round is as many answers as the window is wide, and never fewer than this: less says nothing.
_SHORTEST_ROUND: Final = 8
# So many refusals in one round halve the window, and at least this share of it.
_REFUSALS: Final = 3
_SHARE: Final = 0.1
# Answers that take so many times the best of a window as wide are late: the server has more to do than it bears.
_LATE: Final = 3.0
# Below this nothing is late, in seconds: there, times say more about our own machine.
_NEVER_LATE: Final = 0.25


@dataclass
class _Round:
    refused: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def answers(self) -> int:
        return self.refused + len(self.seconds)


class Window:
    """A number of places, each for one request in flight; `limit` is how many there are now."""

    def __init__(self, ceiling: int, clock: Callable[[], float] = time.monotonic) -> None:
        if type(ceiling) is not int or not 1 <= ceiling <= 1024:
            raise ValueError(f"window is {ceiling!r}, wanted a whole number from 1 to 1024")
        self.ceiling = self.limit = self.lowest = ceiling
        self.in_flight = 0
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._room: asyncio.Future[None] | None = None
        self._round = _Round()
        # Answers to requests that were sent before the last change speak of the window before it.
        self._changed = clock()
        # The width at which the server turned requests away; growth is careful from there.
        self._too_wide = ceiling + 1
        # Best upper quartile in seconds, by the power of two of the window's width.
        self._best: dict[int, float] = {}

    # --- places ------------------------------------------------------------------------------------------------

    async def enter(self) -> None:
        """Take a place, after those who wait already."""
        if self.in_flight < self.limit and not self._waiting:
            self.in_flight += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            else:
                self._waiting.remove(place)
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.in_flight -= 1
        self._hand_out()

    async def room(self) -> None:
        """Wait until a place is free that nobody waits for."""
        while self.in_flight >= self.limit or self._waiting:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _hand_out(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)
        if self._room is not None and not self._room.done() and self.in_flight < self.limit:
            self._room.set_result(None)

    # --- width -------------------------------------------------------------------------------------------------

    def answered(self, sent: float, seconds: float) -> None:
        """Note an answer to a request that was sent at `sent` (by the clock) and took `seconds`."""
        if sent >= self._changed:
            self._round.seconds.append(seconds)
            self._look()

    def refused(self, sent: float) -> None:
        """Note that the server turned away a request, or did not answer it in time."""
        if sent < self._changed:
            return
        self._round.refused += 1
        if self._round.refused >= max(_REFUSALS, _SHARE * self._size):
            self._too_wide = self.limit
            self._set(self.limit // 2)
        else:
            self._look()

    @property
    def _size(self) -> int:
        return max(_SHORTEST_ROUND, self.limit)

    def _look(self) -> None:
        """Draw the conclusions at the end of a round."""
        if self._round.answers < self._size:
            return
        late = self._is_late()
        refused = self._round.refused
        if late:
            # What was best before may never come again, with longer texts: this rise is answered once.
            self._best.clear()
            self._set(self.limit // 2)
        elif not refused and self.limit < self.ceiling:
            step = max(1, self.ceiling // 8)
            self._set(self.limit + (step if self.limit + step < self._too_wide else 1))
        else:
            self._round = _Round()
        if self.limit >= self._too_wide:
            self._too_wide = self.ceiling + 1

    def _is_late(self) -> bool:
        times = sorted(self._round.seconds)
        if len(times) < _SHORTEST_ROUND // 2:
            return False
        # Not the slowest: one answer in ten that is slow for a reason of its own is no sign of load.
        slow = times[int(0.75 * len(times))]
        band = self.limit.bit_length()
        # A wider window that did better shows what this one could do.
        best = min((seconds for wide, seconds in self._best.items() if wide >= band), default=slow)
        self._best[band] = min(slow, self._best.get(band, slow))
        return slow > max(_NEVER_LATE, _LATE * best)

    def _set(self, limit: int) -> None:
        self.limit = min(self.ceiling, max(1, limit))
        self.lowest = min(self.lowest, self.limit)
        self._changed = self._clock()
        self._round = _Round()
        self._hand_out()


class Gate:
    """A transport that sends requests for a verdict only when the window has a place.

    A conversation that waits before it sends something again holds no place, so a server with few faults stays full.
    """

    def __init__(self, transport: Transport, window: Window, told: Callable[[Reason | int], None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._transport, self._window, self._told, self._clock = transport, window, told, clock

    async def send(self, request: Request) -> Answer:
        """Send a request in its turn. `told` hears each answer's status, or the reason why there was none."""
        if request.method != "POST":
            return await self._transport.send(request)
        window = self._window
        await window.enter()
        sent = self._clock()
        try:
            answer = await self._transport.send(request)
        except Failure as failure:
            if failure.reason is Reason.SERVER_TIMEOUT:
                window.refused(sent)
            self._told(failure.reason)
            raise
        finally:
            window.leave()
        if answer.status in _TURNED_AWAY:
            window.refused(sent)
        elif answer.status == 200:
            window.answered(sent, self._clock() - sent)
        self._told(answer.status)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()
