"""The HTTP client below the SDK, with bounds on what a server may do to us.

A judge's answer is a few thousand characters. One that goes on for gigabytes, unpacks to them, comes a byte a minute or
sends us to another host is refused. What stays unbounded: in JudgeClient a server that drips its headers, of 100 KiB at
most, holds the calling thread until they are whole (AsyncJudgeClient ends that, too). An http_client of the caller's is
used as it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from judge_client.exchange import Failure
from judge_client.verdict import Reason

MAX_ANSWER_BYTES: Final = 4 * 2**20
_BEGUN: Final = "judge_client.begun"


def sync_client(root_url: str) -> Any:
    """Return the HTTP client for one server, for threads."""
    import openai

    return openai.DefaultHttpxClient(**_options(root_url), event_hooks={"request": [_begin], "response": [_bound]})


def async_client(root_url: str) -> Any:
    """Return the HTTP client for one server, for asyncio."""
    import openai

    # aiohttp below httpx takes half the CPU time of httpcore, which looks at all its connections at each request.
    # What a request may take as a whole is bounded by whoever awaits it.
    return openai.DefaultAioHttpClient(**_options(root_url), event_hooks={"response": [_bound_async]})


@cache
def http_library() -> Any:
    """Return the HTTP library that the SDK uses: httpx for its version 2, httpx2 for 3."""
    import importlib

    import openai

    return importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])


def _options(root_url: str) -> dict[str, Any]:
    # Redirects: the SDK would follow one to any host, with the texts that are judged. Encodings: a small answer gains
    # nothing from them, and a few kilobytes of gzip can hold gigabytes.
    options: dict[str, Any] = {"follow_redirects": False, "headers": {"accept-encoding": "identity"}}
    host = urlsplit(root_url).hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        # A proxy's own loopback is another one than ours, which a forwarded port is on.
        options["mounts"] = {f"all://{f'[{host}]' if ':' in host else host}": None}
    return options


def _begin(request: Any) -> None:
    request.extensions = {**request.extensions, _BEGUN: time.monotonic()}


def _bound(response: Any) -> None:
    _check(response)
    seconds = response.request.extensions["timeout"]["read"]
    until = response.request.extensions[_BEGUN] + seconds
    response.stream = _streams()[0](response.stream, _Counter(str(response.url), seconds, until))


async def _bound_async(response: Any) -> None:
    _check(response)
    response.stream = _streams()[1](response.stream, _Counter(str(response.url)))


def _check(response: Any) -> None:
    response.encoding = "utf-8"
    found = response.headers.get("content-encoding", "identity")
    if found.strip().lower() not in ("", "identity"):
        raise Failure(Reason.RESPONSE_INVALID, f"{response.url} answered in the encoding {found}, wanted none")


class _Counter:
    """What has come of one body, which may take until `until` by the monotonic clock."""

    def __init__(self, url: str, seconds: float = math.inf, until: float = math.inf) -> None:
        self._url, self._seconds, self._until = url, seconds, until
        self._size = 0

    def count(self, part: bytes) -> bytes:
        """Return the part. Raises Failure when the body is too long, or takes too long."""
        self._size += len(part)
        if self._size > MAX_ANSWER_BYTES:
            raise Failure(Reason.RESPONSE_INVALID, f"{self._url} answered more than {MAX_ANSWER_BYTES} bytes",
                          lasting=True)
        if time.monotonic() > self._until:
            raise Failure(Reason.SERVER_TIMEOUT, f"{self._url} did not end its answer within {self._seconds:.3g} s")
        return part


@cache
def _streams() -> tuple[Any, Any]:
    """Return the classes of bounded streams. Their base classes are the library's, which is imported late."""
    base: Any = http_library().SyncByteStream
    async_base: Any = http_library().AsyncByteStream

    class Bounded(base):  # type: ignore[misc]
        def __init__(self, stream: Any, counter: _Counter) -> None:
            self._stream, self._counter = stream, counter

        def __iter__(self) -> Iterator[bytes]:
            for part in self._stream:
                yield self._counter.count(part)

        def close(self) -> None:
            self._stream.close()

    class AsyncBounded(async_base):  # type: ignore[misc]
        def __init__(self, stream: Any, counter: _Counter) -> None:
            self._stream, self._counter = stream, counter

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self._stream:
                yield self._counter.count(part)

        async def aclose(self) -> None:
            await self._stream.aclose()

    return Bounded, AsyncBounded
