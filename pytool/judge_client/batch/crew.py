"""Many conversations at a time: as many as the window has places for, none while the server is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

from judge_client.async_client import AsyncJudgeClient
from judge_client.batch.breaker import Breaker
from judge_client.batch.window import Gate, Window
from judge_client.exchange import Failure, Request
from judge_client.pairs import Comparison
from judge_client.verdict import Reason, Status, Verdict

# How often one item is asked again whose server went away under it. It may be what kills the server.
_AGAIN: Final = 3
# What an outage can look like to a single item, at its end.
_OUTAGE: Final = frozenset({Reason.SERVER_UNREACHABLE, Reason.SERVER_TIMEOUT, Reason.SERVER_FAILED,
                            Reason.VOTES_MISSING})

Work = TypeVar("Work")
Answered = TypeVar("Answered", bound=Verdict | Comparison)
One = TypeVar("One")


class ServerGone(Exception):
    """The server stayed away for longer than the patience."""


class Crew(Generic[Work, Answered]):
    """Asks for many things at a time. `window` and `breaker` say how the server bears it.

    `ask` asks for one, with the client it is given. `gone` answers in its place once the server is given up; without
    it that is ServerGone.
    """

    def __init__(self, client: AsyncJudgeClient, ask: Callable[[AsyncJudgeClient, Work], Awaitable[Answered]], *,
                 window: int, patience_seconds: float, gone: Callable[[Work], Answered] | None = None) -> None:
        self.window = Window(window)
        self.breaker = Breaker(self._is_well, patience_seconds)
        self._transport = client.transport
        self._client = AsyncJudgeClient.of(client.judging, Gate(client.transport, self.window, self.breaker.told))
        self._ask, self._gone = ask, gone
        self._open: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[None] | None = None

    async def run(self, works: Iterable[Work] | AsyncIterable[Work]) -> AsyncGenerator[tuple[Work, Answered], None]:
        """Yield each work with its answer, as they come. Close it (contextlib.aclosing) when leaving it early.

        Raises what reading `works` or asking raises, and ServerGone.
        """
        done: asyncio.Queue[tuple[Work, Answered] | BaseException | None] = asyncio.Queue()
        feeding = asyncio.create_task(self._feed(works, done))
        try:
            while (found := await done.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            feeding.cancel()
            for task in self._open:
                task.cancel()
            await asyncio.gather(feeding, *self._open, return_exceptions=True)
            await self.breaker.stop()

    async def _feed(self, works: Iterable[Work] | AsyncIterable[Work],
                    done: asyncio.Queue[tuple[Work, Answered] | BaseException | None]) -> None:
        try:
            async for work in each(works):
                await self._turn()
                task = asyncio.create_task(self._one(work, done))
                self._open.add(task)
                task.add_done_callback(self._end)
            while self._open:
                await asyncio.wait(self._open)
            done.put_nowait(None)
        except Exception as error:  # it belongs to whoever reads the answers
            done.put_nowait(error)

    async def _turn(self) -> None:
        """Wait until one more may be started."""
        while True:
            await self.breaker.closed()
            await self.window.room()
            # Those that wait before they send something again hold no place. Where the server turns requests away,
            # only few may wait so: more would use up their retries for nothing.
            spare = self.window.ceiling if self.window.limit == self.window.ceiling else self.window.limit
            if len(self._open) < self.window.limit + spare:
                return
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended

    def _end(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _one(self, work: Work, done: asyncio.Queue[tuple[Work, Answered] | BaseException | None]) -> None:
        try:
            for again in range(_AGAIN + 1):
                await self.breaker.closed()
                if self.breaker.given_up:
                    if self._gone is None:
                        raise ServerGone
                    answer = self._gone(work)
                    break
                outages = self.breaker.outages
                answer = await self._ask(self._client, work)
                if again == _AGAIN or not self._is_worth_another(answer, outages):
                    break
            done.put_nowait((work, answer))
        except Exception as error:
            done.put_nowait(error)

    def _is_worth_another(self, answer: Answered, outages: int) -> bool:
        if answer.status is not Status.ERROR:
            return False
        if answer.reason is Reason.SERVER_RATE_LIMITED:
            # Only one request, where more were allowed: the server asks for a longer wait than a whole call has.
            return answer.requests > 1 or self._client.judging.policy.max_retries == 0
        saw_outage = self.breaker.outages > outages or self.breaker.gone_since is not None
        return saw_outage and answer.reason in _OUTAGE

    async def _is_well(self) -> bool:
        """Ask /health. A server without one that answers anything else than trouble is there, too."""
        try:
            return (await self._transport.send(Request("GET", "/health"))).status < 500
        except Failure:
            return False


async def each(works: Iterable[One] | AsyncIterable[One]) -> AsyncIterator[One]:
    """Yield what either kind of iterable holds."""
    if isinstance(works, AsyncIterable):
        async for work in works:
            yield work
    else:
        for work in works:
            yield work
