"""The openai SDK as the sender of a conversation's requests: one connection pool, proxies and keys as its users know.

What it answers is taken raw, because its parser takes any JSON for a completion, and it tries nothing again, because
the caller must see what the server says. Importing the SDK takes half a second: only who asks a judge pays it, at the
first call.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from judge_client.exchange import Answer, Failure, Request
from judge_client.verdict import Reason

if TYPE_CHECKING:
    import openai

KEY_VARIABLE: Final = "JUDGE_API_KEY"
# What servers without keys are sent: the SDK wants one.
NO_KEY: Final = "EMPTY"
# A server that takes longer to take a connection, TLS included, is not there.
CONNECT_SECONDS: Final = 10.0
_SHORTEST_SECRET: Final = 8


def key_of(api_key: str | None) -> str:
    """Return the API key to send: the one given, else that of the environment, else NO_KEY.

    White space around it is left out: files of keys end in a line break. Raises ValueError, which does not show it, for
    a key that no header can carry.
    """
    for place, key in (("api_key", api_key), (KEY_VARIABLE, os.environ.get(KEY_VARIABLE))):
        if key and (key := key.strip()):
            if not re.fullmatch(r"[!-~]+", key):
                raise ValueError(f"{place} holds white space or characters beyond ASCII, wanted one key")
            return key
    return NO_KEY


class _Transport:
    """What both transports share. `http_client` is an httpx client of the caller's, which is never closed here."""

    def __init__(self, root_url: str, api_key: str, timeout_seconds: float, http_client: Any = None) -> None:
        self._root_url, self._api_key, self._timeout_seconds = root_url, api_key, timeout_seconds
        self._http_client = http_client

    @property
    def is_callers(self) -> bool:
        """Whether the connections are the caller's."""
        return self._http_client is not None

    def _options(self) -> dict[str, Any]:
        """Return the arguments of the SDK's client. What its environment says of OpenAI is for OpenAI alone."""
        import platform

        import openai

        # For a header of the SDK's, Python starts `uname -p`, once a process, with our whole environment: keys, too.
        vars(platform.uname()).setdefault("processor", "")
        nothing: Any = openai.Omit()
        return {"base_url": f"{self._root_url}/v1", "api_key": self._api_key, "timeout": self._timeout_seconds,
                "max_retries": 0, "default_headers": {
                    "OpenAI-Organization": nothing, "OpenAI-Project": nothing,
                    "Authorization": f"Bearer {self._api_key}"}}

    def _arguments(self, request: Request) -> dict[str, Any]:
        import openai

        from judge_client.bounds import http_library

        timeout = openai.Timeout(request.timeout_seconds, connect=min(request.timeout_seconds, CONNECT_SECONDS))
        told: dict[str, Any] = {"cast_to": http_library().Response, "options": {"timeout": timeout}}
        return told if request.body is None else {**told, "body": dict(request.body)}

    def _answer(self, response: Any) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        # JSON is UTF-8, whatever charset the server names: Python knows some that are no text at all.
        return Answer(response.status_code, self._without_key(response.content.decode("utf-8", "replace")), headers)

    def _failure(self, request: Request, error: Exception) -> Failure:
        """Return why there is no answer: whatever the SDK and what is below it raise, a verdict must come of it."""
        import ssl  # as late as openai, which needs it

        import openai

        url = f"{self._root_url}{request.path}"
        # The SDK calls every connection that aiohttp lost a timeout of connecting.
        lost = error.__cause__.__cause__ if error.__cause__ else None
        if type(lost).__module__.partition(".")[0] == "aiohttp" and not isinstance(lost, TimeoutError):
            # TLS has numbers of its own: its 1 is not that of "Operation not permitted".
            number = lost.errno if isinstance(lost, OSError) and not isinstance(lost, ssl.SSLError) else None
            told = lost.strerror if isinstance(lost, ssl.SSLError) and lost.strerror else lost
            said = os.strerror(number) if number and number > 0 else self._without_key(str(told))
            return _unreachable(f"{url}: {said or type(lost).__name__}")
        if type(error.__cause__).__name__ == "ConnectTimeout":  # of httpx, whichever version the SDK uses
            seconds = min(request.timeout_seconds, CONNECT_SECONDS)
            return Failure(Reason.SERVER_UNREACHABLE, f"{url}: no connection within {seconds:.3g} s")
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            return Failure(Reason.SERVER_TIMEOUT, f"{url} did not answer within {request.timeout_seconds:.3g} s")
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error
        return _unreachable(f"{url}: {self._without_key(str(cause)) or type(cause).__name__}")

    def _without_key(self, text: str) -> str:
        """Return `text` without the API key, which some servers repeat when they refuse it: verdicts are kept."""
        return text if len(self._api_key) < _SHORTEST_SECRET else text.replace(self._api_key, "***")


def _unreachable(message: str) -> Failure:
    # A certificate that nobody vouches for does not get better by waiting.
    return Failure(Reason.SERVER_UNREACHABLE, message, lasting="CERTIFICATE_VERIFY_FAILED" in message)


class SyncTransport(_Transport):
    """Sends for JudgeClient, from any number of threads."""

    _client: openai.OpenAI | None = None
    _process: int | None = None
    _closing: weakref.finalize[[], SyncTransport] | None = None

    def __init__(self, root_url: str, api_key: str, timeout_seconds: float, http_client: Any = None) -> None:
        super().__init__(root_url, api_key, timeout_seconds, http_client)
        self._lock = threading.Lock()

    def send(self, request: Request) -> Answer:
        """Return the server's answer, whatever its status. Raises Failure when there is none."""
        import openai

        client = self._opened()
        method = client.get if request.method == "GET" else client.post
        try:
            return self._answer(method(f"{self._root_url}{request.path}", **self._arguments(request)))
        except openai.APIStatusError as error:
            return self._answer(error.response)
        except Failure:
            raise
        except Exception as error:
            raise self._failure(request, error) from None

    def _opened(self) -> openai.OpenAI:
        import openai

        from judge_client.bounds import sync_client

        with self._lock:
            # A forked process that wrote to the connections it was born with would mix its requests with its parent's.
            if self._client is None or (self._process != os.getpid() and self._http_client is None):
                http_client = self._http_client or sync_client(self._root_url)
                self._client, self._process = openai.OpenAI(**self._options(), http_client=http_client), os.getpid()
                if self._http_client is None:
                    # Many a caller closes nothing.
                    self._closing = weakref.finalize(self, http_client.close)
            return self._client

    def close(self) -> None:
        """Close the connections. A later request opens new ones."""
        with self._lock:
            self._client, closing, self._closing = None, self._closing, None
        if closing is not None:
            closing()


class AsyncTransport(_Transport):
    """Sends for AsyncJudgeClient, from one event loop at a time."""

    _client: openai.AsyncOpenAI | None = None
    _loop: object = None

    async def send(self, request: Request) -> Answer:
        """Return the server's answer, whatever its status. Raises Failure when there is none."""
        import asyncio

        import openai

        client = self._opened(asyncio.get_running_loop())
        method = client.get if request.method == "GET" else client.post
        try:
            async with asyncio.timeout(request.timeout_seconds):
                return self._answer(await method(f"{self._root_url}{request.path}", **self._arguments(request)))
        except openai.APIStatusError as error:
            return self._answer(error.response)
        except Failure:
            raise
        except Exception as error:
            raise self._failure(request, error) from None

    def _opened(self, loop: object) -> openai.AsyncOpenAI:
        import openai

        from judge_client.bounds import async_client

        # Connections belong to their event loop: whoever calls asyncio.run twice has two.
        if self._client is None or (self._loop is not loop and self._http_client is None):
            http_client = self._http_client or async_client(self._root_url)
            self._client, self._loop = openai.AsyncOpenAI(**self._options(), http_client=http_client), loop
        return self._client

    async def close(self) -> None:
        """Close the connections. A later request opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._http_client is None:
            await client.close()
