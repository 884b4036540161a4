"""Verdicts on many items without a file: an iterator in, an iterator out, in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from typing import Any, Final

from judge_client.async_client import AsyncJudgeClient
from judge_client.batch.breaker import PATIENCE_SECONDS
from judge_client.batch.canaries import Canary, Sighting, are_ok, drift, sightings
from judge_client.batch.crew import Crew, each
from judge_client.batch.items import Item
from judge_client.batch.problems import BatchStopped
from judge_client.batch.window import Window
from judge_client.judging import Judging
from judge_client.transport import AsyncTransport
from judge_client.verdict import Reason, Status, Verdict
from judge_client.votes import check_votes

WINDOW: Final = 32
# Verdicts that may be there before an earlier one that takes its time; so many places of the window each.
_AHEAD: Final = 32

# An item with its index, or a canary with the number of items before it.
_Work = tuple[int, Item | Canary]


async def judge_all(client: AsyncJudgeClient, items: Iterable[Item | tuple[str, str]] |
                    AsyncIterable[Item | tuple[str, str]], *, window: int = WINDOW, votes: int = 1,
                    patience_seconds: float = PATIENCE_SECONDS, canaries: Sequence[Canary] = (),
                    ) -> AsyncGenerator[Verdict, None]:
    """Yield the verdict on each item, in their order; up to `window` requests are in flight.

    Fewer are where the server turns requests away or answers ever later. Items are read as they are needed. While the
    server is gone nothing is asked; after `patience_seconds` of that, what is left gets error verdicts without being
    asked. `canaries` (such as judge_client.batch.CANARIES) are asked before the first item and after the last; their
    verdicts are not among the yielded.

    Raises ValueError for options out of range, TypeError for items that are not text, and at the end BatchStopped
    (CANARY_DRIFT) when the judge did not tell the canaries apart: then no verdict of this batch is worth anything.
    """
    check_votes(votes)
    url = client.judging.root_url

    def ask(judge: AsyncJudgeClient, work: _Work) -> Awaitable[Verdict]:
        what = work[1]
        return judge.judge(what.original_prompt, what.model_response, votes=votes if isinstance(what, Item) else 1)

    def gone(_work: _Work) -> Verdict:
        return Verdict(Status.ERROR, reason=Reason.SERVER_UNREACHABLE, model=client.judging.model,
                       message=f"not asked: {url} has been gone for more than {patience_seconds:g} s")

    crew = Crew(client, ask, window=window, patience_seconds=patience_seconds, gone=gone)
    room = asyncio.Semaphore(_AHEAD * window)

    async def works() -> AsyncIterator[_Work]:
        index = 0
        for canary in canaries:
            yield index, canary
        async for item in each(items):
            await room.acquire()
            if not isinstance(item, Item):
                prompt, response = item
                item = Item(str(index), prompt, response)
            yield index, item
            index += 1
        for canary in canaries:
            yield index, canary

    early: dict[int, Verdict] = {}
    seen: list[dict[str, Any]] = []
    following = 0
    async with contextlib.aclosing(crew.run(works())) as answers:
        async for (index, what), verdict in answers:
            if isinstance(what, Canary):
                seen.append(Sighting(what.name, what.expect, verdict.score, None, index).to_dict())
                continue
            early[index] = verdict
            while following in early:
                yield early.pop(following)
                following += 1
                room.release()
    found = sightings(seen)
    if not are_ok(found):
        raise BatchStopped(drift(found), reason="CANARY_DRIFT")


def judge_in_thread(judging: Judging, api_key: str, items: Iterable[Item | tuple[str, str]], *, window: int = WINDOW,
                    **options: Any) -> Iterator[Verdict]:
    """Yield what judge_all does, to code that waits: asyncio runs in a thread of its own.

    Items are read in the caller's thread. A caller who takes long over a verdict holds nothing up but new items, and
    one who stops early ends the requests that are in flight.
    """
    Window(window)  # an option out of range is said here, and not by the thread
    check_votes(options.get("votes", 1))
    thread = _Background(judging, api_key, window, options)
    try:
        yield from thread.verdicts(items)
    finally:
        thread.stop()


class _Background:
    """A thread with an event loop, which judges what it is handed."""

    def __init__(self, judging: Judging, api_key: str, window: int, options: dict[str, Any]) -> None:
        # What a conversation learns of the served models is written without locks: this thread has its own copy.
        self._judging, self._api_key = copy.copy(judging), api_key
        self._window, self._options = window, options
        self._most = 4 * window
        self._changed = threading.Condition()
        self._verdicts: deque[Verdict] = deque()
        self._error: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._handed: asyncio.Queue[Item | tuple[str, str] | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="judge-batch", daemon=True)

    def verdicts(self, items: Iterable[Item | tuple[str, str]]) -> Iterator[Verdict]:
        self._thread.start()
        left, owed = iter(items), 0
        more = True
        while more or owed:
            # A verdict that is there goes first: the next item may take its source long.
            while more and owed < self._most and not self._verdicts and self._error is None:
                try:
                    self._hand(next(left))
                    owed += 1
                except StopIteration:
                    more = False
                    self._hand(None)
            if not owed and self._error is None:
                break
            yield self._next()
            owed -= 1
        self._thread.join()  # what canaries say comes after the last verdict
        if self._error is not None:
            raise self._error

    def _next(self) -> Verdict:
        with self._changed:
            while not self._verdicts and self._error is None:
                self._changed.wait()
            if self._verdicts:
                return self._verdicts.popleft()
        assert self._error is not None
        raise self._error

    def stop(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has ended in this moment
                self._loop.call_soon_threadsafe(self._cancel)
            self._thread.join()

    def _cancel(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()

    def _hand(self, item: Item | tuple[str, str] | None) -> None:
        with contextlib.suppress(RuntimeError):  # the thread ended by an error, which _next() raises
            self._loop.call_soon_threadsafe(self._handed.put_nowait, item)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._judge())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._tell(error)

    async def _judge(self) -> None:
        self._task = asyncio.current_task()
        if self._is_over:
            return
        timeout_seconds = self._judging.policy.timeout_seconds
        transport = AsyncTransport(self._judging.root_url, self._api_key, timeout_seconds)
        async with AsyncJudgeClient.of(self._judging, transport) as client:
            verdicts = judge_all(client, self._items(), window=self._window, **self._options)
            async with contextlib.aclosing(verdicts):
                async for verdict in verdicts:
                    self._tell(verdict)

    async def _items(self) -> AsyncIterator[Item | tuple[str, str]]:
        while (item := await self._handed.get()) is not None:
            yield item

    def _tell(self, what: Verdict | BaseException) -> None:
        with self._changed:
            if isinstance(what, Verdict):
                self._verdicts.append(what)
            else:
                self._error = what
            self._changed.notify()
